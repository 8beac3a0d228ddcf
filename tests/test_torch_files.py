"""`npdp.save` and `npdp.load`: what went in comes out, nothing that is pickled is read, and half a file is never
left."""

import io
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import npdp
from npdp import nn, optim
from npdp.base.errors import InputError

DTYPES = st.sampled_from(["float32", "float64", "int64", "int32", "uint8", "bool"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    arrays(DTYPES, array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3)),
)  # fmt: skip
OBJECTS = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple),
    st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), inner, max_size=3),
), max_leaves=8)  # fmt: skip


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


@settings(deadline=None, max_examples=150)
@given(OBJECTS)
def test_what_was_saved_is_loaded(thing):
    file = io.BytesIO()
    npdp.save(thing, file)
    file.seek(0)
    assert same(thing, npdp.load(file))


def test_a_tensor_is_one_again_and_has_memory_of_its_own(tmp_path):
    x = npdp.arange(6).view(2, 3)
    npdp.save([x, x.numpy().T], tmp_path / "x.pt")
    tensor, array = npdp.load(tmp_path / "x.pt", map_location="cpu")
    assert isinstance(tensor, npdp.Tensor) and npdp.equal(tensor, x) and same(array, x.numpy().T.copy())
    tensor.add_(1)
    assert tensor[0, 0].item() == 1


def test_a_checkpoint_goes_on_where_it_was(tmp_path):
    def step(model, optimizer):
        optimizer.zero_grad()
        (model(np.ones((2, 3), np.float32)) ** 2).sum().backward()
        optimizer.step()
        return model.weight.array.copy()

    model = nn.Linear(3, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    step(model, optimizer)
    npdp.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}, tmp_path / "c")
    wanted = step(model, optimizer)
    checkpoint, other = npdp.load(tmp_path / "c"), nn.Linear(3, 2)
    other.load_state_dict(checkpoint["model"])
    again = optim.Adam(other.parameters(), lr=0.5)
    again.load_state_dict(checkpoint["optimizer"])
    np.testing.assert_array_equal(step(other, again), wanted)


@pytest.mark.parametrize(("thing", "said"), [
    ({"a": [1, {2}]}, r"got set as the object\['a'\]\[1\]"), (lambda: 1, "got function as the object"),
    (nn.Linear(1, 1), "got Linear as the object: save model.state_dict()"), ({(1, 2): 3}, r"keys .* got \(1, 2\)"),
    (np.array(["a"]), "got ndarray"),
])  # fmt: skip
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, thing, said):
    with pytest.raises(TypeError, match=said):
        npdp.save(thing, tmp_path / "x")
    assert not os.listdir(tmp_path)


def test_what_is_no_such_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"x: expected a file that npdp.save wrote \(.*\): File is not a zip file$"):
        npdp.load(path)
    npdp.save(npdp.arange(1000), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="x: expected a file that npdp.save wrote"):
        npdp.load(path)
    np.savez(path.with_suffix(".npz"), a=np.ones(2))
    with pytest.raises(InputError, match=r"got an archive of a\.npy$"):
        npdp.load(path.with_suffix(".npz"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"cos\nsystem\n")
    with pytest.raises(InputError, match="is a PyTorch file, which holds pickled objects; there, write it"):
        npdp.load(path)
    with pytest.raises(FileNotFoundError):
        npdp.load(tmp_path / "nowhere")


def test_a_file_of_pytorch_s_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt: is a PyTorch file"):
        npdp.load(tmp_path / "model.pt")


def test_an_array_that_is_named_twice_is_refused(tmp_path):
    npdp.save([np.ones(1000)], tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["structure.json"] = b'{"list": [' + b'{"array": "a0"}, ' * 9999 + b'{"array": "a0"}]}'
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="x: expected a file that npdp.save wrote, got a structure that is none: 'a0'"):
        npdp.load(tmp_path / "x")
