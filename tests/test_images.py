"""Images: sizes, the network's space, saving.

For the files that are read or refused see test_bad_inputs.py, test_containers.py and test_colour.py.
"""

import contextlib
import hashlib
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import random_image
from PIL import Image, ImageOps

from jaxstyle.inputs import decode, encode
from jaxstyle.inputs.preprocess import mean_image, to_network
from jaxstyle.inputs.resize import resize, target_shape
from jaxstyle.spec.errors import JaxstyleError

PIXELS = random_image(40, 60, 0)


def test_an_image_of_its_target_size_is_not_touched():
    assert resize(PIXELS, 60) is PIXELS
    assert resize(PIXELS, (60, 40)) is PIXELS


def test_the_longest_edge_rules_and_the_other_is_rounded():
    for shape, size, expected in (
        ((40, 60), 64, (43, 64)),
        ((768, 1024), 192, (144, 192)),
        ((300, 451), 192, (128, 192)),
        ((1, 500), 100, (1, 100)),
        ((64, 64), 32, (32, 32)),
    ):
        assert target_shape(size, shape) == expected
    assert target_shape((48, 32), (7, 9)) == (32, 48)


def test_resizing_is_pillows_lanczos_in_8_bits():
    expected = np.asarray(Image.fromarray(PIXELS).resize((48, 32), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(resize(PIXELS, 48), expected)
    fitted = ImageOps.fit(Image.fromarray(PIXELS), (50, 70), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(resize(PIXELS, (50, 70)), np.asarray(fitted))


def test_the_network_sees_bgr_minus_the_mean():
    image = np.array([[[123.68, 116.779, 103.939], [124.68, 116.779, 103.939]]], np.float32)
    np.testing.assert_allclose(to_network(image), [[[0, 0, 0], [0, 0, 1]]], atol=1e-5)
    assert not np.any(to_network(mean_image(3, 4)))


def test_saved_pixels_are_rounded_half_to_even_and_clipped():
    image = np.array([-7, -0.5, 0.5, 1.5, 2.5, 254.5, 255.5, 1e9], np.float32).reshape(1, 1, 8)[..., :3]
    np.testing.assert_array_equal(encode.to_uint8(image), [[[0, 0, 0]]])
    image = np.array([[[1.5, 2.5, 254.5], [255.5, 1e9, 0.51]]], np.float32)
    np.testing.assert_array_equal(encode.to_uint8(image), [[[2, 2, 254], [255, 255, 1]]])


def test_png_keeps_every_pixel():
    again = np.asarray(Image.open(io.BytesIO(encode.png_bytes(PIXELS))))
    np.testing.assert_array_equal(again, PIXELS)


def test_a_picture_carries_the_digest_of_its_file(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    assert decode.read(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


# --- threads --------------------------------------------------------------------------------------


def test_reading_in_threads_leaves_stderr_and_warnings_to_everyone(tmp_path, capfd):
    """Half the files are torn: libtiff and Pillow print messages about them, and none gets through."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    torn = bytearray(buffer.getvalue())
    torn[1000] ^= 0xFF
    (tmp_path / "good.tif").write_bytes(buffer.getvalue())
    (tmp_path / "torn.tif").write_bytes(torn)
    before = os.readlink("/proc/self/fd/2"), list(warnings.filters), warnings.showwarning
    said = [f"line {number}\n" for number in range(300)]

    def read(_):
        np.testing.assert_array_equal(decode.read(str(tmp_path / "good.tif")).pixels, PIXELS)
        with pytest.raises(JaxstyleError):
            decode.read(str(tmp_path / "torn.tif"))

    with ThreadPoolExecutor(5) as pool:
        reads = [pool.submit(read, number) for number in range(100)]
        for line in said:
            os.write(2, line.encode())
        for done in reads:
            done.result()
    assert (os.readlink("/proc/self/fd/2"), list(warnings.filters), warnings.showwarning) == before
    assert capfd.readouterr().err.splitlines(keepends=True) == said


def test_the_handlers_of_libtiff_are_put_back():
    setters = decode._libtiff_setters()
    if not setters:
        pytest.skip("this Pillow has its libtiff inside")

    def handlers():
        found = [setter(None) for setter in setters]
        for setter, handler in zip(setters, found, strict=True):
            setter(handler)
        return found

    before = handlers()
    with contextlib.suppress(KeyError), decode._quiet():
        within = handlers()
        raise KeyError
    assert within == [None, None]
    assert handlers() == before
    assert all(before)


# --- pixels that are no files ---------------------------------------------------------------------


def test_pixels_in_memory_are_those_of_the_same_file(tmp_path):
    pixels = random_image(32, 40, 3)
    for mode in ("RGB", "L", "RGBA", "P", "LA", "1"):
        picture = Image.fromarray(pixels)
        if "A" in mode:
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        picture = picture.convert(mode)
        picture.save(tmp_path / "x.png")
        expected = decode.read(str(tmp_path / "x.png")).pixels
        np.testing.assert_array_equal(decode.from_memory("x", picture), expected, mode)
        if mode in ("RGB", "L", "RGBA"):
            np.testing.assert_array_equal(decode.from_memory("x", np.asarray(picture)), expected, mode)
    np.testing.assert_array_equal(decode.from_memory("x", pixels[..., :1])[..., 2], pixels[..., 0])


KINDS = {
    "(h, w)": np.s_[..., 0],
    "(h, w, 1)": np.s_[..., :1],
    "(h, w, 3)": np.s_[..., :3],
    "(h, w, 4)": np.s_[:],
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_any_library_and_floats_by_name_are_the_same_pixels(kind):
    import jax.numpy as jnp

    rgba = np.random.default_rng(4).integers(0, 256, (20, 24, 4), np.uint8)
    given = rgba[KINDS[kind]]
    colour = np.broadcast_to(given.reshape(20, 24, -1)[..., :3], (20, 24, 3)).astype(np.float64)
    alpha = given[..., 3:] / 255 if kind == "(h, w, 4)" else 1.0
    found = decode.from_memory("x", given)
    assert np.abs(found - (colour * alpha + 255 * (1 - alpha))).max() <= 1  # on white, as whole levels
    np.testing.assert_array_equal(decode.from_memory("x", jnp.asarray(given)), found)
    np.testing.assert_array_equal(decode.from_memory("x", given[::-1])[::-1], found)
    for floats in (given.astype(np.float64), jnp.asarray(given, jnp.float32), given.astype(np.float16)):
        with pytest.raises(
            JaxstyleError, match=r"^x: is an array of float.*; give uint8.*float_0_255=True$"
        ):
            decode.from_memory("x", floats)
        np.testing.assert_array_equal(decode.from_memory("x", floats, float_0_255=True), found)
    # Halves go to the even level, as where pictures are saved.
    halves = decode.from_memory("x", np.full((20, 24), 2.5), float_0_255=True)
    assert (halves == 2).all()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.full((20, 24), 255.5), "has values from 255.5 to 255.5; float_0_255 takes 0 to 255"),
        (np.full((20, 24), np.nan), "has values from nan to nan"),
        (np.full((20, 24), -1.0), "has values from -1 to -1"),
        (np.zeros((20, 24), bool), "is an array of bool (20, 24); give uint8"),
        (np.zeros((20, 24), np.int64), "is an array of int64 (20, 24); give uint8"),
        (np.zeros((20, 24), np.complex64), "is an array of complex64 (20, 24); give uint8"),
        (np.zeros((20, 24, 2)), "give uint8, (h, w, 3) in RGB, (h, w) in grey or (h, w, 4)"),
        (np.zeros((0, 24, 3)), "is an array of float64 (0, 24, 3)"),
        (np.zeros((2, 20, 24, 3)), "is an array of"),
        (np.array([["a"]]), "is an array of <U1 (1, 1)"),
        (np.array([[None]]), "is an array of object (1, 1)"),
    ],
    ids=lambda value: f"{value.dtype}-{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_what_are_no_pixels_is_one_short_line(value, why):
    for floats in (False, True) if value.dtype.kind != "f" else (True,):
        with pytest.raises(JaxstyleError) as error:
            decode.from_memory("x", value, float_0_255=floats)
        assert str(error.value).startswith("x: ")
        assert why in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 160


def test_a_picture_opened_by_its_user_is_turned_and_converted_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_image(32, 40, 3)).save(tmp_path / "x.jpg", exif=exif)
    with Image.open(tmp_path / "x.jpg") as picture:
        found = decode.from_memory("x", picture)
    np.testing.assert_array_equal(found, decode.read(str(tmp_path / "x.jpg")).pixels)


def test_an_image_of_a_user_is_not_changed_by_reading_it():
    image = Image.fromarray(np.linspace(0, 65535, 48 * 48).astype(np.uint16).reshape(48, 48))
    image.info["transparency"] = 30_000
    first, second = (decode.from_memory("content", image) for _ in range(2))
    assert image.info == {"transparency": 30_000}
    np.testing.assert_array_equal(first, second)
