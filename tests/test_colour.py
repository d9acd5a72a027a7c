"""Colours of files converted to sRGB, by what a profile or a PNG's numbers say, never by a name."""

import struct
import zlib

import numpy as np
import pytest
from conftest import random_image
from made_images import chunk, curve, encoded, profile, srgb_light, srgb_value, with_chunks
from PIL import Image, ImageCms

from jaxstyle.inputs import decode

PIXELS = random_image(40, 60, 0)
GREY = PIXELS[..., 0]
PALETTE = Image.fromarray(PIXELS).quantize(16)
DEEP = np.random.default_rng(3).integers(0, 65536, (40, 60)).astype(np.uint16)
PROFILED = "converted from its colour profile to sRGB"
UNUSABLE = "its colour profile could not be used and is ignored"
ON_WHITE = "its transparent parts are laid on white"

P3_TO_SRGB = np.array(
    [[1.2249401, -0.2249402, 0], [-0.0420569, 1.0420571, 0], [-0.0196376, -0.0786361, 1.0982735]]
)
"""Matrix from linear Display P3 to linear sRGB (CSS Color 4, 17)."""
P3_CHROMATICITIES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@pytest.fixture
def read(tmp_path):
    def run(data):
        (tmp_path / "file.png").write_bytes(data)
        return decode.read(str(tmp_path / "file.png"))

    return run


def of_light(light):
    return 255 * srgb_value(light)


def grey(levels):
    return np.repeat(levels[..., None], 3, -1)


def assert_near(picture, expected, levels, *notes):
    """Check levels: one rounding costs half a level; a profile's numbers and lcms's tables cost more."""
    assert np.abs(picture.pixels - expected).max() <= levels
    assert picture.notes == notes


def png(pixels=PIXELS, *chunks):
    return with_chunks(encoded(pixels, "PNG"), *chunks)


def gama(value):
    return chunk(b"gAMA", struct.pack(">I", value))


def chrm(*values):
    return chunk(b"cHRM", struct.pack(">8I", *values))


def cicp(*values):
    return chunk(b"cICP", bytes(values))


SRGB = chunk(b"sRGB", b"\0")

# --- profiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [20, 26, 42, 1024, 4096])
def test_an_srgb_profile_of_any_name_and_detail_touches_no_pixel(read, points):
    for name in ("c2", "sRGB IEC61966-2.1", "none"):
        picture = read(encoded(PIXELS, "PNG", icc_profile=profile(name, curve(points=points))))
        np.testing.assert_array_equal(picture.pixels, PIXELS)
        assert picture.notes == ()


def test_srgb_of_version_4_touches_no_pixel(read):
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert made[8] == 4
    assert_near(read(encoded(PIXELS, "PNG", icc_profile=made)), PIXELS, 0)
    assert_near(read(encoded(GREY, "PNG", icc_profile=made)), grey(GREY), 0)


@pytest.mark.parametrize(
    ("gamma", "name"), [(1.0, "GIMP built-in Linear sRGB"), (2.2, "sRGB"), (1.8, "sRGB IEC61966-2.1")]
)
def test_a_profile_that_is_called_srgb_is_converted_by_its_curve(read, gamma, name):
    expected = of_light((PIXELS / 255) ** (round(256 * gamma) / 256))
    picture = read(encoded(PIXELS, "PNG", icc_profile=profile(name, curve(gamma))))
    assert_near(picture, expected, 2, PROFILED)


def test_a_profile_of_other_primaries_is_converted_whatever_its_name_is(read):
    light = srgb_light(PIXELS / 255) @ P3_TO_SRGB.T
    made = profile("sRGB", curve(points=1024), "Display P3")
    assert_near(read(encoded(PIXELS, "PNG", icc_profile=made)), of_light(light), 2, PROFILED)
    light = (PIXELS / 255) ** (563 / 256)
    made = profile("Adobe RGB, not sRGB", curve(563 / 256), "Adobe RGB")
    picture = read(encoded(PIXELS, "PNG", icc_profile=made))
    assert picture.notes == (PROFILED,)
    near_grey = np.ptp(PIXELS.astype(int), axis=-1) < 4  # where primaries hardly matter
    assert np.abs(picture.pixels - of_light(light))[near_grey].max() <= 5


