"""Emulated hosts on one machine, for benchmarks and tests of what crosses a network.

    npdp-host1 eth0 ===== port1 npdp-switch port2 ===== eth0 npdp-host2        ===== a link of the given rate

    python benchmarks/hosts.py up --hosts 2 --rate 1gbit
    python benchmarks/hosts.py run --ranks-per-host 2 -- python -m npdp.train --quiet       on the hosts that are up
    python benchmarks/hosts.py down
    python benchmarks/hosts.py run --hosts 2 --ranks-per-host 2 --rate 1gbit -- python script.py    all three in one

Hosts and switch are network namespaces: nothing shows in the machine's own network. What runs on a host has a host
name of its own, by which MPI and npdp decide who shares a host, and a /dev/shm of its own. Cores, memory, files and
process ids are the machine's, and a real network's latency is missing. The rate holds up to 2.5gbit on two cores.
Settings in the environment win. OMPI_MCA_btl_tcp_eager_limit=1048576 is not set, as on a cluster: it spares segments
a rendezvous, which saves MPI_Allreduce 17 % at 256 KB, 5 % at 16 MB. Needs Linux, root, iproute2, Open MPI's mpirun.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

MOST_HOSTS, RATE = 4, "1gbit"
NETWORK = "10.77.0"  # only the hosts see it
STANDING = f"npdp-{os.environ.get('NPDP_HOSTS', '')}"  # begins the names of what `up` makes
OWNED = r"npdp-\d+-\d+-"  # begins those of `hosts`: the process that made them, and a number
TOOLS = ("ip", "tc", "unshare", "mount", "hostname")
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"  # where a root without a login shell finds the tools
MESSAGES = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,sm,tcp"}  # links between hosts, shared memory inside
FILES = {  # mpirun's own, and those of its other hosts: a host's /dev/shm vanishes with its last process
    f"PRTE_MCA_prte_{where}_tmpdir_base": "/dev/shm" for where in ("local", "remote")
}
GRACE_S = 5.0  # mpirun ends its ranks within half a second of SIGTERM

# A bucket of 256 kB, which one often reads, lets a message of 256 kB through at once. A small one is exact, if packets
# are small beside it: those of 64 kB, as Linux makes them, would be cut up by the bucket, and a fifth of the rate lost.
BUCKET, LARGEST_PACKET = "24kb", "16384"

# A program on a host begins with a /dev/shm of its own, the hosts' names (where it does not have them from another
# host; no file remains) and its host's name.
ENTER = """
mount -t tmpfs tmpfs /dev/shm && hostname "$0" && { grep -qw "$0" /etc/hosts ||
  { printf %s "$1" >/dev/shm/hosts && mount --bind /dev/shm/hosts /etc/hosts && rm /dev/shm/hosts; }; } &&
