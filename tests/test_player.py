"""`npdp play`: the page is whole in itself; what cannot be played is refused. test_player_in_browser.py plays it."""

import html
import json
import re
from dataclasses import asdict

import pytest

import npdp
from npdp.app import cli
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.machine import built_in
from npdp.collectives.playback import playback
from npdp.collectives.schedule import put
from npdp.report.player import page

RING = list(SCHEDULES["allreduce"]["ring"](4))
MINE = """
from npdp.collectives import put
from npdp.collectives.ring import allreduce as ring

def broken(world_size):
    steps = list(ring(world_size))
    steps[0][1] = put(*steps[0][1][:3])
    return steps

def beyond(world_size):
    return [[put(rank, rank + 1, 0) for rank in range(world_size)]]
"""


def played(steps, ranks, collective="allreduce", nbytes=10_007):
    machine = built_in("threads", ranks)
    return {**playback(steps, collective, ranks, machine, 0, nbytes), "machine": asdict(machine)}


def play(capsys, *arguments):
    code = cli.main(["play", *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def embedded_in(text):
    """Return the playback that a page carries."""
    return json.loads(re.findall(r'<script type="application/json" id="playback">(.*?)</script>', text, re.S)[0])


def test_the_page_is_one_file_that_asks_for_nothing_else(tmp_path, capsys):
    path = tmp_path / "ring.html"
    assert play(capsys, "ring", "--ranks", "5", "-o", str(path)) == (0, f"{path}: open it in a browser\n")
    text = path.read_text()
    assert embedded_in(text)["ranks"] == 5 and "<title>ring: allreduce on 5 ranks</title>" in text
    assert not re.search(r"\bsrc=|href=|@import|url\(|fetch\(", text)
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}  # the name of SVG


def test_a_wrong_schedule_is_played_with_its_verdict(tmp_path, capsys):
    mine, path = tmp_path / "mine.py", tmp_path / "mine.html"
    mine.write_text(MINE)
    assert play(capsys, f"{mine}:broken", "--ranks", "3", "-o", str(path))[0] == 0
    found = embedded_in(path.read_text())
    assert not found["proven"] and found["step"] == 0 and "it should add" in found["sentence"] and found["picture"]


def test_collective_and_root_are_the_flags_and_the_default_file_lies_here(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert play(capsys, "tree", "--ranks", "6", "--collective", "broadcast", "--root", "2")[0] == 0
    found = embedded_in((tmp_path / "play.html").read_text())
    assert (found["collective"], found["root"], found["proven"]) == ("broadcast", 2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("rign",), "npdp play: no schedule 'rign' of allreduce; there are naive, ring,"),
     (("ring", "--root", "4"), "--root 4: there are ranks 0 to 3"),
     (("ring", "--ranks", "33"), "--ranks 33: a page plays up to 32"),
     (("ring", "-o", "nowhere/ring.html"), "--output: wanted a file to write, but there is no directory"),
     (("nowhere.py:ring",), "npdp play: no file nowhere.py"),
     (("mine.py:beyond",), "npdp play: playback: (3, 4, 0, 1) names a rank or chunk that is not among 4")],
)  # fmt: skip
def test_what_cannot_be_played_is_refused_in_one_line(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    code, text = play(capsys, *arguments)
    assert code == 2 and said in text and len(text.splitlines()) == 1


def test_titles_and_data_cannot_end_the_element_that_they_stand_in():
    text = page("</title><script>", {**played(RING, 4), "sentence": "</script><!--", "picture": "$style"})
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in text and text.count("</script>") == 2
    assert embedded_in(text)["sentence"] == "</script><!--" and embedded_in(text)["picture"] == "$style"


def test_a_notebook_shows_it_in_a_frame_of_its_own():
    made = npdp.play([[put(0, 1, 0, 2)]], "broadcast")
    (inside,) = re.findall(r'<iframe srcdoc="(.*?)" sandbox="allow-scripts"', made._repr_html_(), re.S)
    assert html.unescape(inside) == made and embedded_in(made)["ranks"] == 2
    with pytest.raises(TypeError, match="call it"):
        npdp.play(SCHEDULES["allreduce"]["ring"])