LA = np.dstack([GREY, GREY | 255])
LA16 = np.full((40, 60), 65535)


def test_a_grey_profile_gives_equal_pictures_with_and_without_opaque_alpha(read):
    made = profile("Gray Gamma 1.8", curve(1.8), None)
    expected = grey(of_light((GREY / 255) ** (461 / 256)))
    plain = read(encoded(GREY, "PNG", icc_profile=made))
    opaque = read(encoded(LA, "PNG", icc_profile=made))
    assert_near(plain, expected, 2, PROFILED)
    assert_near(opaque, plain.pixels, 0, PROFILED)


def test_grey_that_is_decoded_as_colours_is_converted_by_its_grey_profile(read):
    made = profile("Gray Gamma 1.8", curve(1.8), None)
    expected = grey(of_light((GREY / 255) ** (461 / 256)))
    assert_near(read(encoded(grey(GREY), "WEBP", lossless=True, icc_profile=made)), expected, 1, PROFILED)
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes() for row in np.dstack([GREY.astype(int) * 257, LA16])
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60, 40, 16, 4, 0, 0, 0))
    parts = (header, chunk(b"iCCP", b"p\0\0" + zlib.compress(made)), chunk(b"IDAT", zlib.compress(rows)))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")
    assert_near(read(data), expected, 1, "reduced from 16 to 8 bits", PROFILED)


def test_sixteen_bits_of_grey_in_either_order_are_converted(read):
    made = profile("linear", curve(1.0), None)
    expected = grey(of_light(DEEP / 65535))
    for order in ("<", ">"):
        image = Image.frombytes(
            "I;16" if order == "<" else "I;16B", (60, 40), DEEP.astype(f"{order}u2").tobytes()
        )
        found = read(encoded(image, "TIFF", icc_profile=made))
        assert_near(found, expected, 0.6, "reduced from 16 to 8 bits", PROFILED)


def test_a_grey_profile_that_is_srgb_touches_no_pixel(read):
    made = profile("grey", curve(points=1024), None)
    assert_near(read(encoded(GREY, "PNG", icc_profile=made)), grey(GREY), 0)
    assert_near(read(encoded(LA, "PNG", icc_profile=made)), grey(GREY), 0)


