"""The player's page: one HTML file that needs nothing else, for a browser or a notebook.

    page.html     what there is on it           model.js     the run of a schedule, with faults; pure
    style.css     how it looks                  cost.js      its time, by the cost model; pure
    words.js      its sentences; pure           draw.js      the board, arrows and bars
    schedule.js   the stage of a schedule       controls.js  what all stages share: buttons, keys, the step
    story.js      the stage of a story: a table of who has what after each step
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

SCRIPTS = ("model.js", "cost.js", "words.js", "draw.js", "schedule.js", "story.js", "controls.js")
HEIGHT = 820  # of the frame in a notebook, in pixels


class Page(str):
    """HTML page, which shows itself in a notebook."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<page of {len(self)} characters; a notebook shows it>"

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, whose styles and scripts touch nothing of the notebook."""
        return (
            f'<iframe srcdoc="{html.escape(self)}" sandbox="allow-scripts" title="npdp play" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
        )


def page(title: str, playback: Mapping[str, Any]) -> Page:
    """Return the page that plays a schedule or a story.

    Args:
        title: its heading.
        playback: what `npdp.collectives.playback` returned, with the `machine` that prices steps; or a story, see
            npdp/app/stories.py.
    """
    text = Template(part("page.html")).substitute(
        title=html.escape(title),
        style=part("style.css"),
        playback=embedded(playback),
        script="\n".join(part(name) for name in SCRIPTS),
    )
    return Page(text)


def part(name: str) -> str:
    """Return a file of the page."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def embedded(found: object) -> str:
    """Return JSON that may stand in a script element: no `<` can end it."""
    return json.dumps(found, allow_nan=False).replace("<", "\\u003c")
