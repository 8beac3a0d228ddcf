"""Mutations of files that know their formats, each a function of a generator and a file's bytes.

any bytes      flips, cuts, swapped pieces, extremes of 1 to 8 bytes of either order, NUL, no UTF-8
numbers        in text: huge, negative, NaN, of other scripts, of hundreds of digits
JSON           a node replaced, removed, renamed, repeated, nested deeply
zip            an array's header (shape, dtype), members removed, swapped, renamed, repeated, compressed, bombs;
               fields of the directory
gzip           several members, bombs, cut ones
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

BOMB_BYTES = 2**27  # of what is not to be unpacked: twice what may be taken
PIECES = (
    b"\0", b"\0" * 8, b"\xff" * 4, b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf",
    b"\r", b"\n", b"\x1c", b"\xc2\x85", b"\xe2\x80\xa8", b'"', b"'", b",", b";", b"\t", b" ", b"#", b":", b"=",
    b"-", b"{", b"[", b"}", b"]", b"\\", b"\\ud800", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY", b"\x1f\x8b"
)  # fmt: skip
NUMBERS = (
    b"0", b"-1", b"-0", b"1e999", b"-1e999", b"1e308", b"4e-324", b"nan", b"inf", b"-Infinity", b"2147483648",
    b"4294967295", b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1" + b"0" * 30, b"9" *
    400, b"9" * 5000, b"1_000", b"0x10", "١٢".encode(), "½".encode(), b"1.5", b"1e-400", b".", b"True", b"1000000",
    b"20000000"
)  # fmt: skip
DTYPES = (
    "|O", "|V8", "<U9", "<U1000000000", "|S0", "|S5", "<f2", ">f8", "<f16", "<c16", "<i8", "|b1", "<M8[s]", "<m8",
    "<f8", "|u1", ">i2", "<u8", [("a", "<f8")], [("a", "|O")], ("<f8", (2**31,)), "f8,O", "(2,)f8", "numpy", ""
)  # fmt: skip
SHAPES = (
    (), (0,), (1,), (-1,), (-3, -4), (2**31,), (2**40,), (2**62,), (2**63,), (2**64,), (0, 2**62), (2**62, 0),
    (True, 12), (1.5,), (1,) * 33, (1,) * 65, (2**31, 2**31, 4), "x", (10**400,), None, 7
)  # fmt: skip
NODES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**40,
    10**400, "", "x", "0", "\0", "\ud800", "a" * 10**4, "../../etc/passwd", "trap.py:make", [], {}, [[]], [None],
    {"": None}, [1, "a", {}], {"array": "a0"}, {"tensor": "a1"}, {"dict": [[[], 1]]}, {"list": 3}, "softmax", "mlp",
    "gpt", "sparse_linear", "|O", "<f8", "bpe:300", "characters"
)  # fmt: skip
DEEP = 100_000


# Any bytes
def any_bytes(rng: random.Random, content: bytes) -> bytes:
    """Change some bytes, whatever they are."""
    at, size = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 8, 64))
    before, rest = content[:at], content[at:]
    how = rng.randrange(9)
    if how == 0:
        return before + bytes([(rest[0] if rest else 0) ^ 1 << rng.randrange(8)]) + rest[1:]
    if how == 1:
        return before
    if how == 2:
        return before + rng.randbytes(size) + rest[size * rng.randrange(2) :]
    if how == 3:
        return before + rng.choice(PIECES) + rest[size * rng.randrange(2) :]
    if how == 4:
        return before + rest[size:]
    if how == 5:
        return before + bytes(size) + rest[size:]
    if how == 6:
        return _extreme(rng, before, rest)
    if how == 7:
        to = rng.randrange(len(content) + 1)
        return before + content[to : to + size] + rest[size * rng.randrange(2) :]
    halves = sorted(rng.randrange(len(content) + 1) for _ in range(3))
    a, b, c = halves
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _extreme(rng: random.Random, before: bytes, rest: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice((0, 1, 2, 2**7 - 1, 2**7, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1))
    return before + (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big"))) + rest[width:]


def grown(rng: random.Random, content: bytes) -> bytes:
    """Append a great deal, or repeat what there is."""
    return content + rng.choice((bytes(2**18), content * 3, b"1" * 2**16, b"\n" * 2**16, b"[" * DEEP))


# Text
def number(rng: random.Random, content: bytes) -> bytes:
    """Put another number in the place of one."""
    places = list(re.finditer(rb"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", content))
    if not places:
        return any_bytes(rng, content)
    place = rng.choice(places)
    return content[: place.start()] + rng.choice(NUMBERS) + content[place.end() :]


def line(rng: random.Random, content: bytes) -> bytes:
    """Remove, repeat, swap or join lines."""
    lines = content.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(4)
    if how == 0:
        del lines[a]
    elif how == 1:
        lines.insert(b, lines[a])
    elif how == 2:
        lines[a], lines[b] = lines[b], lines[a]
    else:
        return (
            b"\n".join(lines[: a + 1]) + rng.choice((b"\r\n", b"\r", b"\0", b"", b"\x0b")) + b"\n".join(lines[a + 1 :])
        )
    return b"\n".join(lines)


# JSON
def json_node(rng: random.Random, content: bytes) -> bytes:
    """Change a node of a document."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return any_bytes(rng, content)
    places = list(_places(document))
    if not places:
        return json.dumps(rng.choice(NODES)).encode()
    holder, key = rng.choice(places)
    how = rng.randrange(8)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "format", "dict", "array", "\0"))] = holder.pop(key)
    elif how == 2:
        other, name = rng.choice(places)
        if json.dumps(holder[key]) not in json.dumps(other[name]):
            holder[key] = other[name]
    elif how == 3:
        holder[key] = [holder[key]] * rng.choice((1, 2, 1000))
    elif how == 4:
        return _spliced(
            document,
            holder,
            key,
            rng.choice(
                (
                    b"[" * DEEP + b"]" * DEEP,
                    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
                    b'{"list": [' * 900 + b"]}" * 900,
                    b"9" * 5000,
                    b"1e999",
                    b"[" * DEEP,
                    b'"' + b"\xff" + b'"',
                )
            ),
        )
    else:
        holder[key] = rng.choice(NODES)
    return json.dumps(document).encode()


