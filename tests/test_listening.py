"""Ranks of one host need no network: under Open MPI none listens, where shared memory suffices."""

import os
from types import SimpleNamespace

import pytest
from launching import mpirun, needs_mpi

from npdp.base.environment import Launch
from npdp.comm import mpi

GB = 2**30
TRANSPORTS = "OMPI_MCA_btl"


@needs_mpi
def test_no_rank_of_open_mpi_listens_where_all_share_a_host():
    if not mpi._shared_memory_suffices(2):
        pytest.skip("/dev/shm is too small")
    code, stdout, stderr = mpirun(2, "listens.py")
    assert code == 0, stderr
    name, transports, ports = stdout.split("\n")[:3]
    if "Open MPI" not in name:
        pytest.skip(f"{name} cannot be told so")
    assert (transports, ports) == ("^ofi,tcp", "0")
    assert int(mpirun(2, "listens.py", OMPI_MCA_btl="^ofi").stdout.split("\n")[2]) > 0  # they are seen


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("launched", "room_bytes", "said", "wanted"), [
    (Launch(0, 4, 4), GB, {}, "^ofi,tcp"),
    (Launch(0, 4, 4), 2 * 4 * 2**24 - 1, {}, "^ofi"),
    (Launch(0, 4, 2), GB, {}, None),
    (Launch(0, 4, 4), GB, {"OMPI_MCA_btl": "self,sm,tcp"}, "self,sm,tcp"),
    (Launch(0, 4, 4), GB, {"OMPI_MCA_btl_sm_segment_size": "1"}, "^ofi"),
    (Launch(0, 4, 4), None, {}, "^ofi"),
])  # fmt: skip
def test_tcp_is_left_out_where_memory_suffices_and_the_user_has_said_nothing(
    launched, room_bytes, said, wanted, monkeypatch
):
    def statvfs(path):
        if room_bytes is None:
            raise FileNotFoundError(path)
        return SimpleNamespace(f_bavail=room_bytes, f_frsize=1)

    monkeypatch.setattr(os, "statvfs", statvfs)
    os.environ.update(said)
    mpi._prepare_open_mpi(launched)
    assert os.environ.get(TRANSPORTS) == wanted
