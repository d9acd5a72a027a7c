"""The readers of the benchmarks: compiled programs and profiles, made by hand or for this CPU."""

import json
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXAMPLES, random_image

from bench import account, compiled, experiments, gpu, look, look_peers, profile, steps, tpu
from jaxstyle.device import memory
from jaxstyle.vgg import convolution, pooling

STEP = """
HloModule jit_segment, is_scheduled=true

%fused_select (p.0: bf16[2,8,8,64], p.1: bf16[2,8,8,64]) -> bf16[2,8,8,64] {
  %p.0 = bf16[2,8,8,64]{3,2,1,0} parameter(0)
  %p.1 = bf16[2,8,8,64]{3,2,1,0} parameter(1)
  ROOT %select.1 = bf16[2,8,8,64]{3,2,1,0} select(%p.0, %p.1)
}

%fused_write (p.2: f32[2,6,100], p.3: f32[2,2,100]) -> f32[2,6,100] {
  %p.2 = f32[2,6,100]{2,1,0} parameter(0)
  %p.3 = f32[2,2,100]{2,1,0} parameter(1)
  %zero = s32[] constant(0)
  ROOT %dynamic-update-slice.1 = f32[2,6,100]{2,1,0} dynamic-update-slice(%p.2, %p.3, %zero, %zero, %zero)
}

%fused_gram (p.4: bf16[2,64,64]) -> f32[2,64,64] {
  %p.4 = bf16[2,64,64]{2,1,0} parameter(0)
  ROOT %dot.1 = f32[2,64,64]{2,1,0} dot(%p.4, %p.4), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%body (arg: (bf16[2,8,8,64], f32[2,6,100])) -> (bf16[2,8,8,64], f32[2,6,100]) {
  %arg = (bf16[2,8,8,64], f32[2,6,100]) parameter(0)
  %x = bf16[2,8,8,64]{3,2,1,0} get-tuple-element(%arg), index=0
  %pairs = f32[2,6,100]{2,1,0} get-tuple-element(%arg), index=1
  %kernel = bf16[64,3,3,64]{3,2,1,0} constant({...})
  %bias = bf16[64]{0} constant({...})
  %conv.1 = (bf16[2,8,8,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %kernel, %bias), custom_call_target="__cudnn$convBiasActivationForward", metadata={op_name="jit(segment)/while/body/jvp()/conv_general_dilated"}, backend_config={"cudnn_conv_backend_config":{"activation_mode":"kRelu"}}
  %y = bf16[2,8,8,64]{3,2,1,0} get-tuple-element(%conv.1), index=0
  %flat = bf16[2,64,64]{2,1,0} bitcast(%y)
  %gram.1 = f32[2,64,64]{2,1,0} fusion(%flat), kind=kCustom, calls=%fused_gram
  %mask.1 = bf16[2,8,8,64]{3,2,1,0} fusion(%y, %x), kind=kLoop, calls=%fused_select, metadata={op_name="jit(segment)/while/body/transpose(jvp())/select_n"}
  %conv.2 = (bf16[2,8,8,64]{3,2,1,0}, u8[0]{0}) custom-call(%mask.1, %kernel), custom_call_target="__cudnn$convForward", metadata={op_name="jit(segment)/while/body/transpose(jvp())/conv_general_dilated"}, backend_config={"cudnn_conv_backend_config":{"activation_mode":"kNone"}}
  %newest = f32[2,2,100]{2,1,0} constant({...})
  %write.1 = f32[2,6,100]{2,1,0} fusion(%pairs, %newest), kind=kLoop, calls=%fused_write
  ROOT %tuple.1 = (bf16[2,8,8,64], f32[2,6,100]) tuple(%y, %write.1)
}
"""  # noqa: E501
PLANE = 2 * 8 * 8 * 64 * 2  # bytes of an activation


