"""Pages of the site that are not in docs/: README and changelog, lessons, and each source file that a page links to.

In the repository a link leads to a file, `../npdp/collectives/ring.py` say, which a site does not have. Here it leads
to a page that shows that file, and a link to a lesson's script or notebook to the page that lessons.py makes of it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
FROM_ROOT = {"README.md": "index.md", "README.zh.md": "chinese.md", "CHANGELOG.md": "changelog.md"}  # file -> page
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")  # the path of a relative link
FENCE = re.compile(r"^(`{3,}).*?^\1`*$", re.S | re.M)
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".json": "json"}
HEAD = "---\nsearch: {exclude: true}\nhide: [navigation, toc]\n---\n"  # sources are wide, and not found by search


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages for files at the root, and for all that pages link to outside docs/, and that these link to."""
    for name, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    waiting = [file for file in files if file.src_uri.endswith(".md")]
    while waiting:
        file = waiting.pop()
        for target in links(file.content_string, origin_of(file.src_uri)):
            page = page_of(target)
            if page.startswith("source/") and page not in files.src_uris:
                files.append(File.generated(config, page, content=shown(target)))
                waiting.append(files.src_uris[page])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages of the site."""
    here, origin = PurePosixPath(page.file.src_uri).parent, origin_of(page.file.src_uri)
    return outside_fences(
        lambda text: LINK.sub(lambda link: os.path.relpath(page_of(resolved(link[1], origin)), here), text), markdown
    )


def origin_of(page: str) -> str:
    """Return the file in the repository that a page shows."""
    if page.startswith("source/"):
        return page.removeprefix("source/").removesuffix(".md")
    return next((name for name, shown_by in FROM_ROOT.items() if shown_by == page), f"docs/{page}")


def page_of(path: str) -> str:
    """Return the page, or picture, of the site that shows a file of the repository."""
    if path in FROM_ROOT:
        return FROM_ROOT[path]
    if path.startswith("docs/"):
        return re.sub(r"\.(py|ipynb)$", ".md", path.removeprefix("docs/"))
    return f"source/{path}.md"


def links(markdown: str, origin: str) -> list[str]:
    """Return the files of the repository that a page links to."""
    return [resolved(target, origin) for target in LINK.findall(FENCE.sub("", markdown))]


def resolved(target: str, origin: str) -> str:
    """Return a link's target as a path from the root of the repository."""
    return os.path.normpath(PurePosixPath(origin).parent / target)


def outside_fences(change: Callable[[str], str], markdown: str) -> str:
    """Return markdown with its text changed, and its blocks of code as they are."""
    parts, at = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(markdown[at:])])


def shown(path: str) -> str:
    """Return a page that shows a file of the sources, or what a folder has in it."""
    source = ROOT / path
    if source.is_dir():
        names = sorted(file.name for file in source.iterdir() if file.is_file() and file.suffix in LANGUAGES)
        return "\n".join([f"{HEAD}# {path}\n", *(f"- [{name}]({source.name}/{name})" for name in names)])
    language = LANGUAGES.get(source.suffix, "text")
    return f"{HEAD}# {path}\n\n````` {language}\n{source.read_text()}\n`````\n"