def test_sixteen_bits_of_grey_are_converted_before_they_are_eight(read):
    made = profile("linear", curve(1.0), None)
    picture = read(encoded(DEEP // 64, "PNG", icc_profile=made))  # dark colours, where 8 bits are few
    expected = grey(of_light(DEEP // 64 / 65535))
    assert_near(picture, expected, 2, "reduced from 16 to 8 bits", PROFILED)


def test_colours_are_converted_first_and_laid_on_white_then(read):
    alpha = np.full((40, 60), 128, np.uint8)
    alpha[:10] = 255
    share = alpha[..., None] / 255
    for pixels, space in ((PIXELS, "sRGB"), (GREY, None)):
        light = (pixels if pixels.ndim == 3 else grey(pixels)) / 255
        data = encoded(np.dstack([pixels, alpha]), "PNG", icc_profile=profile("linear", curve(1.0), space))
        expected = share * of_light(light) + (1 - share) * 255
        assert_near(read(data), expected, 2.5, ON_WHITE, PROFILED)


def test_a_colour_that_means_transparent_is_meant_before_conversion(read):
    pixels = PIXELS.copy()
    pixels[pixels == 255] = 254
    pixels[:10] = 255
    made = profile("linear", curve(1.0))
    data = encoded(pixels, "PNG", transparency=(255, 255, 255), icc_profile=made)
    expected = of_light(pixels / 255)
    assert_near(read(data), expected, 2, ON_WHITE, PROFILED)
    levels = pixels[..., 0]
    data = encoded(levels, "PNG", transparency=255, icc_profile=profile("linear", curve(1.0), None))
    assert_near(read(data), grey(of_light(levels / 255)), 2, ON_WHITE, PROFILED)


def test_a_palette_is_converted(read):
    data = encoded(PALETTE, "PNG", icc_profile=profile("linear", curve(1.0)))
    assert_near(read(data), of_light(np.asarray(PALETTE.convert("RGB")) / 255), 2, PROFILED)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_a_profile_of_another_colour_space_is_ignored_with_a_note(read, kind):
    picture = read(encoded(PIXELS, kind, icc_profile=profile("grey", curve(1.8), None)))
    assert picture.notes == (UNUSABLE,)
    if kind != "WEBP":
        picture = read(encoded(GREY, kind, icc_profile=profile("colour", curve(1.8))))
        assert picture.notes == (UNUSABLE,)


def test_ink_without_a_profile_of_its_own_is_converted_as_before(read):
    inks = Image.fromarray(np.dstack([PIXELS, GREY]), "CMYK")
    plain = read(encoded(inks, "TIFF"))
    assert plain.notes == ("converted from CMYK to sRGB",)
    picture = read(encoded(inks, "TIFF", icc_profile=profile("colour", curve(1.8))))
    np.testing.assert_array_equal(picture.pixels, plain.pixels)
    assert picture.notes == (UNUSABLE, "converted from CMYK to sRGB")


def test_a_cameras_mark_of_adobe_rgb_is_noted_where_there_is_no_profile(read):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    note = "its EXIF data say Adobe RGB, which is not converted but taken for sRGB"
    assert_near(read(encoded(PIXELS, "PNG", exif=exif)), PIXELS, 0, note)
    made = profile("sRGB", curve(points=1024))
    assert_near(read(encoded(PIXELS, "PNG", exif=exif, icc_profile=made)), PIXELS, 0)
    exif[0x8769] = {0xA001: 1, 0xA005: {1: "R98"}}
    assert_near(read(encoded(PIXELS, "PNG", exif=exif)), PIXELS, 0)


# --- numbers of a PNG -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [100_000, 50_000, 55_556, 60_000, 38_462])
def test_a_gamma_that_is_not_srgbs_is_converted(read, value):
    note = "converted from the colours of its gAMA to sRGB"
    exponent = 100_000 / value
    assert_near(read(png(PIXELS, gama(value))), of_light((PIXELS / 255) ** exponent), 0.501, note)
    assert_near(read(png(GREY, gama(value))), grey(of_light((GREY / 255) ** exponent)), 0.501, note)
    deep = read(png(DEEP, gama(value)))
    expected = grey(of_light((DEEP / 65535) ** exponent))
    assert_near(deep, expected, 0.501, "reduced from 16 to 8 bits", note)


@pytest.mark.parametrize(
    "chunks",
    [
        (gama(45455),),
        (gama(45000),),
        (gama(46000),),
        (gama(45455), chrm(*SRGB_CHROMATICITIES)),
        (gama(45455), chrm(31269, 32899, 63999, 33001, 30000, 60000, 15000, 5999)),
        (chrm(*SRGB_CHROMATICITIES),),
        (SRGB,),
        (SRGB, gama(100_000)),
        (cicp(1, 13, 0, 1),),
        (cicp(1, 13, 0, 1), gama(100_000)),
    ],
)
def test_numbers_that_stand_for_srgb_touch_no_pixel(read, chunks):
    assert_near(read(png(PIXELS, *chunks)), PIXELS, 0)


def test_primaries_are_converted_as_a_profile_of_them_would_be(read):
    light = srgb_light(PIXELS / 255) @ P3_TO_SRGB.T
    note = "converted from the colours of its {} to sRGB"
    for chunks, what in (
        ((gama(45455), chrm(*P3_CHROMATICITIES)), "cHRM"),
        ((chrm(*P3_CHROMATICITIES),), "cHRM"),
        ((cicp(12, 13, 0, 1),), "cICP (Display P3, sRGB)"),
    ):
        assert_near(read(png(PIXELS, *chunks)), of_light(light), 0.51, note.format(what))
    light = (PIXELS / 255) @ P3_TO_SRGB.T
    found = read(png(PIXELS, gama(100_000), chrm(*P3_CHROMATICITIES)))
    assert_near(found, of_light(light), 0.51, note.format("gAMA and cHRM"))


def test_a_picture_of_many_rows_is_converted_like_each_of_them(read):
    row = PIXELS[:1].repeat(40, 0)
    expected = read(png(row, cicp(12, 13, 0, 1))).pixels[0]
    wide = np.tile(row[:1], (20_000, 1, 1))
    found = read(png(wide, cicp(12, 13, 0, 1))).pixels
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_white_stays_white_in_every_space(read):
    white = np.full((20, 20, 3), 255, np.uint8)
    for primaries in (1, 4, 5, 6, 7, 8, 9, 11, 12, 22):
        for transfer in (1, 4, 5, 6, 7, 8, 13, 14, 15):
            assert read(png(white, cicp(primaries, transfer, 0, 1))).pixels.min() == 255


def test_the_curve_of_television_is_converted(read):
    v = PIXELS / 255
    light = np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))
    picture = read(png(PIXELS, cicp(1, 1, 0, 1)))
    assert_near(
        picture, of_light(light), 0.7, "converted from the colours of its cICP (BT.709, BT.709) to sRGB"
    )


def test_a_narrow_range_is_widened(read):
    pixels = np.clip(PIXELS, 16, 235)
    picture = read(png(pixels, cicp(1, 13, 0, 0)))
    expected = (pixels.astype(float) - 16) * 255 / 219
    assert_near(picture, expected, 0.51, "converted from the colours of its cICP (BT.709, sRGB) to sRGB")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((9, 16, 0, 1), "BT.2020, PQ"),
        ((9, 18, 0, 1), "BT.2020, HLG"),
        ((12, 16, 0, 1), "Display P3, PQ"),
        ((2, 2, 0, 1), "primaries 2, transfer function 2"),
        ((1, 13, 1, 1), "BT.709, sRGB"),
    ],
)
def test_what_is_not_converted_is_taken_as_it_is_with_a_note(read, values, named):
    note = f"its cICP colours ({named}) are not converted but taken for sRGB"
    assert_near(read(png(PIXELS, cicp(*values), gama(100_000))), PIXELS, 0, note)


