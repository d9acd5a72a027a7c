"""Bad input on the command line: one line, exit 2, nothing written; and odd input that is accepted.

A number before a case is its number in the original list of inputs; cases without one were added later.
"""

import ast
import contextlib
import csv
import hashlib
import io
import json
import os
import pickle
import re
import socket
import struct
import sys
import zlib

import h5py
import numpy as np
import pytest
from conftest import module_paths, random_image, run_python
from made_images import chunk as png_chunk
from made_images import encoded
from PIL import Image, ImageCms, PngImagePlugin

from jaxstyle import sweep
from jaxstyle.inputs import decode, weights
from jaxstyle.spec.assemble import assemble
from jaxstyle.vgg import layers

PIXELS = random_image(40, 60, 0)
GREY = PIXELS[..., 0]
PALETTE = Image.fromarray(PIXELS).quantize(16)
AS_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")

# --- what a command does besides ------------------------------------------------------------------

WATCHED = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.mkdir", "os.rename",
    "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "pickle.find_class",
    "subprocess.Popen", "socket.connect", "urllib.Request",
)  # fmt: skip
watching: list[list[str]] = []
"""The list to record operations in; empty while nothing is watched."""


def _watch(event, arguments):
    if not watching or "__pycache__" in str(arguments):  # caches of new imports
        return
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not isinstance(path, int) and path != os.devnull:  # a descriptor was opened before
            watching[-1].append(f"wrote {path}")
    elif event in WATCHED:
        watching[-1].append(f"{event}{arguments}")


sys.addaudithook(_watch)


def exit_code(arguments):
    """Run `jaxstyle.sweep` in this process; its exit code."""
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(argument) for argument in arguments])
    return stop.value.code


def tree(folder):
    """Every path under `folder`, with its time of change and the target of a link."""
    return {
        path.relative_to(folder): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory of a user: with a content c.png and a style s.png."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("c.png", 1), ("s.png", 2)):
        Image.fromarray(random_image(48, 64, seed)).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def refused(folder, capfd):
    """Run the command and check that it ends with 2 and does nothing else; its only line on stderr."""

    def run(*arguments):
        before, done = tree(folder), []
        out = [] if any(str(a).startswith("--out") for a in arguments) else ["--out", "out"]
        capfd.readouterr()
        watching.append(done)
        try:
            code = exit_code([*arguments, *out])
        finally:
            watching.pop()
        captured = capfd.readouterr()
        assert code == 2
        assert captured.out == ""
        assert captured.err.endswith("\n")
        (line,) = captured.err.splitlines()
        assert line.startswith("jaxstyle: error: ")
        assert line.isprintable()
        assert [event for event in done if "pi_heif" not in event] == []  # decoded in a process of its own
        assert tree(folder) == before
        return line

    return run


# --- files ----------------------------------------------------------------------------------------


def png(width, height, depth, colour, rows, *chunks):
    """A PNG file written by hand, of a kind Pillow does not write; `rows` are its bytes before packing."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def png_claiming(width, height):
    return png(width, height, 8, 2, b"\0" * 100)


def deep_png(levels, colour, *chunks):
    """A PNG file of 16 bits; `levels` is (h, w, channels)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return png(levels.shape[1], levels.shape[0], 16, colour, rows, *chunks)


def tiff(pixels, bits, *, samples=1, photometric=1, orientation=1):
    """An uncompressed little-endian TIFF file written by hand, of a kind Pillow does not write."""
    height, width = pixels.shape[:2]
    data = pixels.tobytes()
    start = 8 + 2 + 10 * 12 + 4
    many = start + len(data)
    tags = (
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, samples, bits if samples == 1 else many),
        (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, start), (274, 3, 1, orientation),
        (277, 3, 1, samples), (278, 3, 1, height), (279, 4, 1, len(data)),
    )  # fmt: skip
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + table + bytes(4)
    return head + data + struct.pack(f"<{samples}H", *[bits] * samples)


def frames(kind):
    made = [Image.fromarray(np.roll(PIXELS, 5 * i, 1)) for i in range(3)]
    return encoded(made[0], kind, save_all=True, append_images=made[1:])


