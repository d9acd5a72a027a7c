"""Containers: the one picture of a file that holds more, and files that errors name by their true kind."""

import contextlib
import io
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from conftest import ROOT, random_image
from made_images import bmp, chunk, curve, encoded, profile, segment, tiff, with_chunks, with_segments
from PIL import Image, PngImagePlugin

from jaxstyle.inputs import decode, heif
from jaxstyle.inputs.formats import kind_of
from jaxstyle.spec.errors import JaxstyleError

PIXELS = random_image(40, 60, 0)
SMALL = random_image(20, 30, 1)
OTHER = random_image(40, 60, 2)
PRIMARY = "only its primary picture is used: a gain map, a depth map or a second view is left out"
PAGES = "its pages that are thumbnails or masks are left out"
ONE_FRAME = "its animation of one frame is left out"
TURNED = "turned as its EXIF orientation says"
RAW = "is a camera's raw file; develop it first and save the result as TIFF, PNG or JPEG"


@pytest.fixture
def read(tmp_path):
    """Write bytes to a file, with a name that says nothing unless one is given, and read it."""

    def run(data, name="file.jpg"):
        (tmp_path / name).write_bytes(data)
        return decode.read(str(tmp_path / name))

    return run


@pytest.fixture
def why(read, tmp_path):
    """The reason why bytes are refused."""

    def run(data, name="file.jpg"):
        with pytest.raises(JaxstyleError) as error:
            read(data, name)
        return str(error.value).removeprefix(f"{tmp_path / name}: ")

    return run


def assert_is(picture, pixels, *notes):
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.notes == notes


# --- JPEG -----------------------------------------------------------------------------------------

JPEG = encoded(PIXELS, "JPEG")
DECODED = np.asarray(Image.open(io.BytesIO(JPEG)))


def mpo(**options):
    return encoded(PIXELS, "MPO", save_all=True, append_images=[Image.fromarray(SMALL)], **options)


def xmp(text):
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta " + text + b"/>")


HDR = xmp(b' hdrgm:Version="1.0"')
BESIDE = {
    "MPO": mpo,
    "MPO whose XMP tells of a gain map": lambda: with_segments(mpo(), xmp(b"HDRGainMap:HDRGainMapVersion")),
    "Ultra HDR": lambda: with_segments(mpo(), HDR),
    "Ultra HDR without an index": lambda: with_segments(JPEG, HDR) + encoded(SMALL, "JPEG"),
    "a depth map in XMP": lambda: with_segments(JPEG, xmp(b"GDepth:Format")),
    "a JPEG after it": lambda: JPEG + bytes(100) + encoded(SMALL, "JPEG"),
    "a progressive one and another": lambda: (
        encoded(PIXELS, "JPEG", progressive=True) + encoded(SMALL, "JPEG")
    ),
    "an index of pictures that were cut off": lambda: mpo()[: len(mpo()) - len(encoded(SMALL, "JPEG"))],
}


@pytest.mark.parametrize("case", BESIDE)
def test_of_several_pictures_of_a_jpeg_the_primary_one_is_taken(read, case):
    assert_is(read(BESIDE[case]()), DECODED, PRIMARY)


def test_the_primary_picture_keeps_its_orientation_and_its_profile(read):
    exif = Image.Exif()
    exif[0x0112] = 6
    labels = {"exif": exif, "icc_profile": profile("any", curve(1.0))}
    alone = read(encoded(PIXELS, "JPEG", **labels))
    picture = read(mpo(**labels))
    assert picture.pixels.shape == (60, 40, 3)
    assert_is(picture, alone.pixels, PRIMARY, TURNED, "converted from its colour profile to sRGB")


def test_a_plain_jpeg_with_a_thumbnail_in_its_exif_data_needs_no_note(read):
    thumbnail = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + encoded(SMALL, "JPEG"))
    assert_is(read(with_segments(JPEG, thumbnail)), DECODED)
    assert_is(read(JPEG + bytes(100)), DECODED)


def test_a_profile_of_which_a_part_is_missing_is_noted(read):
    data = with_segments(JPEG, segment(0xE2, b"ICC_PROFILE\0\1\2" + profile("any", curve(1.0))[:200]))
    assert_is(read(data), DECODED, "its colour profile could not be used and is ignored")


