"""A file is written whole or not at all; what nothing can take the place of is written itself."""

import os
import stat
import subprocess
import sys
import threading
from unittest import mock

import pytest

from npdp.base.whole_file import whole_file
from npdp.report.machine import keep
from npdp.report.plot import plot_times


def plot(path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install npdp[plot]")
    plot_times(path, "title", {"ring": [(64, 1.0), (128, 2.0)]}, {})


WRITERS = {"figures": ("o.json", lambda path: keep(path, "npdp bench", rows=[])), "plot": ("o.svg", plot)}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_was_kept_before_survives_a_disk_that_is_full(writer, tmp_path):
    name, write = WRITERS[writer]
    (tmp_path / name).write_text("the last run")
    with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")), pytest.raises(OSError, match="28"):
        write(f"{tmp_path}/{name}")
    assert (tmp_path / name).read_text() == "the last run" and os.listdir(tmp_path) == [name]
    write(f"{tmp_path}/{name}")
    assert (tmp_path / name).stat().st_size > 100 and os.listdir(tmp_path) == [name]


SAVES = """
import sys, time
from npdp.base.whole_file import whole_file
with whole_file(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("begun", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_has_left_is_removed_by_the_next_and_what_another_writes_is_not(tmp_path):
    (tmp_path / "npdp-mine.part").touch()
    (tmp_path / "model.npz").write_text("the last run")
    runs = []
    for _ in range(2):
        command = [sys.executable, "-c", SAVES, f"{tmp_path}/model.npz"]
        runs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert runs[-1].stdout.readline() == "begun\n"
    assert len(os.listdir(tmp_path)) == 4
    try:
        runs[0].kill()
        runs[0].wait()
        with whole_file(f"{tmp_path}/model.npz") as file:
            file.write(b"whole")
        assert len(os.listdir(tmp_path)) == 3
    finally:
        for run in runs:
            run.kill()
            run.wait()
            run.stdout.close()
    with whole_file(f"{tmp_path}/model.npz") as file:
        file.write(b"whole")
    assert {*os.listdir(tmp_path)} == {"npdp-mine.part", "model.npz"}


def test_what_takes_its_place_may_not_be_removed_until_it_has(tmp_path):
    replace = os.replace

    def replace_late(new: str, path: str) -> None:
        os.replace = replace
        with whole_file(f"{tmp_path}/another") as file:  # which removes what it finds
            file.write(b"another")
        replace(new, path)

    with mock.patch("os.replace", replace_late), whole_file(f"{tmp_path}/model.npz") as file:
        file.write(b"whole")
    assert (tmp_path / "model.npz").read_bytes() == b"whole"


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_and_stays_a_pipe(linked, tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    if linked:
        os.symlink(pipe, tmp_path / "link")
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with whole_file(f"{tmp_path}/{'link' if linked else 'pipe'}") as file:
        file.write(b"figures")
    reader.join(10)
    assert read == [b"figures"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_takes_what_is_printed_is_found_whatever_it_is():
    read, write = os.pipe()
    with whole_file(f"/dev/fd/{write}") as file:  # as /dev/stdout in a pipeline: its real path is none
        file.write(b"figures")
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"figures"


def test_a_file_that_may_be_written_is_also_where_its_directory_may_not(tmp_path):
    path = tmp_path / "o.json"
    path.write_text("longer than what comes")
    number = path.stat().st_ino
    with mock.patch("os.access", lambda path, mode: False), whole_file(str(path)) as file:  # root may write everywhere
        file.write(b"figures")
    assert path.read_bytes() == b"figures" and path.stat().st_ino == number
