"""Corrupted files, made by mutation of good ones, and the reactions of their readers.

    python -m tests.fuzz --files 10000

reads that many through the readers of the package and prints a table. A reader may give a valid result or
a `JaxstyleError`; anything else, a crash or a hang of the interpreter included, is a finding, and the
command then ends with 1. A number always stands for the same file.
"""

from __future__ import annotations

import argparse
import functools
import io
import multiprocessing
import os
import resource
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import h5py
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from jaxstyle.inputs import decode, weights
from jaxstyle.inputs import target_files as npz
from jaxstyle.rundir.chunks import PER_CELL, ChunkResult, chunk_bytes, read_chunk
from jaxstyle.spec import errors, settings, tables
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.retired import RETIRED
from jaxstyle.spec.toml import to_toml
from jaxstyle.spec.unknown_names import PLANNED
from jaxstyle.vgg.layers import MIN_EDGE_PX

SECONDS = 20
"""Limit for reading one file, in seconds."""
MEMORY_BYTES = 4 * 2**30
"""Address space of the reading process, so that a file cannot make a reader take more memory."""

SHOWN = 20
"""Number of findings of a kind that are printed; all are counted."""

VALID, ONE_LINE, FINDING = "valid", "one line", "traceback"


# --- good files -----------------------------------------------------------------------------------


def _picture() -> np.ndarray:
    y, x = np.mgrid[:20, :24]
    return np.stack([y * 12, x * 10, (y * x) % 256], -1).astype(np.uint8)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _labels() -> dict[str, object]:
    """A colour profile and EXIF data, because their readers see a file's bytes too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}


def _with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file and more chunks in front of its pixels."""
    at = png.index(b"IDAT") - 4
    made = (struct.pack(">I", len(body)) + kind + body + bytes(4) for kind, body in chunks)
    return _with_checksums(png[:at] + b"".join(made) + png[at:])