shift && exec "$@"
"""

_numbers = itertools.count(1)


class HostsError(Exception):
    """Hosts cannot be emulated, or not as asked; the text says why in one line."""


@functools.cache
def why_not() -> str | None:
    """Return why programs cannot run on emulated hosts here, None where they can; it is tried out, once."""
    try:
        with hosts(2) as names:
            mpirun_command(names, 1)
            _call(*_enter(names[0], ["true"]))
    except HostsError as error:
        return str(error)
    return None


@contextlib.contextmanager
def hosts(count: int, rate: str = RATE) -> Iterator[list[str]]:
    """Make 2 to 4 hosts, give their names, and take them away however the block ends, with all that runs on them.

    Each call makes its own, apart from those of `up` and of other processes. The rate, as tc writes it, is what each
    can send and at the same time receive.
    """
    prefix = f"npdp-{os.getpid()}-{next(_numbers)}-"
    names = _make(prefix, count, rate)
    try:
        yield names
    finally:
        _remove(_present(prefix))


def mpirun_command(names: Sequence[str], ranks_per_host: int) -> tuple[list[str], dict[str, str]]:
    """Return what starts a program on so many ranks of each host: the command before it, variables to be added."""
    from npdp.base import environment

    ranks = len(names) * ranks_per_host
    if ranks < 1:
        raise HostsError(f"each host runs 1 rank or more, {ranks_per_host} were wanted")
    mpirun, settings = _open_mpi(ranks)
    settings |= dict.fromkeys(environment.BLAS_THREADS, str(environment.blas_threads(ranks)))
    if ranks > environment.cores():  # mpirun says so itself, but knows one host
        settings["OMPI_MCA_mpi_yield_when_idle"] = "1"  # MPI_Allreduce of 16 MB: 152 ms; without 2.0 s, spent spinning
    variables = {name: value for name, value in settings.items() if name not in os.environ}
    variables["PATH"] = f"{os.path.dirname(sys.executable)}:{PATH}"  # `python` is this one
    places = ",".join(f"{name}:{ranks_per_host}" for name in names)
    # Each host takes all cores for its own: where ranks are bound, the first of every host share the first core.
    mapping = ["--map-by", f"ppr:{ranks_per_host}:node", "--bind-to", "none"]
    return _enter(names[0], [mpirun, "--host", places, *mapping]), variables


def run(names: Sequence[str], ranks_per_host: int, program: Sequence[str]) -> int:
    """Run a program on the hosts; return mpirun's exit code. An exception, Ctrl-C's too, ends the ranks."""
    from npdp.app import launch
    from npdp.report import machine

    command, variables = mpirun_command(names, ranks_per_host)
    flags = f"--hosts {len(names)} --ranks-per-host {ranks_per_host} --rate {_rate(names[0])}"
    variables[machine.STARTED_BY] = f"python benchmarks/hosts.py run {flags} --"  # for files in which figures are kept
    process = subprocess.Popen(
        [*command, *program], env={**os.environ, **variables}, stdin=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=launch.before_mpirun(len(names) * ranks_per_host),
    )  # fmt: skip
    try:
        return process.wait()
    finally:
        with _undisturbed():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.kill()


def _open_mpi(ranks: int) -> tuple[str, dict[str, str]]:
    """Return mpirun, and the settings with which it starts ranks through `_agent` and sends through the links."""
    from npdp.app import launch
    from npdp.base import errors

    try:
        mpirun = launch.find_mpirun()
    except errors.InputError as error:
        raise HostsError(str(error)) from None
    if "Open MPI" not in _call(mpirun, "--version"):
        raise HostsError(f"emulated hosts need Open MPI's mpirun; {mpirun} is another's")
    agent = f"{sys.executable} {os.path.abspath(__file__)} agent"
    if agent.count(" ") != 2 or ":" in agent:
        raise HostsError(f"mpirun cannot use an agent with a space or a colon in its path: {agent}")
    return mpirun, {**launch.settings(ranks), **MESSAGES, **FILES, "PRTE_MCA_plm_ssh_agent": agent}


def _make(prefix: str, count: int, rate: str) -> list[str]:
    """Make a switch and hosts; where that fails, leave nothing."""
    _require_tools()
    if not 2 <= count <= MOST_HOSTS:
        raise HostsError(f"there can be 2 to {MOST_HOSTS} hosts, {count} were wanted")
    if not re.fullmatch(r"\d+(\.\d+)?[kmg]?bit", rate):
        raise HostsError(f"a rate is a number and a unit, such as 100mbit or 1gbit; {rate!r} was wanted")
    try:
        _call("ip", "netns", "add", f"{prefix}switch")
        _call("ip", "-n", f"{prefix}switch", "link", "add", "bridge", "up", "type", "bridge")
        for number in range(1, count + 1):
            _plug_in(prefix, number, rate)
    except BaseException:
        _remove(_present(prefix))
        raise
    return [f"{prefix}host{number}" for number in range(1, count + 1)]


def _plug_in(prefix: str, number: int, rate: str) -> None:
    """Make a host and its link to the switch, which is limited in each direction."""
    switch, port, name = f"{prefix}switch", f"port{number}", f"{prefix}host{number}"
    _call("ip", "netns", "add", name)
    _call("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
    _call("ip", "-n", switch, "link", "set", port, "master", "bridge")
    _call("ip", "-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
    _call("ip", "-n", name, "link", "set", "lo", "up")
    for where, device in ((switch, port), (name, "eth0")):
        limit = ("rate", rate, "burst", BUCKET, "latency", "50ms")
        _call("tc", "-n", where, "qdisc", "add", "dev", device, "root", "tbf", *limit)
        _call("ip", "-n", where, "link", "set", device, "gso_max_size", LARGEST_PACKET, "up")


def _rate(name: str) -> str:
    """Return the rate of a host's link, as tc has it."""
    said = re.search(r" rate (\S+)", _call("tc", "-n", name, "qdisc", "show", "dev", "eth0"))
    return said[1].lower() if said else "unknown"


