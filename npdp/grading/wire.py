"""Messages between the grader and a student's process: JSON with its length in front, arrays as base64.

Plain data only. A pickle could run a student's code in the process that grades it.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

LENGTH = struct.Struct(">I")
LONGEST_BYTES = 1 << 28
Pack = Callable[[Any], dict[str, Any]]


def write(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message whose values are packed."""
    text = json.dumps(message).encode()
    connection.sendall(LENGTH.pack(len(text)) + text)


def read(connection: socket.socket) -> dict[str, Any]:
    """Receive a message; its values are still packed.

    Raises:
        EOFError: the other side is gone, or sends no message.
        TimeoutError: it does not come within the connection's time-out.
    """
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > LONGEST_BYTES:
        raise EOFError(f"a message of {length} bytes, wanted at most {LONGEST_BYTES}")
    try:
        message = json.loads(_exactly(connection, length))
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise EOFError("no message")
    return message


def _exactly(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(length - len(parts), 1 << 20))
        if not part:
            raise EOFError("the other side is gone")
        parts += part
    return bytes(parts)


def packed(value: Any, other: Pack) -> Any:
    """Return a value as JSON has it; `other` packs what is no number, text, list, dict or array."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return packed(value.item(), other)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"wanted an array of numbers, got one of {value.dtype}")
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, dict):
        return {"dict": [[packed(key, other), packed(item, other)] for key, item in value.items()]}
    if isinstance(value, Iterable):
        return [packed(item, other) for item in value]
    return other(value)


def unpacked(value: Any, other: Callable[[dict[str, Any]], Any]) -> Any:
    """Return what was packed; `other` reads what `packed`'s `other` wrote. ValueError where it is none of these."""
    if isinstance(value, list):
        return [unpacked(item, other) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        dtype = np.dtype(str(value["dtype"]))
        if dtype.kind not in "biuf":
            raise ValueError(f"an array of {dtype}")
        return np.frombuffer(base64.b64decode(value["array"]), dtype).reshape(value["shape"]).copy()
    if "dict" in value:
        return {unpacked(key, other): unpacked(item, other) for key, item in value["dict"]}
    return other(value)