def test_an_account_of_a_cpu_knows_every_product_of_a_program_and_its_flops(tmp_path):
    def step(x, kernels):  # Winograd's products, and a Gram matrix with its gradient
        with jax.named_scope("winograd"):
            y = jnp.einsum("pti,pio->pto", x, kernels)
        g = y[0].T @ y[0]
        return y[0] @ g, jnp.sum(g)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((36, 64, 48), (36, 48, 32))]
    compiled_step = jax.jit(step).lower(*shapes).compile()
    known = account.operations(compiled_step.as_text())
    flops = {}
    for one in known.values():
        flops[one.part] = flops.get(one.part, 0) + one.flops
    assert flops["convolution's products, forward"] == 2 * 36 * 64 * 48 * 32
    assert flops["Gram matrices"] == flops["gradient of Gram matrices"] == 2 * 64 * 32 * 32
    (product,) = (one for one in known.values() if one.part.startswith("convolution"))
    assert product.shape == "64 x 48 x 32"
    assert product.traffic == 4 * 36 * (64 * 48 + 48 * 32 + 64 * 32)
    arrays = [jnp.zeros(shape.shape) for shape in shapes]
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level = 3
    with jax.profiler.trace(str(tmp_path), profiler_options=options):
        jax.block_until_ready(compiled_step(*arrays))
    seconds = account.measured(tmp_path, frozenset(known))
    assert seconds.keys() <= known.keys()
    assert sum(seconds.values()) > 0


def test_steps_are_compared_with_the_last_of_their_own_trajectory():
    def trajectory(*points):
        names = ("step", "loss", "content_distance", "style_distance", "periodicity")
        return {"pair": "a:b", "points": [dict(zip(names, point, strict=True)) for point in points]}

    found = [
        trajectory((10, 8.0, 0.6, 0.1, 3.0), (20, 4.0, 0.5, 0.2, 0.0)),
        trajectory((10, 6.0, 0.2, 0.9, 1.0), (20, 2.0, 0.4, 0.6, 5.0)),
    ]
    first, last = steps.summary(found)
    assert (first["step"], last["step"]) == (10, 20)
    assert first["loss"] == {"median": 2.5, "min": 2.0, "max": 3.0}
    assert first["content_distance"] == pytest.approx({"median": 0.85, "min": 0.5, "max": 1.2})
    assert first["style_distance"] == pytest.approx({"median": 1.0, "min": 0.5, "max": 1.5})
    assert first["periodicity"] == {"median": 2.0, "max": 3.0}
    assert last["style_distance"] == {"median": 1.0, "min": 1.0, "max": 1.0}


def test_kernels_of_a_step_have_their_traffic_and_their_flops():
    found = {kernel.name: kernel for kernel in compiled.kernels(STEP)}
    assert list(found) == ["conv.1", "gram.1", "mask.1", "conv.2", "write.1"]
    forward, backward = found["conv.1"], found["conv.2"]
    weights = 64 * 9 * 64 * 2
    assert forward.traffic == 2 * PLANE + weights + 64 * 2
    assert backward.traffic == 2 * PLANE + weights
    assert forward.flops == backward.flops == 2 * 9 * 64 * 64 * 2 * 8 * 8
    assert (forward.fused, backward.fused) == (("bias", "relu"), ())
    assert (forward.source, backward.source) == ("conv_general_dilated", "gradient: conv_general_dilated")
    assert found["mask.1"].traffic == 3 * PLANE
    assert (found["gram.1"].kind, found["gram.1"].traffic) == ("product", PLANE + 2 * 64 * 64 * 4)
    # Written in place: the two new rows are read and written, the others are left alone.
    assert found["write.1"].traffic == 2 * 2 * 2 * 100 * 4


