"""The docs as a site: it builds strictly, loads nothing from elsewhere, and made pages have what they are made from."""

import importlib
import os
import re
import subprocess
import sys

import pytest
from docs_pages import ROOT, blocks

import npdp
from npdp.app import cli

for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
    pytest.importorskip(package, reason=f"the site needs {package}: pip install 'npdp[docs]'")


@pytest.fixture
def hook(monkeypatch):
    """Give a function that imports one of the site's hooks by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "website"))
    return importlib.import_module


def test_a_link_leads_to_the_page_that_shows_its_file(hook):
    page_of = hook("pages").page_of
    assert page_of("npdp/collectives/ring.py") == "source/npdp/collectives/ring.py.md"
    assert page_of("docs/cost.md") == "cost.md" and page_of("README.md") == "index.md"
    assert page_of("docs/lessons/01_sgd.ipynb") == page_of("docs/lessons/01_sgd.py") == "lessons/01_sgd.md"


def test_what_looks_like_a_link_in_a_block_of_code_stays(hook):
    text = "[a](b)\n```python\n[a](b)\n```\n[a](b)"
    changed = hook("pages").outside_fences(lambda part: part.replace("(b)", "(c)"), text)
    assert changed == "[a](c)\n```python\n[a](b)\n```\n[a](c)"


def test_links_are_sought_outside_blocks_of_code(hook):
    assert hook("pages").links("[a](../b.py)\n\n```python\n[a](c.py)\n```\n", "docs/x.md") == ["b.py"]


def test_a_lesson_has_its_text_its_code_and_its_formulas_in_order(hook):
    page = hook("lessons").lesson("# %% [markdown]\n# # Title\n#\n# cost $2x$ now\n\n# %%\nx = 1\n")
    assert re.fullmatch(r"# Title\n\ncost <math.*</math> now\n\n```python\nx = 1\n```", page, re.S)


def test_a_sum_in_dollars_is_no_formula(hook):
    assert "<math" not in hook("lessons").lesson("# %% [markdown]\n# `$HOME` and a$b cost 5$ or 6$\n")


def test_the_page_of_commands_has_each_command_with_its_flags(hook):
    page = hook("reference").commands_page()
    for command in cli.COMMANDS:
        assert f"## npdp {command}\n" in page and f"usage: npdp {command}" in page
    assert "--stall-warning-s" in page


def test_each_public_name_is_on_a_page_of_the_reference(hook):
    reference = hook("reference")
    told: set[str] = set()
    for page, modules in reference.PAGES.items():
        reference.names_page(page, modules, told)
    names = {path.rpartition(".")[2] for path in told}
    assert {name for name in npdp.__all__ if callable(getattr(npdp, name))} <= names | {"DistributedDataParallel"}
    assert {"Linear", "SGD", "DataLoader", "prove", "GPT"} <= names


def test_a_picture_stands_below_its_command_and_is_proven(hook):
    block = hook("pictures").with_picture("ring --ranks 3")
    assert block.startswith("```console\n$ npdp show ring --ranks 3\nat the beginning\n")
    assert "proven: allreduce" in block


@pytest.mark.extensive
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    run = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and not run.stderr, run.stderr
    for page in tmp_path.rglob("*.html"):
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//", page.read_text()), page
        assert not re.findall(r"<link[^>]+href=\"?(?:https?:)?//", page.read_text()), page
    pictures = len(blocks(ROOT / "docs" / "collectives.md", "console"))
    assert (tmp_path / "collectives.html").read_text().count("proven: ") == pictures > 5
