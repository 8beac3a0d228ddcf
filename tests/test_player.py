"""`npdp play`: the page is whole in itself, runs schedules as the prover does, and can be broken, in a browser too."""

import html
import json
import re
from dataclasses import asdict

import pytest
from browser import dom, needs_chromium

import npdp
from npdp.app import cli
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.hierarchical import by_messages, phases_of
from npdp.collectives.machine import built_in
from npdp.collectives.playback import playback
from npdp.collectives.schedule import add, put
from npdp.report.player import page
from npdp.report.player.page import embedded, part

RING = list(SCHEDULES["allreduce"]["ring"](4))
BROKEN = {
    "missing": [RING[0][1:], *RING[1:]],
    "twice": [*RING, [add(3, 2, 1)]],
    "overwritten": [RING[0], [put(*move[:3]) for move in RING[1]], *RING[2:]],
    "race": [[*RING[0], put(2, 1, 3)], *RING[1:]],
    "too few steps": [*RING[:4], []],
}
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


# -- in a browser

EQUALS = """
<pre id="said"></pre><script type="application/json" id="cases">$cases</script>
<script>$scripts
const cases = JSON.parse(document.getElementById("cases").textContent), said = [];
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const near = (a, b) => Math.abs(a - b) <= 1e-9 * Math.max(Math.abs(a), Math.abs(b));
for (const [name, playback] of Object.entries(cases)) {
  const run = replay(playback);
  playback.steps.forEach((step, number) => {
    if (!same(run.contents[number + 1], step.contents)) said.push(`${name}: contents after step ${number}`);
    if (!same(run.bytes[number + 1], step.bytes)) said.push(`${name}: bytes after step ${number}`);
    if (!near(run.seconds[number + 1], step.seconds)) said.push(`${name}: seconds after step ${number}`);
  });
  if (shortcomings(playback, run).length > 0 === playback.proven) said.push(`${name}: verdict`);
}
document.getElementById("said").textContent = JSON.stringify([Object.keys(cases).length, said]);
</script>
"""


def cases():
    """Return playbacks by name: what is built in at 2 to 9 ranks, two levels of hosts, and wrong ones."""
    found = {name: played(steps, 4) for name, steps in BROKEN.items()}
    for ranks in range(2, 10):
        for collective in ("allreduce", "reduce_scatter", "allgather"):
            for name, maker in SCHEDULES[collective].items():
                found[f"{collective} {name} {ranks}"] = played(list(maker(ranks)), ranks, collective)
        hosts = tuple(rank // 2 for rank in range(ranks))
        steps = list(by_messages(hosts, phases_of(1 << 20, hosts, shares_memory=False)))
        found[f"hierarchical {ranks}"] = played(steps, ranks)
    return found


def said_by(dumped):
    return json.loads(html.unescape(re.findall(r'<pre id="said">(.*?)</pre>', dumped, re.S)[0] or "null"))


@needs_chromium
def test_the_page_runs_schedules_and_prices_them_as_python_does(tmp_path):
    tried = cases()
    text = EQUALS.replace("$cases", embedded(tried))
    text = text.replace("$scripts", part("model.js") + part("cost.js"))
    assert said_by(dom(text, tmp_path)) == [len(tried), []] and len(tried) > 90


WATCHED = "<head><script>window.errors = []; onerror = (text) => { errors.push(text); };</script>"
USED = """
<pre id="said"></pre><script>
const said = {}, pages = $pages;
const press = (frame, key) => frame.document.dispatchEvent(new frame.KeyboardEvent("keydown", { key, bubbles: true }));
function use(frame) {
  const text = (id) => frame.document.getElementById(id).textContent, click = (id) => frame.document.getElementById(id).click();
  const wide = () => frame.document.documentElement.scrollWidth - frame.innerWidth;
  const report = { begins: text("outcome"), where: text("where"), title: text("moves-title"), wide: [wide()] };
  press(frame, "End"); report.end = text("where");
  press(frame, "Home"); press(frame, "ArrowRight"); press(frame, "ArrowRight"); press(frame, "ArrowLeft");
  report.moved = text("where");
  press(frame, " "); report.playing = text("play"); press(frame, " "); report.paused = text("play");
  press(frame, "Home"); press(frame, "ArrowRight");
  frame.document.querySelector("#moves button").click(); report.dropped = text("outcome"); wide() > 0 && report.wide.push(wide());
  click("reset"); report.reset = text("outcome");
  frame.document.querySelectorAll("#moves button")[1].click(); report.repeated = text("outcome"); click("reset");
  frame.document.getElementById("victim").value = 2; click("kill"); press(frame, "End");
  report.killed = text("outcome"); report.never = text("time"); report.wide.push(wide()); click("reset");
  click("slow"); report.slow = text("time"); click("reset");
  report.paper = frame.getComputedStyle(frame.document.body).backgroundColor;
  report.errors = frame.errors;
  return report;
}
let left = 0;
for (const [name, page] of Object.entries(pages)) for (const width of [380, 1400]) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.srcdoc = page;
  left += 1;
  frame.onload = () => {
    try { said[`${name} ${width}`] = use(frame.contentWindow); } catch (error) { said[`${name} ${width}`] = String(error); }
    if (!--left) document.getElementById("said").textContent = JSON.stringify(said);
  };
  document.body.append(frame);
}
</script>
"""


def used(folder, scheme):
    """Return what a user of pages sees, by page and width, in a colour scheme: 0 dark, 1 light."""
    right = page("ring", played(RING, 4, nbytes=1 << 20))
    wrong = page("wrong", played(BROKEN["overwritten"], 4))
    many = page("many", played(list(SCHEDULES["allreduce"]["halving_doubling"](9)), 9))
    pages = {"right": right, "wrong": wrong, "many": many}
    watched = {name: text.replace("<head>", WATCHED, 1) for name, text in pages.items()}
    found = said_by(dom(USED.replace("$pages", embedded(watched)), folder, f"--blink-settings=preferredColorScheme={scheme}"))
    assert len(found) == 6
    return found


@needs_chromium
@pytest.mark.parametrize(("scheme", "paper"), [(0, "rgb(20, 23, 28)"), (1, "rgb(251, 251, 249)")])
def test_pages_fit_narrow_and_wide_windows_dark_and_light_and_answer_keys_and_faults(scheme, paper, tmp_path):
    found = used(tmp_path, scheme)
    for name, seen in found.items():
        assert seen["errors"] == [] and max(seen["wide"]) <= 0 and seen["paper"] == paper, name
        assert seen["playing"].endswith("pause") and seen["paused"].endswith("play"), name
        assert seen["moved"].startswith("after step 0") and seen["reset"] == seen["begins"], name
        assert "rank 2 is dead from step 0 on" in seen["killed"] and "it never ends" in seen["never"], name
    right, wrong = found["right 1400"], found["wrong 380"]
    assert right["begins"] == "each chunk ends with what was promised" and right["end"] == "after step 5 of 5"
    assert right["dropped"] == "chunk 3 ends without the contribution of rank 0, on ranks 0, 1, 2 and 3"
    assert right["repeated"] == "chunk 3 ends with too much of rank 0, on ranks 0, 1, 2 and 3"
    assert "rank 1 waits in step 0 for rank 2, for ever" in right["killed"]
    assert "× the" in right["slow"] and "without faults" in right["slow"]
    assert wrong["title"] == "Moves of step 1 (here it is wrong)"
