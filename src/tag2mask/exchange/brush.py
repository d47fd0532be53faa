"""Label Studio's run lengths of brush masks: the bytes of its RGBA canvas, packed as thi.ng's ``rle-pack`` does.

A header (32 bits: count of words; 5: bits of a word less 1; four times 4: bits of a length less 1), then packets: 1 bit
(a run, or single words), 2 bits (which of the four lengths), the length less 1, and one word or that many. Not COCO's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WORD = 8  # bits of a channel's value
LENGTHS = (3, 4, 8, 16)  # bits, as Label Studio's own code has them
CHANNELS = 4


def packed(pixels: np.ndarray) -> list[int]:
    """``[height width]`` bool to bytes: 255 in all four channels of its pixels, row by row."""
    flat = pixels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [len(flat)]])
    bits = [f"{len(flat) * CHANNELS:032b}", f"{WORD - 1:05b}", *(f"{size - 1:04b}" for size in LENGTHS)]
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        bits += _run(255 if flat[start] else 0, (end - start) * CHANNELS)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return np.packbits(np.frombuffer(text.encode("ascii"), np.uint8) - ord("0")).tolist()


def _run(value: int, length: int) -> list[str]:
    packets = []
    while length:
        part = min(length, 1 << LENGTHS[-1])
        size = next(i for i, bits in enumerate(LENGTHS) if part <= 1 << bits)
        packets.append(f"1{size:02b}{part - 1:0{LENGTHS[size]}b}{value:0{WORD}b}")
        length -= part
    return packets


def unpacked(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The pixels ``[height width]`` bool that are more opaque than not.

    Raises:
        ValueError: this is no such packing, or of another size.
    """
    bits = np.unpackbits(np.asarray(rle, np.uint8))
    text = (bits + ord("0")).tobytes().decode("ascii")
    at = 0

    def number(count: int) -> int:
        nonlocal at
        if at + count > len(text):
            raise ValueError("the run lengths end too early")
        at += count
        return int(text[at - count : at], 2)

    count, word = number(32), number(5) + 1
    lengths = [number(4) + 1 for _ in LENGTHS]
    if count != size[0] * size[1] * CHANNELS or word != WORD:
        raise ValueError(f"run lengths of {count} words of {word} bits for {size[1]}x{size[0]} pixels")
    out, done = np.zeros(count, np.uint8), 0
    while done < count:
        is_run, kind = number(1), number(2)
        end = done + 1 + number(lengths[kind])
        if end > count:
            raise ValueError("the run lengths reach beyond the photo")
        if is_run:
            out[done:end] = number(WORD)
        else:
            stop = at + WORD * (end - done)
            if stop > len(bits):
                raise ValueError("the run lengths end too early")
            out[done:end] = np.packbits(bits[at:stop])
            at = stop
        done = end
    return out.reshape(*size, CHANNELS)[..., 3] > 127
