"""Feature maps: against float64, strongest first, and drawn faithfully."""

import json

import numpy as np
import oracle
import pytest
from conftest import random_image
from PIL import Image

import jaxstyle
from jaxstyle import features
from jaxstyle.derived import feature_maps

NAMES = ("conv1_2", "conv4_2")


def command(*arguments):
    """Run `jaxstyle.features` in this process and give its exit code."""
    with pytest.raises(SystemExit) as stop:
        features.main([str(a) for a in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "picture.png"
    Image.fromarray(random_image(48, 64, seed=5)).save(path)
    return path


@pytest.fixture(scope="module")
def expected(image, vgg19_weights):
    pixels = np.asarray(Image.open(image), np.float64)
    return oracle.network(vgg19_weights, pixels, "avg", "conv4_2")[1]


def test_feature_maps_match_float64(image, expected):
    maps = jaxstyle.feature_maps(image, NAMES, size=64)
    assert list(maps) == list(NAMES)
    for name, values in maps.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], atol=1e-4 * expected[name].max())
    again = jaxstyle.feature_maps(np.asarray(Image.open(image)), NAMES, size=64)
    assert all((again[name] == maps[name]).all() for name in NAMES)


def test_the_strongest_channels_by_mean_come_first(image, expected, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    flags = ("--size", "64", "--channels", "10", "--json", "-o", out)
    assert command(image, *flags) == 0
    table = json.loads(capsys.readouterr().out)
    assert [layer["layer"] for layer in table["layers"]] == list(NAMES)
    for layer in table["layers"]:
        means = expected[layer["layer"]].mean(axis=(0, 1))
        order = sorted(range(len(means)), key=lambda c: -means[c])[:10]
        assert [channel["channel"] for channel in layer["channels"]] == order
        for channel in layer["channels"]:
            assert channel["mean"] == pytest.approx(means[channel["channel"]], rel=1e-3)
            top = expected[layer["layer"]][:, :, channel["channel"]].max()
            assert channel["max"] == pytest.approx(top, rel=1e-3)
    with Image.open(out) as sheet:
        assert sheet.width > 5 * feature_maps.TILE_PX


def test_few_positions_are_drawn_as_whole_squares():
    values = np.array([[0.0, 1.0, 2.0], [4.0, 3.0, 0.5]], np.float32)
    tile = np.asarray(feature_maps.tile(values, 160))
    assert tile.shape == (2 * 53, 3 * 53, 3)
    for i in range(2):
        for j in range(3):
            square = tile[i * 53 : (i + 1) * 53, j * 53 : (j + 1) * 53]
            assert (square == feature_maps.coloured(values[i : i + 1, j : j + 1] / 4)).all()


def test_a_map_of_zeros_and_one_larger_than_its_tile_can_be_drawn():
    assert (np.asarray(feature_maps.tile(np.zeros((4, 4), np.float32), 16)) == feature_maps.RAMP[0]).all()
    assert feature_maps.tile(np.ones((100, 300), np.float32), 150).size == (150, 50)


def test_the_colours_grow_lighter():
    colours = feature_maps.coloured(np.linspace(0, 1, 200)[None])[0] / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    assert (np.diff(linear @ [0.2126, 0.7152, 0.0722]) > 0).all()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--layers", "conv9_9"), "layers: VGG19 has no layer 'conv9_9'"),
        (("--layers", "conv1_1", "conv1_1"), "layers: conv1_1 is there twice"),
        (("--channels", "0"), "channels: 0 is out of range"),
        (("--size", "8"), "size: 8 is out of range"),
        (("--pool", "min"), "pool: 'min' is not known"),
        (("-o", "sheet.gif"), "its name must end in"),
        (("-o", "picture.png"), "is read by this command"),
    ],
)
def test_a_wrong_flag_is_one_line_and_writes_nothing(image, capsys, monkeypatch, flags, says):
    monkeypatch.chdir(image.parent)
    before = image.read_bytes()
    assert command("picture.png", *flags) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert [p.name for p in image.parent.iterdir()] == ["picture.png"]
    assert image.read_bytes() == before