TPU_STEP = """
%fused_conv (p.0: bf16[64], p.1: bf16[3,3,64,64], p.2: bf16[8,32,32,64]) -> bf16[8,32,32,64] {
  %p.2 = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)S(1)} parameter(2)
  %p.1 = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %conv.1 = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)} convolution(%p.2, %p.1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %p.0 = bf16[64]{0:T(256)(128)(2,1)S(1)} parameter(0)
  %add.1 = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)} broadcast(%p.0), dimensions={3}
  ROOT %max.1 = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)} maximum(%conv.1, %add.1)
}

%fused_gram (p.3: bf16[8,1024,64]) -> f32[8,64,64] {
  %p.3 = bf16[8,1024,64]{1,2,0:T(8,128)(2,1)} parameter(0)
  ROOT %conv.2 = f32[8,64,64]{2,1,0:T(8,128)} convolution(%p.3, %p.3), window={size=8 pad=0_7 stride=7}, dim_labels=0fb_0io->0bf
}

%body (arg: (bf16[8,32,32,64], f32[8,32,32,3])) -> (bf16[8,32,32,64], f32[8,32,32,3]) {
  %arg = (bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)S(1)}, f32[8,32,32,3]{0,3,2,1:T(4,128)}) parameter(0)
  %x = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)S(1)} get-tuple-element(%arg), index=0
  %image = f32[8,32,32,3]{0,3,2,1:T(4,128)} get-tuple-element(%arg), index=1
  %kernel = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)S(1)} constant({...})
  %bias = bf16[64]{0:T(256)(128)(2,1)S(1)} constant({...})
  %fusion.1 = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)} fusion(%bias, %kernel, %x), kind=kOutput, calls=%fused_conv, metadata={op_name="jit(segment)/while/body/jvp()/conv_general_dilated"}, backend_config={"window_config":{"estimated_cycles":"3000"}}
  %copy.1 = bf16[8,1024,64]{1,2,0:T(8,128)(2,1)} copy(%fusion.1), backend_config={"window_config":{"estimated_cycles":"500"}}
  %fusion.2 = f32[8,64,64]{2,1,0:T(8,128)S(1)} fusion(%copy.1), kind=kOutput, calls=%fused_gram, metadata={op_name="jit(segment)/while/body/transpose(jvp())/dot_general"}, backend_config={"window_config":{"estimated_cycles":"40"}}
  %copy-start.1 = (f32[8,64,64]{2,1,0:T(8,128)}, f32[8,64,64]{2,1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%fusion.2)
  %copy-done.1 = f32[8,64,64]{2,1,0:T(8,128)} copy-done(%copy-start.1)
  ROOT %tuple.1 = (bf16[8,32,32,64], f32[8,32,32,3]) tuple(%x, %image)
}
"""  # noqa: E501


def test_operations_for_a_tpu_have_their_kind_cycles_and_traffic_in_tiles():
    found = {one.name: one for one in tpu.operations(TPU_STEP)}
    assert list(found) == ["fusion.1", "copy.1", "fusion.2", "copy-start.1"]
    assert [one.kind for one in found.values()] == ["convolution", "move", "product", "move"]
    assert [one.cycles for one in found.values()] == [3000, 500, 40, 0]
    assert found["fusion.2"].source == "gradient: dot_general"
    features = 8 * 32 * 32 * 64 * 2
    assert found["fusion.1"].traffic == 2 * features  # 64 channels in 128; what it takes is on the chip
    assert found["copy.1"].traffic == 2 * features + features
    assert found["copy-start.1"].traffic == 8 * 64 * 128 * 4


def test_tiles_of_an_image_with_the_cells_innermost_are_mostly_empty():
    (image,) = tpu.laid("f32[8,256,256,3]{0,3,2,1:T(4,128)}")
    assert image.data == 8 * 256 * 256 * 3 * 4
    assert image.padded == 128 * 256 * 256 * 4 * 4
    (planes,) = tpu.laid("f32[8,256,256,3]{2,3,1,0:T(4,128)S(1)}")
    assert planes.padded == 8 * 256 * 256 * 4 * 4
    assert planes.on_chip
    assert not image.on_chip


