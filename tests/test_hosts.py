"""Emulated hosts (benchmarks/hosts.py): ranks that see different hosts, links that limit, and nothing left behind.

Skipped, with the reason, where there is no root, no iproute2, or namespaces are refused.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from launching import MARK, end, mpirun, python, why_no_mpi
from training import DIGITS_TRAIN, off, read_run

FILE = Path(__file__).parent.parent / "benchmarks" / "hosts.py"
LIMIT_S = 30
NBYTES, RATE = 4_000_000, "1gbit"
FASTEST_S = 0.9 * NBYTES * 8 / 1e9  # a bucket full goes at once, headers come on top

LOOK = f"""
import json, socket, time
import numpy as np
from npdp.base import environment
from mpi4py import MPI

world, message = MPI.COMM_WORLD, np.ones({NBYTES}, np.uint8)

def sent():
    return [int(open(f"/sys/class/net/{{device}}/statistics/tx_bytes").read()) for device in ("eth0", "lo")]

def crossed(peer):  # bytes that rank 0's host sent over its link and to itself for a message to a peer, and the time
    world.Barrier()
    before, start = sent(), time.perf_counter()
    if world.rank == 0:
        world.Send(message, peer)
        world.Recv(message[:1], peer)
    elif world.rank == peer:
        world.Recv(message, 0)
        world.Send(message[:1], 0)
    return [after - value for after, value in zip(sent(), before)], time.perf_counter() - start

names = socket.gethostname(), MPI.Get_processor_name()
resolved = socket.gethostbyname(names[0])
seen = world.gather([*names, resolved, environment.launch().local_size])
inside, outside = crossed(1), crossed(2)
if world.rank == 0:
    print(json.dumps([seen, inside, outside]))
"""


def load():
    spec = importlib.util.spec_from_file_location("hosts", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hosts = load()


@pytest.fixture(scope="module")
def allowed():
    reason = why_no_mpi() or hosts.why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def two(allowed):
    with hosts.hosts(2, RATE) as names:
        yield names
    assert left(f"npdp-{os.getpid()}-") == []


def left(prefix: str) -> list[str]:
    """Return the namespaces whose names begin so."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, env={"PATH": hosts.PATH})
    return sorted(line for line in listed.stdout.splitlines() if line.startswith(prefix))


