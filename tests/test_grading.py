"""`npdp grade`: solutions pass, each fault is named, what cheats or breaks down has no points and holds nobody up."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from npdp.app import cli
from npdp.grading.grading import EXERCISES, grade

ROOT = Path(__file__).parent.parent
STARTERS = ROOT / "npdp" / "grading" / "starters"
SOLUTIONS = ROOT / "solutions"
SEED = 17


def solution(exercise):
    return (SOLUTIONS / f"{exercise}.py").read_text()


def graded(exercise, text, folder, seed=SEED, limit_s=20.0):
    """Grade a program; return its report."""
    path = folder / "program.py"
    path.write_text(text)
    return grade(exercise, str(path), seed, limit_s)


def said(report):
    """Return what is wrong with a program, all in one text."""
    return "\n".join(result.message for result in report.results if result.message)


each_exercise = pytest.mark.parametrize("exercise", list(EXERCISES))


@each_exercise
def test_the_solution_has_all_points(exercise, tmp_path):
    report = graded(exercise, solution(exercise), tmp_path)
    assert (report.points, report.of, said(report)) == (10, 10, "")


@each_exercise
def test_the_file_to_begin_with_does_not_pass_and_says_its_task(exercise, tmp_path):
    text = (STARTERS / f"{exercise}.txt").read_text()
    report = graded(exercise, text, tmp_path)
    assert report.points <= 1 and f"Exercise `{exercise}`" in text
    assert "not tried" not in report.results[0].message
    assert max(map(len, text.splitlines())) <= 120


@each_exercise
def test_each_exercise_is_in_the_docs(exercise):
    assert f"| `{exercise}` |" in (ROOT / "docs" / "exercises.md").read_text()


FAULTS = [  # (exercise, what stands in its solution, what in a broken one, what is said of it)
    ("mend", "if npdp.rank() % 2 == 0:", "if True:",
     "all wait for ever: rank 0 sends to rank 1, rank 1 sends to rank 0"),
    ("mend", "(rank - step) % size, (rank - step - 1)", "(rank - step - 1) % size, (rank - step - 2)",
     r"arrays .* on 2 ranks: rank \d has the sum .*, wanted"),
    ("mend", "allreduce(gradient_sum) / allreduce(np.array([float(count)]))[0]", "allreduce(gradient_sum)",
     r"each the sum over \[2\] samples: rank 0 has the average .*, wanted"),
    ("mend", "each.sum(axis=0)", "each.mean(axis=0) * len(x)", "a rank with 0 samples: .* nan at 0, wanted 0.0"),
    ("mend", "list(range(start, min(", "list(range(max(0, min(start, samples - size)), min(",
     r"3 samples in batches of 2: \[\[0, 1\], \[1, 2\]\]; \[1\] come twice"),
    ("mend", "base * batch / base_batch", "base", "for 64 it is 0.1, wanted 0.2"),
    ("mend", "[seed, npdp.rank()]", "seed", "every rank has the same seed"),
    ("mend", "default_rng(seed).permutation", "default_rng([seed, npdp.rank()]).permutation", "wanted the same on all"),
    ("naive", "total += theirs", "total = theirs", r"arrays \[\[.*\], \[.*\]\]: rank 0 returns"),
    ("naive", "range(1, npdp.world_size())", "range(npdp.world_size() - 1, 0, -1)", "rank 0 returns .* wanted"),
    ("naive", "        for peer in peers:\n            npdp.send(total",
     "        for peer in peers[:1]:\n            npdp.send(total",
     "rank 0 has returned, .*rank 2 receives from rank 0"),
    ("naive", "npdp.receive(theirs", "npdp.receive(theirs[:-1]", r"rank 1 sends 1 float64 to rank 0, which receives 0"),
    ("naive", "npdp.send(array, to=0)", "npdp.send(array, to=7)", "rank 1 of 2: sends to rank 7, wanted another rank"),
    ("ring", "(rank - step - 1)", "(rank - step)", "2 ranks: .*step 0: .*should be chunk"),
    ("ring", "range(world_size - 1)", "range(world_size - 2)", "ends without the contribution of rank"),
    ("ring", "put(rank", "add(rank", "2 ranks: .*step 1"),
    ("tree", "range((world_size - 1).bit_length())", "range(world_size.bit_length() - 1)",
     "3 ranks: .*contribution of rank 2"),
    ("tree", "        yield [add(rank, rank - distance, 0, world_size) for rank in givers]",
     "        for rank in givers:\n            yield [add(rank, rank - distance, 0, world_size)]",
     "4 ranks: 5 steps, wanted at most 4, which is 2 log2 P, rounded up"),
    ("halving_doubling", "reversed(list(enumerate(steps)))", "enumerate(steps)", "4 ranks: "),
    ("average", "np.nan_to_num(mean) * count if count else np.zeros_like(mean)", "mean * count",
     r"parts of \[1, 0\] samples .* rank 0 returns nan at 0, wanted"),
    ("average", "both[:-1] / both[-1]", "both[:-1] / npdp.world_size()", r"parts of \[2, 2\] samples .* wanted"),
    ("parameter_server", "<= self.staleness", "< self.staleness", r"staleness 0: worker 0 has done 0 .* wanted True"),
    ("parameter_server", "min(self.done)", "max(self.done)", "ahead|has done .* wanted False"),
    ("parameter_server", "self.version - version", "0", "push returns 0, wanted its staleness, [1-9]"),
    ("parameter_server", "self.version += 1", "self.version += self.done[worker] == 0",
     "has version|wanted its staleness"),
    ("overlap", "BUCKET = 5000", "BUCKET = 1", "however short: join small gradients"),
    ("overlap", "BUCKET = 5000", "BUCKET = 1e9", "begin before the last layer is computed"),
    ("overlap", "        if sum(", "        import npdp\n        if npdp.rank() or sum(", "in the same order"),
    ("overlap", "in reversed(range(len(layers)))", "in range(len(layers))", "compute\\(0\\) where layer 1 is next"),
    ("error_feedback", "self.left += gradient", "self.left = gradient.copy()", "was left before: it sends"),
    ("error_feedback", "np.abs(self.left)", "self.left", "wanted the largest by absolute value"),
    ("error_feedback", "        self.left[indices] = 0\n", "", "it sends"),
    ("error_feedback", "self.k, self.left = k, np.zeros(count)", "self.k, self.left = k, SHARED[:count]",
     "it sends|wanted"),
    ("resume", "trainer.w, trainer.velocity = np.array(state[\"w\"]), np.array(state[\"velocity\"])",
     "trainer.w = np.array(state[\"w\"])", "the samples are right: what does the update use besides"),
    ("resume", "    trainer.order = state[\"order\"]\n", "", "stopped after 2 steps: step 2 takes the samples"),
    ("resume", "    trainer.generator.bit_generator.state = state[\"generator\"]\n", "",
     "stopped after 4 steps: step 4 takes"),
    ("resume", "self.w.tolist()", "self.w", r"state\(\) is no JSON"),
    ("resume", "    trainer = Trainer(seed=0)\n",
     "    import gc\n    return [each for each in gc.get_objects() if type(each) is Trainer][-1]\n", "IndexError"),
]  # fmt: skip


@pytest.mark.parametrize(("exercise", "right", "wrong", "message"), FAULTS)
def test_a_fault_is_named(exercise, right, wrong, message, tmp_path):
    text = solution(exercise)
    assert right in text
    broken = text.replace(right, wrong)
    if "SHARED" in wrong:
        broken = broken.replace("class", "SHARED = np.zeros(99)\n\n\nclass", 1)
    report = graded(exercise, broken, tmp_path)
    assert report.points < 10 and re.search(message, said(report)), said(report)


OWN_RING = "from npdp.collectives.ring import *\nfrom npdp.collectives import add, put\n"
NAIVE_AS_RING = solution("tree").replace("def tree", "def ring")
CHEATS = {  # what is tried -> (exercise, program, what is said)
    "to import npdp's own": ("ring", OWN_RING, "line 1"),
    "to import it by name": (
        "ring", "import importlib\ndef ring(P):\n    return importlib.import_module('npdp.collectives.ring').ring(P)\n",
        "line 3: (imports npdp|ModuleNotFoundError)"),
    "to load it in the stand-in's place": (
        "ring", "import sys\nfor name in list(sys.modules):\n    if name.startswith('npdp'): del sys.modules[name]\n"
        "import npdp.collectives.algorithms\n", "line 4: imports npdp"),
    "to read its source": (
        "ring", f"exec(open({str(ROOT / 'npdp' / 'collectives' / 'ring.py')!r}).read())\n",
        "line 1: reads npdp's own ring.py"),
    "to read it by a link": (
        "ring", f"import os\nos.symlink({str(ROOT / 'npdp')!r}, '/tmp/elsewhere')\n", "line 2: makes links"),
    "to ask another Python": (
        "ring", "import subprocess, sys\ndef ring(P):\n    return subprocess.run([sys.executable])\n",
        "line 3: starts a program"),
    "to fork": (
        "ring", "import os\nif os.fork() == 0:\n    import npdp.collectives.ring\n", "line 2: starts a process"),
    "to call C": (
        "ring", "import ctypes\ndef ring(P):\n    ctypes.CDLL(None).system(b'true')\n", "line 3: calls C functions"),
    "to hide that by except": (
        "ring", "import sys, os\nos._exit = lambda code: None\ndel sys.modules['npdp']\ntry:\n"
        "    import npdp.collectives.ring\nexcept BaseException:\n    pass\ndef ring(P):\n    return []\n",
        "line 5: imports npdp"),
    "a table of answers": (
        "ring", solution("ring").replace("    ranks =", "    if world_size > 12: return\n    ranks ="),
        "(1[3-9]|[234][0-9]) ranks: .*contributions of ranks 1, 2"),
    "no steps at all": ("ring", "def ring(P):\n    return []\n", "2 ranks"),
    "another algorithm": ("ring", NAIVE_AS_RING, "all send to the same neighbour"),
    "another algorithm and a patched clock": (
        "ring", "import time\ntime.perf_counter = time.monotonic = lambda: 0.0\n" + NAIVE_AS_RING, "same neighbour"),
    "an object equal to all": (
        "naive", "class All:\n    def __eq__(self, other): return True\n    def __array__(self): return 1\n"
        "def naive_allreduce(array):\n    return All()\n", "rank 0 returns .*, wanted an array"),
    "an array equal to all": (
        "naive", "import numpy as np\nclass All(np.ndarray):\n    def __eq__(self, other): return True\n"
        "    def __sub__(self, other): return 0\ndef naive_allreduce(array):\n    return array.view(All)\n", "wanted"),
    "patched comparisons": (
        "naive", "import numpy as np\nnp.array_equal = np.allclose = lambda *a, **k: True\nnp.abs = lambda x: 0 * x\n"
        "def naive_allreduce(array):\n    return array\n", "rank 0 returns .* wanted"),
    "the grader's sum": (
        "naive", "import npdp\ndef naive_allreduce(array):\n    npdp.allreduce(array)\n    return array\n",
        "rank 0 calls allreduce, which this exercise does without"),
    "files in place of messages": (
        "naive", "import npdp\nimport numpy as np\ndef naive_allreduce(array):\n    np.save('/tmp/mine.npy', array)\n"
        "    return array\n", "line 4: writes the file /tmp/mine.npy"),
    "sockets in place of messages": (
        "naive", "import socket\ndef naive_allreduce(array):\n    socket.create_connection(('127.0.0.1', 9))\n",
        "uses the network"),
    "constants": (
        "average", "import numpy as np\ndef average(mean, count):\n    return np.zeros_like(mean)\n", "wanted"),
    "answers written to the grader": (
        "parameter_server", "import os, struct\ntext = b'{\"value\": true}'\nfor fd in range(3, 999):\n"
        "    try: os.write(fd, 9 * (struct.pack('>I', len(text)) + text))\n    except OSError: pass\n",
        "wanted an object of your class"),
    "the checks of another file": (
        "resume", solution("resume").replace('"w": self.w.tolist()', '"w": [0, 0]'), "the parameters are"),
    "exceptions in place of answers": (
        "naive", "def naive_allreduce(array):\n    raise SystemExit(0)\n", "line 2: SystemExit: 0"),
}  # fmt: skip


@pytest.mark.parametrize("cheat", list(CHEATS))
def test_cheating_does_not_pass(cheat, tmp_path):
    exercise, text, message = CHEATS[cheat]
    report = graded(exercise, text, tmp_path)
    assert report.points < 6 and re.search(message, said(report)), said(report)


@pytest.mark.parametrize(("text", "message"), [
    ("def ring(P):\n    while True: pass\n", r"ring\(1\) takes longer than 0.5 s: it was ended"),
    ("def ring(P):\n    while True: yield []\n", r"takes longer than 0.5 s|MemoryError"),
    ("import os\ndef ring(P):\n    os._exit(0)\n", r"ring\(1\) ended the process with code 0"),
    ("import os\ndef ring(P):\n    os.abort()\n", r"ring\(1\) ended the process by SIGABRT"),
    ("def ring(P):\n    return ring(P)\n", "line 2: RecursionError"),
    ("def ring(P:\n", "loading the file: line 1: SyntaxError"),
    ("import nowhere\n", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
    ("", "there is no ring"),
    ("def ring(P):\n    return bytearray(1 << 40)\n", "line 2: MemoryError"),
    ("def ring(P):\n    return 7\n", "returned 7, wanted a list of steps"),
    ("def ring(P):\n    return [[(0, 1, 0)]]\n",
     r"step 0: wanted moves, made by add\(...\) or put\(...\), got \[0, 1, 0\]"),
    ("from npdp.collectives import put\ndef ring(P):\n    return [[put(0, 9, 0)]]\n", "names a rank or chunk|9"),
    ("from npdp.collectives import prove\n", "an exercise may use add, put"),
    ("def ring(P):\n    return [object()]\n", "wanted numbers, lists or arrays, got <object"),
])  # fmt: skip
def test_what_breaks_down_ends_in_time_with_a_line(text, message, tmp_path):
    begun = time.monotonic()
    report = graded("ring", text, tmp_path, limit_s=0.5)
    assert report.points == 0 and re.search(message, said(report)), said(report)
    assert time.monotonic() - begun < 30


def test_after_a_time_out_nothing_more_is_tried(tmp_path):
    endless = "class Trainer:\n    def __init__(self, seed):\n        while True: pass\n"
    report = graded("resume", endless, tmp_path, limit_s=0.3)
    assert "takes longer" in report.results[0].message
    assert {result.message for result in report.results[1:]} == {"not tried, because of what is said above"}


def test_nothing_is_left_running(tmp_path):
    graded("naive", "import time\ndef naive_allreduce(array):\n    time.sleep(600)\n", tmp_path, limit_s=0.2)
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in processes


AVERAGE_OF_AVERAGES = """
import npdp