def test_a_floor_is_the_longer_of_arithmetic_and_traffic():
    kernel = compiled.Kernel("k", "convolution", "", "", traffic=43 * 10**8, flops=79e10, fused=())
    assert kernel.floor_s("bf16") == pytest.approx(1e-3)
    assert kernel._replace(flops=79e11).floor_s("bf16") == pytest.approx(1e-2)


def test_an_account_puts_times_beside_floors():
    ran = [
        profile.Event("conv.1", "sm90_xmma_fprop", 4e-6),
        profile.Event("conv.1", "sm90_xmma_fprop", 6e-6),
        profile.Event("mask.1", "loop_select_fusion", 3e-6),
        profile.Event("mask.1", "loop_select_fusion", 3e-6),
        profile.Event("", "memcpy", 2e-6),
    ]
    rows = profile.table(compiled.kernels(STEP), ran, steps=2, precision="bf16")
    assert [(row["operation"], row["us"]) for row in rows] == [
        ("conv.1", pytest.approx(5)),
        ("mask.1", pytest.approx(3)),
        ("memcpy", pytest.approx(1)),
    ]
    kinds = profile.by_kind(rows)
    assert set(kinds) == {"convolution, forward", "pass", "other"}
    assert kinds["pass"]["floor_us"] == pytest.approx(1e6 * 3 * PLANE / compiled.BYTES_PER_S)


def test_the_page_of_a_gpu_says_which_bars_were_missed(tmp_path):
    def row(size, cells, ms, share):
        return {
            **{"size": size, "precision": "bf16", "cells": cells, "width": min(cells, 64)},
            **{"ms_per_image_step": {"median": ms, "min": ms}, "tflops": 400.0, "share_of_ceiling": share},
            **{"peak_bytes": 10**10, "compile_s": 30.0},
        }

    about = {"device": {"kind": "NVIDIA H200"}, "versions": {"jax": "0.11.2"}, "date": "d", "commit": "c"}
    rows = [row(512, 16, 0.9, 0.55), row(512, 256, 1.05, 0.5), row(256, 64, 0.3, 0.4)]
    rows.append({"size": 1024, "precision": "bf16", "cells": 256, "over_memory": True})
    (tmp_path / "512-px.json").write_text(json.dumps({**about, "rows": rows}))
    page = gpu.page(tmp_path)
    assert (
        "| 512 px, bf16, best batch: at most 1.0 ms per image-step | 0.900 ms, 16 cells | reached |" in page
    )
    assert "| at least 50 % of the measured matmul ceiling | 55% | reached |" in page
    assert (
        "| 256 px, bf16, best batch: at most 0.28 ms per image-step | 0.300 ms, 64 cells | **missed** |"
        in page
    )
    assert "17% between the dearest and the cheapest | **missed** |" in page
    assert "| 1024 | bf16 | 256 |  | over memory |" in page
    assert gpu.page(tmp_path / "nothing") == ""


def test_looks_are_compared_at_the_content_distance_of_the_reference(tmp_path):
    def run(*scores):
        return [
            look.Point("a:b", "noise", 0, ratio, dict(zip(names, own, strict=True)), tmp_path)
            for ratio, own in zip(look.RATIOS, scores, strict=True)
        ]

    names = ("content_distance", *look.SCORES)
    was = run((0.8, 1.0, 4, -1), (0.7, 1.2, 3, -1), (0.6, 1.6, 2, -1), (0.5, 2.0, 1, -1))
    (itself,) = look.compare(was, was)
    assert (itself["content_distance"], itself["style_distance"], itself["periodicity"]) == (0.6, 1.6, 2)
    # Further along the trade-off at every ratio: 0.6 lies a quarter of the way from 0.64 to 0.48.
    (row,) = look.compare(was, run((0.9, 0, 0, 0), (0.8, 0, 0, 0), (0.64, 1.0, 8, 0), (0.48, 1.4, 4, 0)))
    assert row["style_distance"] == pytest.approx(1.1)
    assert row["periodicity"] == pytest.approx(7)
    assert row["style_distance_was"] == 1.6
    (away,) = look.compare(was, run(*[(0.4 - n / 10, 1, 1, 1) for n in range(4)]))
    assert away["style_distance"] is None