def framed(marker, bits=8):
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 1] + bytes([marker]) + JPEG[at + 2 : at + 4] + bytes([bits]) + JPEG[at + 5 :]


@pytest.mark.parametrize(
    ("marker", "bits", "kind"),
    [
        (0xC1, 12, "a 12-bit JPEG"),
        (0xC2, 12, "a 12-bit JPEG"),
        (0xC3, 8, "a lossless JPEG"),
        (0xC3, 16, "a lossless JPEG"),
        (0xC5, 8, "a hierarchical JPEG"),
        (0xF7, 8, "a JPEG-LS file"),
    ],
)
def test_a_jpeg_that_is_not_decoded_is_called_what_it_is(why, marker, bits, kind):
    rest = "which is not supported; save it as an ordinary 8-bit JPEG"
    assert why(framed(marker, bits)) == f"is {kind}, {rest}"


# --- raw files ------------------------------------------------------------------------------------

THUMBNAIL, FULL, SENSOR = {254: 1}, {254: 0}, {254: 0, 262: 32803}
LIKE_RAW = {
    "Nikon, Sony": lambda: tiff((SMALL, {**THUMBNAIL, 271: b"NIKON\0", 330: [(PIXELS, SENSOR)]})),
    "of the other order": lambda: tiff((SMALL, {**THUMBNAIL, 330: [(PIXELS, SENSOR)]}), order=">"),
    "of large offsets": lambda: tiff((SMALL, {**THUMBNAIL, 330: [(PIXELS, SENSOR)]}), big=True),
    "data two directories down": lambda: tiff((SMALL, {330: [(SMALL, {**FULL, 330: [(PIXELS, SENSOR)]})]})),
    "data on a later page": lambda: tiff((SMALL, THUMBNAIL), (PIXELS, FULL), (OTHER, SENSOR)),
    "data that lead to the thumbnail": lambda: tiff((SMALL, {**THUMBNAIL, 330: 8 + SMALL.nbytes + 6})),
    "a camera's thumbnail and no more": lambda: tiff((SMALL, {**THUMBNAIL, 271: b"SONY\0"})),
    "DNG": lambda: tiff((PIXELS, {50706: bytes((1, 4, 0, 0))})),
    "DNG of linear data": lambda: tiff((SMALL, {**THUMBNAIL, 330: [(PIXELS, {**FULL, 262: 34892})]})),
    "packed by Nikon": lambda: tiff((SMALL, {**THUMBNAIL, 330: [(PIXELS, {**FULL, 259: 34713})]})),
    "Pentax": lambda: tiff((PIXELS, {**FULL, 259: 65535})),
    "Canon CR2": lambda: b"II*\0\x10\0\0\0CR\2\0" + tiff((SMALL, {}))[12:],
    "Canon CR3": lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100),
    "Canon CRW": lambda: b"II\x1a\0\0\0HEAPCCDR" + bytes(100),
    "Olympus": lambda: b"IIRO" + tiff((SMALL, {}))[4:],
    "Panasonic": lambda: b"IIU\0" + tiff((SMALL, {}))[4:],
    "Fujifilm": lambda: b"FUJIFILMCCD-RAW 0201" + JPEG,
    "Sigma": lambda: b"FOVb" + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("case", LIKE_RAW)
def test_a_raw_file_is_refused_whatever_its_name_is(why, case):
    assert why(LIKE_RAW[case]()) == RAW
    assert why(LIKE_RAW[case](), "file.tif") == RAW


def test_a_raw_file_of_an_unknown_camera_is_refused_by_its_name(why):
    assert why(tiff((SMALL, {})), "file.NEF") == RAW
    assert "is a camera's raw file, which is not in a supported format" in why(bytes(100), "file.ARW")


def test_a_developed_tiff_of_a_camera_is_taken(read):
    assert_is(read(tiff((PIXELS, {271: b"NIKON CORPORATION\0", 254: 0})), "file.tif"), PIXELS)


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{254: 1}, {254: 4}, {254: 5}, {255: 2}, {262: 4}])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_the_picture_of_a_tiff_is_taken_wherever_its_thumbnails_and_masks_stand(
    read, kind, first, order, big
):
    pages = [(PIXELS, {}), (SMALL, kind), (SMALL, {254: 1})]
    assert_is(read(tiff(*(pages if first else pages[::-1]), order=order, big=big)), PIXELS, PAGES)


