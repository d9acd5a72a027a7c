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


def test_in_order_sorts_from_the_image_downwards_and_drops_repeats():
    assert layers.in_order(["conv5_1", "conv1_1", "conv5_1"]) == ("conv1_1", "conv5_1")
