"""Damaged and lying files of weights, drawn by number: the same ones every time, of any count."""

from __future__ import annotations

import json
import struct

import numpy as np
from safetensors.numpy import save


def params(arrays: dict[str, np.ndarray]) -> bytes:
    """A sound ``.params`` file of float32 arrays, in the legacy form."""
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        out += (
            struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape) + struct.pack("<iii", 1, 0, 0) + array.tobytes()
        )
    out += struct.pack("<Q", len(arrays))
    return out + b"".join(struct.pack("<Q", len(name.encode())) + name.encode() for name in arrays)


def some_arrays(random: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = [tuple(random.integers(1, 4, random.integers(1, 5))) for _ in range(random.integers(1, 4))]
    return {f"arg:n{i}": random.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, cut, doubled, dropped, or numbers in it replaced by the ones that break programs."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        at, kind = int(random.integers(0, max(len(data), 1))), int(random.integers(0, 7))
        if kind == 0:
            data[at : at + 1] = bytes([int(random.integers(0, 256))])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + int(random.integers(1, 9))]
        elif kind == 3:
            data[at:at] = data[at : at + int(random.integers(1, 33))]
        elif kind == 4:
            data[at : at + 4] = struct.pack("<I", int(random.choice([0, 1, 33, 2**16, 2**31, 2**32 - 1])))
        elif kind == 5:
            data[at : at + 8] = struct.pack("<Q", int(random.choice([0, 1, 2**31, 2**32, 2**62, 2**63 - 1])))
        else:
            data += random.bytes(int(random.integers(1, 40)))
    return bytes(data)


def hostile_params(random: np.random.Generator) -> bytes:
    """A header of the format's own making, with shapes that no file could hold."""
    sides = [0, 1, 2, 3, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1]
    dimensions = int(random.integers(0, 36))
    version = int(random.integers(0, 4))
    magic = (0, 0xF993FAC8, 0xF993FAC9, 0xF993FACA)[version]
    shape = [int(random.choice(sides)) for _ in range(dimensions)]
    head = struct.pack("<QQQ", 0x112, 0, int(random.choice([1, 1, 1, 2, 2**40])))
    if version == 0:
        head += struct.pack(f"<I{dimensions}I", dimensions, *(side % 2**32 for side in shape))
    else:
        storage = struct.pack("<i", int(random.choice([0, 0, 0, 1]))) if version > 1 else b""
        head += struct.pack("<I", magic) + storage + struct.pack(f"<i{dimensions}q", dimensions, *shape)
    head += struct.pack("<iii", 1, 0, int(random.choice([0, 1, 2, 3, 4, 5, 6, 7, -1])))
    return head + random.bytes(int(random.integers(0, 64))) + struct.pack("<QQ", 1, 1) + b"n"


def hostile_safetensors(random: np.random.Generator) -> bytes:
    """A header that lies about types, shapes and where tensors lie."""
    numbers = [0, 1, 2, 8, 2**31, 2**32, 2**62, 2**63 - 1, -1]
    header: dict[str, object] = {}
    for i in range(int(random.integers(0, 4))):
        shape = [int(random.choice(numbers)) for _ in range(int(random.integers(0, 5)))]
        start, end = (int(random.choice(numbers)) for _ in range(2))
        kind = str(random.choice(["F32", "F16", "BF16", "F8_E4M3", "F4", "I64", "BOOL", "C64", "U16", "", "x"]))
        header[f"n{i}"] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    length = (len(text), len(text), len(text), 0, 2**31, 2**63, 2**64 - 1)[int(random.integers(0, 7))]
    return struct.pack("<Q", length) + text + random.bytes(int(random.integers(0, 40)))


def params_case(number: int) -> bytes:
    random = np.random.default_rng([1, number])
    return hostile_params(random) if number % 3 == 0 else damaged(params(some_arrays(random)), random)


def safetensors_case(number: int) -> bytes:
    random = np.random.default_rng([2, number])
    return hostile_safetensors(random) if number % 3 == 0 else damaged(save(some_arrays(random)), random)