def on_hosts(names, ranks_per_host: int, *program: str):
    command, variables = hosts.mpirun_command(names, ranks_per_host)
    return python(*program, timeout=LIMIT_S, before=tuple(command), **variables)


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run hosts.py."""
    return subprocess.run(
        [sys.executable, FILE, *arguments], env={**os.environ, **variables}, capture_output=True, text=True,
        timeout=LIMIT_S,
    )  # fmt: skip


# What a rank sees
def test_hosts_differ_by_name_and_only_what_goes_between_them_takes_the_link(two):
    code, stdout, stderr = on_hosts(two, 2, "-c", LOOK)
    assert code == 0, stderr
    seen, (inside_bytes, _), ((link_bytes, _), outside_s) = json.loads(stdout)
    addresses = "10.77.0.1", "10.77.0.2"
    assert seen == [[two[rank // 2], two[rank // 2], addresses[rank // 2], 2] for rank in range(4)]
    assert sum(inside_bytes) < NBYTES / 10, "a message inside a host goes through memory"
    assert link_bytes > NBYTES
    assert outside_s > FASTEST_S


@pytest.mark.parametrize("count", [3, 4])
def test_more_hosts_have_a_rank_each_and_leave_nothing(allowed, count):
    program = "import socket; from mpi4py import MPI; print(MPI.COMM_WORLD.gather(socket.gethostname()) or '', end='')"
    with hosts.hosts(count, RATE) as names:
        code, stdout, stderr = on_hosts(names, 1, "-c", program)
        assert (code, stdout) == (0, str(names)), stderr
    assert left(names[0][: -len("host1")]) == []


def test_training_over_hosts_gives_the_model_of_one_host(two, tmp_path):
    runs = []
    for folder, start in (
        ("hosts", lambda *flags: on_hosts(two, 2, *flags)),
        ("host", lambda *flags: mpirun(4, *flags)),
    ):
        out = tmp_path / folder
        out.mkdir()
        flags = ("--epochs", "2", "--dtype", "float64", "--metrics", f"{out}/run.jsonl", "--save", f"{out}/model.npz")
        code, _, stderr = start("-m", "npdp.train", "--quiet", *flags)
        assert code == 0, stderr
        runs.append(read_run(code, out))
    over_hosts, on_one = runs
    assert over_hosts.end["world_size"] == on_one.end["world_size"] == 4
    assert over_hosts.end["samples_seen"] == on_one.end["samples_seen"] == 2 * DIGITS_TRAIN
    assert over_hosts.end["train_loss"] == pytest.approx(on_one.end["train_loss"], rel=1e-5)
    assert off(over_hosts, on_one) <= 1e-10


def test_the_hierarchical_allreduce_is_right_spares_the_link_and_gives_the_bits_that_threads_give(two):
    code, stdout, stderr = on_hosts(two, 2, "hierarchical.py")
    assert code == 0, stderr
    hosts_of, wrong, hashes, sent = zip(*json.loads(stdout))
    assert hosts_of == ([0, 0, 1, 1],) * 4
    assert [text for texts in wrong for text in texts] == []
    assert NBYTES < sent[0] < 1.15 * NBYTES  # a ring that does not know of hosts sends 1.5 times as many
    code, stdout, stderr = python("hierarchical.py", "threads")
    assert code == 0, stderr
    assert set(hashes) == {told[2] for told in json.loads(stdout)}


def test_figures_are_kept_with_the_command_that_makes_the_hosts(allowed, tmp_path):
    path = tmp_path / "o.json"
    bench = ("python", "-m", "npdp.bench", "broadcast", "--sizes", "64", "--algorithm", "tree", "--json", str(path))
    run = command("run", "--hosts", "2", "--ranks-per-host", "2", "--rate", "2.5gbit", "--", *bench)
    assert run.returncode == 0, run.stderr
    kept = json.loads(path.read_text())
    assert kept["command"] == (
        "python benchmarks/hosts.py run --hosts 2 --ranks-per-host 2 --rate 2500mbit -- "
        "python -m npdp.bench broadcast --sizes 64 --algorithm tree --json o.json"
    )
    assert kept["world_size"] == 4 and str(tmp_path) not in path.read_text()


# Nothing is left
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(allowed, number):
    mark = uuid.uuid4().hex
    program = "import time; print('runs', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, FILE, "run", "--hosts", "2", "--", "python", "-c", program],
        env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    limit = threading.Timer(LIMIT_S, process.terminate)
    limit.start()
    try:
        first_line = process.stdout.readline()
        made = left(f"npdp-{process.pid}-")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=LIMIT_S)
    finally:
        limit.cancel()
        process.kill()
        still_there = end(mark)
    assert (first_line, len(made)) == ("runs\n", 3), stderr
    assert process.returncode == 128 + number
    assert (still_there, left(f"npdp-{process.pid}-")) == ([], [])


def test_a_program_that_fails_leaves_nothing_and_hands_on_its_code(allowed):
    program = "import socket; print(socket.gethostname(), flush=True); raise SystemExit(7)"
    run = command("run", "--hosts", "2", "--", "python", "-c", program)
    assert run.returncode == 7, run.stderr
    name = run.stdout.split()[0]
    assert left(name[: -len("host1")]) == []


def test_where_making_fails_half_way_nothing_is_left(allowed, monkeypatch, tmp_path):
    (tmp_path / "tc").write_text("#!/bin/sh\necho 'no such qdisc' >&2; exit 2\n")
    (tmp_path / "tc").chmod(0o755)
    monkeypatch.setattr(hosts, "PATH", f"{tmp_path}:{hosts.PATH}")
    before = left(f"npdp-{os.getpid()}-")
    with pytest.raises(hosts.HostsError, match="refused here: `tc .*: no such qdisc"), hosts.hosts(2):
        pass
    assert left(f"npdp-{os.getpid()}-") == before


def test_up_and_down_can_be_said_twice(allowed):
    own = {"NPDP_HOSTS": f"test{os.getpid()}-"}  # not the hosts that somebody else has up
    prefix = f"npdp-{own['NPDP_HOSTS']}"
    try:
        for rate in ("1gbit", "100mbit"):
            assert command("up", "--hosts", "3", "--rate", rate, **own).returncode == 0
            assert len(left(prefix)) == 4
        program = "import os, socket; print(socket.gethostname(), os.environ['NPDP_STARTED_BY'])"
        run = command("run", "--", "python", "-c", program, **own)
        started_by = "python benchmarks/hosts.py run --hosts 3 --ranks-per-host 1 --rate 100mbit --"
        wanted = [f"{prefix}host{number} {started_by}" for number in (1, 2, 3)]
        assert sorted(run.stdout.splitlines()) == wanted, run.stderr
    finally:
        first, second = command("down", **own), command("down", **own)
    assert (first.returncode, second.returncode) == (0, 0)
    assert left(prefix) == []
    run = command("run", "--", "python", "--version", **own)
    assert (run.returncode, run.stderr) == (2, "no hosts are up: `up` first, or give --hosts\n")


# Refusals, in one line
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("up", "--rate", "fast"), "a rate is a number and a unit, such as 100mbit or 1gbit; 'fast' was wanted\n"),
        (("up", "--hosts", "5"), "there can be 2 to 4 hosts, 5 were wanted\n"),
        (("run", "--hosts", "1", "--", "true"), "there can be 2 to 4 hosts, 1 were wanted\n"),
    ],
)
def test_what_cannot_be_made_is_refused(allowed, arguments, wanted):
    run = command(*arguments, NPDP_HOSTS=f"test{os.getpid()}-")
    assert (run.returncode, run.stderr) == (2, wanted)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_the_reason_for_skipping_is_said(monkeypatch):
    reason = hosts.why_not.__wrapped__
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert reason() == "emulated hosts need root, on Linux"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosts, "PATH", "")
    assert reason().startswith("emulated hosts need ip, tc, unshare, mount, hostname: apt install iproute2")
