"""examples/text_classifier.py: from apt's lists, in whatever form they are, to a model that knows sections."""

import gzip
import importlib.util
import lzma
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import mpirun, needs_mpi

from npdp.data import sources

EXAMPLE = Path(__file__).parent.parent / "examples" / "text_classifier.py"
WORDS = {"games": "puzzle arcade strategy", "libs": "shared runtime library", "doc": "manual reference pages"}


def stanza(name, section, description):
    return f"Package: {name}\nVersion: 1.0\nDescription: {description}\nDescription-md5: 0\nSection: {section}\n\n"


def stanzas(first, count):
    for number in range(first, first + count):
        section = sorted(WORDS)[number % 3]
        words = WORDS[section].split()
        area = "non-free/" if number % 2 else ""
        yield stanza(f"p{number}", area + section, f"{words[number % 3]} {words[number // 3 % 3]} number {number}")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example as a module, with lists of its own: plain, .gz and .xz, and a translation with a long description."""
    spec = importlib.util.spec_from_file_location("text_classifier", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LISTS", str(tmp_path))
    name = "deb_dists_x_{}_binary-amd64_Packages"
    (tmp_path / name.format("main")).write_text("".join(stanzas(0, 60)))
    (tmp_path / (name.format("more") + ".gz")).write_bytes(gzip.compress("".join(stanzas(50, 60)).encode()))
    (tmp_path / (name.format("last") + ".xz")).write_bytes(lzma.compress("".join(stanzas(100, 50)).encode()))
    translation = "Package: p0\nDescription-md5: 0\nDescription-en: reference manual number 0\n Much more\n about it.\n"
    (tmp_path / "deb_dists_x_main_i18n_Translation-en").write_text(translation)
    return module


@pytest.fixture
def data(example, tmp_path, capsys):
    path = str(tmp_path / "sections.npz")
    example.make(path)
    assert re.search(r": \d+ texts to train on, \d+ to test, 3 sections", capsys.readouterr().out)
    return path


def test_packages_are_found_in_every_form_each_once_with_the_longest_description(example):
    found = example.packages()
    assert len(found) == 150 and set(found.values()) == set(WORDS)
    assert any("Much more" in text and "about it." in text for text in found)


def test_without_lists_it_says_which_command_makes_them(example, monkeypatch, tmp_path):
    monkeypatch.setattr(example, "LISTS", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="apt-get update"):
        example.packages()


def test_features_of_a_text_are_sorted_in_range_and_of_length_1(example):
    indices, values = example.hashed("A small, small game. 3D!")
    assert (np.diff(indices) > 0).all() and indices.max() < example.FEATURES
    assert abs(np.linalg.norm(values) - 1) < 1e-6
    assert np.array_equal(indices, example.hashed("a small small game 3d")[0])
    assert len(example.hashed("")[0]) == 0


def test_the_data_is_read_as_sparse_with_a_test_part(data):
    split = sources.load(data)
    assert len(split.train) + len(split.test) == 150 and split.classes == 3
    assert split.train.sample_shape == (2**18,)


def test_help_is_what_its_head_says():
    done = subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python examples/text_classifier.py train sections.npz" in done.stdout
    done = subprocess.run([sys.executable, EXAMPLE, "mend", "x.npz"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and "invalid choice: 'mend'" in done.stderr


def test_training_learns_the_sections(data):
    done = subprocess.run([sys.executable, EXAMPLE, "train", data], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"1 ranks: test accuracy (\d\.\d+), \d+ samples/s", done.stdout)
    assert accuracy and float(accuracy[1]) > 0.9


@needs_mpi
def test_training_says_the_same_under_mpirun(data):
    alone = subprocess.run([sys.executable, EXAMPLE, "train", data], capture_output=True, text=True)
    code, stdout, stderr = mpirun(3, str(EXAMPLE), "train", data)
    assert code == 0, stderr
    assert stdout.splitlines()[:-1] == alone.stdout.splitlines()[:-1]
