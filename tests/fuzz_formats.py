"""Readers under fuzz: for each the files that it reads, what reads them, and the mutations that know its format."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from data_files import IDX_TYPES, idx_bytes, npy_bytes
from fuzz_mutations import (
    BOMB_BYTES,
    Mutation,
    any_bytes,
    directory,
    grown,
    gzipped,
    json_node,
    line,
    members,
    npy_header,
    number,
)
from fuzz_safetensors import forged, header, structure

import npdp
from npdp import nn, optim
from npdp.app import saved_model
from npdp.collectives import constants
from npdp.collectives.auto import cheapest
from npdp.collectives.machine import built_in, from_json
from npdp.data import ArrayDataset, DataLoader, sources, text
from npdp.data.text.source import find
from npdp.data.text.token_file import tokens_of
from npdp.elastic import checkpoint
from npdp.parallel.parameter_server import update_log

Files = dict[str, bytes]


class Reader(NamedTuple):
    """A reader of files.

    Attributes:
        seeds: sets of files that it reads; names beginning with "_" are not mutated.
        read: reads the files of a folder, and returns what they decode to.
        mutations: of one of the files, drawn alike.
        promised: what it may raise.
        forge: what an attacker does in the end: checksums, computed anew.
    """

    seeds: Callable[[Path], list[Files]]
    read: Callable[[Path], Any]
    mutations: tuple[Mutation, ...]
    promised: tuple[type[Exception], ...] = (ValueError,)
    forge: Callable[[random.Random, bytes], bytes] = lambda rng, content: content


# Tables
X, Y = np.arange(24).reshape(6, 4) / 7, np.arange(6) % 3
TABLE = "age,height,label\n" + "".join(f"{n},{n * 1.5 - 2},{n % 3}\n" for n in range(8))
SVM = "+1 1:0.5 3:-2 # a comment\n-1 2:1 4:4e-1\n\n" + "".join(f"{n % 2} {n}:1 {n + 3}:{n / 3}\n" for n in range(1, 6))
SPARSE = {
    "indptr": np.array([0, 1, 3]), "indices": np.array([1, 0, 2]), "values": np.ones(3), "shape": np.array([2, 3]),
    "y": np.arange(2),
}  # fmt: skip


def idx_header(rng: random.Random, content: bytes) -> bytes:
    """Change the type, the number of dimensions or an extent."""
    changed = bytearray(content)
    if rng.random() < 0.5:
        changed[2:4] = bytes([rng.choice([*IDX_TYPES.values(), 0, 255]), rng.choice((0, 1, 2, 3, 4, 65, 255))])
    else:
        at = rng.choice((4, 8, 12))
        changed[at : at + 4] = rng.choice((0, 1, 5, 2**16, 2**31, 2**32 - 1)).to_bytes(4, "big")
    return bytes(changed)


def idx_files(folder: Path) -> list[Files]:
    names = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    images = (np.arange(60) % 251).reshape(5, 4, 3)
    return [{names[0]: idx_bytes(images.astype(kind)), names[1]: idx_bytes(np.arange(5, dtype=np.uint8) % 3)}
            for kind in ("u1", "i2", "f4", "f8")]  # fmt: skip


def packed_idx_files(folder: Path) -> list[Files]:
    return [{f"{name}.gz": gzip.compress(content, 1) for name, content in files.items()} for files in idx_files(folder)]


def npz(compressed: bool, **arrays: Any) -> Files:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return {"d.npz": file.getvalue()}


def npz_files(folder: Path) -> list[Files]:
    tests = {"x_test": X[:2].astype("f4"), "y_test": Y[:2]}
    return [npz(compressed, **arrays) for compressed in (False, True)
            for arrays in ({"x": X, "y": Y}, {"x": np.asfortranarray(X), "y": Y[:, None] * 0.5, **tests})]  # fmt: skip


def table(name: str, **options: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        split = sources.load(str(folder / name), standardize=not options.get("sparse") and name == "d.csv", **options)
        return split, split.train.take(slice(0, len(split.train)))

    return read


# Texts
BOOK = ("Grüße, a text — with 漢字.\n" * 3 + "def f(x):\n    return x\n\n") * 8


def texts(folder: Path) -> Any:
    for cut in ("bytes", "characters", "bpe:260"):
        split = sources.load(str(folder), tokenizer=cut, context=4)
        split.tokenizer.decode(split.train.take([0])[0][0])
    return split


def token_files(folder: Path) -> list[Files]:
    (folder / "t.txt").write_text(BOOK)
    made = [tokens_of(find(str(folder / "t.txt")), cut).path for cut in ("bytes", "characters", "bpe:260")]
    return [{"d.npdp-tokens": Path(path).read_bytes()} for path in made]


def token_header(rng: random.Random, content: bytes) -> bytes:
    header, _, tokens = content.partition(b"\n")
    return json_node(rng, header) + b"\n" + tokens


def tokens(folder: Path) -> Any:
    split = sources.load(str(folder / "d.npdp-tokens"), context=4)
    inputs, _ = split.train.take(slice(0, len(split.train)))
    return split.tokenizer.decode(inputs.ravel()), split.train.label_bytes(), inputs


def tokenizers(folder: Path) -> list[Files]:
    return [{"t.json": json.dumps(json.loads(line_of.splitlines()[0])["tokenizer"]).encode()}
            for (line_of,) in (files.values() for files in token_files(folder))]  # fmt: skip


def tokenizer(folder: Path) -> Any:
    made = text.from_json((folder / "t.json").read_text(encoding="utf-8"))
    return made.decode(made.encode("a text").tolist() if "a" in "".join(map(repr, made.pieces)) else [0]), made.pieces


# Checkpoints, saved models
def parts() -> tuple[nn.Module, optim.Optimizer, DataLoader]:
    npdp.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.2), nn.Linear(3, 3))
    loader = DataLoader(ArrayDataset(X.astype(np.float32), Y), 2, shuffle=True, rank=0, world_size=1)
    return model, optim.Adam(model.parameters(), lr=0.01), loader


def checkpoints(folder: Path, name: str = "c.npz") -> list[Files]:
    model, optimizer, loader = parts()
    criterion = nn.CrossEntropyLoss()
    for inputs, labels in loader:
        criterion(model(inputs), labels).backward()
        optimizer.step()
    npdp.save_checkpoint(folder / name, model, optimizer, loader, best={"loss": 0.5, "at": (1, 2)}, note="x")
    return [{name: (folder / name).read_bytes()}]


def go_on(folder: Path, name: str = "c.npz") -> Any:
    model, optimizer, loader = parts()
    more = npdp.load_checkpoint(folder / name, model, optimizer, loader)
    for inputs, _ in loader:
        model(inputs)
    return more, list(model.parameters())


def checkpoint_forged(rng: random.Random, content: bytes) -> bytes:
    """Give a checkpoint the hash that belongs to it, most of the time."""
    if rng.random() < 0.1:
        return content
    end = content.rfind(b"PK\5\6")
    if end >= 0 and rng.random() < 0.9:
        content = content[: end + 20] + checkpoint.DIGITS.to_bytes(2, "little")
    try:
        return content + checkpoint._sha256(io.BytesIO(content), len(content))
    except Exception:  # no zip any more
        return content + hashlib.sha256(content).hexdigest().encode()


def objects(folder: Path) -> list[Files]:
    npdp.save({"a": np.eye(3), "b": [npdp.zeros(2), ("x", 1, None)], 3: {"deep": [[1.5]]}}, folder / "o.npz")
    return [{"o.npz": (folder / "o.npz").read_bytes()}, *({"o.npz": files["c.npz"]} for files in checkpoints(folder))]


def models(folder: Path) -> list[Files]:
    found = []
    described = [
        {"model": "softmax", "features": 4, "classes": 3, "labels": [-1, 0, 1]},
        {"model": "mlp", "features": 4, "classes": None, "hidden": [5], "columns": ["a", "b", "c", "d"], "target": "t"},
        {"model": "cnn", "features": 64, "classes": 3}, {"model": "sparse_linear", "features": 4, "classes": 2},
        {"model": "gpt", "features": 8, "classes": 256, "layers": 1, "heads": 2, "width": 8, "dropout": 0.1,
         "positions": "learned", "tokenizer": json.dumps({"tokenizer": "bytes"})},
    ]  # fmt: skip
    for description in described:
        flags, sizes = (
            saved_model.flags_of(description),
            [description[name] for name in ("model", "features", "classes")],
        )
        model = saved_model.models.build(*sizes, flags, "float32")
        scaling = (np.zeros(4), np.ones(4)) if description["model"] in ("softmax", "mlp") else None
        saved = saved_model.SavedModel(model, description | {"dtype": "float32"}, scaling)
        saved_model.save(str(folder / "m.npz"), saved)
        found.append({"m.npz": (folder / "m.npz").read_bytes()})
    return found


def saved_parameters(folder: Path) -> Any:
    return list(saved_model.load(str(folder / "m.npz")).model.parameters())


# JSON of a machine's, and records
class Alone(NamedTuple):
    """As much of a transport as the reader of constants asks for."""

    name: str = "threads"
    world_size: int = 2
    rank: int = 0


KEY = constants.key(Alone(), ("a", "a"))  # type: ignore[arg-type]


def machines(folder: Path) -> list[Files]:
    document = {"key": KEY, "machine": asdict(built_in("threads", 2))}
    return [{f"npdp/{constants._path(KEY).name}": json.dumps(document).encode()}]


def machine(folder: Path) -> Any:
    found = constants._found(Alone(), ("a", "a"))  # type: ignore[arg-type]
    told = from_json(json.loads(json.dumps(asdict(found.machine))))
    for nbytes in (8, 2**12, 2**26, 2**40):
        cheapest("allreduce", nbytes, ("a", "a", "b"), told, True)
    return ()


RUN = {"seed": 0, "model": "softmax"}


def logs(folder: Path) -> list[Files]:
    found = [(n % 2, 0, n // 4, n % 4, max(0, n - 1)) for n in range(8)]
    update_log.save(str(folder / "l"), [{"log": found}, {"log": found[:7]}], RUN)
    return [{"l": (folder / "l").read_bytes()}]


def unpacked_log(rng: random.Random, content: bytes) -> bytes:
    try:
        inner = zlib.decompress(content[update_log.DIGEST_BYTES :])
    except zlib.error:
        return any_bytes(rng, content)
    if rng.random() < 0.01:
        return content[: update_log.DIGEST_BYTES] + zlib.compress(bytes(BOMB_BYTES), 1)
    return content[: update_log.DIGEST_BYTES] + zlib.compress(rng.choice((json_node, number, any_bytes))(rng, inner), 1)


def log_forged(rng: random.Random, content: bytes) -> bytes:
    content = content[update_log.DIGEST_BYTES :]
    return update_log._digest(content) + content


TEXT = (any_bytes, line, number, grown)
ZIP = (any_bytes, members, members, members, directory)
JSON = (json_node, json_node, any_bytes)
GZIP = (gzipped(any_bytes), gzipped(idx_header))
LOG = (unpacked_log, unpacked_log, any_bytes)
READERS = {
    "idx": Reader(idx_files, table("."), (any_bytes, idx_header, grown)),
    "idx.gz": Reader(packed_idx_files, table("."), GZIP),
    "npz": Reader(npz_files, table("d.npz"), ZIP),
    "sparse npz": Reader(lambda _: [npz(False, **SPARSE), npz(True, **SPARSE)], table("d.npz"), ZIP),
    "npy": Reader(
        lambda _: [{"x.npy": npy_bytes(X), "y.npy": npy_bytes(Y)}], table("."), (any_bytes, npy_header, grown)
    ),
    "csv": Reader(lambda _: [{"d.csv": t.encode()} for t in (TABLE, TABLE.replace(",", ";"))], table("d.csv"), TEXT),
    "svmlight": Reader(lambda _: [{"d.svm": SVM.encode()}], table("d.svm"), TEXT),
    "sparse svmlight": Reader(lambda _: [{"d.svm": SVM.encode()}], table("d.svm", sparse=True), TEXT),
    "text": Reader(lambda _: [{"a.txt": BOOK.encode(), "b.md": b"# x\n" * 9}], texts, TEXT),
    "tokenizer": Reader(tokenizers, tokenizer, JSON),
    "tokens": Reader(token_files, tokens, (token_header, token_header, any_bytes)),
    "checkpoint": Reader(checkpoints, go_on, ZIP, forge=checkpoint_forged),
    "safetensors checkpoint": Reader(
        partial(checkpoints, name="c.safetensors"), partial(go_on, name="c.safetensors"),
        (header, structure, any_bytes, grown), forge=forged,
    ),
    "npdp.load": Reader(objects, lambda folder: npdp.load(folder / "o.npz"), ZIP),
    "saved model": Reader(models, saved_parameters, ZIP),
    "calibration": Reader(machines, machine, JSON, ()),
    "update log": Reader(logs, lambda folder: update_log.load(str(folder / "l"), RUN), LOG, forge=log_forged),
}
