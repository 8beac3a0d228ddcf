"""The player in a browser: one start of Chromium plays every page by keys, and says what it ended with."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from string import Template

import pytest
from test_playback import BROKEN

from npdp.app.playing import play
from npdp.app.stories import data_parallel, parameter_server
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.hierarchical import by_messages, phases_of
from npdp.collectives.machine import built_in
from npdp.collectives.playback import playback
from npdp.report.player.page import embedded, page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=60000", "--dump-dom",
]  # fmt: skip
LIMIT_S = 60
HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

SIZES = range(2, 10)
LOOKS = [(width, tone) for width in (380, 1400) for tone in ("light", "dark")]
FAULTS = [
    {"copies": {"0.1": 0}},
    {"copies": {"0.1": 2}},
    {"dead": {"1": 2}},
    {"slow": [{"a": 0, "b": 1, "factor": 10}]},
    {},
]


def hierarchical(ranks):
    hosts = tuple(rank * 2 // ranks for rank in range(ranks))
    return list(by_messages(hosts, phases_of(1 << 20, hosts, shares_memory=False)))


MAKERS = {name: SCHEDULES["allreduce"][name] for name in ("ring", "tree", "halving_doubling")}
MAKERS["hierarchical"] = hierarchical
RIGHT = {f"{name} {ranks}": (list(make(ranks)), ranks) for name, make in MAKERS.items() for ranks in SIZES}
ALL = {**RIGHT, **{mistake: (steps, 4) for mistake, steps in BROKEN.items()}}
STORIES = {"data parallel": data_parallel(4), "parameter server": parameter_server(3, 1)}


def cases():
    found = {}
    for number, (name, (steps, ranks)) in enumerate(ALL.items()):
        width, tone = LOOKS[number % len(LOOKS)]
        found[name] = {"page": play(steps, ranks=ranks), "width": width, "tone": tone, "faults": []}
    pages = {"a ring": play(ALL["ring 5"][0]), "a wrong one": play(BROKEN["race"])}
    pages |= {name: page(name, story) for name, story in STORIES.items()}
    for name, made in pages.items():
        for width, tone in LOOKS:
            faults = FAULTS if name == "a ring" else []
            found[f"{name}, {width}, {tone}"] = {"page": made, "width": width, "tone": tone, "faults": faults}
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    template = Template((HERE / "player_page.html").read_text().replace("${", "$${"))
    test_page = template.substitute(cases=embedded(cases()))
    (folder / "page.html").write_text(test_page)
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'user'}", (folder / "page.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    (text,) = re.findall(r'<p id="found">(.*?)</p>', run.stdout, re.S)
    return json.loads(html.unescape(text))


@pytest.mark.parametrize("name", ALL)
def test_the_pages_own_run_is_the_playback_and_ends_as_the_prover_says(found, name):
    steps, ranks = ALL[name]
    wanted = playback(steps, "allreduce", ranks, built_in("mpi", ranks))
    run = found[name]["run"]
    assert run["contents"] == [wanted["beginning"], *(step["contents"] for step in wanted["steps"])]
    assert run["bytes"][1:] == [step["bytes"] for step in wanted["steps"]]
    assert run["seconds"][1:] == pytest.approx([step["seconds"] for step in wanted["steps"]])
    assert (run["wrong"] == 0) == wanted["proven"]


def test_no_page_has_an_error_or_is_wider_than_its_window(found):
    wrong = {name: (each["failures"], each["over"]) for name, each in found.items()}
    assert {name: each for name, each in wrong.items() if any(each)} == {}


def test_keys_alone_go_to_the_beginning_a_step_on_and_back_the_end_and_play_and_pause(found):
    for name, each in found.items():
        last = each["seen"][3]
        assert each["seen"] == [0, 1, 0, last, 0, 1, 1, last] and last > 0, name
    assert found["ring 5"]["seen"][3] == 8


def test_a_page_is_light_or_dark_as_the_browser_is(found):
    assert {found[f"a ring, 1400, {tone}"]["paper"] for tone in ("light", "dark")} == {
        "rgb(251, 251, 249)", "rgb(20, 23, 28)"}  # fmt: skip


def test_what_is_broken_on_the_page_is_told(found):
    dropped, repeated, dead, slow, reset = found["a ring, 1400, light"]["broken"]
    assert "chunk 0 ends without the contribution of rank 1, on ranks 0, 1, 2, 3 and 4" in dropped[0]
    assert "ends with too much of rank 1" in repeated[0]
    assert "rank 1 is dead from step 2 on" in dead[0] and "rank 2 waits in step 2 for rank 1, for ever" in dead[0]
    assert "it never ends" in dead[1]
    assert "each chunk ends with what was promised" in slow[0] and "× the" in slow[1]
    assert "each chunk ends" in reset[0] and "×" not in reset[1]