def flipped_png():
    data = bytearray(encoded(PIXELS, "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "A" * (80 * 2**20), zip=True)
    return encoded(PIXELS, "PNG", pnginfo=info)


def profile_bomb():
    packed = zlib.compress(bytes(80 * 2**20))
    return png(60, 40, 8, 2, b"\0" * 181 * 40, png_chunk(b"iCCP", b"bomb\0\0" + packed))


def torn_tiff():
    """A packed TIFF file with a byte changed, about which libtiff itself prints a message."""
    data = bytearray(encoded(PIXELS, "TIFF", compression="tiff_adobe_deflate"))
    data[1000] ^= 0xFF
    return bytes(data)


def transparent(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    image.putalpha(0)
    return encoded(image, "PNG")


def huge_file(path):
    path.touch()
    os.truncate(path, decode.MAX_FILE_BYTES + 1)  # sparse: no bytes on the disk


def link_to_itself(path):
    path.symlink_to(path)


def link_to_nothing(path):
    path.symlink_to("nothing.png")


def unreadable(path):
    path.write_bytes(encoded(PIXELS, "PNG"))
    path.chmod(0)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)  # by its short name: the length of a socket's path is limited


# --- images that are refused ----------------------------------------------------------------------

IMAGES = {
    "1 missing": (None, "cannot be read: No such file or directory; give an image file"),
    "2 an empty folder": (os.mkdir, "there is no image in this folder, apart from its subfolders"),
    "3 empty": (lambda: b"", "is empty; give an image file"),
    "4 text": (
        lambda: b"this is no image\n",
        "is not an image in a supported format; save it as one of PNG, JPEG",
    ),
    "5 the signature of PNG alone": (
        lambda: encoded(PIXELS, "PNG")[:8],
        "is damaged or cut short; save it",
    ),
    "5 a header of PNG alone": (
        lambda: encoded(PIXELS, "PNG")[:33],
        "is damaged or cut short; save it again",
    ),
    "6 half a PNG": (lambda: encoded(PIXELS, "PNG")[:1000], "is damaged or cut short; save it again"),
    "7 half a JPEG": (lambda: encoded(PIXELS, "JPEG")[:800], "is damaged or cut short; save it again"),
    "8 a JPEG without its end": (lambda: encoded(PIXELS, "JPEG")[:-2], "is damaged or cut short; save it"),
    "9 a PNG with another byte": (flipped_png, "is damaged or cut short; save it again"),
    "10 100000x100000": (
        lambda: png_claiming(100_000, 100_000),
        "has 10000000000 pixels; the limit is 67108864: make it smaller first",
    ),
    "11 10000x10000": (
        lambda: png_claiming(10_000, 10_000),
        "has 100000000 pixels; the limit is 67108864: make it smaller first",
    ),
    "11 8193x8193": (
        lambda: png_claiming(8193, 8193),
        "has 67125249 pixels; the limit is 67108864: make it smaller first",
    ),
    "12 a sliver": (
        lambda: png_claiming(65_000_000, 1),
        "65000000x1 px is too small; both edges need 16 px",
    ),
    "14 zero wide": (lambda: png_claiming(0, 10), "is damaged or cut short; save it again"),
    "15 one pixel": (
        lambda: encoded(PIXELS[:1, :1], "PNG"),
        "1x1 px is too small; both edges need 16 px: give",
    ),
    "15 an edge of 15": (
        lambda: encoded(PIXELS[:15], "PNG"),
        "60x15 px is too small; both edges need 16 px",
    ),
    "16 1x500": (
        lambda: encoded(np.zeros((500, 1, 3), np.uint8), "PNG"),
        "1x500 px is too small; both edges",
    ),
    "16 too narrow once it is resized": (
        lambda: encoded(random_image(16, 400, 0), "PNG"),
        "at size 256: 256x10 px is too small; both edges need 16 px: give a larger or less narrow image",
    ),
    "17 an animated GIF": (
        lambda: frames("GIF"),
        "holds 3 frames; save one of them as an image of its own",
    ),
    "17 an animated PNG": (
        lambda: frames("PNG"),
        "holds 3 frames; save one of them as an image of its own",
    ),
    "17 an animated WebP": (
        lambda: frames("WEBP"),
        "holds 3 frames; save one of them as an image of its own",
    ),
    "17 a TIFF of several pages": (
        lambda: frames("TIFF"),
        "holds 3 frames; save one of them as an image of",
    ),
    "18 transparent RGBA": (
        lambda: transparent("RGB"),
        "is fully transparent; give an image with something",
    ),
    "18 transparent LA": (lambda: transparent("L"), "is fully transparent; give an image with something"),
    "18 a transparent palette": (
        lambda: encoded(PALETTE, "PNG", transparency=bytes(16)),
        "is fully transparent; give an image with something to see in it",
    ),
    "19 floating-point": (
        lambda: encoded(np.full((40, 60), 0.5, np.float32), "TIFF"),
        "has floating-point pixels of unknown range; save it with 8 or 16 bits",
    ),
    "20 NaN": (
        lambda: encoded(np.full((40, 60), np.nan, np.float32), "TIFF"),
        "has floating-point pixels of unknown range; save it with 8 or 16 bits",
    ),
    "21 32-bit integers": (
        lambda: encoded(np.full((40, 60), 70_000, np.int32), "TIFF"),
        "has 32-bit pixels of unknown range; save it with 8 or 16 bits",
    ),
    "21 12-bit integers": (
        lambda: tiff(np.zeros((40, 90), np.uint8)[:, :60].repeat(2, 1)[:, :60], 12),
        "has 12-bit pixels of unknown range; save it with 8 or 16 bits",
    ),
    "22 EPS": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n",
        "is not in a supported format; save it as one of PNG, JPEG, WEBP, BMP, TIFF, GIF",
    ),
    "23 SVG": (
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "is not in a supported format; save it",
    ),
    "23 PDF": (lambda: encoded(PIXELS, "PDF"), "is not in a supported format; save it as one of PNG"),
    "23 HEIC": (
        lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        # With the extra [heic] it is damaged, for it has no picture.
        "is",
    ),
    "23 ICO": (
        lambda: encoded(PIXELS, "ICO"),
        "is not in a supported format; save it as one of PNG, JPEG, WEBP, BMP, TIFF, GIF",
    ),
    "24 a FIFO": (os.mkfifo, "is not a regular file; give an image file"),
    "24 a socket": (bound_socket, "is not a regular file; give an image file"),
    "24 a device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file; give an image file"),
    "25 a link to itself": (
        link_to_itself,
        "cannot be read: Too many levels of symbolic links; give an image",
    ),
    "25 a link to nothing": (
        link_to_nothing,
        "cannot be read: No such file or directory; give an image file",
    ),
    "26 unreadable": (unreadable, "cannot be read: Permission denied; give an image file"),
    "over the size of files": (
        huge_file,
        "has 536870913 bytes; the limit is 536870912: make it smaller first",
    ),
    "a GIF of 65535x65535": (
        lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
        "has 4294836225 pixels; the limit is 67108864: make it smaller first",
    ),
    "a TIFF that libtiff complains of": (torn_tiff, "is damaged or cut short; save it again"),
}


def make(path, source):
    """Make the file of a case, by a function of its path or by one that returns its bytes."""
    if source is None:
        return
    try:
        data = source()
    except TypeError:
        source(path)
    else:
        path.write_bytes(data)


@pytest.mark.parametrize(
    "case", [pytest.param(k, marks=AS_ROOT if IMAGES[k][0] is unreadable else ()) for k in IMAGES]
)
def test_a_file_that_is_no_usable_image_is_refused(folder, refused, case):
    source, expected = IMAGES[case]
    make(folder / "bad.png", source)
    line = refused("--content", "bad.png", "--style", "s.png")
    assert line.startswith(f"jaxstyle: error: {folder / 'bad.png'}")
    assert expected in line
    assert "BytesIO" not in line


@pytest.mark.parametrize("axis", ["content", "style", "init"])
def test_an_image_is_refused_wherever_it_is_used(folder, refused, axis):
    (folder / "bad.png").write_bytes(b"no image")
    given = {"content": "c.png", "style": "s.png", axis: "bad.png"}
    line = refused(*(part for name, path in given.items() for part in (f"--{name}", path)))
    assert "bad.png: is not an image in a supported format" in line


def test_no_program_is_started_for_a_file_that_has_its_own(folder, refused, monkeypatch):
    """Pillow would have Ghostscript draw an EPS file."""
    (folder / "bin").mkdir()
    for name in ("gs", "gswin64c"):
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\ntouch {folder / 'ran'}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    make(folder / "bad.png", IMAGES["22 EPS"][0])
    refused("--content", "bad.png", "--style", "s.png")
    assert not (folder / "ran").exists()


# --- settings that are refused --------------------------------------------------------------------

