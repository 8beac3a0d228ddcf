"""Examples of language, images, speech and recommending: small runs of them learn, and two ranks say what one says."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import mpirun, needs_mpi

EXAMPLES = Path(__file__).parent.parent / "examples"
TEXT = "The cat is red.\nThe house is old.\nThe sun is here.\nThe cat is small.\n"
needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="digits are spoken by espeak-ng: `apt-get install espeak-ng`"
)


def output(name, *arguments):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as each of two ranks has; more wait for busy cores
    command = [sys.executable, EXAMPLES / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def numbers(lines, ranks):
    """Return the numbers with decimals that are said, of epochs and in the end, without times."""
    text = "\n".join(line for line in lines if re.match(r"epoch|\d ranks|dense|sparse", line))
    assert f"{ranks} ranks: " in text
    return [float(number) for number in re.findall(r"\d+\.\d+(?! ms)\b", text)]


def assert_two_ranks_say_the_same(lines, name, *arguments):
    code, stdout, stderr = mpirun(2, str(EXAMPLES / name), *arguments)
    assert (code, stderr) == (0, "")
    assert numbers(stdout.splitlines(), 2) == pytest.approx(numbers(lines, 1), abs=0.02)  # rounding grows


@needs_mpi
def test_the_language_model_learns_a_text_and_goes_on_with_it(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text(TEXT * 100)
    arguments = ("--data", str(text), "--epochs", "15", "--width", "32")
    lines = output("language_model.py", *arguments)
    bits = [float(line.split()[-1]) for line in lines[:15]]
    assert bits[0] > 6 and bits[-1] < 4
    assert lines[15].startswith("The ")
    assert lines[-1] == f"1 ranks: {bits[-1]:.3f} bits per byte of text that it has not seen"
    assert_two_ranks_say_the_same(lines, "language_model.py", *arguments)


@needs_mpi
def test_the_image_classifier_reads_the_digits():
    lines = output("image_classifier.py", "--epochs", "3")
    accuracy = re.fullmatch(r"1 ranks: test accuracy (0\.\d{4})", lines[-1])
    assert len(lines) == 3 + 2 and accuracy and float(accuracy[1]) >= 0.93
    assert re.fullmatch(r"most often wrong: a \d is taken for a \d, \d+ of \d+ times", lines[-2])
    assert_two_ranks_say_the_same(lines, "image_classifier.py", "--epochs", "3")


@needs_mpi
def test_the_recommender_finds_the_truth_dense_and_sparse_alike():
    arguments = ("--users", "1500", "--ratings", "100000")
    lines = output("recommender.py", *arguments)
    _, dense, sparse = (float(re.findall(r"(?:deviation of|error) (\d\.\d{4})", line)[0]) for line in lines)
    assert dense < 0.05 and sparse == pytest.approx(dense, abs=2e-4)  # each rating alone is off by 0.1
    assert_two_ranks_say_the_same(lines, "recommender.py", *arguments)


@needs_espeak
@needs_mpi
def test_the_spoken_digits_are_heard_of_other_voices(tmp_path):
    file = str(tmp_path / "spoken.npz")
    (made,) = output("spoken_digits.py", "make", file, "--recordings", "500")
    assert re.fullmatch(r".*: 500 recordings of \d+ voices to train on, 100 of \d+ others to test", made)
    lines = output("spoken_digits.py", "train", file)
    assert float(re.findall(r"(\d\.\d{3}) right", lines[-1])[0]) > 0.6  # with 3000 recordings 0.98
    assert_two_ranks_say_the_same(lines, "spoken_digits.py", "train", file)


def spoken_digits():
    spec = importlib.util.spec_from_file_location("spoken_digits", EXAMPLES / "spoken_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_espeak
def test_no_voice_of_the_test_nor_a_relative_of_it_is_heard_in_training():
    families = [{name.rstrip("0123456789") for name in names} for names in spoken_digits().voices()]
    assert all(families) and not families[0] & families[1]


def test_without_the_synthesizer_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["spoken_digits.py", "make", str(tmp_path / "spoken.npz")])
    with pytest.raises(SystemExit, match=r"^espeak-ng is not installed; `apt-get install espeak-ng` brings it"):
        runpy.run_path(str(EXAMPLES / "spoken_digits.py"), run_name="__main__")
    assert list(tmp_path.iterdir()) == []
