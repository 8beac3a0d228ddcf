"""Pictures of collectives on the site: below a command `npdp show ...` stands what it prints, made at each build."""

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from npdp.app import showing
from npdp.app.flag_parser import parser_of

WIDTH = 100  # columns of a picture
COMMAND = re.compile(r"^```console\n\$ npdp show (?P<flags>[^\n#]+)\n```$", re.M)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put its picture into each block that is one such command."""
    return COMMAND.sub(lambda command: with_picture(command["flags"].strip()), markdown)


def with_picture(flags: str) -> str:
    """Return the block of a command with what it prints."""
    parser = parser_of("show", "", "")
    showing.add_flags(parser)
    text, _ = showing.shown(**vars(parser.parse_args(flags.split())), width=WIDTH)
    return f"```console\n$ npdp show {flags}\n{text}\n```"