GIVEN = ("--content", "c.png", "--style", "s.png")
FLAGS = {
    "28 no ratio": (["--alpha-beta"], "alpha_beta: the axis is empty; give at least one value"),
    "28 no content": (["--style", "s.png", "--content"], "content: no content image; give --content PATH"),
    "28 no style": (["--content", "c.png"], "style: no style image; give --style PATH or --preset demo"),
    "28 no steps": (["--steps"], "steps: no value; give at least one"),
    "29 NaN": (["--alpha-beta", "nan"], "alpha_beta: nan is not finite; give a finite number"),
    "29 infinite": (["--alpha-beta", "inf"], "alpha_beta: inf is not finite; give a finite number"),
    "29 negative": (["--alpha-beta", "-1e-3"], "alpha_beta: -0.001 is out of range; it must be at least 0"),
    "29 beyond float32": (
        ["--alpha-beta", "1e39"],
        "alpha_beta: 1e+39 is beyond float32; the largest is 3.4e38",
    ),
    "29 no number": (["--alpha-beta", "much"], "alpha_beta: 'much' is not a number"),
    "29 a negative multiple of the balance": (
        ["--alpha-beta", "-0.1x"],
        "alpha_beta: -0.1 is out of range; it must be at least 0",
    ),
    "29 a rate of zero": (
        ["--learning-rate", "0"],
        "learning_rate: 0.0 is out of range; it must be above 0",
    ),
    "29 a weight of zero": (["--beta", "0"], "beta: 0.0 is out of range; it must be above 0"),
    "30 a flag twice": (
        ["--seed", "1", "--seed", "2"],
        "--seed: is given twice; give all its values after one",
    ),
    "30 a flag in two spellings": (
        ["--alpha-beta=1", "--alpha_beta=2"],
        "--alpha-beta: is given twice; give all",
    ),
    "31 a ratio twice": (
        ["--alpha-beta", "1e-3", "0.001"],
        "alpha_beta: 0.001 is given twice; give each value",
    ),
    "31 a path twice": (["--init", "c.png", "./c.png"], "c.png is given twice; give each value once"),
    "31 a seed in a range": (["--seed", "0:4", "3"], "seed: 3 is given twice; give each value once"),
    "31 a set in another order": (
        ["--style-layers", "conv1_1+conv2_1", "conv2_1+conv1_1"],
        "style_layers: conv2_1+conv1_1 is given twice; give each value once",
    ),
    "31 a layer twice in a set": (
        ["--style-layers", "conv1_1+conv1_1"],
        "names conv1_1 twice; name each layer",
    ),
    "31 steps twice": (["--steps", "5", "5"], "steps: [5, 5] repeats a value; give each once"),
    "32 -1": (["--seed", "-1"], "seed: -1 is out of range; it must be 0 to 4294967295"),
    "32 2^32": (["--seed", "4294967296"], "seed: 4294967296 is out of range; it must be 0 to 4294967295"),
    "32 a fraction": (["--seed", "1.5"], "seed: '1.5' is not a whole number"),
    "32 of 5000 digits": (["--seed", "9" * 5000], "is not a whole number"),
    "32 a range over the end": (
        ["--seed", "4294967290:4294967297"],
        "seed: 4294967296 is out of range; it must",
    ),
    "32 an empty range": (["--seed", "4:4"], "seed: 4:4 is empty; the end must be above the start"),
    "32 a range too long": (
        ["--seed", "0:4294967296"],
        "seed: 0:4294967296 has more than 100000 values; see --max",
    ),
    "32 ranges too long together": (
        ["--seed", "0:90000", "90000:180000"],
        "seed: has more than 100000 values; see",
    ),
    "33 0": (["--steps", "0"], "steps: 0 is out of range; it must be 1 to 10000000"),
    "33 -5": (["--steps", "-5"], "steps: -5 is out of range; it must be 1 to 10000000"),
    "33 a fraction": (["--steps", "1.5"], "command line: "),
    "33 a word": (["--steps", "many"], "command line: "),
    "33 too many": (["--steps", "10000001"], "steps: 10000001 is out of range; it must be 1 to 10000000"),
    "33 of 30 digits": (["--steps", "9" * 30], "is out of range; it must be 1 to 10000000"),
    "33 of 5000 digits": (["--steps", "9" * 5000], "command line: "),
    "34 31": (["--size", "31"], "size: 31 is out of range; it must be 32 to 8192"),
    "34 8193": (["--size", "8193"], "size: 8193 is out of range; it must be 32 to 8192"),
    "34 0": (["--size", "0"], "size: 0 is out of range; it must be 32 to 8192"),
    "34 negative": (["--size", "-64"], "size: -64 is out of range; it must be 32 to 8192"),
    "34 one edge too large": (["--size", "8193x64"], "size: 8193 is out of range; it must be 32 to 8192"),
    "34 half a shape": (["--size", "64x"], "size: '64x' is neither a longest edge (256) nor WxH (256x192)"),
    "34 a word": (["--size", "big"], "size: 'big' is neither a longest edge (256) nor WxH (256x192)"),
    "34 a style of 8": (["--style-size", "8"], "style_size: 8 is out of range; it must be 32 to 8192"),
    "35 an unknown layer": (
        ["--content-layer", "conv6_1"],
        "VGG19 has no layer 'conv6_1'; did you mean conv",
    ),
    "35 an unknown style layer": (
        ["--style-layers", "conv1_1+conv4-1"],
        "no layer 'conv4-1'; did you mean conv4_1?",
    ),
    "35 an unknown flag": (["--sede", "1"], "--sede: no such setting; did you mean seed?"),
    "a key of specs": (["--grid", "1"], "--grid: no such setting of a command; a spec has it, as [[grid]]"),
    "weights of a blend": (
        ["--style-blend-weights", "1"],
        "did you mean style (weights stand in it, as in a",
    ),
    "35 a flag like none": (["--qqqqqqqq"], "--qqqqqqqq: no such setting; see --help"),
    "35 an unknown pooling": (["--pool", "median"], "pool: 'median' is not known; use avg or max"),
    "35 an unknown preset": (
        ["--preset", "photo"],
        "preset: 'photo' is not known in this version; use content-la",
    ),
    "35 half a set weighted": (
        ["--style-layers", "conv1_1:2+conv2_1"],
        "give every layer of a set a weight",
    ),
    "36 no spec": (["--spec", "none.toml"], "none.toml: no such file; give the path of a TOML file"),
    "36 a directory for a spec": (["--spec", "."], "is not a regular file; give the path of a TOML file"),
    "36 a spec of a name too long": (
        ["--spec", "a" * 300],
        "cannot be read: File name too long; give another file",
    ),
    "37 10^9 cells": (
        [
            "--seed",
            "0:100000",
            "--alpha-beta",
            *map(str, range(100)),
            "--learning-rate",
            *map(str, range(1, 101)),
        ],
        "grid: 1000000000 cells are more than --max-cells 100000; raise it or shorten an axis",
    ),
    "37 a range over a limit": (
        ["--seed", "0:50", "--max-cells", "10"],
        "seed: 0:50 has more than 10 values",
    ),
    "37 a limit beyond use": (
        ["--max-cells", "100000000"],
        "max_cells: 100000000 is out of range; it must be 1 to",
    ),
    "40 a file": (["--out", "c.png"], "c.png: is a file; give a new or an empty directory"),
    "40 in a file": (["--out", "c.png/run"], "c.png is a file; give a new or an empty directory"),
    "40 not writable": (["--out", "locked/run"], "locked is not writable; give --out elsewhere"),
    "41 a NUL": (["--out", "a\0b"], "a\\x00b' is not a path in UTF-8; give one"),
    "41 bytes that are no text": (["--out", "a\udcff"], "a\\udcff' is not a path in UTF-8; give one"),
    "41 over 255 bytes": (["--out", "a" * 256], "cannot be used: File name too long"),
    "41 no name": (["--out", ""], "out: '' is not a path in UTF-8; give one"),
    "a content of a name with a newline": (["--init", "a\nb.png"], "init: '"),
    "a flag of a later version": (
        ["--tolerance", "2"],
        "--tolerance: early stopping is not in this version",
    ),
    "a flag of an earlier version": (
        ["--warm-steps", "2"],
        "--warm-steps: started cells from their neighbours' pictures, with mixed gains, and was removed",
    ),
    "a flag without its value": (["--size"], "command line: "),
    "an axis without a value": (["--pool"], "pool: the axis is empty; give at least one value"),
    "tf32 where there is none": (
        ["--precision", "tf32"],
        "precision: tf32 is not available on this cpu; use",
    ),
    "more memory than there is": (["--size", "8192"], "GB of memory and there are "),
    "more memory than there is side by side": (
        ["--size", "2048", "--seed", "0:99", "--side-by-side", "99"],
        "image, 99 side by side, needs about ",
    ),
    "a stray word": (["--quiet", "stray"], "command line: "),
    "a control character in a flag": (
        ["--seed\x1b[2J"],
        "--seed\\x1b[2J: no such setting; did you mean seed?",
    ),
    "a flag without end": (["--" + "a" * 10**6], "no such setting; see --help"),
    "devices": (["--devices", "2"], "devices: 2: there is 1 here (cpu)"),
    "no share": (["--shard", "5/4", "--out", "run"], "shard: '5/4' is not a share; give I/N, such as 0/8"),
    "a share that extends": (["--shard", "0/2", "--out", "run", "--extend"], "extend: replans the run;"),
    "a share of a cluster": (
        ["--shard", "0/2", "--out", "run", "--cluster", "local"],
        "shard: --cluster divides the work itself; leave one of the two out",
    ),
    "launches of workers side by side": (
        ["--side-by-side", "2", "--cluster", "local"],
        "side_by_side: every worker of a cluster chooses its own; leave it out",
    ),
    "chunks to collect from nobody": (["--collect"], "collect: is for clusters; give it together with"),
    "JSON without a plan": (["--json"], "json: is for printing the plan; give it together with --dry-run"),
    "no weights": (["--weights", "none.h5"], "none.h5: no such file; give a file of VGG19's weights"),
    "weights that are a directory": (
        ["--weights", "."],
        "is not a regular file; give a file of VGG19's weights",
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(k, marks=AS_ROOT if "locked/run" in FLAGS[k][0] else ()) for k in FLAGS]
)
def test_a_flag_that_cannot_be_followed_is_refused(folder, refused, case):
    arguments, expected = FLAGS[case]
    (folder / "locked").mkdir(0o555)
    line = refused(*(() if "--content" in arguments else GIVEN), *arguments)
    assert expected in line
    assert len(line) < 2100