def test_a_picture_of_another_program_is_compared_at_its_content_distance_or_with_better_pictures(tmp_path):
    def point(ratio, *own):
        scores = dict(zip(("content_distance", "style_distance", "periodicity", "noise"), own, strict=True))
        return look.Point("a:b", "noise", 0, ratio, scores, tmp_path)

    ours = [point(0.1, 0.6, 0.5, 1.0, 0.0), point(1.0, 0.4, 0.9, 3.0, 0.0)]
    within = look_peers.compare(ours, point(0, 0.5, 0.8, 2.5, 0.0).scores)
    assert within["style_distance"] == pytest.approx(0.7)
    assert within["periodicity"] == pytest.approx(2.0)
    assert within["better_at"] is None
    assert look_peers.is_lower(within)
    assert not look_peers.is_lower(look_peers.compare(ours, point(0, 0.5, 0.8, 1.5, 0.0).scores))
    assert not look_peers.is_lower(look_peers.compare(ours, point(0, 0.5, 0.6, 2.5, 0.0).scores))
    beyond = look_peers.compare(ours, point(0, 0.7, 0.5, 1.0, 0.0).scores)
    assert beyond["style_distance"] is None
    assert beyond["better_at"] == 0.1
    assert look_peers.is_lower(beyond)
    assert not look_peers.is_lower(look_peers.compare(ours, point(0, 0.7, 0.45, 1.0, 0.0).scores))


def test_another_version_gets_the_pairs_and_ratios_alone_and_a_pair_may_be_of_any_images(tmp_path):
    pair = f"{tmp_path / 'a.b.png'}:starry_night"
    kind = look.KINDS["against"]._replace(pairs=(pair, "cat:glass"))
    spec = tomllib.loads(look._spec(kind, {}, "64x48", None, (0.1, 1.0)))
    grids = spec.pop("grid")
    assert spec == {"size": "64x48", "init": ["noise"], "seed": ["0:1"], "alpha_beta": ["0.1x", "1.0x"]}
    assert [grid["content"] for grid in grids] == [[str(tmp_path / "a.b.png")], [str(EXAMPLES / "cat.jpg")]]
    assert grids[0]["style"] == [str(EXAMPLES / "starry_night.jpg")]
    assert look._name(pair) == "a.b:starry_night"


# --- variants of a step ---------------------------------------------------------------------------

PATCHES = [variant for variant in experiments.VARIANTS if variant.patch is not None]


@pytest.mark.parametrize("variant", PATCHES, ids=lambda variant: variant.name)
def test_every_patch_of_a_step_computes_what_ours_does(variant, monkeypatch):
    """Two patches had arguments of an earlier version, which would have shown on a GPU only."""
    x = random_image(12, 16, seed=1).astype(np.float32)
    kernels = [
        (np.random.default_rng(i).normal(size=(3, 3, *io)) / 9).astype(np.float32)
        for i, io in ((1, (3, 8)), (2, (8, 8)))
    ]
    turned = [
        convolution.Kernel(jnp.asarray(k), jnp.asarray(k[::-1, ::-1].swapaxes(2, 3))) for k in kernels
    ]

    def gradient():
        def loss(x):
            for kernel in turned:
                x = convolution.conv_relu(x, kernel, jnp.ones(8))
            return jnp.sum(pooling.avg_pool(x) ** 2)

        return np.asarray(jax.jit(jax.grad(loss))(x))

    ours = gradient()
    for module in (convolution, pooling, memory):
        for name, value in list(vars(module).items()):
            monkeypatch.setattr(module, name, value)  # what a patch changes is put back
    try:
        variant.patch()
        np.testing.assert_allclose(gradient(), ours, rtol=1e-4, atol=1e-3 * np.abs(ours).max())
    finally:
        convolution.conv_relu.defvjp(convolution._conv_relu_forward, convolution._conv_relu_backward)
