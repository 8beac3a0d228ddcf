"""Pages of lessons, which are scripts of cells: text as it is, code in blocks, formulas as MathML."""

import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent.parent / "docs"
SECTION = "Lessons"  # of the navigation, into which they are put
FORMULA = re.compile(r"\$\$(?P<display>.+?)\$\$|(?<![\w$\\])\$(?P<inline>[^$\n]+?)\$(?![\w$])", re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each script below docs/ whose name begins with its number, and put it into the navigation."""
    scripts = sorted(path for path in DOCS.rglob("[0-9]*.py") if "# %%" in path.read_text())
    pages = [str(path.relative_to(DOCS).with_suffix(".md")) for path in scripts]
    for page, script in zip(pages, scripts):
        files.append(File.generated(config, page, content=lesson(script.read_text())))
    for entry in config.nav or ():
        if SECTION in entry:
            entry[SECTION][1:1] = pages
    return files


def lesson(script: str) -> str:
    """Return a script of cells as a page."""
    page = []
    for cell in re.split(r"^# %%", script, flags=re.M)[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            page.append(FORMULA.sub(math, re.sub(r"^# ?", "", body.strip(), flags=re.M)))
        elif body.strip():
            page.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(page)


def math(formula: re.Match[str]) -> str:
    """Return a formula of TeX as MathML, which browsers draw by themselves."""
    if formula["display"]:
        return f"\n\n<div>{convert(formula['display'].strip(), display='block')}</div>\n\n"
    return str(convert(formula["inline"]))
