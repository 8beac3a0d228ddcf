"""What a header claims is checked against its file before memory is taken, and a mutated file is read or refused."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_files import npy_bytes, npz_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npdp.app import inference, saved_model, train
from npdp.base.errors import MESSAGE_CHARACTERS_MAX, InputError
from npdp.data.sources import load

MODEL = {"format": 1, "model": "softmax", "features": 4, "classes": 3, "hidden": [], "dtype": "float64"}
SPARSE = {"indptr": np.array([0, 1, 3]), "indices": np.array([1, 0, 2]), "values": np.ones(3),
          "shape": np.array([2, 3]), "y": np.arange(2)}  # fmt: skip
LITTLE_BYTES = 4 * 2**20


def predicted(path: str) -> None:
    inference._from_numpy(path)


# what reads it -> a file's name, its arrays, the one whose header is changed
READERS: dict[str, tuple[Callable[[str], object], str, dict[str, np.ndarray], str]] = {
    "saved model": (saved_model.load, "m.npz", {
        "parameter/weight": np.ones((3, 4)), "parameter/bias": np.ones(3), "description": np.array(json.dumps(MODEL))
    }, "parameter/weight"),
    "data set": (load, "d.npz", {"x": np.ones((3, 4)), "y": np.arange(3)}, "x"),
    "sparse data": (load, "s.npz", SPARSE, "values"),
    "samples": (predicted, "x.npz", {"x": np.ones((3, 4))}, "x"),
}  # fmt: skip
SHAPES = [(2**40,), (2**62,), (2**63,), (0, 2**62), (2**31, 2**31, 4), (3, 2**62), (2**40, 0), (-1,), (-3, -4),
          (True, 12), (1,) * 65]  # fmt: skip


def claiming(shape: tuple[int, ...], array: np.ndarray) -> bytes:
    """Return an array in .npy format whose header has another shape."""
    file = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def refused(read: Callable[[str], object], path: Path) -> str:
    """Assert that a file is refused in one line, and has cost little memory; return the line."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LITTLE_BYTES
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reader", READERS)
def test_a_header_that_claims_more_than_there_is_is_refused(reader, shape, tmp_path):
    read, name, arrays, changed = READERS[reader]
    members = {key: npy_bytes(array) for key, array in arrays.items()}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        (tmp_path / name).write_bytes(zipped({**members, changed: claiming(shape, arrays[changed])}, method))
        refused(read, tmp_path / name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_npy_file_that_claims_more_than_there_is_is_refused(shape, tmp_path):
    (tmp_path / "x.npy").write_bytes(claiming(shape, np.ones((3, 4))))
    (tmp_path / "y.npy").write_bytes(npy_bytes(np.arange(3)))
    for read in (predicted, load):
        refused(read, tmp_path / "x.npy")


@pytest.mark.parametrize("shape", [(50,), (2**20, 64), (2**62, 0), (-3, -4)], ids=str)
@pytest.mark.parametrize("reader", READERS)
def test_a_header_that_agrees_with_what_the_zip_claims_but_not_with_what_is_there_is_refused(reader, shape, tmp_path):
    read, name, arrays, changed = READERS[reader]
    content = claiming(shape, arrays[changed])
    claimed = len(content) - arrays[changed].nbytes + arrays[changed].itemsize * int(np.prod(np.abs(shape)))
    whole = zipped({**{key: npy_bytes(array) for key, array in arrays.items()}, changed: content})
    sizes = len(content).to_bytes(4, "little") * 2  # compressed and not, as a zip has them
    (tmp_path / name).write_bytes(whole.replace(sizes, sizes[:4] + claimed.to_bytes(4, "little")))
    refused(read, tmp_path / name)


@pytest.mark.parametrize("reader", READERS)
def test_a_small_file_unpacks_to_what_its_headers_declare_and_no_more(reader, tmp_path):
    read, name, arrays, changed = READERS[reader]
    members = {key: npy_bytes(array) for key, array in arrays.items()}
    bombs = {
        "behind the array": {**members, changed: members[changed] + bytes(2**26)},
        "in the header": {**members, changed: b"\x93NUMPY\x02\x00\xff\xff\xff\x03" + bytes(2**26)},
    }
    for bomb in bombs.values():
        (tmp_path / name).write_bytes(zipped(bomb, zipfile.ZIP_DEFLATED))
        refused(read, tmp_path / name)
    (tmp_path / name).write_bytes(zipped(bombs["behind the array"], zipfile.ZIP_LZMA))
    assert "got another zip" in refused(read, tmp_path / name)


def test_what_the_zip_declares_short_is_not_unpacked_long(tmp_path):
    content = npy_bytes(np.ones((30, 400)))
    whole = bytearray(zipped({"x": content + bytes(2**26)}, zipfile.ZIP_DEFLATED))
    for at in range(len(whole) - 3):
        if int.from_bytes(whole[at : at + 4], "little") == len(content) + 2**26:
            whole[at : at + 4] = len(content).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(whole)
    assert "Bad CRC-32" in refused(predicted, tmp_path / "x.npz")


def test_a_saved_model_takes_no_more_memory_than_its_file_has_bytes(tmp_path):
    read, name, arrays, _ = READERS["saved model"]
    (tmp_path / name).write_bytes(npz_bytes(**arrays, more=np.zeros(2**22)))
    assert "bytes that are not compressed hold" in refused(read, tmp_path / name)
    large = np.array(json.dumps({**MODEL, "features": 10**7}))
    np.savez(tmp_path / name, **{**arrays, "description": large})
    assert "expected a softmax of at least 30000003 parameters, got 15" in refused(
        read, tmp_path / name)  # fmt: skip


@pytest.mark.parametrize("features", [2**40, 2**62, 2**63 - 1])
def test_sparse_data_of_more_features_than_a_model_could_have_is_refused(features, tmp_path, capsys):
    np.savez(tmp_path / "s.npz", **{**SPARSE, "shape": np.array([2, features])})
    assert train.main(["--data", f"{tmp_path}/s.npz"]) == 2
    assert "--model sparse_linear: cannot be made" in capsys.readouterr().err


@pytest.mark.parametrize("space", ["\xa0", "\u2003", "\x1c", "\x1d", "\x1e", "\x1f", "\x85"], ids=ascii)
@pytest.mark.parametrize("line", ["1 1:2{}2:3", "1{}1:2", "{}1 1:2", "1 1:2{}", "1{}"])
def test_svmlight_refuses_other_space_than_blanks_and_tabs(space, line, tmp_path):
    (tmp_path / "d.svm").write_text("1 1:2\n" + line.format(space) + "\n", encoding="utf-8", newline="")
    for sparse in (False, True):
        with pytest.raises(InputError, match=r"d\.svm, line 2: expected (a number as label|index:value)"):
            load(str(tmp_path / "d.svm"), sparse=sparse)


def test_svmlight_refuses_an_index_of_hundreds_of_digits(tmp_path, recwarn):
    (tmp_path / "d.svm").write_text("1 1:2\n1 " + " ".join(f"{digit * 400}:1" for digit in "89") + "\n")
    with pytest.raises(InputError, match=r"d\.svm, line 2: expected finite numbers, got inf"):
        load(str(tmp_path / "d.svm"))
    assert not recwarn.list


@pytest.mark.parametrize("reader", READERS)
def test_a_refusal_quotes_little_of_a_damaged_file(reader, tmp_path):
    read, name, arrays, changed = READERS[reader]
    members = {key: npy_bytes(array) for key, array in arrays.items()}
    whole = bytearray(zipped({changed: members.pop(changed), **members, "more": bytes(range(256)) * 9}))
    whole[26:28] = b"\xff\x07"  # the length of the first array's name
    (tmp_path / name).write_bytes(whole)
    said = refused(read, tmp_path / name)
    assert name in said and " differ." in said and len(said) <= MESSAGE_CHARACTERS_MAX


@pytest.mark.parametrize("reader", READERS)
def test_a_name_of_an_array_that_is_no_text_is_refused(reader, tmp_path):
    read, name, arrays, _ = READERS[reader]
    members = {key: npy_bytes(array) for key, array in arrays.items()}
    (tmp_path / name).write_bytes(zipped({**members, "é": b"x"}).replace("é".encode(), b"\xff\xfe"))
    assert "codec can't decode" in refused(read, tmp_path / name)


def written(folder: Path, reader: str, compressed: bool) -> bytes:
    _, _, arrays, _ = READERS[reader]
    (np.savez_compressed if compressed else np.savez)(folder / "a.npz", **arrays)
    return (folder / "a.npz").read_bytes()


@settings(max_examples=400, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(reader=st.sampled_from(sorted(READERS)), compressed=st.booleans(), data=st.data())
def test_a_mutated_file_is_read_or_refused_in_one_line(reader, compressed, data, tmp_path):
    read, name, _, _ = READERS[reader]
    content = bytearray(written(tmp_path, reader, compressed))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.one_of(
            st.binary(min_size=1, max_size=8), st.sampled_from([b"9" * 8, b"-", b"\xff" * 4, b"(0,", b"\x7f" * 8]),
        ))  # fmt: skip
        if data.draw(st.booleans()):
            content[at : at + len(piece)] = piece
        else:
            content[at:at] = piece
    (tmp_path / name).write_bytes(content)
    try:
        read(str(tmp_path / name))
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) <= MESSAGE_CHARACTERS_MAX