def average(mean, count):
    npdp.allreduce(mean)
    return mean / npdp.world_size()
"""


def run(capsys, *arguments):
    code = cli.main(["grade", *arguments])
    return code, capsys.readouterr().out


def test_the_command_lists_hands_out_and_grades(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = run(capsys)
    assert code == 0 and all(name in text for name in EXERCISES)
    code, text = run(capsys, "ring")
    assert code == 0 and "def ring(world_size):" in text
    assert run(capsys, "ring", "-o", "yours.py")[0] == 0 and (tmp_path / "yours.py").read_text().strip() == text.strip()
    code, text = run(capsys, "ring", "yours.py", "--seed", "3")
    assert code == 1 and "0 of 10 points (--seed 3" in text and "not tried, because of what is said above" in text
    assert cli.main(["grade", "ring", "-o", "yours.py"]) == 2  # what was written there is not lost
    assert cli.main(["grade", "ring", "nowhere.py"]) == 2
    assert "no file nowhere.py" in capsys.readouterr().err


def test_a_class_is_graded_one_after_the_other_as_lines_of_json(tmp_path, capsys):
    programs = [solution("average"), AVERAGE_OF_AVERAGES, "import os\nos._exit(1)\n"]
    files = [tmp_path / f"student{number}.py" for number in range(len(programs))]
    for file, text in zip(files, programs):
        file.write_text(text)
    code, text = run(capsys, "average", "--json", *map(str, files))
    lines = [json.loads(line) for line in text.splitlines()]
    assert code == 1 and [(line["passed"], line["points"], line["of"]) for line in lines] == [
        (True, 10, 10), (False, 2, 10), (False, 0, 10)]  # fmt: skip
    assert [line["file"] for line in lines] == list(map(str, files)) and len({line["seed"] for line in lines}) == 1
    assert lines[1]["checks"][1]["message"].startswith("parts of [1, 2] samples")


def test_a_seed_draws_the_same_cases(tmp_path):
    wrong = solution("naive").replace("total += theirs", "total -= theirs")
    first, second = (said(graded("naive", wrong, tmp_path, seed=5)) for _ in range(2))
    assert first == second != said(graded("naive", wrong, tmp_path, seed=6))


def test_what_a_program_prints_is_shown_where_one_is_graded(tmp_path):
    path = tmp_path / "yours.py"
    path.write_text("def ring(P):\n    print('I am here')\n    return []\n")
    command = [sys.executable, "-m", "npdp", "grade", "ring", str(path)]
    assert "I am here" in subprocess.run(command, capture_output=True, text=True).stdout
    assert "I am here" not in subprocess.run([*command, "--json"], capture_output=True, text=True).stdout


def test_solutions_are_not_in_the_package():
    assert not list((ROOT / "npdp").rglob("solutions*"))
