"""Links of the docs lead somewhere: to a file that is there, and in a page to a heading that it has."""

import re

import pytest
from docs_pages import PAGES, ROOT, name_of, prose

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def slug(heading):
    """Return the anchor that GitHub, and the site, give a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(page), re.M)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target, anchor in LINK.findall(prose(page)):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or file.suffix != ".md" or anchor in anchors(file), f"{target} has no heading #{anchor}"


def test_a_heading_has_the_anchor_that_github_gives_it():
    assert slug("What a collective costs, and how `auto` chooses") == "what-a-collective-costs-and-how-auto-chooses"
    assert slug("Cost 代价") == "cost-代价"