SPECS = {
    "28 an empty axis": (b"alpha_beta = []", "alpha_beta: the axis is empty; give at least one value"),
    "28 no steps": (b"steps = []", "steps: no value; give at least one"),
    "29 NaN": (b"alpha_beta = [nan]", "alpha_beta: nan is not finite; give a finite number"),
    "29 minus infinity": (
        b"learning_rate = -inf",
        "learning_rate: -inf is not finite; give a finite number",
    ),
    "31 a value twice": (b"seed = [1, 1]", "seed: 1 is given twice; give each value once"),
    "35 an unknown key": (b"sede = [1]", "sede: no such setting; did you mean seed?"),
    "35 an unknown key of a grid": (
        b"[[grid]]\nsede = [1]",
        "grid.sede: no such setting; did you mean seed?",
    ),
    "35 an axis that is nearly one": (
        b"[[grid]]\nstyle_sise = [64]",
        "grid.style_sise: no such setting; did you mean style_size?",
    ),
    "35 a setting in a grid": (
        b"[[grid]]\nsize = 64",
        "grid.size: has one value for all cells of a run; write it above the first [[grid]]",
    ),
    "35 a key of control characters": (b'"\\u001b[2J" = 1', "\\x1b[2J: no such setting; see --help"),
    "35 a date": (b"seed = 2026-01-01", "seed: datetime.date(2026, 1, 1) is not a whole number"),
    "35 a truth": (b"steps = true", "steps: True is not a whole number"),
    "35 a number for a name": (b"pool = 3", "pool: 3 is not known; use avg or max"),
    "35 a name for a truth": (b"quiet = 'yes'", "quiet: 'yes' is neither true nor false"),
    "35 a number for a path": (b"weights = 3", "weights: 3 is not a text; give a name or a path"),
    "35 a table for a number": (b"seed = {a = 1}", "seed: {'a': 1} is not a whole number"),
    "35 a text for devices": (b"devices = '2'", "devices: 2: there is 1 here (cpu)"),
    "35 a grid that is no table": (b"grid = 3", "grid: a grid is a table of axes; write [[grid]]"),
    "35 digests that are no table": (b"digests = 3", 'digests: write a table: [digests] "path" = "sha256"'),
    "35 a digest that is none": (
        b"[digests]\n'c.png' = 'abc'",
        "c.png is not a SHA-256; give 64 hexadecimal digits",
    ),
    "35 a spec in a spec": (b"spec = 'other.toml'", "spec: a spec cannot name another spec"),
    "a value without end": (b"pool = '" + b"a" * 10**6 + b"'", "is not known; use avg or max"),
}
"""Lines of a spec that names images before."""
WHOLE_SPECS = {
    "36 no TOML": (b"seed = [", "not a TOML file in UTF-8; correct it: "),
    "36 a key twice": (b"seed = 1\nseed = 2", "not a TOML file in UTF-8; correct it: "),
    "36 a byte order mark": (
        b"\xef\xbb\xbfseed = 1",
        "begins with a byte order mark; save it as UTF-8 without",
    ),
    "36 UTF-16": ("seed = 1".encode("utf-16"), "not a TOML file in UTF-8; correct it: "),
    "36 Latin-1": ("weights = 'Gemälde.h5'".encode("latin-1"), "not a TOML file in UTF-8; correct it: "),
    "36 a NUL": (b"seed = 1\0", "not a TOML file in UTF-8; correct it: "),
    "36 a picture": (lambda: encoded(PIXELS, "PNG"), "not a TOML file in UTF-8; correct it: "),
    "36 brackets in brackets": (b"seed = " + b"[" * 5000, "not a TOML file in UTF-8; correct it: "),
    "36 tables in tables": (
        b"[seed." + b"a." * 3000 + b"a]",
        ": seed: is nested deeper than 8; write it flat",
    ),
    "36 5000 digits": (b"seed = " + b"9" * 5000, "not a TOML file in UTF-8; correct it: Exceeds the limit"),
    "36 5000 hexadecimal digits": (
        b"seed = 0x" + b"f" * 5000,
        ": seed: an integer of more than 64 bits; give a smaller",
    ),
    "36 over 16 MiB": (
        lambda: b"#" * (2**24 + 1),
        "has 16777217 bytes; the limit is 16777216: list fewer values",
    ),
}


@pytest.mark.parametrize("case", [*SPECS, *WHOLE_SPECS])
def test_a_spec_that_cannot_be_followed_is_refused(folder, refused, case):
    source, expected = {**SPECS, **WHOLE_SPECS}[case]
    data = source if isinstance(source, bytes) else source()
    if case in SPECS:
        data = b"content = 'c.png'\nstyle = 's.png'\n" + data
    (folder / "study.toml").write_bytes(data)
    line = refused("--spec", "study.toml")
    assert expected in line
    assert len(line) < 2100


@pytest.mark.parametrize(
    "make_one",
    [pytest.param(os.mkfifo, id="36 a FIFO"), pytest.param(link_to_itself, id="36 a link to itself")],
)
def test_a_spec_that_is_no_file_is_refused(folder, refused, make_one):
    make_one(folder / "study.toml")
    assert "give the path of a TOML file" in refused("--spec", "study.toml")


def test_a_file_with_another_digest_than_the_spec_gives_is_refused(folder, refused):
    """Case 52, where a digest was requested, in upper or lower case."""
    for name, path in (("weights", weights.packaged_path()), ("content", folder / "c.png")):
        text = f"content = 'c.png'\nstyle = 's.png'\n[digests]\n'{path}' = '{'AB' * 32}'\n"
        if name == "weights":
            text = f"weights = '{path}'\n{text}"
        (folder / "study.toml").write_text(text)
        line = refused("--spec", "study.toml")
        assert f"{path}: has sha256 " in line
        assert f", not {'ab' * 32}; restore it or drop it from [digests]" in line


