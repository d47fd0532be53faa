"""Decoding: every kind of photo becomes upright 8-bit RGB, every bad file one line that names it."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tag2mask.data import images
from tag2mask.errors import InputError, UnreadableImage
from tag2mask.types import Sample

HEIGHT, WIDTH = 24, 40


def gradient(height=HEIGHT, width=WIDTH):
    """Smooth, so that JPEG keeps it, and without any symmetry."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 250 // height, columns * 250 // width, (rows + columns) * 3 % 256], -1).astype(np.uint8)


def test_plain_rgb(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    read = images.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, gradient())
    assert read.dtype == np.uint8 and read.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(path, exif=exif)
    # Pillow's own routine is the reference; a TIFF is turned by Pillow while loading
    with Image.open(path) as image:
        image.load()
        expected = np.array(ImageOps.exif_transpose(image))
    assert expected.shape[:2] == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
    np.testing.assert_array_equal(images.read_image(path), expected)
    assert images.image_size(path) == expected.shape[:2]


def test_exif_by_hand(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # row 0 of the file is the right side of the picture
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), np.rot90(gradient(), -1))


def test_broken_exif_is_ignored(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense that is no TIFF header")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), gradient())


def test_image_size_decodes_nothing(tmp_path, monkeypatch):
    Image.fromarray(gradient()).save(tmp_path / "a.jpg")
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert images.image_size(tmp_path / "a.jpg") == images.image_size(tmp_path / "a.png") == (HEIGHT, WIDTH)


def test_grey_one_bit_and_palette(tmp_path):
    grey = gradient()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "grey.png"), np.stack([grey] * 3, -1))
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "bits.png")[..., 1], np.where(grey > 100, 255, 0))
    palette = Image.fromarray(grey % 7).convert("P")
    palette.putpalette([10 * value + channel for value in range(7) for channel in range(3)])
    palette.save(tmp_path / "palette.png")
    expected = (grey % 7)[..., None] * 10 + np.arange(3)
    np.testing.assert_array_equal(images.read_image(tmp_path / "palette.png"), expected)


def test_cmyk(tmp_path):
    cmyk = Image.fromarray(gradient()).convert("CMYK")
    cmyk.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.tif"), gradient())
    cmyk.save(tmp_path / "a.jpg", quality=98)
    assert np.abs(images.read_image(tmp_path / "a.jpg").astype(int) - gradient()).max() < 24


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_on_white(tmp_path, mode):
    clear = Image.fromarray(gradient()).convert(mode)
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, : WIDTH // 2] = 255
    alpha[0] = 51
    clear.putalpha(Image.fromarray(alpha))
    clear.save(tmp_path / "a.png")
    opaque = np.array(Image.fromarray(gradient()).convert("L" if mode == "LA" else "RGB").convert("RGB")).astype(float)
    weight = alpha[..., None] / 255
    expected = opaque * weight + 255 * (1 - weight)
    assert np.abs(images.read_image(tmp_path / "a.png") - expected).max() <= 1


def test_transparent_palette_colour_is_white(tmp_path):
    palette = Image.fromarray((gradient()[..., 0] % 3).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "a.gif", transparency=1)
    read = images.read_image(tmp_path / "a.gif")
    expected = np.array([[0, 0, 0], [255, 255, 255], [0, 200, 0]])[gradient()[..., 0] % 3]
    np.testing.assert_array_equal(read, expected)


