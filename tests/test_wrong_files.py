"""Every wrong file is refused in one line that says where and why."""

from __future__ import annotations

import builtins
import gzip
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_files import (
    IMAGES,
    LABELS,
    NAMES,
    idx_bytes,
    idx_folder,
    in_file,
    npy_bytes,
    npy_pair,
    npz_bytes,
    zipped,
)

from npdp.base.errors import InputError
from npdp.data.formats import csv, idx
from npdp.data.sources import load

X, Y = np.zeros((3, 2)), np.arange(3)
PLAIN, GZ = idx_bytes(IMAGES), gzip.compress(idx_bytes(IMAGES))
HOSTILE = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 28)
HUGE_NPY = npy_bytes(np.zeros(7)).replace(b"(7,), }          ", b"(9000000000000,)}")


def gz_images(content: bytes) -> Callable[[Path], str]:
    return lambda folder: idx_folder(folder, images=None, images_gz=content)


def images(content: bytes) -> Callable[[Path], str]:
    return lambda folder: idx_folder(folder, images=content)


def labels(array: np.ndarray) -> Callable[[Path], str]:
    return lambda folder: idx_folder(folder, labels=idx_bytes(array))


def a_folder_named(name: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).mkdir()
        return str(folder / name)
    return make


def with_files(contents: dict[int, bytes]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        idx_folder(folder)
        for number, content in contents.items():
            (folder / NAMES[number]).write_bytes(content)
        return str(folder)
    return write


REFUSED = {
    # paths
    "missing csv": (lambda folder: str(folder / "no.csv"), "no.csv: expected a CSV file, found nothing of that name"),
    "missing folder": (lambda folder: str(folder / "no"), "no: expected a file or folder with data, found nothing"),
    "missing below a file": (lambda folder: in_file("a.csv", "1,2")(folder) + "/b.csv", "found nothing of that name"),
    "folder for csv": (a_folder_named("d.csv"), "d.csv: expected a CSV file, got a directory"),
    "folder for npz": (a_folder_named("d.npz"), "d.npz: expected an .npz file, got a directory"),
    "folder for svm": (a_folder_named("d.svm"), "d.svm: expected an svmlight file, got a directory"),
    "file for folder": (in_file("mnist", b"x"), "mnist: expected a folder (IDX, or x.npy and y.npy) or a file ending"),
    "unknown suffix": (in_file("data.xlsx", b"x"), "got a file ending in .xlsx"),
    "empty folder": (a_folder_named("empty"), "expected an IDX folder (train-images-idx3-ubyte[.gz]"),
    "other npy": (in_file("z.npy", npy_bytes(X)), "z.npy: expected x.npy, with y.npy beside it"),
    "null in name": (lambda folder: "a\0b", "cannot be read"),
    "line break in name": (lambda folder: str(folder / "a\nb.csv"), "found nothing of that name"),
    "pipe": (lambda folder: os.mkfifo(folder / "p.csv") or str(folder / "p.csv"), "got a device or pipe"),
    "empty csv": (in_file("d.csv", b""), "d.csv: expected a CSV file, got an empty file"),
    "empty npz": (in_file("d.npz", b""), "d.npz: expected an .npz file, got an empty file"),
    "empty svm": (in_file("d.libsvm", b""), "d.libsvm: expected an svmlight file, got an empty file"),
    # IDX
    "no images": (lambda folder: idx_folder(folder, images=None), r"train-images-idx3-ubyte[.gz]: expected this file"),
    "no labels": (lambda folder: idx_folder(folder, labels=None), r"train-labels-idx1-ubyte[.gz]: expected this file"),
    "no test labels": (with_files({2: PLAIN}), r"t10k-labels-idx1-ubyte[.gz]: expected this file"),
    "no test images": (with_files({3: idx_bytes(LABELS)}), r"t10k-images-idx3-ubyte[.gz]: expected this file"),
    "images a folder": (lambda folder: (idx_folder(folder, images=None) and os.mkdir(folder / NAMES[0])) or str(folder),
                        "train-images-idx3-ubyte: expected an IDX file, got a directory"),
    "empty images": (images(b""), "train-images-idx3-ubyte: expected an IDX file, got an empty file"),
    "short magic": (images(PLAIN[:3]), "byte 3: the file ends inside the 4 bytes that open an IDX file"),
    "short header": (images(PLAIN[:9]), "byte 9: the file ends inside its header, expected 16 bytes"),
    "short body": (images(PLAIN[:-1]),
                   "byte 45: the file ends, expected 46 bytes (16 of header and 5 x 3 x 2 of uint8)"),
    "trailing": (images(PLAIN + b"x"), "byte 46: expected the end of the file (16 of header"),
    "wrong magic": (images(b"PK\3\4" + PLAIN),
                    "byte 0: expected IDX's 00 00, type and number of dimensions, got 50 4b"),
    "wrong type": (images(b"\0\0\7\3" + PLAIN[4:]), "byte 0: expected IDX's 00 00, type"),
    "hostile": (images(HOSTILE), "byte 16: the file ends, expected 129127208515966861328"),
    "counts differ": (labels(LABELS[:4]), "train-labels-idx1-ubyte: expected 5 labels, one for each image of"),
    "labels 2-D": (labels(LABELS[:, None]), "train-labels-idx1-ubyte, byte 3: expected 1 dimension(s), got 2"),
    "images 1-D": (images(idx_bytes(LABELS)), "train-images-idx3-ubyte, byte 3: expected 2 or more dimensions, got 1"),
    "no samples": (lambda folder: idx_folder(folder, images=idx_bytes(IMAGES[:0]), labels=idx_bytes(LABELS[:0])),
                   "expected samples with features, got 0 samples"),
    "labels float": (labels(np.array([0, 1, 1.5, 1, 2], np.float32)),
                     "train-labels-idx1-ubyte, byte 16: labels must be integers from 0 up, got 1.5"),
    "labels negative": (labels(np.array([0, 1, 1, -3, 2], np.int8)),
                        "train-labels-idx1-ubyte, byte 11: labels must be integers from 0 up, got -3"),
    "labels huge": (labels(np.array([0, 1, 1, 70000, 2], np.int32)), "labels must be below 65536"),
    "test shape": (with_files({2: idx_bytes(IMAGES[:, :2]), 3: idx_bytes(LABELS)}),
                   "expected test samples of shape (3, 2) as in the training part, got (2, 2)"),
    "test dtype": (with_files({2: idx_bytes(IMAGES.astype(np.float32)), 3: idx_bytes(LABELS)}),
                   "expected test images of uint8 as in training, got float32"),
    "gz not gz": (gz_images(PLAIN), "train-images-idx3-ubyte.gz: corrupt gzip data"),
    "gz empty": (gz_images(b""), "train-images-idx3-ubyte.gz: expected an IDX file, got an empty file"),
    "gz short": (gz_images(GZ[:-12]), "the gzip data end early, after"),
    "gz no checksum": (gz_images(GZ[:-4]), "the gzip data end early, after 46 bytes of content; expected 46"),
    "gz wrong checksum": (gz_images(GZ[:-8] + b"\0" * 8), "corrupt gzip data"),
    "gz header cut": (gz_images(GZ[:5]), "byte 0: the file ends inside the 4 bytes"),
    "gz short body": (gz_images(gzip.compress(PLAIN[:-1])), "byte 45: the file ends, expected 46 bytes"),
    "gz trailing": (gz_images(gzip.compress(PLAIN + b"xy")), "byte 46: expected the end of the file"),
    "gz garbage behind": (gz_images(GZ + b"garbage"), "corrupt gzip data"),
    "gz hostile": (gz_images(gzip.compress(HOSTILE)), "the header declares 129127208515966861328 bytes"),
    "gz bomb": (gz_images(gzip.compress(PLAIN + bytes(10**7))), "byte 46: expected the end of the file"),
    # npz and npy
    "not a zip": (in_file("d.npz", b"hello world"),
                  "d.npz: expected an .npz file (a zip of arrays): File is not a zip"),
    "cut zip": (in_file("d.npz", npz_bytes(x=X, y=Y)[:-30]), "d.npz: expected an .npz file (a zip of arrays)"),
    "pickle": (in_file("d.npz", pickle.dumps([1])), "expected an .npz file (a zip of arrays)"),
    "no y": (in_file("d.npz", npz_bytes(x=X, labels=Y)), "d.npz: expected the array 'y', found labels, x"),
    "no y_test": (in_file("d.npz", npz_bytes(x=X, y=Y, x_test=X)), "d.npz: expected the array 'y_test'"),
    "objects": (in_file("d.npz", npz_bytes(x=X, y=np.array([{}, 1, "a"], object))),
                "d.npz, array y: expected numbers, got an array of objects"),
    "text": (in_file("d.npz", npz_bytes(x=np.array(["a"]), y=Y[:1])), "array x: expected numbers, got an array of <U1"),
    "npz counts": (in_file("d.npz", npz_bytes(x=X, y=Y[:2])),
                   "array y: expected 3 labels, one for each row of x, got 2"),
    "y 2-D": (in_file("d.npz", npz_bytes(x=X, y=X)), "y of shape (N,) or (N, 1), got (3, 2) and (3, 2)"),
    "scalar": (in_file("d.npz", npz_bytes(x=np.float64(3), y=Y)), "array y: expected x of shape (N, ...)"),
    "npz nan": (in_file("d.npz", npz_bytes(x=np.array([[1, 2], [3, np.nan]]), y=Y[:2])),
                "d.npz, x and y, row 1: expected finite features within float32, got nan"),
    "npz too large": (in_file("d.npz", npz_bytes(x=np.array([[1, 2], [3, 1e300]]), y=Y[:2])), "got 1e+300"),
    "npz y inf": (in_file("d.npz", npz_bytes(x=X, y=np.array([1, 2, -np.inf]))), "row 2: expected finite targets"),
    "npz negative": (in_file("d.npz", npz_bytes(x=X, y=Y - 1)), "row 0: labels must be integers from 0 up, got -1"),
    "npz no npy": (in_file("d.npz", zipped(x=b"hello world", y=npy_bytes(Y))),
                   "array x: expected an array in .npy format"),
    "npz hostile": (in_file("d.npz", zipped(x=HUGE_NPY, y=npy_bytes(Y))), "array x: expected 72000000000128 bytes"),
    "npz trailing": (in_file("d.npz", zipped(x=npy_bytes(X) + b"x", y=npy_bytes(Y))), "bytes (128 of header"),
    "npz no columns": (in_file("d.npz", npz_bytes(x=X[:, :0], y=Y)), "expected samples with features, got 3 samples"),
    "pair no y": (npy_pair(x=npy_bytes(X)), ": expected the array 'y', found x"),
    "pair no x": (npy_pair(y=npy_bytes(Y)), ": expected the array 'x', found y"),
    "pair objects": (npy_pair(x=npy_bytes(X), y=npy_bytes(np.array([{}, 1, 2], object))),
                     "y.npy: expected numbers, got an array of objects"),
    "pair short": (npy_pair(x=npy_bytes(X)[:-1], y=npy_bytes(Y)),
                   "x.npy: expected 176 bytes (128 of header and (3, 2)"),
    "pair hostile": (npy_pair(x=HUGE_NPY, y=npy_bytes(Y)), "x.npy: expected 72000000000128 bytes"),
    "pair not npy": (npy_pair(x=b"hello", y=npy_bytes(Y)), "x.npy: expected an array in .npy format"),
    "pair empty": (npy_pair(x=npy_bytes(X[:0]), y=npy_bytes(Y[:0])), "x.npy: expected samples, got an empty array"),
    "pair counts": (npy_pair(x=npy_bytes(X), y=npy_bytes(Y[:2])),
                    "y.npy: expected 3 labels, one for each row of x, got 2"),
    # CSV
    "ragged": (in_file("d.csv", "a,b,c\n1,2,3\n\n4,5\n"), "d.csv, line 4: expected 3 columns, got 2"),
    "csv text": (in_file("d.csv", "a,b,c\n1,2,3\n4,five,6\n"),
                 "d.csv, line 3, column 2 ('b'): expected a number, got 'five'"),
    "csv text line 1": (in_file("d.csv", "1,x,2\n3,4,5\n"), "d.csv, line 1, column 2: expected a number, got 'x'"),
    "csv underscore": (in_file("d.csv", "1,2\n3,1_0\n"), "line 2, column 2: expected a number, got '1_0'"),
    "csv empty field": (in_file("d.csv", "1,2,3\n3,,4\n"), "line 2, column 2: expected a number, got an empty field"),
    "csv underscore above": (in_file("d.csv", "1_0,2\n3,4\n"), "line 1, column 1: expected a number, got '1_0'"),
    "csv other digits": (in_file("d.csv", "a,b\n1,0.26\u0663\n"), "line 2, column 2 ('b'): expected a number, got "),
    "csv other digits above": (in_file("d.csv", "1,\uff12\n3,4\n"), "line 1, column 2: expected a number, got"),
    "csv nan": (in_file("d.csv", "1,2\nnan,4\n"), "line 2, column 1: expected a finite number, got nan"),
    "csv inf": (in_file("d.csv", "a,b\n1,2\n3,-inf\n"), "line 3, column 2 ('b'): expected a finite number, got -inf"),
    "csv overflow": (in_file("d.csv", "1,2\n1e999,4\n"), "line 2, column 1: expected a finite number, got inf"),
    "csv one column": (in_file("d.csv", "1\n2\n"),
                       "d.csv, line 1: expected features and a target, got only one column"),
    "csv blank": (in_file("d.csv", "\n \n"), "d.csv: expected rows of numbers, got blank lines only"),
    "csv header only": (in_file("d.csv", "a,b\n"), "expected rows of numbers below the header, got none"),
    "csv utf-8": (in_file("d.csv", b"a,b\n1,2\xff\n"), "line 2, byte 7: expected UTF-8 text, got byte 0xff"),
    "csv nul": (in_file("d.csv", b"1,2\n3,\0\n"), "d.csv, line 2"),
    "csv quote": (in_file("d.csv", '1,2\n3,"4\n'), "d.csv, line 2: expected comma-separated values"),
    "csv long field": (in_file("d.csv", "1,2\n3," + "4" * 200000), "d.csv, line 2: expected comma-separated values"),
    "csv one row": (in_file("d.csv", "1,2\n"), "test fraction 0.2 of 1 samples leaves none to train on"),
    # svmlight
    "svm garbage": (in_file("d.svm", "1 1:2\n1 x:3\n"),
                    "d.svm, line 2: expected index:value with finite numbers, got 'x:3'"),
    "svm label": (in_file("d.svm", "1 1:2\nspam 1:3\n"), "d.svm, line 2: expected a number as label, got 'spam'"),
    "svm two colons": (in_file("d.svm", "1 1:2:3 4\n"), "got '1:2:3'"),
    "svm gap": (in_file("d.svm", "1 1: 2\n"), "got '1:'"),
    "svm nan": (in_file("d.svm", "1 1:nan\n"), "got '1:nan'"),
    "svm overflow": (in_file("d.svm", "1 1:1\n1 1:1e999\n"), "line 2: expected finite numbers, got inf"),
    "svm long": (in_file("d.svm", "1 " + "x" * 10**5), "got 'xxx"),
    "svm zero": (in_file("d.svm", "# head\n1 0:2\n"), "d.svm, line 2: expected indices from 1 up, got index 0"),
    "svm unsorted": (in_file("d.svm", "1 1:1\n1 3:2 2:1\n"), "d.svm, line 2: expected rising indices, got 2 after 3"),
    "svm duplicate": (in_file("d.svm", "1 2:2 2:1\n"), "d.svm, line 1: expected rising indices, got 2 after 2"),
    "svm qid": (in_file("d.svm", "1 qid:4 2:2\n"), "got 'qid:4': ranking by query is not supported"),
    "svm hostile": (in_file("d.svm", "1 1:1\n1 99999999999999999999:1\n"),
                    "d.svm, line 2: index 100000000000000000000 makes"),
    "svm blank": (in_file("d.svm", "\n# only\n"),
                  "expected lines of label and index:value, got blank lines and comments"),
    "svm labels alone": (in_file("d.svm", "1\n2\n"), "line 1: expected index:value behind the label, got none"),
    "svm utf-8": (in_file("d.libsvm", b"1 1:2 # \xe9\n"), "line 1, byte 8: expected UTF-8 text, got byte 0xe9"),
}


@pytest.mark.parametrize("make, words", REFUSED.values(), ids=list(REFUSED))
def test_it_is_refused_in_one_line_that_says_where_and_why(tmp_path, make, words) -> None:
    with pytest.raises(InputError) as caught:
        load(make(tmp_path))
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 300 + 3 * len(str(tmp_path))
    assert words in message


@pytest.mark.parametrize("target, words", [
    ("weight", "no target column 'weight': the header has 'age', 'height', 'age'"),
    ("age", "line 1: expected one target column 'age', got 2"),
    ("4", "no target column 4: expected 1 to 3, or -1 to -3 from the end"),
    ("0", "no target column 0"), ("-4", "no target column -4")])
def test_a_target_column_that_is_not_there_is_refused(tmp_path: Path, target: str, words: str) -> None:
    path = in_file("d.csv", "age,height,age\n1,2,3\n4,5,6\n")(tmp_path)
    with pytest.raises(InputError) as caught:
        load(path, target=target)
    assert f"d.csv, {words}" in str(caught.value) or f"d.csv: {words}" in str(caught.value)


@pytest.mark.parametrize("name, content, words", [
    ("d.csv", "1,2\n3,2.5\n", "line 2: labels must be integers from 0 up, got 2.5"),
    ("d.csv", "1,2\n3,-2\n", "line 2: labels must be integers from 0 up, got -2.0"),
    ("d.svm", "1 1:1\n\n-3 1:1\n", "line 3: labels must be integers from 0 up, got -3.0"),
    ("d.npz", npz_bytes(x=X, y=np.array([0.0, np.nan, 1])), "row 1: labels must be integers from 0 up, got nan")])
def test_labels_that_are_no_integers_are_refused_where_classes_are_asked_for(tmp_path, name, content, words) -> None:
    with pytest.raises(InputError) as caught:
        load(in_file(name, content)(tmp_path), task="classification")
    assert words in str(caught.value)


def test_a_target_column_is_for_csv_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can be chosen in .csv files only"):
        load(in_file("d.svm", "1 1:1\n")(tmp_path), target="y")


@pytest.mark.parametrize("call", ["open", "stat"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = in_file("d.csv", "1,2\n")(tmp_path)

    def refuse(*arguments: object, **settings: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(*{"open": (builtins, "open"), "stat": (os, "stat")}[call], refuse)
    with pytest.raises(InputError) as caught:
        csv.read(path)
    monkeypatch.undo()
    assert str(caught.value) == f"{path}: cannot be read: Permission denied"


def test_a_compressed_file_that_declares_too_much_costs_no_memory(tmp_path: Path) -> None:
    path = in_file("images.gz", gzip.compress(PLAIN + bytes(3 * 10**7)))(tmp_path)
    tracemalloc.start()
    with pytest.raises(InputError):
        idx.read_array(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6
