"""Images: sizes, conversions with known pixels, saving, and everything that must be refused."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from conftest import random_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from jaxstyle import images
from jaxstyle.config import JaxstyleError

PIXELS = random_image(40, 60, 0)


def saved(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return str(path)


def test_an_image_of_its_target_size_is_not_touched():
    assert images.resize(PIXELS, 60) is PIXELS
    assert images.resize(PIXELS, (60, 40)) is PIXELS


def test_the_longest_edge_rules_and_the_other_is_rounded():
    for shape, size, expected in (
        ((40, 60), 64, (43, 64)),
        ((768, 1024), 192, (144, 192)),
        ((300, 451), 192, (128, 192)),
        ((1, 500), 100, (1, 100)),
        ((64, 64), 32, (32, 32)),
    ):
        assert images.target_shape(size, shape) == expected
    assert images.target_shape((48, 32), (7, 9)) == (32, 48)


def test_resizing_is_pillows_lanczos_in_8_bits():
    expected = np.asarray(Image.fromarray(PIXELS).resize((48, 32), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(images.resize(PIXELS, 48), expected)
    fitted = ImageOps.fit(Image.fromarray(PIXELS), (50, 70), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(images.resize(PIXELS, (50, 70)), np.asarray(fitted))


def test_the_network_sees_bgr_minus_the_mean():
    image = np.array([[[123.68, 116.779, 103.939], [124.68, 116.779, 103.939]]], np.float32)
    np.testing.assert_allclose(images.to_network(image), [[[0, 0, 0], [0, 0, 1]]], atol=1e-5)
    assert not np.any(images.to_network(images.mean_image(3, 4)))


def test_saved_pixels_are_rounded_half_to_even_and_clipped():
    image = np.array([-7, -0.5, 0.5, 1.5, 2.5, 254.5, 255.5, 1e9], np.float32).reshape(1, 1, 8)[..., :3]
    np.testing.assert_array_equal(images.to_uint8(image), [[[0, 0, 0]]])
    image = np.array([[[1.5, 2.5, 254.5], [255.5, 1e9, 0.51]]], np.float32)
    np.testing.assert_array_equal(images.to_uint8(image), [[[2, 2, 254], [255, 255, 1]]])


def test_png_keeps_every_pixel():
    again = np.asarray(Image.open(io.BytesIO(images.png_bytes(PIXELS))))
    np.testing.assert_array_equal(again, PIXELS)


# --- accepted, with a rule ---


def test_plain_rgb_is_read_as_it_is(tmp_path):
    picture = images.read(saved(tmp_path, Image.fromarray(PIXELS)))
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert picture.notes == ()
    assert len(picture.sha256) == 64


def test_grey_palette_and_one_bit_become_rgb(tmp_path):
    grey = Image.fromarray(PIXELS).convert("L")
    expected = np.asarray(grey.convert("RGB"))
    np.testing.assert_array_equal(images.read(saved(tmp_path, grey)).pixels, expected)
    palette = Image.fromarray(PIXELS).quantize(16)
    found = images.read(saved(tmp_path, palette)).pixels
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))
    bits = grey.convert("1")
    assert set(np.unique(images.read(saved(tmp_path, bits)).pixels)) == {0, 255}


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.dstack([PIXELS, np.full((40, 60), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    image = Image.fromarray(rgba)
    picture = images.read(saved(tmp_path, image))
    assert (picture.pixels[:10] == 255).all()
    np.testing.assert_array_equal(picture.pixels[10:], PIXELS[10:])
    assert picture.notes == ("its transparent parts laid on white",)


def test_16_bits_are_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(levels).save(path)
    np.testing.assert_array_equal(images.read(str(path)).pixels[..., 0], levels // 257)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = saved(tmp_path, Image.fromarray(PIXELS), exif=exif)
    np.testing.assert_array_equal(images.read(path).pixels, np.rot90(PIXELS, -1))


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.fromarray(PIXELS).convert("CMYK")
    path = saved(tmp_path, image, "print.tiff")
    np.testing.assert_array_equal(images.read(path).pixels, np.asarray(image.convert("RGB")))


def test_an_srgb_profile_changes_nothing_and_a_broken_one_is_ignored(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path, Image.fromarray(PIXELS), "srgb.png", icc_profile=profile)
    np.testing.assert_array_equal(images.read(path).pixels, PIXELS)
    path = saved(tmp_path, Image.fromarray(PIXELS), "odd.png", icc_profile=b"no profile at all" * 20)
    picture = images.read(path)
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert picture.notes == ("its colour profile could not be used and is ignored",)


# --- refused ---


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = (
        png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + png_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def png_of(pixels):
    return images.png_bytes(pixels)


def jpeg_of(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def animated(kind):
    frames = [Image.fromarray(np.roll(PIXELS, 5 * i, 1)) for i in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "A" * (80 * 2**20), zip=True)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def float_tiff(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 60), value, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def int_tiff():
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 60), 70_000, np.int32)).save(buffer, "TIFF")
    return buffer.getvalue()


def transparent():
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 40), (10, 20, 30, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def flipped_png():
    data = bytearray(png_of(PIXELS))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


REFUSED = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"this is no image", "not an image of a known kind"),
    "png header only": (lambda: png_of(PIXELS)[:40], ""),
    "half a png": (lambda: png_of(PIXELS)[: len(png_of(PIXELS)) // 2], "damaged or cut short"),
    "half a jpeg": (lambda: jpeg_of(PIXELS)[: len(jpeg_of(PIXELS)) // 2], "damaged or cut short"),
    "jpeg without its end": (lambda: jpeg_of(PIXELS)[:-2], "damaged or cut short"),
    "png with a flipped byte": (flipped_png, "damaged or cut short"),
    "bomb": (lambda: png_claiming(100_000, 100_000), "pixels"),
    "large": (lambda: png_claiming(10_000, 10_000), "pixels"),
    "sliver": (lambda: png_claiming(65_000, 1), "too small"),
    "zero wide": (lambda: png_claiming(0, 10), ""),
    "one pixel": (lambda: png_of(PIXELS[:1, :1]), "1x1 px is too small; both edges need 16 px"),
    "extreme aspect": (lambda: png_of(np.zeros((500, 1, 3), np.uint8)), "too small"),
    "animated gif": (lambda: animated("GIF"), "several frames"),
    "animated png": (lambda: animated("PNG"), "several frames"),
    "animated webp": (lambda: animated("WEBP"), "several frames"),
    "text bomb": (text_bomb, ""),
    "float tiff": (lambda: float_tiff(0.5), "floating-point pixels"),
    "NaN tiff": (lambda: float_tiff(np.nan), "floating-point pixels"),
    "32-bit tiff": (int_tiff, "32-bit pixels"),
    "transparent": (transparent, "fully transparent"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "not an image of a known kind"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known kind"),
    "pdf": (lambda: b"%PDF-1.7\n", "not an image of a known kind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_usable_image_is_refused_in_one_line(tmp_path, name):
    make, expected = REFUSED[name]
    path = tmp_path / "image.png"
    path.write_bytes(make())
    with pytest.raises(JaxstyleError) as error:
        images.read(str(path))
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert expected in text
    assert "\n" not in text
    assert "BytesIO" not in text


def test_paths_that_are_no_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, expected in (
        ("missing.png", "No such file"),
        ("", "is a directory"),
        ("pipe", "not a regular file"),
        ("loop", "symbolic links"),
    ):
        with pytest.raises(JaxstyleError, match=expected):
            images.read(str(tmp_path / name))
    with pytest.raises(JaxstyleError, match="not a regular file"):
        images.read("/dev/null")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["png", "jpeg"]),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 400),
)
def test_mutated_bytes_give_pixels_or_one_line(tmp_path, kind, edits, cut):
    data = bytearray(png_of(PIXELS[:20, :20]) if kind == "png" else jpeg_of(PIXELS[:20, :20]))
    for at, value in edits:
        data[at % len(data)] = value
    path = tmp_path / "mutated"
    path.write_bytes(bytes(data[: len(data) - cut]) if cut < 20 else bytes(data))
    try:
        picture = images.read(str(path))
    except JaxstyleError:
        pass  # any other exception fails the test
    else:
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape[2] == 3