def test_sixteen_bits(tmp_path):
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "a.tif")
    for suffix in ("png", "tif"):
        read = images.read_image(tmp_path / f"a.{suffix}")
        assert np.abs(read[..., 2] - deep / 257.0).max() <= 0.5, suffix
        assert (read[..., 0] == read[..., 2]).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_few_bits_in_sixteen(tmp_path, bits, suffix):
    """Cameras give 10 or 12 bits; by the range of 16 they would be black."""
    top = (1 << bits) - 1
    deep = np.linspace(0, top, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    read = images.read_image(tmp_path / f"a.{suffix}")
    assert np.abs(read[..., 1] - deep * (255.0 / top)).max() <= 0.5
    assert images.check_image(Sample("a", tmp_path / f"a.{suffix}", None)).note == f"{bits} bits"


def deep_png(path, values: np.ndarray) -> None:
    """A PNG of 16 bits a channel: ``[height width channels]`` uint16."""
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kinds[channels], 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def deep_tiff(path, values: np.ndarray) -> None:
    """A TIFF of 16 bits a channel, in one strip, without compression: ``[height width 3]`` uint16."""
    height, width, _ = values.shape
    pixels = values.astype("<u2").tobytes()
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + len(pixels)), (259, 3, 1, 1), (262, 3, 1, 2),
               (273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(pixels))]  # fmt: skip
    start = 8 + len(pixels) + 6
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4
    path.write_bytes(struct.pack("<2sHI", b"II", 42, start) + pixels + struct.pack("<3H", 16, 16, 16) + table)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("write", [deep_png, deep_tiff])
def test_colour_of_few_bits_in_sixteen(tmp_path, bits, write):
    top = (1 << bits) - 1
    values = (gradient().astype(np.float64) / 255 * top).astype(np.uint16)
    values[0, 0] = top
    write(tmp_path / "a.img", values)
    read = images.read_image(tmp_path / "a.img")
    assert np.abs(read - values * (255.0 / top)).max() <= (0.5 if bits < 16 else 1)
    assert images.check_image(Sample("a", tmp_path / "a.img", None)).note == (f"{bits} bits" if bits < 16 else "")


def test_saliency_keeps_its_scale_in_sixteen_bits(tmp_path):
    """A dark map says that nothing stands out: it is not stretched."""
    Image.fromarray(np.full((HEIGHT, WIDTH), 1000, np.uint16)).save(tmp_path / "a.png")
    assert np.abs(images.read_saliency(tmp_path / "a.png", (HEIGHT, WIDTH)) - 1000 / 65535).max() < 0.003


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_fully_transparent_images_show_their_colours(tmp_path, mode):
    clear = Image.fromarray(gradient()).convert(mode)
    clear.putalpha(Image.new("L", clear.size, 0))
    clear.save(tmp_path / "a.png")
    expected = np.array(Image.fromarray(gradient()).convert("L" if mode == "LA" else "RGB").convert("RGB"))
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), expected)
    assert images.check_image(Sample("a", tmp_path / "a.png", None)).note == "transparent"