def _enter(name: str, program: Sequence[str]) -> list[str]:
    """Return the command that becomes `program` on a host."""
    prefix = name[: -len("host1")]
    lines = ["127.0.0.1 localhost", *(f"{NETWORK}.{n} {prefix}host{n}" for n in range(1, MOST_HOSTS + 1)), ""]
    return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", ENTER, name, "\n".join(lines), *program]


def _present(prefix: str) -> list[str]:
    """Return the switches and hosts whose names begin so, a regular expression."""
    names = [line.split()[0] for line in _call("ip", "netns", "list").splitlines() if line]
    return sorted(name for name in names if re.fullmatch(prefix + r"(host\d|switch)", name))


def _remove(names: Sequence[str]) -> None:
    """Take switches and hosts away, with all that runs on them."""
    with _undisturbed():
        for name in names:
            until = time.monotonic() + GRACE_S
            while (running := _processes(name)) and time.monotonic() < until:
                for pid in running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)
            _call("ip", "netns", "delete", name)


def _processes(name: str) -> list[int]:
    return [int(pid) for pid in _call("ip", "netns", "pids", name).split()]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C and the like wait until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call(*command: str) -> str:
    """Run a tool, out of Ctrl-C's reach; return what it printed."""
    variables = {**os.environ, "PATH": PATH}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30, start_new_session=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise HostsError(f"emulated hosts are refused here: `{' '.join(command[:6])} ...`: {why}")
    return done.stdout


def _require_tools() -> None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise HostsError("emulated hosts need root, on Linux")
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    if missing:
        raise HostsError(f"emulated hosts need {', '.join(missing)}: apt install iproute2 util-linux mount hostname")


def _up(arguments: argparse.Namespace) -> int:
    """Make the standing hosts, anew where there are some; not while something runs on them."""
    standing = _present(STANDING)
    busy = [str(pid) for name in standing for pid in _processes(name)]
    if busy:
        raise HostsError(f"processes {', '.join(busy)} run on the hosts that are up: wait for them, or `down` first")
    _remove(standing)
    names = _make(STANDING, arguments.hosts, arguments.rate)
    print(f"{', '.join(names)}: up, {arguments.rate} each way")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    if arguments.hosts is not None:
        with hosts(arguments.hosts, arguments.rate or RATE) as names:
            return run(names, arguments.ranks_per_host, arguments.program)
    names = [name for name in _present(STANDING) if "host" in name]
    if not names:
        raise HostsError("no hosts are up: `up` first, or give --hosts")
    if arguments.rate:
        raise HostsError("--rate goes with --hosts: the hosts that are up have theirs")
    return run(names, arguments.ranks_per_host, arguments.program)


def _down(arguments: argparse.Namespace) -> int:
    """Take away what `up` made, and what a process made that ended without taking it away."""
    owned = [name for name in _present(OWNED) if not os.path.exists(f"/proc/{name.split('-')[1]}")]
    _remove(names := _present(STANDING) + owned)
    print(f"{', '.join(names)}: removed" if names else "no hosts were up")
    return 0


def _agent(arguments: argparse.Namespace) -> int:
    """Become a command on a host: mpirun calls this in place of ssh, with a line for the host's shell."""
    command = _enter(arguments.host, ["sh", "-c", " ".join(arguments.program)])
    os.execvpe(command[0], command, {**os.environ, "PATH": PATH})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="up | run | down")
    up = commands.add_parser("up", help="make hosts that stay until `down`; anew where they are up")
    run_ = commands.add_parser("run", help="run a program on the hosts that are up or, with --hosts, on its own")
    down = commands.add_parser("down", help="take them away, with all that runs on them")
    agent = commands.add_parser("agent")  # for mpirun
    for command in (up, run_):
        command.add_argument("--hosts", type=int, help="how many to make, 2 to 4 (up: 2; run: none of its own)")
        command.add_argument("--rate", help="of each host's link, each way (1gbit)")
    run_.add_argument("--ranks-per-host", type=int, default=1, help="(1)")
    run_.add_argument("program", nargs="+", help="after --")
    agent.add_argument("host")
    agent.add_argument("program", nargs=argparse.REMAINDER)
    up.set_defaults(action=_up, hosts=2, rate=RATE)
    for command, action in ((run_, _run), (down, _down), (agent, _agent)):
        command.set_defaults(action=action)
    return parser


def main() -> int:
    arguments = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # end by an exception, so that hosts are taken away
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        _require_tools()
        return int(arguments.action(arguments))
    except HostsError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