def test_a_thumbnail_below_the_picture_is_left_out(read):
    assert_is(read(tiff((PIXELS, {330: [(SMALL, THUMBNAIL)]}))), PIXELS, PAGES)


def test_a_picture_below_its_thumbnail_is_taken_as_the_thumbnail_says(read):
    linear = profile("any", curve(1.0))
    below = [(PIXELS, FULL), (SMALL, THUMBNAIL)]
    picture = read(tiff((SMALL, {**THUMBNAIL, 271: b"NIKON\0", 274: 6, 34675: linear, 330: below})))
    expected = read(encoded(np.rot90(PIXELS, -1), "PNG", icc_profile=linear))
    assert_is(picture, expected.pixels, PAGES, TURNED, "converted from its colour profile to sRGB")


def test_several_full_pages_are_refused(why):
    assert why(tiff((PIXELS, {}), (OTHER, {}))).startswith("holds 2 frames; save one of them")
    assert why(tiff((PIXELS, {254: 2}), (OTHER, {254: 2}))).startswith("holds 2 frames; save one of them")
    assert why(tiff((PIXELS, {}), (OTHER, {}), (SMALL, THUMBNAIL))).startswith("holds 3 frames; save one")


def test_an_only_page_is_taken_whatever_it_calls_itself(read):
    note = "it calls itself a smaller copy or a mask of another picture"
    assert_is(read(tiff((PIXELS, THUMBNAIL))), PIXELS, note)


# --- PNG ------------------------------------------------------------------------------------------

PNG = encoded(PIXELS, "PNG")


def animated(*, is_first, numbers=1):
    """An APNG of one frame, which is its default image or follows it."""
    control = struct.pack(">IIIIIHHBB", 0, 60, 40, 0, 0, 1, 10, 0, 0)
    head = chunk(b"acTL", struct.pack(">II", numbers, 0))
    if is_first:
        return with_chunks(PNG, head, chunk(b"fcTL", control))
    other = encoded(OTHER, "PNG")
    at = other.index(b"IDAT")
    body = other[at + 4 : at + 4 + struct.unpack(">I", other[at - 4 : at])[0]]
    rest = (chunk(b"fcTL", control), chunk(b"fdAT", struct.pack(">I", 1) + body))
    return with_chunks(with_chunks(PNG, head), *rest, before=b"IEND")


@pytest.mark.parametrize("is_first", [True, False])
def test_an_animation_of_one_frame_is_the_picture_that_every_program_shows(read, is_first):
    assert_is(read(animated(is_first=is_first)), PIXELS, ONE_FRAME)


def test_an_animation_that_says_it_has_more_frames_is_refused(why):
    assert (
        why(animated(is_first=False, numbers=2))
        == "holds 3 frames; save one of them as an image of its own"
    )


def test_gif_and_webp_of_one_frame_are_pictures(read):
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True})):
        image = Image.fromarray(PIXELS).quantize(16) if kind == "GIF" else Image.fromarray(PIXELS)
        expected = np.asarray(image.convert("RGB"))
        assert_is(read(encoded(image, kind, save_all=True, **options)), expected)


def bomb(size):
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**20)) for _ in range(size // 2**20)]
    return b"".join((*parts, packer.flush()))


UNPACKING = {
    "zTXt": (lambda packed: chunk(b"zTXt", b"workflow\0\0" + packed), ()),
    "iTXt": (lambda packed: chunk(b"iTXt", b"workflow\0\1\0\0\0" + packed), ()),
    "XMP": (lambda packed: chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed), ()),
    "iCCP": (
        lambda packed: chunk(b"iCCP", b"profile\0\0" + packed),
        ("its colour profile could not be used and is ignored",),
    ),
}


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("case", UNPACKING)
def test_what_unpacks_without_end_is_skipped_and_does_not_fill_the_memory(read, case, before):
    made, notes = UNPACKING[case]
    data = with_chunks(PNG, made(bomb(256 * 2**20)), before=before)
    read(PNG)
    tracemalloc.start()
    try:
        picture = read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert_is(picture, PIXELS, *(notes if before == b"IDAT" else ()))
    assert peak < 40 * 2**20  # twice a profile's limit, and some more


