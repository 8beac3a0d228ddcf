"""Mutations of checkpoints as .safetensors: a header's length in 8 bytes, the header as JSON, the arrays' bytes."""

from __future__ import annotations

import json
import random

from fuzz_mutations import any_bytes, json_node

from npdp.elastic import safetensors_file

LENGTH_BYTES = 8


def header(rng: random.Random, content: bytes) -> bytes:
    """Change the header, and its length alike."""
    old, arrays = _cut(content)
    return _joined(json_node(rng, old), arrays)


def structure(rng: random.Random, content: bytes) -> bytes:
    """Change what npdp has in the header: the structure of a checkpoint."""
    old, arrays = _cut(content)
    try:
        told = json.loads(old)
        changed = json_node(rng, told["__metadata__"]["structure"].encode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # an earlier mutation has broken it
        return any_bytes(rng, content)
    told["__metadata__"]["structure"] = changed.decode(errors="replace")
    return _joined(json.dumps(told).encode(), arrays)


def forged(rng: random.Random, content: bytes) -> bytes:
    """Give a checkpoint the hash that belongs to it, where it can still be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load, save

    try:
        arrays, told = load(content), json.loads(_cut(content)[0])["__metadata__"]
        return save(arrays, told | {"sha256": safetensors_file._sha256(told["structure"], arrays)})
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return content


def _cut(content: bytes) -> tuple[bytes, bytes]:
    end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    return content[LENGTH_BYTES:end], content[end:]


def _joined(header: bytes, arrays: bytes) -> bytes:
    return len(header).to_bytes(LENGTH_BYTES, "little") + header + arrays
