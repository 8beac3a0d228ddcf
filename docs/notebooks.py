"""Makes the notebooks of the lessons from their scripts: `make lessons`, or python docs/notebooks.py.

A lesson has one source, a script of cells (`# %%`, and `# %% [markdown]` for text), which runs as it stands. Its
notebook lies beside it, without outputs, and is never edited: a test holds that the two agree.
"""

from pathlib import Path

import jupytext
import nbformat

DOCS = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts() -> list[Path]:
    """Return the lessons' scripts, of all languages."""
    return sorted(path for folder in ("lessons", "zh/lessons") for path in (DOCS / folder).glob("[0-9]*.py"))


def notebook(script: Path) -> str:
    """Return the text of a script's notebook, the same each time: cells are numbered, where jupytext draws names."""
    made = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    made.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    return nbformat.writes(made) + "\n"


if __name__ == "__main__":
    for script in scripts():
        script.with_suffix(".ipynb").write_text(notebook(script), encoding="utf-8")
        print(script.with_suffix(".ipynb"))
