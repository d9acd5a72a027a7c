"""Style targets as files: `.npz` archives of NumPy, of which nothing is trusted unchecked.

Entries, in symbols of `cell.losses`, for every layer NAME of a file:

    gram/NAME       float32 (N, N), the second moments A = F^T F / M
    mean/NAME       float32 (N,), the mean mu of F over its positions
    positions/NAME  int64, M; over several images their sum
    gram_sd/NAME, mean_sd/NAME   standard deviations over several images

and for the whole file `format`, the network, pooling and padding that it was made with, `weights_sha256` of
its weights, `colour` if it is `grey`, and perhaps `spectrum`, complex64 (h, w, 3), the discrete Fourier
transform of the image's RGB.

Nothing is ever unpickled. An entry is unpacked only after its header has said that it has the one shape
that it may have, and only if the archive says that it is no longer than that.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.lib import format as npy

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import used_values
from jaxstyle.spec.settings import Sweep
from jaxstyle.vgg import layers

FORMAT = "jaxstyle-targets-1"
KINDS = ("pool", "padding")
"""The axes that targets are made for one value of."""
OF_COLOURS = ("free", "grey")
"""Values of `TargetFile.colour`."""
MADE_FOR = ("network", "pool", "padding", "weights_sha256")
"""Entries on what a file was made with, which a run must have too."""
MAX_FILE_BYTES = 512 * 2**20
MAX_ENTRIES = 1000
MAX_TEXT_BYTES = 4096
HEADER_BYTES = 4096
"""The most bytes of an entry beside its values."""
ROUNDING = 1e-4
"""The part of a matrix' largest entry by which it may be unsymmetric, and of its largest eigenvalue by
which others may be negative: float32 matrices of up to 512 rows are at most 3e-5 off."""
GREY_LEVEL = 1.0
"""The most by which the image of a spectrum may lie outside of its range, or have an imaginary part."""
SEVERAL = ("gram_sd", "mean_sd")
_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    SyntaxError,
    Warning,
)
"""Exceptions that Python's and NumPy's readers raise for damaged files."""
MEND = "python -m jaxstyle.targets makes a file that fits"


class Statistics(NamedTuple):
    """The statistics of one layer."""

    gram: Float[np.ndarray, "n n"]
    """A."""
    mean: Float[np.ndarray, " n"]
    """mu."""
    positions: int = 0
    """M, over several images their sum; 0 if not known."""
    gram_sd: Float[np.ndarray, "n n"] | None = None
    """Standard deviation of A over several images."""
    mean_sd: Float[np.ndarray, " n"] | None = None
    """Standard deviation of mu over several images."""


@dataclass(frozen=True)
class TargetFile:
    """The targets in a file, or those that are to be in one."""

    layers: Mapping[str, Statistics]
    made_for: Mapping[str, str]
    """Values of the entries in `MADE_FOR`."""
    spectrum: np.ndarray | None = None
    """The discrete Fourier transform of the image, complex64 (h, w, 3)."""
    colour: str = "free"
    """The colours of the images, as `--colour` has them: `free`, or `grey` for their lumas."""
    sha256: str = field(default="", compare=False)
    """SHA-256 of the file."""


def read_targets(path: str, taps: Iterable[str] | None = None) -> TargetFile:
    """The targets in a file at some layers, all of its own if None.

    Raises:
        JaxstyleError: for anything but a file of this format whose matrices are finite, symmetric and, but
            for rounding, positive semidefinite.
    """
    data = _read_bytes(path)
    if not data.startswith(b"PK"):
        raise JaxstyleError(path, f"is no .npz file of NumPy; {MEND}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy's, of headers that it has to guess
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            if len(names) > MAX_ENTRIES:
                raise JaxstyleError(path, f"has {len(names)} entries; the limit is {MAX_ENTRIES}: {MEND}")
            entries = _Entries(path, archive, names)
            if (kind := entries.text("format")) != FORMAT:
                raise JaxstyleError(path, f"has format {kind!r}; it must be {FORMAT!r}: {MEND}")
            made_for = {name: entries.text(name) for name in MADE_FOR}
            found, transform = _layers(path, entries, taps), entries.transform("spectrum")
            colour = entries.text("colour") if "colour" in names else "free"
            if colour not in OF_COLOURS:
                why = f"colour is {colour!r}; it must be one of {', '.join(OF_COLOURS)}: {MEND}"
                raise JaxstyleError(path, why)
    except JaxstyleError:
        raise
    except MemoryError:
        raise JaxstyleError(path, "needs more memory than is available; make it smaller") from None
    except _ERRORS as error:
        raise JaxstyleError(path, f"is damaged or cut short; make it again: {error}") from None
    return TargetFile(found, made_for, transform, colour, hashlib.sha256(data).hexdigest())


def _read_bytes(path: str) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise JaxstyleError(path, "is not a regular file; give a file of targets")
        if status.st_size > MAX_FILE_BYTES:
            raise JaxstyleError(path, f"has {status.st_size} bytes; the limit is {MAX_FILE_BYTES}: {MEND}")
        return Path(path).read_bytes()
    except OSError as error:
        raise JaxstyleError(
            path, f"cannot be read: {error.strerror or error}; give a file of targets"
        ) from None


class _Entries:
    """The arrays of an archive, each checked before it is unpacked."""

    def __init__(self, path: str, archive: zipfile.ZipFile, names: set[str]):
        self.path, self.names = path, names
        self._archive = archive

    def _values(
        self, name: str, kinds: str, shapes: tuple[tuple[int, ...], ...] | None, most: int
    ) -> np.ndarray:
        """The array of an entry, of a kind of NumPy's types and, if they are given, one of some shapes."""
        if name not in self.names:
            raise JaxstyleError(self.path, f"has no entry {name}; {MEND}")
        info = self._archive.getinfo(f"{name}.npy")
        if info.file_size > most + HEADER_BYTES:
            why = f"{name} has {info.file_size} bytes; it may have {most} and a header: {MEND}"
            raise JaxstyleError(self.path, why)
        data = io.BytesIO(self._archive.read(info))
        version = npy.read_magic(data)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_column, dtype = read_header(data)
        if dtype.hasobject or dtype.kind not in kinds:
            raise JaxstyleError(self.path, f"{name} has type {dtype}, which it may not have; {MEND}")
        if shapes is not None and shape not in shapes:
            raise JaxstyleError(self.path, f"{name} has shape {shape}; it must be {shapes[0]}: {MEND}")
        left = data.getbuffer().nbytes - data.tell()
        if math.prod(shape) * dtype.itemsize != left:
            raise JaxstyleError(self.path, f"{name} has {left} bytes for shape {shape} of {dtype}; {MEND}")
        values = np.frombuffer(data.getvalue(), dtype, offset=data.tell())
        return values.reshape(shape, order="F" if by_column else "C")

    def transform(self, name: str) -> np.ndarray | None:
        """The discrete Fourier transform of an image, (h, w, 3); None if there is no such entry."""
        if name not in self.names:
            return None
        values = self._values(name, "c", None, MAX_FILE_BYTES)
        if values.ndim != 3 or values.shape[2] != 3 or not values.size:
            raise JaxstyleError(self.path, f"{name} has shape {values.shape}; it must be (h, w, 3): {MEND}")
        if not np.isfinite(values).all():
            raise JaxstyleError(self.path, f"{name} holds values that are not finite; {MEND}")
        image = np.fft.ifft2(values.astype(np.complex128), axes=(0, 1))
        if max(np.abs(image.imag).max(), np.abs(image.real - 127.5).max() - 127.5) > GREY_LEVEL:
            raise JaxstyleError(self.path, f"{name} is of no image with values from 0 to 255; {MEND}")
        return values.astype(np.complex64)

    def text(self, name: str) -> str:
        """A text."""
        value = self._values(name, "US", ((), (1,)), MAX_TEXT_BYTES).reshape(-1)[0]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def numbers(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Finite numbers of an exact shape, in float64."""
        values = self._values(name, "f", (shape,), 16 * math.prod(shape)).astype(np.float64)
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        if not np.isfinite(narrow).all():
            raise JaxstyleError(self.path, f"{name} holds values that are not finite in float32; {MEND}")
        return values

    def count(self, name: str) -> int:
        """A whole number of at least 1; 0 if there is no such entry."""
        if name not in self.names:
            return 0
        value = int(self._values(name, "iu", ((), (1,)), 16).reshape(-1)[0])
        if value < 1:
            raise JaxstyleError(self.path, f"{name} is {value}; it must be at least 1: {MEND}")
        return value


def _layers(path: str, entries: _Entries, taps: Iterable[str] | None) -> dict[str, Statistics]:
    own = layers.in_order(n.removeprefix("gram/") for n in entries.names if n.startswith("gram/"))
    if not own:
        raise JaxstyleError(path, f"has the targets of no layer; {MEND}")
    found = {}
    for name in own if taps is None else layers.in_order(taps):
        if name not in own:
            mend = f"leave it out, or make the file with --layers {' '.join((*own, name))}"
            raise JaxstyleError(path, f"has no layer {name}, only {', '.join(own)}; {mend}")
        n = layers.tap(name).channels
        gram = _positive(path, f"gram/{name}", entries.numbers(f"gram/{name}", (n, n)))
        mean = entries.numbers(f"mean/{name}", (n,))
        _check_mean(path, name, gram, mean)
        gram_sd, mean_sd = (
            entries.numbers(f"{kind}/{name}", shape) if f"{kind}/{name}" in entries.names else None
            for kind, shape in zip(SEVERAL, ((n, n), (n,)), strict=True)
        )
        for values in (gram_sd, mean_sd):
            if values is not None and values.min() < 0:
                raise JaxstyleError(path, f"a standard deviation of {name} is negative; {MEND}")
        found[name] = Statistics(gram, mean, entries.count(f"positions/{name}"), gram_sd, mean_sd)
    return found


def _positive(path: str, what: str, matrix: np.ndarray) -> np.ndarray:
    """A matrix, made exactly symmetric; JaxstyleError unless it is symmetric and PSD up to rounding."""
    apart, largest = float(np.abs(matrix - matrix.T).max()), float(np.abs(matrix).max())
    if apart > ROUNDING * largest:
        raise JaxstyleError(path, f"{what} is not symmetric; entries differ by up to {apart:.3g}: {MEND}")
    matrix = (matrix + matrix.T) / 2
    values = np.linalg.eigvalsh(matrix)
    if values[0] < -ROUNDING * max(values[-1], 0.0):
        why = f"has the eigenvalue {values[0]:.3g} beside {values[-1]:.3g}"
        raise JaxstyleError(path, f"{what} is not positive semidefinite: it {why}; {MEND}")
    return matrix


def _check_mean(path: str, name: str, gram: np.ndarray, mean: np.ndarray) -> None:
    """Raise JaxstyleError if no features have these moments: if A - mu mu^T is not PSD up to rounding."""
    if np.linalg.eigvalsh(gram - np.outer(mean, mean))[0] < -ROUNDING * max(np.trace(gram), 0.0):
        why = f"mean/{name} is too large for gram/{name}: their covariance is not positive semidefinite"
        raise JaxstyleError(path, f"{why}; {MEND}")


def check_made_for(
    path: str, targets: TargetFile, sweep: Sweep, weights_sha256: str, cells: Iterable[Any] | None = None
) -> None:
    """Raise JaxstyleError if targets were made with another network, pooling, padding or weights.

    Args:
        path: name of the file.
        targets: what is in it.
        sweep: the resolved sweep that it is for.
        weights_sha256: SHA-256 of the weights.
        cells: the cells of the sweep that use it; None for every value of an axis.
    """
    here = made_for(sweep, weights_sha256)
    if cells is not None:
        own = list(cells)
        here |= {name: tuple(dict.fromkeys(getattr(cell, name) for cell in own)) for name in KINDS}
    for name, own in targets.made_for.items():
        if {*here[name]} - {own}:
            found = " and ".join(here[name])
            if name == MADE_FOR[-1]:
                why = f"was made with weights of sha256 {own}, and these have {found}"
                raise JaxstyleError(path, f"{why}; give --weights with its file, or make it again")
            why = f"was made with {name} {own}, and here it is {found}"
            raise JaxstyleError(path, f"{why}; give --{name} {own}, or make it again")


def made_for(sweep: Sweep, weights_sha256: str) -> dict[str, tuple[str, ...]]:
    """The values of the entries in `MADE_FOR` that a resolved sweep has."""
    found = {name: used_values(sweep, name) for name in KINDS}
    return found | {"network": (sweep.network,), MADE_FOR[-1]: (weights_sha256,)}


def file_bytes(targets: TargetFile) -> bytes:
    """The bytes of a file of targets: those of the same targets are the same."""
    entries: dict[str, Any] = {"format": np.array(FORMAT)}
    entries |= {name: np.array(value) for name, value in targets.made_for.items()}
    for name, of in targets.layers.items():
        if of.positions:
            entries[f"positions/{name}"] = np.array(of.positions, np.int64)
        for kind in ("gram", "mean", *SEVERAL):
            if (values := getattr(of, kind)) is not None:
                entries[f"{kind}/{name}"] = np.asarray(values, np.float32)
    if targets.colour != "free":
        entries["colour"] = np.array(targets.colour)
    if targets.spectrum is not None:
        entries["spectrum"] = np.asarray(targets.spectrum, np.complex64)
    buffer = io.BytesIO()
    np.savez(buffer, **entries)
    return buffer.getvalue()
