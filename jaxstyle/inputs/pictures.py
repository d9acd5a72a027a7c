"""The pictures of a run: contents, styles and starts at their sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from jaxstyle.inputs.decode import Picture, read
from jaxstyle.inputs.masks import Mask, check_fits, check_regions, read_mask, whole_mask
from jaxstyle.inputs.preprocess import luma, mean_image
from jaxstyle.inputs.recolour import matched
from jaxstyle.inputs.resize import check_edges, fit, halved, resize, target_shape
from jaxstyle.inputs.target_files import TargetFile, read_targets
from jaxstyle.plan.cells import Cell, Source, needs_balance
from jaxstyle.plan.masks import masks_of
from jaxstyle.plan.stages import coarser_stages, halved_shape, wrapping_multiple, wrapping_shape
from jaxstyle.spec.blends import is_blend, is_targets, parts_of, short_text
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.regions import MASKS, as_colour, region_name
from jaxstyle.spec.settings import Sweep
from jaxstyle.spec.tables import PADDINGS, TERMS
from jaxstyle.spec.values import RECOLOURED, parse_size
from jaxstyle.vgg import layers

SQUARE = (1, 1)
"""Shape, as far as proportions go, of a texture whose style has no image."""


def _refuse(path: str, error: JaxstyleError) -> None:
    raise error


def _tell_nobody(done: int, total: int) -> None:
    pass


class Pictures:
    """All images of a sweep, each read once, checked, and resized to the sizes at which it is used.

    Args:
        sweep: a resolved sweep.
        cells: its cells.
        in_memory: pixels of images without a file, by the absolute path that stands for each.
        unusable: called with the path of a content or style that cannot be used, and the error; if it
            returns, the image is left out, and so must be the cells that need it.
        on_read: called after each image with how many contents and styles have been read, and how many
            there are.

    Raises:
        JaxstyleError: for a file that cannot be used, is too small, or does not match `sweep.digests`, and
            for a content that cannot wrap as the padding asks.
    """

    def __init__(
        self,
        sweep: Sweep,
        cells: Iterable[Cell],
        *,
        in_memory: Mapping[str, UInt8[np.ndarray, "h w 3"]] | None = None,
        unusable: Callable[[str, JaxstyleError], None] = _refuse,
        on_read: Callable[[int, int], None] = _tell_nobody,
    ):
        self._in_memory = in_memory or {}
        self.grey = COLOURS[sweep.colour].grey
        """Whether all images are replaced by their luma."""
        size = parse_size(sweep.size)
        self.longest_px = size if isinstance(size, int) else max(size)
        """The longest edge of a content's target size, in px."""
        cells = tuple(cells)
        self.sha256: dict[str, str] = {}
        """SHA-256 of every file, or of the pixels of an image without a file, by path."""
        self.pixels_sha256: dict[str, str] = {}
        """SHA-256 of every image's pixels as decoded, by path."""
        self.notes: dict[str, tuple[str, ...]] = {}
        """Notes on changes to an image that a user might not expect, by path."""
        self.content: dict[str, UInt8[np.ndarray, "h w 3"]] = {}
        """Every content at its target size, by path."""
        self.coloured: dict[str, UInt8[np.ndarray, "h w 3"]] = {}
        """Every content at its target size in its own colours, by path, where pictures get its chroma."""
        self.style: dict[tuple[str, int | str], UInt8[np.ndarray, "h w 3"]] = {}
        """Every style image at its target sizes, in its own colours, by its path and a size."""
        self.targets: dict[str, TargetFile] = {}
        """The targets of every style that is a file of them, by path."""
        self.of_files: dict[str, UInt8[np.ndarray, "h w 3"]] = {}
        """The images of those files that have a spectrum, by the file's path."""
        self._starts: dict[tuple[str, tuple[int, int]], UInt8[np.ndarray, "h w 3"]] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        """(height, width) in px of pictures, by the path in `Cell.shaped_by`."""
        self._wrapped = {cell.shaped_by for cell in cells if PADDINGS[cell.padding].wraps}
        """The paths in `Cell.shaped_by` of pictures that go on at their opposite edges."""
        self._least_px = layers.least_edge_px(tap for cell in cells for tap in cell.taps)
        self._unusable, self._on_read = unusable, on_read  # while reading; workers are sent the rest
        self._decoded_shapes: dict[str, tuple[int, int] | None] = {}
        """(height, width) in px of textures' styles as decoded; None for one that is left out."""
        self._parts = {path for c in cells if is_blend(c.style) for path, _ in parts_of(c.style)}
        self._bad: set[str] = set()
        self.left_alone = {*map(region_name, (*sweep.leave, *sweep.hold))}
        """Names of regions without a style loss."""
        self.held = frozenset(map(region_name, sweep.hold))
        """Names of regions that keep the pixels of the content."""
        self.masks = masks_of(sweep)
        """Paths of masks, by the axis and the value of their image."""
        self._masks: dict[str, Mask] = {}
        self._filled = isinstance(size, tuple)
        self._original: dict[str, tuple[int, int]] = {}
        """(height, width) in px of contents and styles as decoded."""
        self._read(sweep, cells, size)

    def _read(self, sweep: Sweep, cells: tuple[Cell, ...], size: int | tuple[int, int]) -> None:
        sizes: dict[str, dict[int | str, None]] = {}
        self._style_taps: dict[str, set[str]] = {}
        for cell in cells:
            for (path, style_size, *_), _ in cell.style_parts:
                sizes.setdefault(path, {})[style_size] = None
                self._style_taps.setdefault(path, set()).update(cell.layer_weights)
        contents = dict.fromkeys(cell.content for cell in cells if cell.has_content)
        self._total = len(contents) + len(sizes)
        for path in contents:
            if (picture := self._usable(sweep, path, [size])) is not None:
                self.content[path] = resize(self._seen(picture), size)
                if COLOURS[sweep.colour].keeps_chroma:
                    self.coloured[path] = resize(picture.pixels, size)
                self._set_shape(sweep, path, self.content[path].shape[:2])
        for style in dict.fromkeys(cell.style for cell in cells if not cell.has_content):
            shapes = [self._texture_shape(sweep, path, sizes[path]) for path, _ in parts_of(style)]
            if None not in shapes:
                own = next((shape for shape in shapes if shape != SQUARE), SQUARE)
                self._set_shape(sweep, style, target_shape(size, own or SQUARE))
        cells = tuple(cell for cell in cells if cell.shaped_by in self._shapes)
        starts: dict[str, set[tuple[int, int]]] = {}
        for cell in cells:
            if cell.init not in ("noise", "content", RECOLOURED):
                path = cell.style if cell.init == "style" else cell.init
                starts.setdefault(path, set()).add(self.shape(cell))
            if cell.has_content and needs_balance(cell):
                for (path, *_), _ in cell.style_parts:
                    starts.setdefault(path, set()).add(self.shape(cell))
        for path in (path for path in sizes if path not in self._decoded_shapes):
            if is_targets(path):
                self._read_targets(sweep, path)
            elif (pixels := self._read_style(sweep, path, sizes[path])) is not None:
                self._fit(path, pixels, starts.pop(path, ()))
        files = {cell.init for cell in cells}
        for path in starts:
            if path in self.targets and path not in files:
                continue
            if path not in self._bad or path in files:  # a file to start from is never left out
                picture = self._decoded(path)
                self._note(sweep, path, picture)
                self._fit(path, self._seen(picture), starts[path])
        self._read_masks(sweep, cells)
        for cell in cells:
            self._check_equal_sizes(cell)
            if sweep.finish == "histogram":
                self._check_has_pixels(cell)
            if sweep.crops is not None:
                self._check_room(cell)
        self._unusable, self._on_read = _refuse, _tell_nobody

    @property
    def regions_of_masks(self) -> set[str]:
        """Names of the regions that any mask has."""
        return {name for mask in self._masks.values() for name in mask.names}

    def _read_masks(self, sweep: Sweep, cells: Iterable[Cell]) -> None:
        """Read the masks of `cells`, each of which must fit its image and have the regions of its pair."""
        renamed = {region_name(colour): name for colour, name in sweep.region_names}
        leave, hold = (tuple(map(region_name, names)) for names in (sweep.leave, sweep.hold))
        for cell in cells:
            if cell.regions != MASKS or any(image not in self._original for _, image in self._masked(cell)):
                continue
            of_content, *of_style = ((self.masks[of], of[1]) for of in self._masked(cell))
            for path, image in (of_content, *of_style):
                if path not in self._masks and (colour := as_colour(path)) is not None:
                    self._masks[path] = whole_mask(colour, renamed)
                elif path not in self._masks:
                    self._masks[path], picture = read_mask(path, renamed)
                    self._note(sweep, path, picture)
                check_fits(path, self._masks[path], image, self._original[image])
            masks = {path: self._masks[path].names for path, _ in of_style}
            check_regions(of_content[0], self._masks[of_content[0]].names, masks, leave, hold)

    @staticmethod
    def _masked(cell: Cell) -> list[tuple[str, str]]:
        """The axis and the path of every image of a cell that has a mask, its content first."""
        return [("content", cell.content), *(("style", path) for path, _ in parts_of(cell.style))]

    def mask(self, axis: str, path: str) -> Mask:
        """The mask of a content or of a style."""
        return self._masks[self.masks[axis, path]]

    def mask_maps(self, axis: str, path: str, shape: tuple[int, int]) -> Float[np.ndarray, "regions h w"]:
        """Maps of the regions of a content or of a style, at a size that it is used at."""
        filled = axis == "content" and self._filled
        return self.mask(axis, path).maps(*shape, filled=filled)

    def _check_equal_sizes(self, cell: Cell) -> None:
        """Raise JaxstyleError if a term of a cell needs pixels that its style does not have."""
        pixels = self.style.get((cell.style, cell.style_size))
        pixels = self.of_files.get(cell.style, pixels)
        for name in cell.terms:
            if TERMS[name].of == "style" and cell.style in self.targets and pixels is None:
                why = f"needs a style image, and {cell.style} has no spectrum; write it with --spectrum"
                raise JaxstyleError(TERMS[name].weight, f"{why}, or give 0")
            if TERMS[name].equal_sizes and pixels is not None and pixels.shape[:2] != self.shape(cell):
                (h, w), (height, width) = pixels.shape[:2], self.shape(cell)
                why = f"needs a style of the picture's size, {width}x{height}, and {cell.style} becomes"
                mend = f"crop it to that shape, or give --size {w}x{h}"
                raise JaxstyleError(TERMS[name].weight, f"{why} {w}x{h}; {mend}")

    def _check_has_pixels(self, cell: Cell) -> None:
        """Raise JaxstyleError unless a cell has a style, made of images, whose histogram it can get."""
        without = [path for path, _ in parts_of(cell.style) if is_targets(path)]
        if without or not cell.has_style:
            which = f"{without[0]} is no image" if without else "--style none has none"
            mend = "give --finish none or contrast"
            raise JaxstyleError("finish", f"histogram needs the pixels of a style, and {which}; {mend}")

    def _check_room(self, cell: Cell) -> None:
        """Raise JaxstyleError unless crops of a cell's style, of its picture's shape, can differ."""
        height, width = self.shape(cell)
        for (path, size, *_), _ in cell.style_parts:
            seen = (height, width) if (path, size) not in self.style else self.style[path, size].shape[:2]
            if is_targets(path) or not cell.has_style:
                continue
            if seen[0] < height or seen[1] < width or seen == (height, width):
                why = f"of {width}x{height} px leave no room in {path} at {seen[1]}x{seen[0]}"
                raise JaxstyleError("crops", f"{why}; give a larger --style-size")

    def _style_px(self, style_size: int | str) -> int:
        """The longest edge in px of the target size of a style."""
        return style_size if isinstance(style_size, int) else self.longest_px

    def _read_style(self, sweep: Sweep, path: str, sizes: Iterable[int | str]) -> np.ndarray | None:
        """The pixels of a style as decoded, which is kept at its target sizes; None if it is left out."""
        edges = {size: self._style_px(size) for size in sizes}
        picture = self._usable(sweep, path, edges.values())
        if picture is None:
            return None
        pixels = self._seen(picture)
        self.style |= {(path, size): resize(pixels, px) for size, px in edges.items()}
        return pixels

    def _texture_shape(self, sweep: Sweep, path: str, sizes: Iterable[int | str]) -> tuple[int, int] | None:
        """(height, width) in px of a texture's style, read if it is new; None if it is left out."""
        if path not in self._decoded_shapes:
            shape = None
            if is_targets(path):
                shape = SQUARE if self._read_targets(sweep, path) else None
            elif (pixels := self._read_style(sweep, path, sizes)) is not None:
                shape = pixels.shape[0], pixels.shape[1]
            self._decoded_shapes[path] = shape
        return self._decoded_shapes[path]

    def _read_targets(self, sweep: Sweep, path: str) -> bool:
        """Read a file of targets at the layers that its cells use; whether it is not left out."""
        try:
            found = read_targets(path, self._style_taps[path])
        except JaxstyleError as error:
            self._leave_out(path, error)
            return False
        check_digest(path, found.sha256, sweep.digests.get(path))
        self.sha256[path] = self.pixels_sha256[path] = found.sha256
        self.targets[path] = found
        if self.grey != (found.colour == "grey"):
            ours, mend = ("lumas", " --colour grey") if self.grey else ("colours", "")
            theirs = "lumas" if found.colour == "grey" else "colours"
            note = (
                f"has targets of {theirs} in a run of {ours}; python -m jaxstyle.targets{mend} makes others"
            )
            self.notes[path] = (note,)
        if found.spectrum is not None:
            pixels = np.fft.ifft2(found.spectrum, axes=(0, 1)).real.round().clip(0, 255).astype(np.uint8)
            self.of_files[path] = luma(pixels) if self.grey else pixels
        self._say_read()
        return True

    def _leave_out(self, path: str, error: JaxstyleError) -> None:
        if path in self._parts:
            error = error.with_mend("it is a part of a blend, written a.jpg+b.jpg or a.jpg:0.7+b.jpg:0.3")
        self._unusable(path, error)
        self._bad.add(path)

    def _say_read(self, more: int = 0) -> None:
        read = len(self.content) + len({path for path, _ in self.style}) + len(self.targets)
        self._on_read(read + more, self._total)

    def _usable(self, sweep: Sweep, path: str, sizes: Iterable[int | tuple[int, int]]) -> Picture | None:
        """A content or style as decoded, large enough for `sizes`; None if it is left out."""
        if path in self._bad:
            return None
        try:
            picture = self._decoded(path)
            for size in sizes:
                shape = target_shape(size, picture.pixels.shape[:2])
                check_edges(f"{path} at size {size}", *shape, self._least_px)
        except JaxstyleError as error:
            self._leave_out(path, error)
            return None
        self._note(sweep, path, picture)
        self._original[path] = picture.pixels.shape[0], picture.pixels.shape[1]
        self._say_read(1)
        return picture

    def _seen(self, picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of an image in the colours that it is used in."""
        return luma(picture.pixels) if self.grey else picture.pixels

    def _set_shape(self, sweep: Sweep, path: str, shape: tuple[int, ...]) -> None:
        """Keep the shape of the pictures that an image or a blend gives theirs, if it can be used."""
        (height, width), key = shape, path
        path = short_text(path) if is_blend(path) else path
        check_edges(f"{path} at size {sweep.size}", height, width, self._least_px)
        if key in self._wrapped:
            _check_wrapping(sweep, path, (height, width), self._least_px)
        self._shapes[key] = height, width

    def _fit(self, path: str, pixels: np.ndarray, shapes: Iterable[tuple[int, int]]) -> None:
        for shape in shapes:
            self._starts[path, shape] = fit(pixels, *shape)

    def _decoded(self, path: str) -> Picture:
        if (pixels := self._in_memory.get(path)) is not None:
            check_edges(Path(path).name, *pixels.shape[:2])
            return Picture(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())
        return read(path)

    def _note(self, sweep: Sweep, path: str, picture: Picture) -> None:
        """Keep what is told of an image that is used; its digest must be the one that the sweep has."""
        check_digest(path, picture.sha256, sweep.digests.get(path))
        self.sha256[path] = picture.sha256
        self.pixels_sha256[path] = hashlib.sha256(picture.pixels.tobytes()).hexdigest()
        if picture.notes:
            self.notes[path] = picture.notes

    def keep(self, cells: Iterable[Cell]) -> None:
        """Let go of every image that none of `cells` uses."""
        cells = tuple(cells)
        values = {value for cell in cells for value in (cell.content, cell.style, cell.init)}
        named = {path for value in values for path, _ in parts_of(value)}
        used = {image for cell in cells if cell.regions == MASKS for image in self._masked(cell)}
        named |= {mask for image, mask in self.masks.items() if image in used}
        of_paths = (self.sha256, self.pixels_sha256, self.notes, self.content, self.coloured)
        for of in (*of_paths, self.targets, self.of_files):
            for path in of.keys() - named:
                del of[path]
        self.style = {key: pixels for key, pixels in self.style.items() if key[0] in named}

    def shape(self, cell: Cell) -> tuple[int, int]:
        """(height, width) in px of a cell's image."""
        return self._shapes[cell.shaped_by]

    def style_pixels(self, source: Source) -> UInt8[np.ndarray, "h w 3"]:
        """A style image as the network sees it, for a part of `Cell.style_parts`."""
        path, size, *colours = source
        return self._in_colours(self.style[path, size], *colours)

    def fitted(self, path: str, shape: tuple[int, int], colours: str = "") -> UInt8[np.ndarray, "h w 3"]:
        """A style or start image fitted to `shape`, for cells of that shape.

        Args:
            path: the image.
            shape: (height, width) in px.
            colours: the content whose colours it takes, if any.
        """
        return self._in_colours(self._starts[path, shape], colours)

    def _in_colours(self, pixels: np.ndarray, content: str = "") -> UInt8[np.ndarray, "h w 3"]:
        """Pixels in the colours of a content, or as they are."""
        return matched(pixels, self.content[content]) if content else pixels

    def start(self, cell: Cell, coarser: int = 0) -> Float[np.ndarray, "h w 3"]:
        """The image that a cell starts from, before noise: for a noise start, the mean pixel everywhere.

        Args:
            cell: the cell.
            coarser: number of halvings by which its first stage is coarser than the full size.
        """
        if cell.init == "noise":
            return mean_image(*halved_shape(self.shape(cell), coarser), grey=self.grey)
        if cell.init in ("content", RECOLOURED):
            pixels = self.content[cell.content]
            if cell.init == RECOLOURED:
                pixels = matched(pixels, self.style_pixels(cell.style_source))
        else:
            of_style = cell.init == "style"
            path, colours = (cell.style, cell.coloured_by) if of_style else (cell.init, "")
            pixels = self.fitted(path, self.shape(cell), colours)
        return halved(pixels, coarser, wraps=PADDINGS[cell.padding].wraps).astype(np.float32)


def _check_wrapping(sweep: Sweep, path: str, shape: tuple[int, int], least_px: int) -> None:
    """Raise JaxstyleError unless a picture of `shape` can wrap in every stage of a resolved sweep."""
    coarser = coarser_stages(shape, sweep.pyramid or 0, least_px)
    multiple = wrapping_multiple(coarser, least_px)
    if shape[0] % multiple or shape[1] % multiple:
        height, width = wrapping_shape(shape, sweep.pyramid or 0, least_px)
        stages = f" ({least_px}, doubled for each coarser stage, of {coarser})" if coarser else ""
        raise JaxstyleError(
            "padding",
            f"circular needs sides that are multiples of {multiple} px{stages}, and {path} becomes"
            f" {shape[1]}x{shape[0]}; give --size {width}x{height}",
        )


def check_digest(path: str, sha256: str, expected: str | None) -> None:
    """Raise JaxstyleError if a file is not the one whose digest a spec gives."""
    if expected is not None and sha256 != expected:
        raise JaxstyleError(
            path, f"has sha256 {sha256}, not {expected}; restore it or drop it from [digests]"
        )
