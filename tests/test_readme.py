"""What the README and docs/ show can be typed: their commands run, in order, and the README's loop trains."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from operator import attrgetter

import pytest
from docs_pages import PAGES, ROOT, blocks, name_of
from launching import exit_code, needs_mpi

import npdp
from npdp.app import cli
from npdp.app.launch import settings
from npdp.torch_names import absent, creation, dtypes, files, functions, modes, table

README = (ROOT / "README.md").read_text()
NEEDS_NO_RUN = ("make ", "pip ", ". .venv")  # these set up: CI does that
LEFT = {"model.npz", "run.jsonl", "run1", "mine.npz", "ring.html", "ring.py", "tree.html"}  # by commands


def commands(page):
    """Return the commands of a page's console blocks, in order."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    lines = [line[2:].split("#")[0].strip() for line in lines]
    return [line for line in lines if not line.startswith(NEEDS_NO_RUN)]


def is_chinese(page):
    """Return whether a page is a translation, whose blocks are those of the original."""
    return page.name.endswith(".zh.md")


@needs_mpi
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) and not is_chinese(page)], ids=name_of)
def test_every_command_of_a_page_runs(page, tmp_path, tmp_path_factory):
    bin_folder = os.path.dirname(sys.executable)
    environment = {**os.environ, **settings(), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    environment["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))  # what is measured here is for these alone
    for command in commands(page):
        run = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, (command, run.stdout, run.stderr)
    assert {path.name for path in tmp_path.iterdir()} <= LEFT


def test_the_readme_is_short_and_shows_commands():
    assert len(README.splitlines()) <= 150 and len(commands(ROOT / "README.md")) >= 5


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_benchmark_that_a_page_names_can_be_typed(page, monkeypatch):
    """What is wrong with flags is found before ranks are started, and what only ranks can find where there is one."""
    monkeypatch.setattr("npdp.app.launch.run_ranks_with_mpirun", lambda *_, **__: 0)
    monkeypatch.setattr("npdp.bench.run.measure", lambda config, arguments: 0)
    for command in re.findall(r"`npdp (bench \w[^`]*)`", page.read_text()):
        assert exit_code(cli.main, *command.split()) == 0, command
        assert "--ranks" in command, f"nothing is carried out on one rank: {command}"


def test_the_chinese_readme_shows_what_the_readme_shows():
    for language in ("console", "python"):
        assert blocks(ROOT / "README.zh.md", language) == blocks(ROOT / "README.md", language)
    assert figures(ROOT / "README.zh.md") == figures(ROOT / "README.md")


def figures(page):
    """Return the figures of a page's tables, row by row, without the words beside them."""
    rows = [line.split("|")[2:-1] for line in page.read_text().splitlines() if line.startswith("| ")]
    return [[re.findall(r"[\d.,]+ (?:us|ms|s)\b", cell) for cell in row] for row in rows]


def test_the_loop_of_the_readme_trains_as_it_stands():
    (loop,) = blocks(ROOT / "README.md", "python")
    names = {}
    exec(loop, names)
    assert names["loss"].item() < 1


def test_the_program_for_who_comes_from_elsewhere_gives_on_three_ranks_what_it_gives_on_one():
    (program,) = blocks(ROOT / "docs" / "from_pytorch.md", "python")

    def run():
        names = {}
        exec(program, names)
        return names["accuracy"]

    assert set(npdp.run_ranks(3, run)) == set(npdp.run_ranks(1, run)) and npdp.run_ranks(1, run)[0] > 0.9


def test_names_that_are_said_to_be_pytorchs_are_there_and_those_of_torch_are_all_said():
    page = (ROOT / "docs" / "from_pytorch.md").read_text()
    rows = re.findall(r"^\| (?:`torch`: .*|tensors|modules|`nn`|`optim`|`utils.data`) \| (.*) \|$", page, re.M)
    homes = [npdp, npdp, npdp, npdp.Tensor, npdp.nn.Module, npdp.nn, npdp.optim, npdp.data]
    said = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    for home, names in zip(homes, said, strict=True):
        assert [name for name in names if not hasattr(home, name)] == []
    names = (module.NAMES for module in (absent, creation, dtypes, files, functions, modes))
    assert set(table.METHODS).union(*names) <= set().union(*said[:3])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_of_the_library_are_names(page):
    packages = {"npdp": npdp, "nn": npdp.nn, "optim": npdp.optim}
    for package, path in re.findall(r"(?<![\w./])(npdp|nn|optim)((?:\.[A-Za-z_]\w*)+)", page.read_text()):
        if path.startswith(".torch") and importlib.util.find_spec("torch") is None:
            continue
        module = f"npdp{path}" if package == "npdp" else ""
        if not (module and importlib.util.find_spec(module)):
            attrgetter(path[1:])(packages[package])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_test_that_a_page_names_is_in_that_file(page):
    for file, name in re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(\w+))?`", page.read_text()):
        text = (ROOT / "tests" / file).read_text()
        assert f"def {name}(" in text or not name, f"{file} has no {name}"


def test_the_page_on_metrics_names_what_is_in_the_file(tmp_path):
    written = {"event", "raise", "skip"}  # these two are values
    (tmp_path / "book.txt").write_text("one two three " * 40)
    runs = {
        "ps": (0, "--strategy", "ps"),
        "sgd": (0, "--strategy", "local-sgd"),
        "text": (0, "--data", tmp_path / "book.txt", "--context", "8", "--width", "8", "--evaluate-every", "2"),
        "nan": (1, "--inject", "nan@rank=1"),
        "stopped": (124, "--time-limit", "1s", "--epochs", "1000000"),
    }
    for name, (code, *own) in runs.items():
        file, flags = tmp_path / name, ("--transport", "threads", "--ranks", "3", "--epochs", "1", "--quiet")
        run = subprocess.run([sys.executable, "-m", "npdp.train", *flags, *own, "--metrics", str(file)], timeout=60)
        assert run.returncode == code
        for line in map(json.loads, file.read_text().splitlines()):
            written |= {line["event"], *line}
            written |= {key for rank in line.get("ranks", ()) for key in rank}
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"`([a-z]\w+)`", page)) - {"numpy"} == written