def _places(node: Any) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key
        yield from _places(value)


def _spliced(document: Any, holder: Any, key: Any, raw: bytes) -> bytes:
    holder[key] = "HERE BYTES GO"
    return json.dumps(document).encode().replace(b'"HERE BYTES GO"', raw)


# Zips of arrays
def members(rng: random.Random, content: bytes) -> bytes:
    """Change a member of a zip, or its place, name or compression, and pack all anew: the zip itself is right."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # one that was changed before
        return any_bytes(rng, content)
    if not found:
        return any_bytes(rng, content)
    described = [number for number, (name, _) in enumerate(found) if name.endswith("json")]
    at = rng.choice(described if described and rng.random() < 0.4 else range(len(found)))
    name, inner = found[at]
    how = rng.randrange(9)
    if how == 0:
        del found[at]
    elif how == 1:
        found.append((name, found[rng.randrange(len(found))][1]))
    elif how == 2:
        found[at] = name, found[rng.randrange(len(found))][1]
    elif how == 3:
        found[at] = rng.choice(("x.npy", "", "../x.npy", "é.npy", "structure.json", "data.pkl", "a" * 60_000)), inner
    elif how == 4:
        found[at] = name, inner + bytes(rng.choice((1, 8, 2**20)))
    elif how == 5 and not name.endswith("json"):
        found[at] = name, any_bytes(rng, inner)
    elif name.endswith("json"):
        found[at] = name, json_node(rng, inner)
    else:
        found[at] = name, npy_header(rng, inner)
    return _zipped(found, rng)


def _zipped(found: Sequence[tuple[str, bytes]], rng: random.Random) -> bytes:
    file = io.BytesIO()
    methods = (zipfile.ZIP_STORED,) * 6 + (zipfile.ZIP_DEFLATED,) * 2 + (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", rng.choice(methods)) as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, inner in found:
            archive.writestr(zipfile.ZipInfo(name), inner, compress_type=archive.compression)
        if rng.random() < 0.005:
            archive.writestr(rng.choice(found)[0] if found else "x.npy", bytes(BOMB_BYTES), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def npy_header(rng: random.Random, content: bytes) -> bytes:
    """Give an array another shape, dtype, order, version or length of its header; text in it another document."""
    size = int.from_bytes(content[8:10], "little")
    header, elements = content[10 : 10 + size], content[10 + size :]
    how = rng.randrange(6)
    if how == 0:
        header = re.sub(rb"\([^)]*\)", repr(rng.choice(SHAPES)).encode().replace(b"\\", b""), header, count=1)
    elif how == 1:
        header = re.sub(rb"'descr': '[^']*'", b"'descr': " + repr(rng.choice(DTYPES)).encode(), header, count=1)
    elif how == 2:
        header = rng.choice(
            (
                b"__import__('trap')",
                b"(" * 5000,
                b"{" * 200,
                b"[" * 90 + b"]" * 90,
                header.replace(b"False", b"True"),
                header.replace(b"False", b"0"),
                b"{}",
                header * 2,
                b"-" * 3000 + b"1",
            )
        )
    elif how == 3 and b"<U" in header:
        return _text_array(json_node(rng, elements.decode("utf-32-le", "replace").encode()).decode("utf-8", "replace"))
    elif how == 4:
        return content[:6] + rng.choice((b"\1\0", b"\2\0", b"\3\0", b"\4\0", b"\0\0", b"\xff\xff")) + content[8:]
    else:
        return number(rng, content)
    return content[:8] + (len(header) % 2**16).to_bytes(2, "little") + header + elements


def _text_array(text: str) -> bytes:
    header = f"{{'descr': '<U{len(text)}', 'fortran_order': False, 'shape': (), }}\n".encode()
    elements = text.encode("utf-32-le", "surrogatepass")
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + elements


def directory(rng: random.Random, content: bytes) -> bytes:
    """Put an extreme into a field of a zip's directory, or of a member's own header."""
    heads = [place.start() for place in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07)", content)]
    if not heads:
        return any_bytes(rng, content)
    at = rng.choice(heads) + rng.randrange(4, 46)
    return _extreme(rng, content[:at], content[at:])


# Compressed streams
def gzipped(inner: Mutation) -> Mutation:
    """Return a mutation of what is packed, or of how."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        how = rng.randrange(6)
        if how == 0:
            return any_bytes(rng, content)
        if how == 1:
            return content + gzip.compress(bytes(rng.choice((0, 1, 2**16))), 1)
        unpacked = b""
        with contextlib.suppress(OSError, EOFError, zlib.error):
            unpacked = gzip.decompress(content)
        if how == 2 and rng.random() < 0.02:
            return gzip.compress(unpacked + bytes(BOMB_BYTES), 1)
        if how == 3:
            cut = rng.randrange(len(unpacked) + 1)
            return gzip.compress(unpacked[:cut], 1) + gzip.compress(unpacked[cut:], 1)
        return gzip.compress(inner(rng, unpacked), 1)

    return mutate