def test_the_first_of_cicp_profile_srgb_and_gamma_counts(read):
    linear = {"icc_profile": profile("linear", curve(1.0))}
    profiled = encoded(PIXELS, "PNG", **linear)
    expected = of_light(PIXELS / 255)
    assert_near(read(with_chunks(profiled, cicp(1, 13, 0, 1))), PIXELS, 0)
    assert_near(read(with_chunks(profiled, SRGB)), expected, 2, PROFILED)
    assert_near(read(with_chunks(profiled, gama(55_556))), expected, 2, PROFILED)
    torn = with_chunks(encoded(PIXELS, "PNG", icc_profile=b"no profile" * 20), gama(100_000))
    note = "converted from the colours of its gAMA to sRGB"
    assert_near(read(torn), expected, 0.51, UNUSABLE, note)


@pytest.mark.parametrize(
    ("made", "note"),
    [
        (gama(0), "its gamma (gAMA), 0, makes no sense and is ignored"),
        (gama(1), "its gamma (gAMA), 1e-05, makes no sense and is ignored"),
        (chrm(*[0] * 8), "its primaries (cHRM) make no sense and are ignored"),
        (chrm(31270, 32900, *[33000] * 6), "its primaries (cHRM) make no sense and are ignored"),
        (chunk(b"cICP", b"\1"), "its cICP chunk makes no sense and is ignored"),
    ],
)
def test_numbers_without_sense_are_ignored_with_a_note(read, made, note):
    assert_near(read(png(PIXELS, made)), PIXELS, 0, note)
