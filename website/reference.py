"""Reference pages of the site, made from what is there: each command's --help, each public name's docstring."""

import contextlib
import io
import os
from importlib import import_module
from types import ModuleType
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from npdp.app import cli

WIDTH = 100  # columns of a help text
PAGES = {  # page -> the modules whose public names are on it; a name that several have is on the first page alone
    "nn": ("npdp.nn", "npdp.nn.functional", "npdp.nn.init", "npdp.nn.utils"),
    "npdp": ("npdp", "npdp.app.saved_model"),
    "optim": ("npdp.optim", "npdp.optim.learning_rates", "npdp.optim.lr_scheduler"),
    "data": ("npdp.data", "npdp.data.sources", "npdp.data.text"),
    "collectives": ("npdp.collectives",),
    "elastic": ("npdp.elastic",),
    "models": ("npdp.models.gpt", "npdp.models.cnn", "npdp.models.gru", "npdp.models.generate"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page of all commands and one for each group of modules."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    told: set[str] = set()
    for page, modules in PAGES.items():
        files.append(File.generated(config, f"reference/{page}.md", content=names_page(page, modules, told)))
    return files


def commands_page() -> str:
    """Return what `npdp --help` and each command's `--help` print."""
    parts = ["# Commands and their flags", "As `--help` prints them; defaults are of the machine that built this page."]
    for command in ("", *cli.COMMANDS):
        parts += [f"## npdp {command}".rstrip(), f"```text\n{help_of(command)}\n```"]
    return "\n\n".join(parts)


def help_of(command: str) -> str:
    """Return the help text of a command, of `npdp` itself where there is none."""
    text = io.StringIO()
    wide = mock.patch.dict(os.environ, COLUMNS=str(WIDTH))
    with wide, contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        cli.main([command, "--help"] if command else ["--help"])
    return text.getvalue().strip()


def names_page(page: str, modules: tuple[str, ...], told: set[str]) -> str:
    """Return a page on which mkdocstrings puts the docstrings of public names that are not told of yet."""
    title = "npdp" if page == "npdp" else f"npdp.{page}"
    parts = [f"# {title}"]
    for module in modules:
        level = 2 if module == title else 3
        parts += [f"## {module}"] if level == 3 else []
        paths = [path for path in public_paths(module) if path not in told]
        parts += [f"::: {path}\n    options: {{heading_level: {level}}}" for path in paths]
        told.update(paths)
    return "\n\n".join(parts)


def public_paths(module: str) -> list[str]:
    """Return where a module's public functions and classes are defined, in order, each once."""
    found = import_module(module)
    own = [name for name, value in vars(found).items() if getattr(value, "__module__", "") == module]
    names = getattr(found, "__all__", None) or [name for name in own if not name.startswith("_")]
    values = [getattr(found, name) for name in names if not name.startswith("__")]
    values = [value for value in values if callable(value) and not isinstance(value, ModuleType)]
    return list(dict.fromkeys(f"{value.__module__}.{value.__qualname__}" for value in values))