def test_texts_of_any_number_and_size_are_skipped(read):
    info = PngImagePlugin.PngInfo()
    for number in range(100):
        info.add_text(f"text {number}", "A" * 900_000, zip=True)
    info.add_text("plain", "A" * 2_000_000)
    assert_is(read(encoded(PIXELS, "PNG", pnginfo=info)), PIXELS)


@pytest.mark.parametrize("size", [0, 5 * 2**20])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_orientation_in_xmp_of_any_size_counts(read, size, zipped):
    info = PngImagePlugin.PngInfo()
    text = f"<x:xmpmeta tiff:Orientation='6' tiff:Orientation=\"6\"/>{'A' * size}"
    info.add_itxt("XML:com.adobe.xmp", text, zip=zipped)
    assert_is(read(encoded(PIXELS, "PNG", pnginfo=info)), np.rot90(PIXELS, -1), TURNED)


def test_exif_data_of_any_size_count(read):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "A" * 3_000_000
    assert_is(read(encoded(PIXELS, "PNG", exif=exif)), np.rot90(PIXELS, -1), TURNED)


def test_a_profile_of_megabytes_is_used(read):
    small, large = (profile("any", curve(1.0), padding=padding) for padding in (0, 2_000_000))
    expected = read(encoded(PIXELS, "PNG", icc_profile=small))
    found = read(encoded(PIXELS, "PNG", icc_profile=large))
    assert_is(found, expected.pixels, "converted from its colour profile to sRGB")


def test_a_text_with_another_byte_is_still_damage(why):
    torn = bytearray(with_chunks(PNG, chunk(b"tEXt", b"key\0value")))
    torn[torn.index(b"value")] ^= 1
    assert why(bytes(torn)).startswith("is damaged or cut short; save it again")


# --- BMP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [56, 108, 124])
def test_the_alpha_of_a_bmp_that_is_zero_throughout_is_none(read, header):
    assert_is(read(bmp(PIXELS, 0, header)), PIXELS, "its alpha channel is 0 throughout and is ignored")
    assert_is(read(bmp(PIXELS, 255, header)), PIXELS)


def test_a_bmp_is_converted_by_the_profile_in_it(read):
    inside = profile("any", curve(1.0))
    data = bytearray(bmp(PIXELS, 255, 124) + inside)
    data[70:74] = b"DEBM"
    struct.pack_into("<II", data, 126, len(data) - len(inside) - 14, len(inside))
    expected = read(encoded(PIXELS, "PNG", icc_profile=inside))
    assert_is(read(bytes(data)), expected.pixels, "converted from its colour profile to sRGB")


