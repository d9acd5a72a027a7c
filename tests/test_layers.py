"""The table of VGG19."""

import jax

from jaxstyle.cell.poolings import pooling
from jaxstyle.vgg import layers
from jaxstyle.vgg.network import bind


def test_vgg19_has_sixteen_convolutions_in_five_blocks():
    assert layers.NAMES[:3] == ("conv1_1", "conv1_2", "conv2_1")
    assert layers.NAMES[-1] == "conv5_4"
    assert [sum(name.startswith(f"conv{b}_") for name in layers.NAMES) for b in range(1, 6)] == [
        2,
        2,
        4,
        4,
        4,
    ]


def test_channels_chain_from_the_image_to_the_last_layer():
    assert layers.VGG19[0].in_channels == 3
    for above, below in zip(layers.VGG19, layers.VGG19[1:], strict=False):
        assert above.out_channels == below.in_channels


def test_multiply_adds_to_conv5_1_are_361152_per_pixel():
    # 361,152 per pixel for the convolutions and 17,408 for the five Gram matrices, at sizes that four
    # poolings divide; forward and gradient, two FLOPs each.
    flops = layers.evaluation_flops(256, 256, (), layers.STYLE_LAYERS)
    assert flops == 4 * (361_152 + 17_408) * 256**2


def test_parameters_are_counted_in_the_form_they_are_held_in(vgg19_weights):
    for winograd in (False, True):
        network = bind(vgg19_weights, taps=("conv3_1",), pool=pooling("avg"), winograd=winograd)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(network.params))
        assert layers.parameter_bytes(["conv3_1"], winograd=winograd) == held


def test_feature_shape_drops_odd_edges():
    assert layers.feature_shape("conv1_1", 37, 50) == (37, 50, 64)
    assert layers.feature_shape("conv3_1", 37, 50) == (9, 12, 256)


def test_a_pooling_follows_the_last_convolution_of_its_block():
    before = {"pool1": "conv1_2", "pool2": "conv2_2", "pool3": "conv3_4", "pool4": "conv4_4"}
    assert (*before, "pool5") == layers.POOLS
    for pool, conv in {**before, "pool5": "conv5_4"}.items():
        assert layers.TAPS[layers.TAPS.index(pool) - 1] == conv
        assert layers.up_to([pool]) == layers.up_to([conv])
        assert layers.tap(pool).channels == layers.conv(conv).out_channels
    assert [name for name in layers.TAPS if name in layers.NAMES] == list(layers.NAMES)
    assert layers.feature_shape("pool2", 37, 50) == (9, 12, 128)
    assert layers.feature_shape("pool5", 37, 70) == (1, 2, 512)


def test_only_pool5_needs_larger_images():
    assert layers.least_edge_px(()) == layers.least_edge_px([*layers.NAMES, "pool4"]) == 16
    assert layers.least_edge_px(["conv1_1", "pool5"]) == 32


def test_flops_to_pool4_are_those_to_conv4_4_with_a_smaller_gram_matrix():
    to_conv, to_pool = (layers.evaluation_flops(64, 64, (), [name]) for name in ("conv4_4", "pool4"))
    assert to_conv - to_pool == 4 * 512**2 * (8 * 8 - 4 * 4)


def test_in_order_sorts_from_the_image_downwards_and_drops_repeats():
    assert layers.in_order(["conv5_1", "conv1_1", "conv5_1"]) == ("conv1_1", "conv5_1")