@functools.cache
def pngs() -> list[bytes]:
    """PNG files with every kind of pixel."""
    image = Image.fromarray(_picture())
    text = PngImagePlugin.PngInfo()
    text.add_text("title", "a" * 100, zip=True)
    key = _encoded(image, "PNG", transparency=(0, 0, 0))
    deep = Image.fromarray(_picture()[..., 0].astype(np.uint16) * 257)
    return [
        _encoded(image, "PNG", pnginfo=text, **_labels()),
        _encoded(image.convert("RGBA"), "PNG"),
        _encoded(image.convert("LA"), "PNG"),
        _encoded(image.quantize(16), "PNG", transparency=3),
        _encoded(image.convert("1"), "PNG"),
        _encoded(deep, "PNG", transparency=257),
        key,
        _with_chunks(
            _encoded(image, "PNG"),
            (b"gAMA", struct.pack(">I", 100_000)),
            (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
            (b"acTL", struct.pack(">II", 1, 0)),
        ),
        _with_chunks(_encoded(image.convert("L"), "PNG"), (b"cICP", bytes((12, 13, 0, 1)))),
    ]


@functools.cache
def jpegs() -> list[bytes]:
    """JPEG files: plain, labelled, progressive, grey, CMYK, with a second picture."""
    image = Image.fromarray(_picture())
    return [
        _encoded(image, "JPEG", **_labels()),
        _encoded(image, "JPEG", progressive=True),
        _encoded(image.convert("L"), "JPEG"),
        _encoded(image.convert("CMYK"), "JPEG"),
        _encoded(image, "MPO", save_all=True, append_images=[image]),
    ]


@functools.cache
def other_images() -> list[bytes]:
    """Files of the other supported kinds."""
    image = Image.fromarray(_picture())
    deep = Image.fromarray(_picture()[..., 0].astype(np.uint16) * 257)
    pages = _encoded(image, "TIFF", save_all=True, append_images=[image], tiffinfo={254: 1})
    small, full = (struct.pack("<HHII", 254, 4, 1, kind) for kind in (1, 0))
    return [
        pages.replace(small, full, 1),
        _encoded(image, "TIFF"),
        _encoded(image, "TIFF", compression="tiff_lzw", **_labels()),
        _encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        _encoded(deep, "TIFF"),
        _encoded(image.convert("CMYK"), "TIFF"),
        _encoded(image, "WEBP", **_labels()),
        _encoded(image.convert("RGBA"), "WEBP", lossless=True),
        _encoded(image, "BMP"),
        _encoded(image.quantize(16), "GIF"),
    ]


@functools.cache
def specs() -> list[bytes]:
    """Spec files: flat, a grid, and one with digests."""
    flat = """# a study
content = ["c.png", "d.png"]
style = "s.png"
content_layer = ["conv4_2", "conv2_2"]
style_layers = ["conv1_1+conv2_1", "conv1_1:20+conv4_1:0.05"]
init = ["noise", "i.png"]
alpha_beta = [1e-3, 0, 0.1]
seed = ["0:4", 9]
steps = [10, 20]
size = "64x48"
pool = "max"
noise_std = 2.0
"""
    grids = """content = "c.png"
style = ["s.png", "t.png"]
optimizer = "adam"
size = 64
[[grid]]
zip = ["seed", "alpha_beta"]
seed = [1, 2]
alpha_beta = [1e-3, 1e-2]
[[grid]]
learning_rate = [1, 10.5]
"""
    checked = f"""preset = "demo"
steps = 7
fast = false
out = "runs/x"
quiet = true
[digests]
"c.png" = "{"0" * 64}"
"""
    return [text.encode() for text in (flat, grids, checked)]


@functools.cache
def weight_files() -> list[bytes]:
    """The first layer of VGG19 in every supported layout, in HDF5's old form and its new one."""
    kernel, bias = np.full((3, 3, 3, 64), 0.5, np.float32), np.full(64, 0.25, np.float32)
    table, indices = np.linspace(-1, 1, 256, dtype=np.float32), np.full(kernel.shape, 7, np.uint8)
    layouts = (
        {"conv1_1/indices": indices, "conv1_1/codebook": table, "conv1_1/bias": bias},
        {"conv1_1/kernel": kernel, "conv1_1/bias": bias},
        {"block1_conv1/block1_conv1_W_1:0": kernel, "block1_conv1/block1_conv1_b_1:0": bias},
    )
    made = []
    for version in ("earliest", "v110"):
        for layout in layouts:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w", libver=(version, "v110")) as file:
                for name, values in layout.items():
                    packed = {"compression": "gzip", "shuffle": True} if values.ndim > 1 else {}
                    file.create_dataset(name, data=values, **packed)
            made.append(buffer.getvalue())
    return made


@functools.cache
def target_files() -> list[bytes]:
    """Targets of a layer, stored and packed."""
    features = np.abs(np.sin(np.arange(200 * 64, dtype=np.float32).reshape(200, 64)))
    made = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(
            buffer,
            **{name: np.array("0" * 8) for name in npz.MADE_FOR},
            **{"format": np.array(npz.FORMAT), "positions/conv1_1": np.int64(200)},
            **{"gram/conv1_1": features.T @ features / 200, "mean/conv1_1": features.mean(0)},
        )
        made.append(buffer.getvalue())
    return made


@functools.cache
def chunk_files() -> list[bytes]:
    """A chunk as it is written, and the same in HDF5's old form, which has fewer checksums."""
    cells, snapshots, steps, names = 2, (2, 4), 5, ("conv1_1", "conv2_1")
    curve = np.arange(cells * steps, dtype=np.float32).reshape(cells, steps)
    result = ChunkResult(
        cell=np.arange(cells, dtype=np.int64),
        image=np.broadcast_to(_picture(), (cells, len(snapshots), *_picture().shape)).copy(),
        snapshot=snapshots,
        step=tuple(range(steps)),
        layer=names,
        curves=dict.fromkeys(tables.LOSSES, curve),
        style_layer_loss=np.stack([curve, curve], -1),
        diverged_step=np.full(cells, -1, np.int64),
        loss_best=curve[:, -1],
        step_best=np.full(cells, 4, np.int64),
        evaluations=np.full(cells, 5, np.float32),
        steps=np.full(cells, 4, np.int64),
        loss_final=np.ones((cells, 3), np.float32),
    )
    new = chunk_bytes([result], width=1)
    buffer = io.BytesIO()
    with h5py.File(io.BytesIO(new)) as source, h5py.File(buffer, "w", libver="earliest") as old:
        old.attrs.update(source.attrs)
        for name in source:
            group = old.create_group(name)
            group.attrs.update(source[name].attrs)
            for key, values in source[name].items():
                group[key] = values[()]
    return [new, buffer.getvalue()]


# --- mutation -------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def mutated(data: bytes, other: bytes, random: Random) -> bytes:
    """`data` after one to four changes; some of them bring in a piece of `other`."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(data) + 1)
        end = at + random.choice((1, 2, 4, 16, 64, 512))
        where = random.randrange(len(other) + 1)
        change = random.randrange(10)
        if change == 0:  # another byte
            data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
        elif change == 1:  # another bit
            bit = 1 << random.randrange(8)
            data = data[:at] + bytes(byte ^ bit for byte in data[at : at + 1]) + data[at + 1 :]
        elif change in (2, 3):  # another number, in place or in between
            form = random.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
            size = struct.calcsize(form)
            word = struct.pack(form, random.choice(NUMBERS) & (2 ** (8 * size) - 1))
            data = data[:at] + word + data[at + (size if change == 2 else 0) :]
        elif change == 4:  # a piece removed
            data = data[:at] + data[end:]
        elif change == 5:  # a piece twice
            data = data[:end] + data[at:]
        elif change in (6, 7):  # a piece of another file, in place or in between
            data = data[:at] + other[where : where + end - at] + data[end if change == 6 else at :]
        elif change == 8:  # the rest of another file
            data = data[:at] + other[where:]
        else:
            data = data[:at]
    return data


def mutated_png(data: bytes, other: bytes, random: Random) -> bytes:
    """A changed PNG, mostly with corrected checksums, so that its chunks are read."""
    data = mutated(data, other, random)
    return data if random.random() < 0.3 else _with_checksums(data)


def _with_checksums(data: bytes) -> bytes:
    """A PNG file with correct checksums."""
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + size]
        out.append(data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + size
    return b"".join(out)


VALUES = (
    "0 -1 1 2 31 32 8192 4294967295 4294967296 9223372036854775807 1e-3 1e400 -0.0 nan inf -inf true false",
    f"0x{'f' * 40} {'9' * 5000} 0x{'f' * 5000} 2026-01-01 12:00:00 2026-01-01T00:00:00Z",
    "'' 'a' '0:4' '0:99999' '4:0' '1e39' '0.1x' '64x64' '../x' '/etc/passwd' '-rf' 'noise' 'conv1_1'",
    "'conv9_9' 'conv1_1:nan' 'conv1_1+conv1_1' 'lbfgs' 'adam' 'decay' 'demo' 'tradeoff' 'bf16' '\\u0000'",
    r'"\u0000" "\u001b[2J" "\U0010ffff" "\n" [] [[]] [[1]] [1,1] [true] {} {a=1}',
    "{a={b={c={d={e={f={g={h={i=1}}}}}}}}}",
)
"""Values that may follow a key, separated by spaces."""


def mutated_targets(data: bytes, other: bytes, random: Random) -> bytes:
    """An archive that is corrupted as a whole, or one of its entries, with checksums that are right."""
    if random.random() < 0.3:
        return mutated(data, other, random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as made:
        names = archive.namelist()
        spoilt = random.choice(names)
        for name in names:
            entry = archive.read(name)
            if name == spoilt:
                head = entry[:128]
                entry = (
                    mutated(head, head, random) + entry[128:]
                    if random.random() < 0.7
                    else (mutated(entry, archive.read(random.choice(names)), random))
                )
            made.writestr(name, entry)
    return buffer.getvalue()


def mutated_spec(data: bytes, other: bytes, random: Random) -> bytes:
    """A spec with other keys, other values, other lines; now and then with other bytes."""
    if random.random() < 0.2:
        return mutated(data, other, random)
    lines = data.decode().splitlines()
    values = " ".join(VALUES).split()
    keys = (*settings.SWEEP_KEYS, *settings.OPTION_KEYS, *PLANNED, *RETIRED)
    keys += ("zip", "sede", "a.b.c", '""')
    for _ in range(random.choice((1, 1, 2))):
        at = random.randrange(len(lines))
        key, equals, value = lines[at].partition(" = ")
        kind = random.randrange(6)
        if kind < 3:
            value = random.choice(values)
            value = value if random.random() < 0.6 else f"[{value}, {random.choice(values)}]"
            lines[at] = f"{key if equals else random.choice(keys)} = {value}"
        elif kind == 3:
            lines[at] = f"{random.choice(keys)} = {value if equals else random.choice(values)}"
        elif kind == 4:
            table = random.choice(("[[grid]]", "[digests]", "[grid]", "[seed]", f"[{'a.' * 400}a]"))
            lines.insert(at, table)
        elif len(lines) > 1:
            del lines[at]
    return "\n".join(lines).encode()


# --- reading --------------------------------------------------------------------------------------


def _read_image(path: Path) -> None:
    picture = decode.read(str(path))
    height, width, channels = picture.pixels.shape
    assert picture.pixels.dtype == np.uint8
    assert channels == 3
    assert min(height, width) >= MIN_EDGE_PX
    assert height * width <= decode.MAX_PIXELS


def _read_spec(path: Path) -> None:
    sweep = assemble({"spec": str(path)}).sweep
    assert resolve(sweep) == sweep
    again = path.with_name("again.toml")
    again.write_text(to_toml(sweep, sweep.digests), "utf-8")
    read = assemble({"spec": str(again)}).sweep
    for name in settings.SWEEP_KEYS:
        unused = name in settings.AXES and sweep.grid and all(name in table for table in sweep.grid)
        assert unused or getattr(read, name) == getattr(sweep, name), name


def _read_targets(path: Path) -> None:
    for of in npz.read_targets(str(path)).layers.values():
        assert np.isfinite(of.gram).all()
        assert (of.gram == of.gram.T).all()


def _read_weights(path: Path) -> None:
    kernel, bias = weights.load(str(path), taps=["conv1_1"]).layers["conv1_1"]
    assert (kernel.shape, bias.shape) == ((3, 3, 3, 64), (64,))
    assert kernel.dtype == bias.dtype == np.float32
    assert np.isfinite(kernel).all()
    assert np.isfinite(bias).all()


def _read_chunk(path: Path) -> None:
    for part in read_chunk(path):
        cells, steps, names = len(part.cell), len(part.step), len(part.layer)
        assert part.image.shape[:2] == (cells, len(part.snapshot))
        assert part.image.shape[4:] == (3,)
        assert part.image.dtype == np.uint8
        for name in tables.LOSSES:
            assert part.curves[name].shape == (cells, steps), name
        assert part.style_layer_loss.shape == (cells, steps, names)
        for name in PER_CELL:
            assert getattr(part, name).shape == (cells,), name
        assert part.loss_final.shape == (cells, 3)


@dataclass(frozen=True)
class Kind:
    """One kind of file: good ones, their reader, and the way they are corrupted."""

    good: Callable[[], list[bytes]]
    read: Callable[[Path], None]
    spoil: Callable[[bytes, bytes, Random], bytes] = mutated

    def spoilt(self, random: Random) -> bytes:
        """A good file after some changes."""
        return self.spoil(random.choice(self.good()), random.choice(self.good()), random)


def outcome_of(read: Callable[[Path], None], path: Path) -> str:
    """The outcome of reading a file, VALID or ONE_LINE; raises what its reader should not raise."""
    try:
        read(path)
    except JaxstyleError as error:
        text = str(error)
        assert text.isprintable(), text
        assert len(text) <= errors.MAX_LINE + 10
        return ONE_LINE
    return VALID


KINDS = {
    "png": Kind(pngs, _read_image, mutated_png),
    "jpeg": Kind(jpegs, _read_image),
    "other images": Kind(other_images, _read_image),
    "toml": Kind(specs, _read_spec, mutated_spec),
    "hdf5 weights": Kind(weight_files, _read_weights),
    "hdf5 chunk": Kind(chunk_files, _read_chunk),
    "targets": Kind(target_files, _read_targets, mutated_targets),
}


# --- many files -----------------------------------------------------------------------------------


def file_of(kind: str, number: int) -> bytes:
    """The file with a given number."""
    return KINDS[kind].spoilt(Random(f"{kind} {number}"))


def _read_many(
    kind: str,
    read: Callable[[Path], None],
    first: int,
    stop: int,
    results: multiprocessing.connection.Connection,
) -> None:
    """Read the files numbered [first, stop) and send the outcome of each; run in a separate process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile(buffering=0) as noise:
        os.dup2(noise.fileno(), 2)  # messages of C libraries would add a second line
        path = Path(folder) / "file"
        for number in range(first, stop):
            path.write_bytes(file_of(kind, number))
            signal.alarm(SECONDS)
            try:
                outcome, why = outcome_of(read, path), ""
            except BaseException:
                outcome, why = FINDING, traceback.format_exc(limit=-3)
            signal.alarm(0)
            if size := noise.seek(0, os.SEEK_END):
                noise.seek(0)
                outcome, why = FINDING, f"on stderr: {noise.read(min(size, 200))!r}"
                noise.seek(0)
                noise.truncate()
            results.send((outcome, why))


def outcomes(
    kind: str, files: int, read: Callable[[Path], None] | None = None
) -> Iterator[tuple[str, str]]:
    """The outcome of each of `files` files, and the reason if it is wrong; `read` replaces the reader."""
    context = multiprocessing.get_context("spawn")
    reader, number = read or KINDS[kind].read, 0
    while number < files:
        results, sender = context.Pipe(duplex=False)
        process = context.Process(target=_read_many, args=(kind, reader, number, files, sender))
        process.start()
        sender.close()
        try:
            while number < files:
                found = results.recv()
                number += 1
                yield found
        except EOFError:  # the interpreter crashed
            process.join()
            number += 1
            why = f"took over {SECONDS} s" if process.exitcode == -signal.SIGALRM else "brought Python down"
            yield FINDING, f"{why} (exit {process.exitcode})"
        process.join()


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m tests.fuzz`; 1 if a reader did anything but return a result or raise one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="how many in all (10000)")
    parser.add_argument("--kind", choices=KINDS, help="one kind only")
    parser.add_argument("--keep", type=Path, help="a folder for the files of findings")
    given = parser.parse_args(arguments)
    kinds = [given.kind] if given.kind else list(KINDS)
    total: Counter[str] = Counter()
    print(f"{'kind':14}{'files':>8}{'valid':>8}{'one line':>10}{'tracebacks':>12}", flush=True)
    for index, kind in enumerate(kinds):
        files = given.files // len(kinds) + (index < given.files % len(kinds))
        count: Counter[str] = Counter()
        for number, (outcome, why) in enumerate(outcomes(kind, files)):
            count[outcome] += 1
            if outcome == FINDING and count[FINDING] <= SHOWN:
                print(f"{kind} {number}: {why.strip()}", file=sys.stderr, flush=True)
                if given.keep:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    (given.keep / f"{kind.replace(' ', '-')}-{number}").write_bytes(file_of(kind, number))
        total += count
        print(_row(kind, count), flush=True)
    print(_row("all", total), flush=True)
    return 1 if total[FINDING] else 0


def _row(kind: str, count: Counter[str]) -> str:
    numbers = count[VALID], count[ONE_LINE], count[FINDING]
    return f"{kind:14}{sum(numbers):>8}{numbers[0]:>8}{numbers[1]:>10}{numbers[2]:>12}"


if __name__ == "__main__":
    sys.exit(main())