OF_A_SPEC = {
    "c.png": "a content",
    "s.png": "a style",
    "b.png": "a part of a blend",
    "i.png": "a start",
    "cm.png": "a mask of a content",
    "sm.png": "a mask of a style",
    "t.npz": "targets",
}
"""The role of each file of the spec below."""
EVERY_FILE = """content = "c.png"
style = ["s.png", "s.png:0.5+b.png:0.5"]
init = ["noise", "i.png"]
style_layers = "conv1_1"
[[grid]]
regions = "masks"
[[grid]]
style = "t.npz"
"""


@pytest.fixture
def every_kind(folder):
    """One file of each kind that a spec names, and the spec's text."""
    for name, seed in (("b.png", 3), ("i.png", 4)):
        Image.fromarray(random_image(48, 64, seed)).save(folder / name)
    for name in ("cm.png", "sm.png"):
        halves = np.zeros((48, 64), np.uint8)
        halves[:, 32:] = 255
        Image.fromarray(halves).save(folder / name)
    gram = np.eye(64, dtype=np.float32)
    made_for = {"network": "raw", "pool": "avg", "padding": "zeros"}
    np.savez(
        folder / "t.npz",
        format="jaxstyle-targets-1",
        weights_sha256=weights.load(None, taps=("conv1_1",), network="raw", pool="avg").sha256,
        **made_for,
        **{"gram/conv1_1": gram, "mean/conv1_1": np.zeros(64, np.float32)},
        **{"positions/conv1_1": np.int64(900)},
    )
    return EVERY_FILE


def spec_of(text, digests):
    masks = 'content_mask = "cm.png"\nstyle_mask = ["sm.png", "sm.png"]\nalpha_beta = 1e-3\n'
    listed = "".join(f"'{path}' = '{digest}'\n" for path, digest in digests.items())
    return f"{masks}{text}[digests]\n{listed}"


@pytest.mark.parametrize("name", [pytest.param(name, id=about) for name, about in OF_A_SPEC.items()])
def test_the_digest_of_every_kind_of_file_is_checked(every_kind, folder, refused, name):
    digests = {of: hashlib.sha256((folder / of).read_bytes()).hexdigest() for of in OF_A_SPEC}
    (folder / "study.toml").write_text(spec_of(every_kind, digests))
    assert exit_code(["--spec", "study.toml", "--dry-run", "--out", "out"]) == 0
    (folder / "study.toml").write_text(spec_of(every_kind, digests | {name: "ab" * 32}))
    line = refused("--spec", "study.toml")
    expected = f"{folder / name}: has sha256 {digests[name]}, not {'ab' * 32}; restore it or drop it from"
    assert f"{expected} [digests]" in line


# --- weights that are refused ---------------------------------------------------------------------


def write_weights(path, change=None, rows=layers.VGG19[:2]):
    """The first layers of VGG19, each value the same."""
    with h5py.File(path, "w") as file:
        for row in rows:
            kernel = np.full((3, 3, row.in_channels, row.out_channels), 0.5, np.float32)
            file.create_dataset(f"{row.name}/kernel", data=kernel, compression="gzip")
            file[f"{row.name}/bias"] = np.full(row.out_channels, 0.25, np.float32)
        if change:
            change(file)


def with_dataset(name, *arguments, **options):
    """Replace a dataset by another one."""

    def change(file):
        if name in file:
            del file[name]
        file.create_dataset(name, *arguments, **options)

    return change


def with_link(name, link):
    def change(file):
        del file[name]
        file[name] = link

    return change


def virtual(file):
    del file["conv1_1/bias"]
    layout = h5py.VirtualLayout((64,), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (64,))
    file.create_virtual_dataset("conv1_1/bias", layout)


def unpacking_without_end(file):
    """A gzip stream in place of 256 bytes, which unpacks to 16 MiB."""
    with_dataset("conv1_1/bias", (64,), "f4", chunks=(64,), compression="gzip")(file)
    file["conv1_1/bias"].id.write_direct_chunk((0,), zlib.compress(bytes(2**24)))


def packed_twice(file):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((64,))
    plan.set_deflate(1)
    plan.set_deflate(1)
    del file["conv1_1/bias"]
    space, kind = h5py.h5s.create_simple((64,)), h5py.h5t.IEEE_F32LE
    h5py.h5d.create(file.id, b"conv1_1/bias", kind, space, plan)