def test_strips_are_seamless(tmp_path, monkeypatch):
    """Large images are converted strip by strip: as in one."""
    deep = (gradient().astype(np.uint16) * 16)[..., 0]
    clear = Image.fromarray(gradient()).convert("RGBA")
    clear.putalpha(Image.fromarray(gradient()[..., 1]))
    Image.fromarray(deep).save(tmp_path / "grey.png")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    clear.save(tmp_path / "clear.png")
    deep_png(tmp_path / "colour.png", gradient().astype(np.uint16) * 16)
    names = ("grey.png", "float.tif", "clear.png", "colour.png")
    whole = [images.read_image(tmp_path / name) for name in names]
    monkeypatch.setattr("tag2mask.data.pixels.STRIP", 3 * WIDTH)
    for name, expected in zip(names, whole, strict=True):
        np.testing.assert_array_equal(images.read_image(tmp_path / name), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grey", "float", "transparent"])
def test_deep_images_are_not_copied_about(tmp_path, kind):
    """64 megapixels of 16 bits or floats took 2 GB in float64: as much again as the pixels must do."""
    side = 8000
    image = {
        "grey": lambda: Image.fromarray(np.full((side, side), 900, np.uint16)),
        "float": lambda: Image.fromarray(np.full((side, side), 0.5, np.float32)),
        "transparent": lambda: Image.new("RGBA", (side, side), (9, 8, 7, 100)),
    }[kind]()
    image.save(tmp_path / "a.tif", compression="tiff_lzw")
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from tag2mask.data.images import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_image(Path(sys.argv[1]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 700, f"{float(done.stdout):.0f} MB more"


def test_float_grey_spans_its_range(tmp_path):
    values = np.linspace(-3.0, 5.0, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    read = images.read_image(tmp_path / "a.tif")
    assert read[0, 0].tolist() == [0, 0, 0] and read[-1, -1].tolist() == [255, 255, 255]
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "b.tif")
    with pytest.raises(UnreadableImage, match=r"b\.tif.*finite"):
        images.read_image(tmp_path / "b.tif")


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (images.read_image(tmp_path / "a.gif") == [255, 0, 0]).all()


# ----------------------------------------------------------------------------------------------- bad files


def claimed_png(path, width, height):
    """A PNG of a few bytes that says it is ``width`` x ``height`` (one bit a pixel)."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and isinstance(error.value, InputError)
    return text


def test_truncated_jpeg(tmp_path):
    Image.fromarray(gradient(200, 300)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage) as error:
        images.read_image(tmp_path / "cut.jpg")
    assert "cut.jpg" in one_line(error) and "truncated" in one_line(error)


def test_text_named_jpg(tmp_path):
    (tmp_path / "note.jpg").write_text("hello, I am no photo")
    with pytest.raises(UnreadableImage) as error:
        images.read_image(tmp_path / "note.jpg")
    assert "note.jpg is not an image" in one_line(error) and "hello" not in one_line(error)


def test_no_word_of_what_a_file_holds(tmp_path):
    """A list may name any file: its content must not reach a report."""
    secret = "hunter:x:0:0:hunter"
    for number, start in enumerate(("", "P6\n", "P5 ", "GIF89a", "BM", "\x89PNG\r\n\x1a\n", "II*\0", "RIFF1234WEBP")):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(start.encode("latin-1") + secret.encode() * 20)
        for read in (images.read_image, images.image_size, images.read_index_mask):
            with pytest.raises(UnreadableImage) as error:
                read(path)
            assert "hunter" not in one_line(error)


@pytest.mark.parametrize("read", [images.read_image, images.image_size, images.read_index_mask, images.file_digest])
def test_devices_pipes_and_huge_files_are_refused(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(20 << 30)
    for path, said in [
        (tmp_path / "pipe.png", "a device or a pipe"),
        ("/dev/zero", "a device or a pipe"),
        ("/dev/stdin", "device or a pipe"),
        (tmp_path / "sparse.png", "21475 MB, more than the 537 MB"),
    ]:
        if path == "/dev/stdin" and os.path.isfile(path):  # noqa: PTH113
            continue
        with pytest.raises(UnreadableImage) as error:
            read(Path(path))
        assert said in one_line(error)


def test_names_that_no_file_can_have():
    for name in ("a\0b.png", "x" * 5000, "\ud800.png"):
        with pytest.raises(UnreadableImage) as error:
            images.read_image(Path("/tmp") / name)
        assert one_line(error).isprintable()


def test_endings_that_are_not_read_are_named(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 50)
    with pytest.raises(UnreadableImage, match=r"format that is read \(\.heic; save photos as JPEG or PNG\)"):
        images.read_image(tmp_path / "a.heic")
    Image.fromarray(gradient()).save(tmp_path / "a.jfif", format="JPEG")
    assert images.read_image(tmp_path / "a.jfif").shape == gradient().shape and ".jfif" in images.SUFFIXES


def test_empty_missing_and_folder(tmp_path):
    (tmp_path / "empty.jpg").touch()
    for name, said in [("empty.jpg", "empty"), ("gone.jpg", "not there"), (".", "folder")]:
        with pytest.raises(UnreadableImage) as error:
            images.read_image(tmp_path / name)
        assert said in one_line(error) and str(tmp_path / name) in one_line(error)


@pytest.mark.parametrize("size", [(10_000, 8_000), (10_000, 10_000), (30_000, 30_000)])
@pytest.mark.parametrize("treatment", ["ignore", "error"])
def test_bombs_are_refused_from_the_header(tmp_path, size, treatment):
    claimed_png(tmp_path / "bomb.png", *size)
    with warnings.catch_warnings():
        warnings.simplefilter(treatment)  # Pillow warns about the second and refuses the third itself
        for read in (images.read_image, images.image_size, images.read_index_mask):
            with pytest.raises(UnreadableImage) as error:
                read(tmp_path / "bomb.png")
            assert "bomb.png" in one_line(error) and "64 million" in one_line(error)


def test_limit_is_a_parameter(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="more than"):
        images.read_image(tmp_path / "a.png", max_pixels=HEIGHT * WIDTH - 1)
    assert images.read_image(tmp_path / "a.png", max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)


def test_formats_that_start_programs_are_not_opened(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.eps")
    with pytest.raises(UnreadableImage, match="not an image"):
        images.read_image(tmp_path / "a.eps")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400))
def test_damage_is_an_error_or_an_image(tmp_path_factory, noise, start):
    """Whatever bytes are overwritten, nothing but UnreadableImage escapes."""
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    Image.fromarray(gradient()).save(path)
    content = bytearray(path.read_bytes())
    content[start : start + len(noise)] = noise
    path.write_bytes(content)
    try:
        assert images.read_image(path).ndim == 3
    except UnreadableImage as error:
        assert "damaged.png" in str(error) and "\n" not in str(error)


# --------------------------------------------------------------------------------------- masks and saliency


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_masks_come_back(tmp_path_factory, height, width, random):
    mask = np.array([[random.randrange(256) for _ in range(width)] for _ in range(height)], np.uint8)
    path = tmp_path_factory.getbasetemp() / "masks" / "mask.png"
    images.write_index_mask(path, mask)
    np.testing.assert_array_equal(images.read_index_mask(path), mask)
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image.convert("RGB")), images.voc_palette()[mask])
    assert [entry.name for entry in path.parent.iterdir()] == ["mask.png"]


def test_palette_is_that_of_voc():
    palette = images.voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {value: tuple(palette[value].tolist()) for value in known} == known
    for value in range(256):  # the development kit's loop, written plainly
        colour, rest = [0, 0, 0], value
        for shift in range(7, -1, -1):
            for channel in range(3):
                colour[channel] |= (rest >> channel & 1) << shift
            rest >>= 3
        assert palette[value].tolist() == colour


def test_interrupted_writing_leaves_the_old_mask(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    images.write_index_mask(path, np.full((3, 5), 7, np.uint8))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        images.write_index_mask(path, np.zeros((3, 5), np.uint8))
    assert (images.read_index_mask(path) == 7).all() and len(list(tmp_path.iterdir())) == 1


def test_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError) as error:
        images.write_index_mask(tmp_path / "a.png", np.zeros((3, 5), np.uint8))
    assert "disk full" in one_line(error) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_packed_grey_masks_keep_their_values(tmp_path, bits):
    mask = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % min(2**bits, 11)
    packed = b"".join(
        b"\0" + np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()
        for row in mask
    )

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    np.testing.assert_array_equal(images.read_index_mask(tmp_path / "a.png"), mask)


def test_sixteen_bit_masks(tmp_path):
    mask = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256).astype(np.uint16)
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_index_mask(tmp_path / "a.png"), mask)
    mask[0, 0] = 300
    Image.fromarray(mask).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png holds values from 0 to 300"):
        images.read_index_mask(tmp_path / "b.png")


def test_masks_that_are_no_index_masks(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "colour.png")
    Image.fromarray(gradient()[..., 0]).save(tmp_path / "grey.jpg")
    with pytest.raises(InputError) as error:
        images.read_index_mask(tmp_path / "colour.png")
    assert "colour.png" in one_line(error) and "palette PNG" in one_line(error)
    with pytest.raises(InputError) as error:
        images.read_index_mask(tmp_path / "grey.jpg")
    assert "JPEG" in one_line(error)


def test_the_size_of_a_mask_from_its_header(tmp_path, monkeypatch):
    images.write_index_mask(tmp_path / "a.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    Image.fromarray(gradient()).save(tmp_path / "colour.png")
    Image.fromarray(gradient()[..., 0]).save(tmp_path / "grey.jpg")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert images.index_mask_size(tmp_path / "a.png") == (HEIGHT, WIDTH)
    for name in ("colour.png", "grey.jpg"):
        with pytest.raises(UnreadableImage, match="save"):
            images.index_mask_size(tmp_path / name)


def test_saliency_is_resized_bilinearly(tmp_path):
    Image.fromarray(np.array([[0, 255], [0, 255]], np.uint8)).save(tmp_path / "a.png")
    read = images.read_saliency(tmp_path / "a.png", (3, 8))
    assert read.shape == (3, 8) and read.dtype == np.float32
    # the centre of pixel k lies at (k + 0.5) / 4 - 0.5 between the two values, which go on flat outside
    expected = ((np.arange(8) + 0.5) / 4 - 0.5).clip(0, 1)
    np.testing.assert_allclose(read, np.broadcast_to(expected, (3, 8)), atol=1e-6)


def test_saliency_of_the_same_size_and_depth(tmp_path):
    grey = gradient()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "rgb.png")
    for name in ("a.png", "deep.png", "rgb.png"):
        np.testing.assert_allclose(images.read_saliency(tmp_path / name, grey.shape), grey / 255.0, atol=1e-6)


# ------------------------------------------------------------------------------------------------ checking


def photos(folder, count):
    for number in range(count):
        Image.fromarray(np.full((5 + number, 9, 3), number, np.uint8)).save(folder / f"{number}.png")
    return [Sample(str(number), folder / f"{number}.png", None) for number in range(count)]


def test_check_images(tmp_path):
    samples = photos(tmp_path, 5)
    (tmp_path / "2.png").write_text("no photo")
    (tmp_path / "4.png").write_bytes((tmp_path / "1.png").read_bytes())
    checks = list(images.check_images(samples, workers=2))
    assert [check.id for check in checks] == ["0", "1", "2", "3", "4"]
    assert (checks[1].height, checks[1].width, checks[1].error) == (6, 9, None)
    assert checks[1].digest == hashlib.blake2b((tmp_path / "1.png").read_bytes(), digest_size=16).hexdigest()
    assert checks[4].digest == checks[1].digest != checks[0].digest
    assert checks[2].error is not None and "2.png" in checks[2].error and checks[2].digest == ""


def test_check_images_is_lazy_and_stops(tmp_path):
    """Of an endless stream only a few photos are taken ahead, and leaving early leaves no thread at work."""
    sample = photos(tmp_path, 1)[0]
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield sample

    checking = images.check_images(endless(), workers=2)
    for _ in range(10):
        next(checking)
    assert taken <= 10 + 4 * 2
    checking.close()
    for thread in threading.enumerate():
        if thread.name.startswith("check-images"):
            thread.join(timeout=5)
            assert not thread.is_alive()


def _waves(height: int, width: int) -> np.ndarray:
    """A smooth photo ``[height width 3]`` uint8 that is not the same turned or mirrored."""
    y, x = np.mgrid[:height, :width]
    return (127 + 120 * np.stack([np.sin(x / 90), np.cos(y / 70), np.sin((x + 2 * y) / 110)], 2)).astype(np.uint8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("view", [(60, 80), (150, 200), (300, 400), (600, 800)])
def test_a_large_jpeg_is_decoded_small_for_a_small_view(
    tmp_path: Path, orientation: int, view: tuple[int, int]
) -> None:
    """At a half or a quarter, never below 1.5 of the view; resized, it is the photo; its size stays known."""
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_waves(600, 800)).save(path, quality=95, exif=exif)
    whole = images.read_image(path)
    turned = view[::-1] if orientation in (6, 8) else view
    with images.open_photo(path) as photo:
        assert photo.size == whole.shape[:2]
        small, _ = photo.decode(turned)
    assert small.shape[0] == whole.shape[0] // {60: 4, 150: 2, 300: 1, 600: 1}[view[0]]
    assert small.shape[0] >= 1.5 * turned[0] or small.shape == whole.shape
    size = turned[::-1]
    one, other = (np.asarray(Image.fromarray(x).resize(size), float) for x in (small, whole))
    assert np.abs(one - other).mean() < 1.5


def test_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "a.tif"):
        Image.fromarray(_waves(160, 200)).save(tmp_path / name)
        with images.open_photo(tmp_path / name) as photo:
            assert photo.decode((8, 10))[0].shape == (160, 200, 3)


def test_a_cut_jpeg_is_as_unreadable_small(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(_waves(600, 800)).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UnreadableImage, match="cannot be decoded"), images.open_photo(path) as photo:
        photo.decode((60, 80))