# --- what is no picture ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\x0a" + bytes(50), "a JPEG XL file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "a JPEG XL file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "a JPEG 2000 file"),
        (b"\xff\x4f\xff\x51" + bytes(50), "a JPEG 2000 file"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video"),
        (b"8BPS\0\1", "a Photoshop file"),
        (tiff((PIXELS, {}), order=">", big=True), "a big-endian BigTIFF file"),  # Pillow 13 has no reader
        (b"RIFF\0\0\0\0AVI LIST", "a recording (RIFF)"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG file"),
        (b"<!DOCTYPE html>\n<html><body><svg></svg></body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS to a file"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(why, data, kind):
    kinds = "PNG, JPEG, WEBP, BMP, TIFF, GIF, AVIF"
    assert why(data) == f"is {kind}, which is not in a supported format; save it as one of {kinds}"


def test_a_real_jpeg_2000_is_called_so(why):
    data = encoded(Image.fromarray(PIXELS), "JPEG2000")
    assert why(data).startswith("is a JPEG 2000 file, which is not in a supported format")


def test_a_targa_picture_is_no_windows_cursor():
    targa = bytes([0, 0, 2, *bytes(9), 64, 0, 48, 0, 24, 0]) + bytes(64 * 48 * 3)
    assert kind_of("x.tga", targa) is None
    icon = bytes([0, 0, 1, 0, 1, 0, 32, 32, 0, 0, 1, 0, 32, 0]) + (64).to_bytes(4, "little") * 2 + bytes(99)
    assert kind_of("x.ico", icon) == "a Windows icon"


# --- AVIF and HEIC --------------------------------------------------------------------------------

AVIF = encoded(PIXELS, "AVIF", quality=100, subsampling="4:4:4")
P3 = b"nclx" + struct.pack(">HH", 12, 13)
HEIC = (ROOT / "tests" / "data" / "turned.heic").read_bytes()
"""40 px wide and 64 high, turned by its irot box, with an EXIF orientation that says so once more; made by
pillow-heif 1.8 from 5 x 8 random colours, enlarged."""


def as_p3(data):
    """A HEIF whose code points say Display P3; their old ones say sRGB."""
    assert data.count(b"nclx\0\1\0\x0d") == 1
    return data.replace(b"nclx\0\1\0\x0d", P3)


def test_an_avif_is_read_and_turned(read):
    picture = read(AVIF)
    assert picture.notes == ()
    assert np.abs(picture.pixels.astype(int) - PIXELS).max() <= 3
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(PIXELS, "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    assert_is(read(turned), np.rot90(picture.pixels, -1), TURNED)


def test_the_wide_colours_of_an_avif_become_srgb(read):
    plain = read(AVIF).pixels
    body = bytes((12, 13, 0, 1))
    expected = read(with_chunks(encoded(plain, "PNG"), chunk(b"cICP", body))).pixels
    found = read(as_p3(AVIF))
    assert_is(found, expected, "converted from the colours of its cICP (Display P3, sRGB) to sRGB")
    assert np.abs(found.pixels.astype(int) - plain).max() > 20
    # A profile counts more than code points, whatever those say.
    linear = profile("linear", curve(1.0))
    labelled = encoded(PIXELS, "AVIF", quality=100, subsampling="4:4:4", icc_profile=linear)
    expected = read(encoded(plain, "PNG", icc_profile=linear)).pixels
    assert_is(read(labelled), expected, "converted from its colour profile to sRGB")


def test_a_damaged_avif_is_called_damaged(why):
    for data in (AVIF[:40], AVIF[:-40], AVIF[:200], b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif\0\0\0\0"):
        assert why(data).startswith("is damaged or cut short")


def test_boxes_that_make_no_sense_are_passed_on(read):
    at = AVIF.index(b"ipma")
    for place in range(at - 60, at + 30):
        data = bytearray(AVIF)
        data[place] ^= 0xFF
        with contextlib.suppress(JaxstyleError):
            read(bytes(data))


def test_a_heic_without_a_decoder_says_how_to_get_one(why, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    for data in (HEIC, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"):
        mend = "pip install pi-heif (or jaxstyle with its extra, [heic])"
        assert why(data) == f"is a HEIC photograph, which needs a decoder: {mend}"


@pytest.mark.parametrize("fault", ["import os; os.abort()", "raise ValueError", "print('{}')", "print(1)"])
def test_a_decoder_that_crashes_takes_nothing_with_it(why, monkeypatch, fault):
    monkeypatch.setattr(heif.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(heif, "_DECODER", fault)
    assert why(HEIC) == "is damaged or cut short; save it again: its picture cannot be decoded"


def test_a_heic_is_read_and_turned_once(read, why):
    pytest.importorskip("pi_heif", reason="the extra [heic] is not installed")
    found = read(HEIC)
    assert found.notes == ()
    assert found.pixels.shape == (64, 40, 3)
    coarse = np.random.default_rng(5).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    stored = np.asarray(Image.fromarray(coarse).resize((64, 40), Image.Resampling.BICUBIC))
    assert np.abs(found.pixels.astype(int) - np.rot90(stored, -1)).mean() < 2
    wide = read(as_p3(HEIC))
    body = bytes((12, 13, 0, 1))
    expected = read(with_chunks(encoded(found.pixels, "PNG"), chunk(b"cICP", body))).pixels
    assert_is(wide, expected, "converted from the colours of its cICP (Display P3, sRGB) to sRGB")
    for data in (HEIC[:60], HEIC[:-200], b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"):
        assert why(data).startswith("is damaged or cut short; save it again")
