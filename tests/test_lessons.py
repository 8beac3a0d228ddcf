"""The lessons run as scripts and as notebooks, hold what they claim, and have the form of lessons."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
LESSONS = sorted(path for folder in ("lessons", "zh/lessons") for path in (DOCS / folder).glob("[0-9]*.py"))
LONGEST_LINES, LONGEST_S = 200, 60
NO_JUPYTEXT = importlib.util.find_spec("jupytext") is None
NO_KERNEL = not all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel"))
PREDICTION = re.compile(r"^(prediction\w*) = .*$", re.M)

each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: str(path.relative_to(DOCS).with_suffix("")))


def run(lesson: Path, folder: Path) -> str:
    """Run a lesson's script where nothing else is; return what it prints."""
    done = subprocess.run(
        [sys.executable, str(lesson)],
        cwd=folder, capture_output=True, text=True, timeout=LONGEST_S, env=environment(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a lesson, which leaves nothing in the user's cache."""
    return {**os.environ, "XDG_CACHE_HOME": str(folder), "PYTHONIOENCODING": "utf-8"}


@each_lesson
def test_a_lesson_runs_and_its_claims_hold(lesson, tmp_path):
    assert run(lesson, tmp_path)


@pytest.mark.extensive
@each_lesson
@pytest.mark.parametrize("value", ["-1", "1e9"])
def test_no_prediction_breaks_a_lesson(lesson, value, tmp_path):
    guessed = tmp_path / lesson.name
    text, found = PREDICTION.subn(rf"\1 = {value}", lesson.read_text(encoding="utf-8"))
    guessed.write_text(text, encoding="utf-8")
    assert found and run(guessed, tmp_path)


@each_lesson
def test_a_lesson_has_the_form_of_lessons(lesson):
    text = lesson.read_text(encoding="utf-8")
    number = int(lesson.name[:2])
    assert text.startswith("# %% [markdown]\n") and re.search(rf"^# # {number}\. ", text, re.M)
    assert len(text.splitlines()) < LONGEST_LINES
    assert PREDICTION.search(text) and "assert " in text
    assert not re.search(r"mpirun|import mpi4py", text) or number > 8, "the first eight need no MPI"


@each_lesson
def test_links_of_a_lesson_lead_to_files_that_are_there(lesson):
    text = "\n".join(re.findall(r"^# .*", lesson.read_text(encoding="utf-8"), re.M))
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert "://" in target or (lesson.parent / target).exists(), target


@pytest.mark.skipif(NO_JUPYTEXT, reason="jupytext is not installed (npdp[dev])")
@each_lesson
def test_the_notebook_of_a_lesson_is_what_its_script_makes(lesson):
    sys.path.insert(0, str(DOCS))
    try:
        import notebooks
    finally:
        sys.path.remove(str(DOCS))
    assert notebooks.scripts() == LESSONS
    assert lesson.with_suffix(".ipynb").read_text(encoding="utf-8") == notebooks.notebook(lesson), "make lessons"


@pytest.mark.extensive
@pytest.mark.skipif(NO_KERNEL or NO_JUPYTEXT, reason="nbclient and ipykernel are not installed (npdp[dev])")
@each_lesson
def test_the_notebook_of_a_lesson_runs_in_a_kernel(lesson, tmp_path, monkeypatch):
    import nbclient
    import nbformat

    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(lesson.with_suffix(".ipynb"), as_version=4)
    nbclient.NotebookClient(notebook, timeout=LONGEST_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and all(output.get("name") != "stderr" for output in outputs)