class Evil:
    """An object that makes a directory when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def objects(path):
    np.savez(path.with_suffix(".npz"), conv1_1=np.array([Evil()], object))
    path.with_suffix(".npz").rename(path)


def npz_of_4_tb(path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    np.savez(path.with_suffix(".npz"), conv1_1=np.zeros(1))
    path.with_suffix(".npz").rename(path)
    with open(path, "ab") as file:
        file.write(header.getvalue())


def huge_weights(path):
    path.touch()
    os.truncate(path, weights.MAX_FILE_BYTES + 1)


def packaged(cut):
    return lambda path: path.write_bytes(cut(weights.packaged_path().read_bytes()))


MEND = "scripts/convert_weights.py makes a file that fits"
NO_WEIGHTS = {
    "43 empty": (lambda path: path.touch(), f"is not an HDF5 file; {MEND}"),
    "43 text": (lambda path: path.write_text("weights"), f"is not an HDF5 file; {MEND}"),
    "43 half": (
        packaged(lambda data: data[: len(data) // 2]),
        "is damaged or cut short; give another copy: ",
    ),
    "43 the head alone": (
        packaged(lambda data: data[:100]),
        "is damaged or cut short; give another copy: ",
    ),
    "47 npz of an object": (objects, f"is not an HDF5 file; {MEND}"),
    "48 npz that claims 4 TB": (npz_of_4_tb, f"is not an HDF5 file; {MEND}"),
    "51 a pickle": (lambda path: path.write_bytes(pickle.dumps(Evil())), f"is not an HDF5 file; {MEND}"),
    "a FIFO": (os.mkfifo, "is not a regular file; give a file of VGG19's weights"),
    "over the size of files": (
        huge_weights,
        "has 268435457 bytes; the limit is 268435456: give VGG19 without its",
    ),
}
"""Functions that make the file at a path, and what is said of it."""
CHANGED_WEIGHTS = {
    "44 a layer missing": (
        lambda file: file.pop("conv1_1"),
        "has no layer conv1_1; it is no VGG19 file in a",
    ),
    "44 a layer too many": (
        with_dataset("conv3_5/bias", (9,), "f4"),
        "has a layer conv3_5, which VGG19 does not have; scr",
    ),
    "44 a layer too many in Keras' names": (
        with_dataset("block6_conv1/bias", (9,), "f4"),
        f"has a layer block6_conv1, which VGG19 does not have; {MEND}",
    ),
    "44 another shape": (
        with_dataset("conv1_1/bias", (65,), "f4"),
        f"/conv1_1/bias has shape (65,); VGG19 needs (64,): {MEND}",
    ),
    "44 OIHW": (
        with_dataset("conv1_1/kernel", (64, 3, 3, 3), "f4"),
        f"/conv1_1/kernel has shape (64, 3, 3, 3); VGG19 needs (3, 3, 3, 64): {MEND}",
    ),
    "44 a dataset for a group": (
        with_link("conv1_1", np.zeros(3)),
        "has no layer conv1_1; it is no VGG19 file",
    ),
    "45 NaN": (with_link("conv1_1/bias", np.full(64, np.nan, "f4")), f"not finite in float32; {MEND}"),
    "45 infinity": (
        with_link("conv1_1/bias", np.full(64, -np.inf, "f4")),
        f"not finite in float32; {MEND}",
    ),
    "45 beyond float32": (with_link("conv1_1/bias", np.full(64, 1e300)), f"not finite in float32; {MEND}"),
    "46 objects": (
        with_dataset("conv1_1/bias", (64,), h5py.special_dtype(vlen=np.float32)),
        f"/conv1_1/bias has type object; weights are float32: {MEND}",
    ),
    "46 references": (
        with_dataset("conv1_1/bias", (64,), h5py.special_dtype(ref=h5py.Reference)),
        f"/conv1_1/bias has type object; weights are float32: {MEND}",
    ),
    "46 integers": (
        with_link("conv1_1/bias", np.zeros(64, "i4")),
        f"has type int32; weights are float32: {MEND}",
    ),
    "46 complex": (
        with_link("conv1_1/bias", np.zeros(64, "c8")),
        f"has type complex64; weights are float32: {MEND}",
    ),
    "46 strings": (
        with_link("conv1_1/bias", np.full(64, b"x")),
        f"has type |S1; weights are float32: {MEND}",
    ),
    "49 a dataset that claims 4 TB": (
        with_dataset("conv1_1/kernel", (10**6, 10**6), "f4", chunks=(1000, 1000)),
        f"has shape (1000000, 1000000); VGG19 needs (3, 3, 3, 64): {MEND}",
    ),
    "49 pieces of 4 TB": (
        with_dataset(
            "conv1_1/kernel", (3, 3, 3, 64), "f4", chunks=(3, 3, 10**3, 10**5), maxshape=(3, 3, None, None)
        ),
        f"has 0 chunks of 3600000000 bytes; the limit is 4096 of 268435456: {MEND}",
    ),
    "50 external storage": (
        with_dataset("conv1_1/bias", (64,), "f4", external=[("secret.h5", 0, 256)]),
        f"conv1_1/bias is stored outside the file; weights must lie in it: {MEND}",
    ),
    "50 an external link": (
        with_link("conv1_1/bias", h5py.ExternalLink("secret.h5", "x")),
        f"conv1_1/bias is a link; weights must lie in the file itself: {MEND}",
    ),
    "50 an external link to a layer": (
        with_link("conv1_1", h5py.ExternalLink("secret.h5", "conv1_1")),
        f"is a link; weights must lie in the file itself: {MEND}",
    ),
    "50 a soft link": (
        with_link("conv1_1/bias", h5py.SoftLink("/conv1_2/bias")),
        f"conv1_1/bias is a link; weights must lie in the file itself: {MEND}",
    ),
    "50 a virtual dataset": (
        virtual,
        f"conv1_1/bias is stored outside the file; weights must lie in it: {MEND}",
    ),
    "values that unpack without end": (
        unpacking_without_end,
        f"bias unpacks to more than its 256 bytes: {MEND}",
    ),
    "values packed twice": (
        packed_twice,
        f"bias is compressed in an unsupported way; use gzip: {MEND}",
    ),
    "values packed by LZF": (
        with_dataset("conv1_1/bias", data=np.zeros(64, "f4"), compression="lzf"),
        f"bias is compressed in an unsupported way; use gzip: {MEND}",
    ),
}
"""Functions that change a file of weights, and what is said of it."""


@pytest.mark.parametrize("case", [*NO_WEIGHTS, *CHANGED_WEIGHTS])
def test_weights_that_are_none_are_refused(folder, refused, case):
    source, expected = {**NO_WEIGHTS, **CHANGED_WEIGHTS}[case]
    write_weights(folder / "secret.h5", with_dataset("x", data=np.ones(64, "f4")))
    path = folder / "w.h5"
    if case in CHANGED_WEIGHTS:
        write_weights(path, source)
    else:
        source(path)
    taps = ("--content-layer", "conv1_2", "--style-layers", "conv1_1")
    line = refused(*GIVEN, *taps, "--weights", "w.h5")
    assert line.startswith(f"jaxstyle: error: {path}: ")
    assert expected in line
    assert not (folder / "ran").exists()


# --- taken, by a rule -----------------------------------------------------------------------------


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile():
    """sRGB with the primaries of red and blue exchanged: its red is sRGB's blue."""
    data = srgb_profile()
    for old, new in ((b"rXYZ", b"????"), (b"bXYZ", b"rXYZ"), (b"????", b"bXYZ")):
        assert data.count(old) == 1
        data = data.replace(old, new)
    return data.replace("sRGB".encode("utf-16-be"), "none".encode("utf-16-be"))


def ink_profile(*lightness):
    """A colour profile of CMYK whose mixtures of inks are greys of known lightness, 0 to 255, K fastest."""
    identity = struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    ramp = bytes(range(256))
    grid = b"".join(bytes((value, 128, 128)) for value in lightness)
    name = b"inks\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(4 + 4 + 2 + 1 + 67),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        b"A2B0": b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + ramp * 4 + grid + ramp * 3,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">II", start + len(body), 0) + struct.pack(">I", 0x02400000) + b"prtrCMYKLab "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + table + body


def grey_of(lightness):
    """The sRGB grey, 0 to 255, of a CIE lightness, 0 to 100 (IEC 61966-2-1, CIE 15)."""
    f = (np.asarray(lightness) + 16) / 116
    y = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return 255 * np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)


def columns(*colours):
    """An image of upright bands, 40 px high and 10 px wide each."""
    return np.repeat(np.array([colours]), 10, 1).repeat(40, 0).astype(np.uint8)


def grey(levels):
    return np.repeat(levels[..., None], 3, -1)


def with_alpha(pixels):
    """`pixels` with the upper rows transparent and the next ones half so, and the same on white."""
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 128
    rgb = pixels if pixels.ndim == 3 else grey(pixels)
    share = alpha[..., None] / 255
    return np.dstack([pixels, alpha]), share * rgb + (1 - share) * 255


DEEP = np.random.default_rng(3).integers(0, 65536, (40, 60, 4)).astype(np.uint16)
KEYED = DEEP.copy()
KEYED[:10] = 0x1234
INKS = ((0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 100))
INK_RGB = ((255, 255, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0), (155, 155, 155))
LIGHTNESS = (255, 128, 64, 32)
"""CIE lightness, as 0 to 255, of no ink, and of cyan, magenta and yellow alone."""
OF_PALETTE = np.asarray(PALETTE.convert("RGB"))
TURNED, NOTED = "turned as its EXIF orientation says", "reduced from 16 to 8 bits"
ON_WHITE = "its transparent parts are laid on white"
PROFILED = "converted from its colour profile to sRGB"


def keyed(pixels):
    pixels = pixels.copy()
    pixels[:10] = 255
    return pixels


def by_palette_key():
    expected = OF_PALETTE.copy()
    expected[np.asarray(PALETTE) == 3] = 255
    return expected


