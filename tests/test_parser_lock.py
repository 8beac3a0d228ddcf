"""Arrays may be read by ranks that are threads, all at once."""

import ast
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import npdp
from npdp.app import inference, models, saved_model
from npdp.base.parser_lock import ONE_AT_A_TIME
from npdp.data import sources


def test_threads_read_the_same_files_at_once(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.arange(60.0).reshape(20, 3), y=np.arange(20) % 2)

    def read(_):
        data = sources.load(str(tmp_path / "data.npz"))
        return len(data.train)

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(read, range(300)))
    assert outcomes == [16] * 300


def test_whoever_reads_a_header_holds_the_lock(tmp_path, monkeypatch):
    x = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(3))
    np.save(tmp_path / "x.npy", x)
    description = {"model": "linear", "features": 2, "classes": None, "hidden": [], "dtype": "float64"}
    model = models.build("linear", 2, None, {}, "float64")
    npdp.save({"x": x}, f"{tmp_path}/state.npz")
    saved_model.save(f"{tmp_path}/model.npz", saved_model.SavedModel(model, description, None))
    held, parse = [], ast.literal_eval
    monkeypatch.setattr(ast, "literal_eval", lambda text: held.append(ONE_AT_A_TIME.locked()) or parse(text))
    for read in (
        lambda: sources.load(f"{tmp_path}/data.npz"),
        lambda: saved_model.load(f"{tmp_path}/model.npz"),
        lambda: inference.predict(f"{tmp_path}/model.npz", f"{tmp_path}/x.npy", None, False),
        lambda: inference.predict(f"{tmp_path}/model.npz", f"{tmp_path}/data.npz", None, False),
        lambda: npdp.load(f"{tmp_path}/state.npz"),
    ):
        held.clear()
        read()
        assert held and all(held), read