def ink_lightness():
    grid = np.zeros((2, 2, 2, 2), int)
    grid[0, 0, 0, 0], grid[1, 0, 0, 0], grid[0, 1, 0, 0], grid[0, 0, 1, 0] = LIGHTNESS
    return grid.ravel()


def exif_case(value, expected):
    return lambda: encoded(PIXELS, "PNG", exif=oriented(value)), expected, 0, (TURNED,)


# name: the bytes, the pixels, by how much they may differ, the notes. Alpha of 128 and colour profiles are
# reckoned in whole levels and then rounded: off by 1 at most. Everything else is exact.
TAKEN = {
    "plain RGB": (lambda: encoded(PIXELS, "PNG"), PIXELS, 0, ()),
    "13 a text that unpacks without end": (text_bomb, PIXELS, 0, ()),
    "a colour profile that unpacks without end": (
        profile_bomb,
        0 * PIXELS,
        0,
        ("its colour profile could not be used and is ignored",),
    ),
    "EXIF 2": exif_case(2, PIXELS[:, ::-1]),
    "EXIF 3": exif_case(3, PIXELS[::-1, ::-1]),
    "EXIF 4": exif_case(4, PIXELS[::-1]),
    "EXIF 5": exif_case(5, PIXELS.transpose(1, 0, 2)),
    "EXIF 6": exif_case(6, np.rot90(PIXELS, -1)),
    "EXIF 7": exif_case(7, PIXELS[::-1, ::-1].transpose(1, 0, 2)),
    "EXIF 8": exif_case(8, np.rot90(PIXELS)),
    "EXIF 99": (
        lambda: encoded(PIXELS, "PNG", exif=oriented(99)),
        PIXELS,
        0,
        ("its EXIF orientation, 99, has no meaning and is ignored",),
    ),
    "EXIF that is none": (
        lambda: encoded(PIXELS, "PNG", exif=b"Exif\0\0no EXIF at all"),
        PIXELS,
        0,
        ("its EXIF data cannot be read and is ignored",),
    ),
    "RGBA": (lambda: encoded(with_alpha(PIXELS)[0], "PNG"), with_alpha(PIXELS)[1], 1, (ON_WHITE,)),
    "opaque RGBA": (lambda: encoded(np.dstack([PIXELS, GREY | 255]), "PNG"), PIXELS, 0, ()),
    "LA": (lambda: encoded(with_alpha(GREY)[0], "PNG"), with_alpha(GREY)[1], 1, (ON_WHITE,)),
    "a palette": (lambda: encoded(PALETTE, "PNG"), OF_PALETTE, 0, ()),
    "a palette with tRNS": (
        lambda: encoded(PALETTE, "PNG", transparency=3),
        by_palette_key(),
        0,
        (ON_WHITE,),
    ),
    "RGB with tRNS": (
        lambda: encoded(keyed(PIXELS & 254), "PNG", transparency=(255, 255, 255)),
        keyed(PIXELS & 254),
        0,
        (ON_WHITE,),
    ),
    "1 bit": (lambda: encoded(GREY > 127, "PNG"), grey(np.where(GREY > 127, 255, 0)), 0, ()),
    "L": (lambda: encoded(GREY, "PNG"), grey(GREY), 0, ()),
    "16-bit grey": (lambda: encoded(DEEP[..., 0], "PNG"), grey(DEEP[..., 0] >> 8), 0, (NOTED,)),
    "16-bit grey TIFF": (lambda: encoded(DEEP[..., 0], "TIFF"), grey(DEEP[..., 0] >> 8), 0, (NOTED,)),
    "16-bit grey TIFF on its side": (
        lambda: tiff(DEEP[..., 0], 16, orientation=6),
        np.rot90(grey(DEEP[..., 0] >> 8), -1),
        0,
        (TURNED, NOTED),
    ),
    "16-bit grey with tRNS": (
        lambda: deep_png(KEYED[..., :1], 0, png_chunk(b"tRNS", struct.pack(">H", 0x1234))),
        grey(np.where(KEYED[..., 0] >> 8 == 0x12, 255, KEYED[..., 0] >> 8)),
        0,
        (NOTED, ON_WHITE),
    ),
    "16-bit grey and alpha": (
        lambda: deep_png(DEEP[..., :2] | (0, 65535), 4),
        grey(DEEP[..., 0] >> 8),
        0,
        (NOTED,),
    ),
    "16-bit RGB": (lambda: deep_png(DEEP[..., :3], 2), DEEP[..., :3] >> 8, 0, (NOTED,)),
    "16-bit RGB TIFF": (
        lambda: tiff(DEEP[..., :3], 16, samples=3, photometric=2),
        DEEP[..., :3] >> 8,
        0,
        (NOTED,),
    ),
    "16-bit RGB with tRNS": (
        lambda: deep_png(KEYED[..., :3], 2, png_chunk(b"tRNS", struct.pack(">HHH", *[0x1234] * 3))),
        keyed(KEYED[..., :3] >> 8),
        0,
        (NOTED, ON_WHITE),
    ),
    "16-bit RGBA": (lambda: deep_png(DEEP | (0, 0, 0, 65535), 6), DEEP[..., :3] >> 8, 0, (NOTED,)),
    "CMYK": (
        lambda: encoded(Image.fromarray(columns(*INKS), "CMYK"), "TIFF"),
        columns(*INK_RGB),
        0,
        ("converted from CMYK to sRGB",),
    ),
    "CMYK with a colour profile": (
        lambda: encoded(
            Image.fromarray(columns(*INKS[:4]), "CMYK"), "TIFF", icc_profile=ink_profile(*ink_lightness())
        ),
        grey_of(columns(*([value] * 3 for value in LIGHTNESS)) / 2.55),
        1,
        (PROFILED,),
    ),
    "LAB": (
        lambda: encoded(
            Image.frombytes("LAB", (40, 40), columns(*([n, 0, 0] for n in LIGHTNESS)).tobytes()), "TIFF"
        ),
        grey_of(columns(*([value] * 3 for value in LIGHTNESS)) / 2.55),
        1,
        ("converted from LAB to sRGB",),
    ),
    "sRGB by its profile": (lambda: encoded(PIXELS, "PNG", icc_profile=srgb_profile()), PIXELS, 0, ()),
    "RGB with a colour profile": (
        lambda: encoded(PIXELS, "PNG", icc_profile=swapped_profile()),
        PIXELS[..., ::-1],
        1,
        (PROFILED,),
    ),
    "a palette with a colour profile": (
        lambda: encoded(PALETTE, "PNG", icc_profile=swapped_profile()),
        OF_PALETTE[..., ::-1],
        1,
        (PROFILED,),
    ),
    "a colour profile that is none": (
        lambda: encoded(PIXELS, "PNG", icc_profile=b"no profile at all" * 20),
        PIXELS,
        0,
        ("its colour profile could not be used and is ignored",),
    ),
    "a colour profile of other colours": (
        lambda: encoded(PIXELS, "PNG", icc_profile=ink_profile(*ink_lightness())),
        PIXELS,
        0,
        ("its colour profile could not be used and is ignored",),
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_an_odd_image_has_the_right_pixels(tmp_path, case):
    source, expected, tolerance, notes = TAKEN[case]
    path = tmp_path / "odd.jpg"  # whatever the format is: the name says nothing
    path.write_bytes(source())
    picture = decode.read(str(path))
    assert picture.pixels.shape == expected.shape
    assert np.abs(picture.pixels.astype(float) - expected).max() <= tolerance + 0.5 * (tolerance > 0)
    assert picture.notes == notes


def dry_run(capsys, *arguments):
    """The plan of a command that is accepted, as JSON."""
    assert exit_code([*arguments, "--size", "32", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def test_the_command_takes_every_odd_image(folder, capsys):
    for number, (source, *_) in enumerate(TAKEN.values()):
        (folder / f"{number}.jpg").write_bytes(source())
    before = tree(folder)
    plan = dry_run(capsys, "--style", "s.png", "--content", *(f"{n}.jpg" for n in range(len(TAKEN))))
    assert plan["cells"] == len(TAKEN)
    assert tree(folder) == before


NAMES = (
    "-rf.png",
    "$(touch ran).png",
    "a;touch ran|b&.png",
    "Gemälde 1.png",
    "<b>&.png",
    "..%2f..\\x.png",
    "c",
)


def test_images_of_any_name_and_behind_links_are_taken(folder, capsys):
    for name in NAMES:
        (folder / name).symlink_to("c.png")
    before = tree(folder)
    plan = dry_run(
        capsys, "--style", "s.png", "--init", "noise", *(f"./{name}" for name in NAMES), *GIVEN[:2]
    )
    assert plan["cells"] == 1 + len(NAMES)
    assert dry_run(capsys, "--style", "s.png", "--content=-rf.png")["cells"] == 1
    assert tree(folder) == before


PATHS = (
    "../x",
    "/nowhere/x",
    "-rf",
    "CON",
    ".hidden",
    "a b",
    "$(touch ran)",
    "Läufe/ä",
    "a" * 255,
    "~no-such-user",
    "a\\b",
    "a\nb",
)


@pytest.mark.parametrize("path", PATHS)
def test_any_path_may_be_that_of_the_run(folder, capsys, path):
    """Case 41."""
    before = tree(folder)
    assert exit_code([*GIVEN, "--size", "32", "--dry-run", f"--out={path}"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.endswith(f"\nwould write {os.path.abspath(path)}\n")
    assert tree(folder) == before


def test_the_name_of_a_run_is_made_of_few_characters(folder):
    """Case 41, where the name is that of a spec."""
    for name in ("$(touch ran)", "..", "-rf", "a/../b", "Gemälde", "<b>", "a\\b", "a" * 200):
        path = folder / f"{name}.toml".replace("/", "_")
        path.write_text("content = 'c.png'\nstyle = 's.png'\n")
        found = assemble({"spec": str(path)}).name
        assert re.fullmatch(r"[A-Za-z0-9._-]+", found)
        assert not found.startswith(("-", "."))
        assert len(found) <= 60


# --- taken, in a run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory):
    """A run with equal stems, a ratio of 0, unknown weights and names for a shell to expand; its output."""
    folder = tmp_path_factory.mktemp("odd")
    for name, seed in (("a", 1), ("b", 2)):
        (folder / name).mkdir()
        Image.fromarray(random_image(32, 32, seed)).save(folder / name / "$(touch ran).png")
    (folder / "style.png").write_bytes(TAKEN["RGBA"][0]())
    write_weights(folder / "w.h5", rows=layers.VGG19[:1])
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        code = exit_code(
            [
                "--content", "a/$(touch ran).png", "b/$(touch ran).png", "--style", "style.png",
                "--alpha-beta", "0", "1e-3", "--weights", "w.h5", "--content-layer", "conv1_1",
                "--style-layers", "conv1_1", "--init", "content", "--optimizer", "adam", "--steps", "1",
                "--size", "32", "--out=-rf $(touch ran)",
            ]
        )  # fmt: skip
    assert code == 0
    assert not list(folder.rglob("ran"))
    return folder / "-rf $(touch ran)", said.getvalue()


def rows(run):
    with open(run / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_inputs_of_one_stem_are_taken_and_kept_apart(odd_run):
    """Case 27."""
    found = rows(odd_run[0])
    assert [row["content"] for row in found] == ["a/$(touch ran).png"] * 2 + ["b/$(touch ran).png"] * 2
    pictures = [(odd_run[0] / row["image"]).read_bytes() for row in found]
    assert pictures[0] != pictures[2]


def test_a_ratio_of_zero_is_taken(odd_run):
    """Case 29: texture synthesis."""
    zero, some = rows(odd_run[0])[:2]
    assert (float(zero["alpha_beta"]), float(some["alpha_beta"])) == (0, 1e-3)
    assert zero["loss_total"] == zero["loss_style"]
    assert some["loss_total"] != some["loss_style"]


def test_weights_of_an_unknown_digest_are_one_warning_and_an_entry_of_the_manifest(odd_run):
    """Case 52."""
    run, said = odd_run
    assert said.count("weights with a digest that jaxstyle does not know") == 1
    entry = json.loads((run / "manifest.json").read_text())["weights"]
    assert entry == {
        "path": str(run.parent / "w.h5"),
        "sha256": weights.load(entry["path"], taps=["conv1_1"]).sha256,
        "origin": "unknown",
    }


def test_what_was_done_to_an_image_is_said_once_and_kept(odd_run):
    run, said = odd_run
    assert said.count(ON_WHITE) == 1
    entries = json.loads((run / "manifest.json").read_text())["images"]
    assert entries[str(run.parent / "style.png")]["notes"] == [ON_WHITE]


def test_only_pictures_are_named_after_an_input_and_in_safe_letters(odd_run):
    run, _ = odd_run
    there = [path.relative_to(run) for path in run.rglob("*")]
    assert all("touch" not in str(path) for path in there if path.parts[0] != "pictures")
    named = [path.name for path in there if path.parent.name == "pictures"]
    assert len(named) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*__\d{6}\.png", name) for name in named)
    assert {row["image"] for row in rows(run)} == {f"images/{n:06d}.png" for n in range(4)}


# --- in a process of its own ----------------------------------------------------------------------

OUTSIDE = (
    "7 half a JPEG",
    "9 a PNG with another byte",
    "a TIFF that libtiff complains of",
    "24 a FIFO",
)


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_process_of_its_own_says_one_line_before_jax_is_imported(folder, case):
    source, expected = IMAGES[case]
    make(folder / "bad.png", source)
    before = tree(folder)
    code = (
        "import sys\n"
        "from jaxstyle import sweep\n"
        "try: sweep.main()\n"
        "finally: assert 'jax' not in sys.modules\n"
    )
    done = run_python("-c", code, "--content", "bad.png", "--style", "s.png", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"jaxstyle: error: {folder / 'bad.png'}")
    assert expected in line
    assert tree(folder) == before


def test_no_module_has_a_shell_a_pickle_or_yaml():
    banned = {
        "pickle",
        "cPickle",
        "dill",
        "joblib",
        "shelve",
        "marshal",
        "yaml",
        "code",
        "pty",
    }
    calls = {"eval", "exec", "system", "popen", "compile_command", "unsafe_load"}
    for path in module_paths().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not {name.split(".")[0] for name in names} & banned, path.name
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                assert called not in calls, f"{path.name}:{node.lineno}"
                for keyword in node.keywords:
                    refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                    assert keyword.arg not in ("shell", "allow_pickle") or refused, path.name
