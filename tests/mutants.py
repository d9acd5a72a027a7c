"""Breaks one promise of the package after another, and sees a test fail for it: `python -m tests.mutants`.

A mutant changes a few lines in a copy of the working tree, so that one claim of the product no longer
holds. The cheapest tests of that claim are run there, and one of them must fail. A mutant that survives is
a claim that nobody looks after. Without any mutant all of these tests must pass, which is seen to first.

The lines are looked for in the whole package, so that modules may move.
"""

from __future__ import annotations

import argparse
import ast
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 900
"""What tests may take."""
KILLED, SURVIVED, FAULT = "killed", "SURVIVED", "FAULT"
OUTCOMES = {0: SURVIVED, 1: KILLED}
"""By pytest's exit code. Others, such as that of a module that cannot be imported, tell nothing."""


@dataclass(frozen=True)
class Mutant:
    """A change that breaks one claim of the product."""

    claim: str
    old: str
    """Lines that stand once in the package, without imports and with few names of modules."""
    new: str
    tests: tuple[str, ...]
    """The cheapest that kill it, as pytest names them."""


# --- what is claimed ------------------------------------------------------------------------------

MUTANTS = (
    # Losses and gradients.
    Mutant(
        "A Gram matrix is a mean over the positions of its own image, whatever the size of the other one.",
        "product(flat, flat, (0, 0), arithmetic) / (flat.shape[0] if positions is None else positions)",
        "product(flat, flat, (0, 0), arithmetic)",
        ("tests/test_losses.py::test_style_loss_of_a_style_of_another_size_compares_means",),
    ),
    Mutant(
        "The weights of a blend are scaled to sum 1.",
        "scale = 1.0 if abs(total - 1.0) <= _ROUNDING else total",
        "scale = 1.0",
        ("tests/test_targets.py::test_a_blend_has_weights_of_sum_1_and_a_files_name_is_that_file",),
    ),
    Mutant(
        "Normal distributions are blended by their raw second moments, not by their covariances.",
        "return root @ root - float(kept.ridge) * np.eye(len(mean)) + np.outer(mean, mean), mean",
        "return root @ root - float(kept.ridge) * np.eye(len(mean)), mean",
        ("tests/test_targets.py::test_the_loss_of_a_blend_of_images_and_files_is_that_of_float64",),
    ),
    Mutant(
        "A Wasserstein ladder goes the shortest way, also between singular covariances.",
        "z = (1 - t) * root_a + t * root_b @ (left @ right)",
        "z = (1 - t) * root_a + t * root_b",
        ("tests/test_targets.py::test_a_wasserstein_ladder_has_its_ends_and_is_the_shortest_way",),
    ),
    Mutant(
        "A flat style has a distance in rounded arithmetic too.",
        "features - lax.stop_gradient(mean), None, arithmetic",
        "features, None, arithmetic",
        ("tests/test_means.py::test_the_distance_of_a_flat_style_needs_no_digits_of_its_mean",),
    ),
    Mutant(
        "A cell at its exact minimum stands still.",
        "jnp.where(fastest > 0, learning_rate / jnp.maximum(fastest, TINY), 0.0)",
        "(learning_rate / jnp.maximum(fastest, TINY))",
        ("tests/test_optimizers.py::test_a_start_at_an_exact_minimum_does_not_diverge",),
    ),
    Mutant(
        "A cell without a content has no loss of its neighbour's content.",
        "lacks = np.array([row.loss_name in lacked_losses(cell) for cell in cells])",
        "lacks = np.array([False for cell in cells])",
        ("tests/test_photorealism.py::test_a_cell_without_a_content_has_no_loss_of_its_neighbours",),
    ),
    Mutant(
        "A chunk that cannot be read now is not taken for a damaged one.",
        "if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:",
        "if isinstance(error, OSError) and error.errno in ():",
        ("tests/test_resume.py::test_a_file_that_cannot_be_read_now_is_not_taken_for_a_damaged_one",),
    ),
    Mutant(
        "The spectrum of a style is that of its periodic component, without the cross of its edges.",
        "return _transform(image) - _transform(jumps) * jnp.asarray",
        "return _transform(image) - 0 * _transform(jumps) * jnp.asarray",
        ("tests/test_spectrum.py::test_cyclic_shifts_of_the_periodic_component_cost_nothing",),
    ),
    Mutant(
        "The weight of a term that is a sum over pixels grows in coarser stages.",
        "* (scale if row.sums_pixels else 1.0)",
        "",
        (
            "tests/test_spectrum.py::test_cells_with_the_term_share_no_canvas"
            "_and_weigh_it_more_in_coarser_stages",
        ),
    ),
    Mutant(
        "An affine image of the content costs no more than the ridge, and rounding is no ridge.",
        "jnp.full_like(centre[..., 0], math.sqrt(RIDGE))",
        "jnp.full_like(centre[..., 0], math.sqrt(100 * RIDGE))",
        ("tests/test_photorealism.py::test_loss_and_gradient_are_those_of_the_dense_laplacian",),
    ),
    Mutant(
        "The matting Laplacian has the covariances of windows, with those between colours.",
        "columns[j] = columns[j] - unit * r[i, j]",
        "columns[j] = columns[j] - 0 * unit * r[i, j]",
        ("tests/test_photorealism.py::test_loss_and_gradient_are_those_of_the_dense_laplacian",),
    ),
    Mutant(
        "A style that is nearly grey does not get colours from its speckle.",
        "np.clip(stretch, 0.0, MOST_STRETCH)",
        "np.clip(stretch, 0.0, np.inf)",
        (
            "tests/test_keep_colours.py::test_a_nearly_grey_style_does_not_get_the_content_s_colours_by_its"
            "_speckle",
        ),
    ),
    Mutant(
        "A picture in luminance is saved in the chroma of its content.",
        "return y + (c - (c @ LUMA)[..., None])",
        "return y + (c - c.mean(-1, keepdims=True))",
        ("tests/test_keep_colours.py::test_chroma_is_put_back_and_luma_kept",),
    ),
    Mutant(
        "A matrix of a file that is not positive semidefinite is refused.",
        "if values[0] < -ROUNDING * max(values[-1], 0.0):",
        "if values[0] < -np.inf:",
        ("tests/test_targets.py::test_a_hostile_file_is_told_in_one_line",),
    ),
    Mutant(
        "The content loss is half the sum of squared differences.",
        "return 0.5 * jnp.sum(jnp.square(features",
        "return jnp.sum(jnp.square(features",
        (
            "tests/test_losses.py"
            "::test_content_loss_is_half_the_squared_distance_and_its_gradient_the_difference",
        ),
    ),
    Mutant(
        "The style loss of a layer is the squared distance of Gram matrices over 4 N^2.",
        "return jnp.sum(jnp.square(g - target)) / (4.0 * n**2)",
        "return jnp.sum(jnp.square(g - target)) / (4.0 * n)",
        ("tests/test_losses.py::test_style_loss_at_equal_sizes_is_the_decks",),
    ),
    Mutant(
        "Total variation is of horizontal and of vertical neighbours.",
        "return jnp.sum(jnp.square(dx)) + jnp.sum(jnp.square(dy))",
        "return jnp.sum(jnp.square(dy))",
        ("tests/test_losses.py::test_total_variation_is_in_pixel_units",),
    ),
    Mutant(
        "alpha is beta times the ratio that is given.",
        "content_weight=number(min(alpha * scale, FLOAT32_MAX)),",
        "content_weight=number(min(cell.alpha_beta * scale, FLOAT32_MAX)),",
        ("tests/test_step.py::test_content_weighs_in_a_coarser_stage_what_it_weighs_at_full_size",),
    ),
    Mutant(
        "The gradient is zero where a feature is not above zero.",
        "g = jnp.where(y != 0, g, 0)",
        "g = jnp.asarray(g)",
        ("tests/test_losses.py::test_gradients_vanish_where_features_do",),
    ),
    Mutant(
        "The gradient of a Gram matrix is that of both of its factors.",
        "both = (s + s.T) / (",
        "both = s / (",
        ("tests/test_losses.py::test_style_gradient_is_the_closed_form",),
    ),
    # What the network sees.
    Mutant(
        "The network sees blue, green, red.",
        "return (image - MEAN_RGB)[..., ::-1]",
        "return image - MEAN_RGB",
        ("tests/test_images.py::test_the_network_sees_bgr_minus_the_mean",),
    ),
    Mutant(
        "Pooling drops the last row and column of odd edges.",
        "return x[: h // 2 * 2, : w // 2 * 2].reshape(",
        "return x[h % 2 :, w % 2 :].reshape(",
        ("tests/test_conv.py::test_pools_drop_odd_edges_and_match_numpy[shape1-avg]",),
    ),
    Mutant(
        "Convolutions see zeros outside of the image.",
        "x = jnp.pad(x, (*zip((rows.zeros, columns.zeros), ends, strict=True), (0, 0)))",
        'x = jnp.pad(x, (*zip((rows.zeros, columns.zeros), ends, strict=True), (0, 0)), mode="edge")',
        ("tests/test_conv.py::test_convolution_is_the_correlation_with_zero_padding[shape0-winograd]",),
    ),
    Mutant(
        "A gradient beyond an edge belongs to the position that stands there.",
        "for beyond, at in ((0, border.before(n)), (n + 1, border.after(n))):",
        "for beyond, at in ((0, 0), (n + 1, n - 1)):",
        (
            "tests/test_means.py"
            "::test_a_padded_convolution_and_its_adjoint_are_the_oracles[shape0-reflect-plain]",
        ),
    ),
    Mutant(
        "A run goes on with the images that it was begun with.",
        "if sha256 != had_images.get(image, sha256):",
        "if False:",
        ("tests/test_resume.py::test_another_image_under_a_name_of_the_run_spoils_nothing",),
    ),
    Mutant(
        "On a TPU the corners of an image are added within its border.",
        "around = _bordered_line(line, border) if axis == 0 else jnp.pad(line, ((1, 1), (0, 0)))",
        "around = jnp.pad(line, ((1, 1), (0, 0)))",
        (
            "tests/test_planes.py"
            "::test_what_a_border_adds_at_the_edges_alone_is_what_numpy_adds[float32-shape0-reflect]",
        ),
    ),
    Mutant(
        "What lies beyond whole tiles of a gradient is added to its own edge.",
        "before, after = (ends[1] * scale, ends[0] / scale) if beyond is Beyond.AT_EDGE else ends",
        "before, after = ends",
        (
            "tests/test_means.py"
            "::test_a_padded_convolution_and_its_adjoint_are_the_oracles[shape3-replicate-winograd]",
        ),
    ),
    Mutant(
        "A terminal that is closed does not end a run that ignores it.",
        "self._guard(bar.stop)",
        "bar.stop()",
        ("tests/test_resume.py::test_a_terminal_that_is_closed_costs_no_work[closed]",),
    ),
    Mutant(
        "A digest of a file that is not there is told.",
        "in inputs.sweep.digests if not os.path.isfile(path)]",
        "in inputs.sweep.digests if not path]",
        ("tests/test_regions.py::test_names_and_digests_that_nothing_answers_to_are_told",),
    ),
    Mutant(
        "A circular picture is enlarged across its edges.",
        "x = jnp.minimum(x, size - x) if wraps else x",
        "x = jnp.abs(x)",
        ("tests/test_means.py::test_a_rolled_image_is_halved_and_enlarged_to_a_rolled_one",),
    ),
    Mutant(
        "Nothing but zeros shares a canvas.",
        "rows = (POOLINGS[self.pool], PADDINGS[self.padding], ",
        "rows = (POOLINGS[self.pool], ",
        ("tests/test_means.py::test_nothing_but_zeros_shares_a_canvas",),
    ),
    Mutant(
        "Both covariances have the ridge of the style.",
        "covariance = covariance + target.ridge * jnp.eye(n)",
        "covariance = covariance + 0.0 * jnp.eye(n)",
        ("tests/test_means.py::test_style_losses_and_their_gradients_are_the_oracles[full-wasserstein]",),
    ),
    Mutant(
        "On a canvas every layer is that of the image alone, odd edges included.",
        "inside = inside_mask(x.shape[:2], jnp.asarray(extent) >> pools)",
        "inside = inside_mask(x.shape[:2], -(-jnp.asarray(extent) >> pools))",
        ("tests/test_vgg19.py::test_on_a_canvas_every_layer_is_that_of_the_image_alone[avg-plain]",),
    ),
    # Steps.
    Mutant(
        "Noise follows from the value of the seed, not from the place of a cell.",
        "seed=np.asarray(cell.seed, np.uint32),",
        "seed=np.asarray(cell.id, np.uint32),",
        ("tests/test_engine.py::test_launches_side_by_side_are_each_filled_up_to_the_width",),
    ),
    Mutant(
        "L-BFGS remembers no step without positive curvature.",
        "keep = finite & ~first & (s_y > MIN_CURVATURE) &",
        "keep = finite & ~first &",
        ("tests/test_optimizers.py::test_steps_of_negative_curvature_are_forgotten_as_in_float64",),
    ),
    Mutant(
        "L-BFGS takes its pairs from the oldest to the newest.",
        "(index + 1 + jnp.arange(memory, dtype=jnp.int32)) % memory",
        "(index + jnp.arange(memory, dtype=jnp.int32)) % memory",
        ("tests/test_optimizers.py::test_steps_are_those_of_the_two_loop_recursion_in_float64[3]",),
    ),
    Mutant(
        "L-BFGS rejects an image that is worse.",
        "accepted = finite & (first | (seen.loss <= state.loss))",
        "accepted = finite",
        ("tests/test_optimizers.py::test_the_loss_never_rises",),
    ),
    Mutant(
        "A decaying learning rate is flat to 70 % of the steps and then falls to 0.",
        "decay_steps=number(DECAY_SHARE * length if decays else 1.0),",
        "decay_steps=number(length if decays else 1.0),",
        ("tests/test_step.py::test_a_decaying_rate_is_flat_to_70_percent_and_then_falls_to_zero[10]",),
    ),
    Mutant(
        "With --clamp pixels stay within 0 to 255 while they are optimised.",
        "(able, allowed(program, knobs, move.image), state.image),",
        "(able, move.image, state.image),",
        ("tests/test_step.py::test_a_clamped_picture_stays_in_range_from_its_first_step[True]",),
    ),
    Mutant(
        "The picture and the loss of step k are those of the image after k updates.",
        'lambda state: state.best if keep == "best" else state.evaluated',
        'lambda state: state.best if keep == "best" else state.image',
        ("tests/test_engine.py::test_the_loss_at_step_k_is_the_loss_of_the_image_after_k_updates",),
    ),
    Mutant(
        "A cell that diverges keeps its last finite image.",
        "(accepted, state.image, state.evaluated),",
        "(alive, state.image, state.evaluated),",
        ("tests/test_step.py::test_a_loss_that_overflows_keeps_the_image_before_it",),
    ),
    Mutant(
        "A cell that diverges changes nothing of its neighbours.",
        "state, info = jax.vmap(one, in_axes=(0, 0, None))(knobs, state, k)\n",
        "state, info = jax.vmap(one, in_axes=(0, 0, None))(knobs, state, k)\n"
        "            state = state._replace(diverged_step=jnp.broadcast_to(\n"
        "                state.diverged_step.max(), state.diverged_step.shape))\n",
        ("tests/test_engine.py::test_a_diverging_cell_leaves_its_neighbours_alone",),
    ),
    # Batches, devices, memory.
    Mutant(
        "Launches that run at the same time each advance their own cells.",
        "a[at : at + rows]",
        "a[:rows]",
        (
            "tests/test_engine.py::"
            "test_launches_at_the_same_time_have_the_bytes_of_each_alone_and_go_on_to_them[adam]",
        ),
    ),
    Mutant(
        "A launch that does not fill its device is filled up, and every cell of the next keeps its device.",
        "*(pad(one, width) for one in launches)",
        "*launches",
        ("tests/test_engine.py::test_launches_side_by_side_are_each_filled_up_to_the_width",),
    ),
    Mutant(
        "A width is planned from the memory that the weights leave.",
        "(available * MEMORY_SHARE - memory.fixed) / memory.per_cell,",
        "available * MEMORY_SHARE / memory.per_cell,",
        ("tests/test_engine.py::test_width_is_1_on_a_cpu_and_a_power_of_two_within_memory_elsewhere",),
    ),
    Mutant(
        "A chunk on the disk that was begun together with another one does not end the other's process.",
        "for n in b.numbers for key in target_keys(plan, n)",
        "for n in b.left for key in target_keys(plan, n)",
        ("tests/test_resume.py::test_a_process_killed_between_two_chunks_of_a_block_loses_neither",),
    ),
    Mutant(
        "A state of two chunks is not gone on with by a share that has one of them.",
        "if len(marks) != len(numbers) or others or own > places",
        "if len(marks) != len(numbers) or own > places",
        ("tests/test_unfinished.py::test_a_share_takes_no_chunk_of_another_with_a_state",),
    ),
    Mutant(
        "A state that was set aside is taken up again by a process that can go on from it.",
        'and ending.partition("-")[0] in ("", OTHER)',
        'and ending == ""',
        ("tests/test_unfinished.py::test_a_state_that_was_set_aside_is_taken_up_again_by_whom_it_suits",),
    ),
    Mutant(
        "Chunks that were computed at half the width, for want of memory, are kept.",
        "return narrower if own == width else plan",
        "return plan",
        ("tests/test_grid.py::test_a_chunk_of_half_the_width_is_one_of_the_run",),
    ),
    # Files of a run.
    Mutant(
        "A file has its name only when the disk has what is in it.",
        "            if durable:\n                sync_file(handle, path)\n"
        "        finally:\n            os.close(handle)\n        os.replace(temporary, path)\n",
        "        finally:\n            os.close(handle)\n        os.replace(temporary, path)\n"
        "        if durable:\n            handle = os.open(path, os.O_RDWR)\n"
        "            sync_file(handle, path)\n            os.close(handle)\n",
        ("tests/test_store.py::test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after_that",),
    ),
    Mutant(
        "A write that fails leaves the old file, and no other.",
        "        temporary.unlink(missing_ok=True)\n        raise\n    if durable:",
        "        raise\n    if durable:",
        ("tests/test_store.py::test_a_failed_write_leaves_the_old_file_and_no_other",),
    ),
    Mutant(
        "A run that the disk has no space for is refused.",
        "if (free := free_bytes(path)) < needed:",
        "if (free := free_bytes(path)) <= 0:",
        ("tests/test_store.py::test_too_little_space_is_one_line",),
    ),
    Mutant(
        "Pixels of a chunk that have changed on the disk are found out.",
        "group.create_dataset(name, data=values, chunks=shape, fletcher32=True)",
        "group.create_dataset(name, data=values, chunks=shape)",
        ("tests/test_store.py::test_a_damaged_chunk_is_named",),
    ),
    Mutant(
        "A chunk that is not the one in the manifest is refused, though it is whole.",
        "    if found != sha256:\n        read_chunk(path)",
        "    if not found:\n        read_chunk(path)",
        ("tests/test_report.py::test_a_chunk_that_the_manifest_does_not_list_is_refused_by_every_reader",),
    ),
    Mutant(
        "A run directory is held by one process at a time.",
        "    except BlockingIOError:\n        return False\n",
        "    except BlockingIOError:\n        return True\n",
        ("tests/test_store.py::test_the_text_of_a_process_that_died_is_not_believed_at_once",),
    ),
    Mutant(
        "A launch that is gone on with comes to the bytes of one that nobody disturbed.",
        "infos, done = before.infos, before.passes",
        "infos, done = before.infos, before.passes - 1",
        ("tests/test_engine.py::test_a_launch_goes_on_from_every_segment_to_the_same_bytes[adam]",),
    ),
    Mutant(
        "A setting that came later is in no fingerprint while it is at its default: old runs go on.",
        "if row.numbers and not (row.later and value == defaults[name]):",
        "if row.numbers:",
        ("tests/test_grid.py::test_fingerprints_are_those_of_the_versions_before",),
    ),
    Mutant(
        "--extend puts new cells behind those there are, which keep their numbers.",
        "        if table not in grids:\n            grids.append(table)\n",
        "        if table not in grids:\n            grids.insert(0, table)\n",
        ("tests/test_resume.py::test_an_extension_leaves_every_cell_its_number",),
    ),
    Mutant(
        "A run is gone on with by the very plugin that it was begun with.",
        "if own.plugins != sweep.plugins:",
        "if own.plugins and not sweep.plugins:",
        ("tests/test_resume.py::test_another_plugin_is_another_run",),
    ),
    # Grids, plans, shares.
    Mutant(
        "The last axis of a grid is the fastest.",
        "for choice in itertools.product(*options):",
        "for choice in (picked[::-1] for picked in itertools.product(*options[::-1])):",
        ("tests/test_grid.py::test_the_last_axis_is_the_fastest",),
    ),
    Mutant(
        "A value that is twice in an axis is refused.",
        "if (key := row.same(value)) in seen:",
        "if (key := len(seen)) in seen:",
        (
            "tests/test_config.py"
            "::test_a_wrong_setting_is_one_line_with_the_value_and_the_mend[a seed twice]",
        ),
    ),
    Mutant(
        "Traces keep every N-th step, and always the last.",
        "return (*range(0, last, every), last)",
        "return tuple(range(0, last + 1, every))",
        ("tests/test_grid.py::test_traces_keep_the_first_and_the_last",),
    ),
    Mutant(
        "Shares have about equal work.",
        "first = min(range(count), key=lambda i: (loads[i] + extra[i], i))",
        "first = number * count // len(self.chunks)",
        ("tests/test_grid.py::test_shares_are_disjoint_complete_and_of_about_equal_work",),
    ),
    Mutant(
        "1x is the ratio at which content and style cost the same.",
        "return Balance(style_loss / content_loss, weights, layer_loss, traces, content_loss)",
        "return Balance(content_loss / style_loss, weights, layer_loss, traces, content_loss)",
        ("tests/test_calibration.py::test_features_times_s_make_the_balance_times_s_squared[0.25]",),
    ),
    # What comes in.
    Mutant(
        "Weights of another digest are not taken for the packaged ones.",
        'origin = "packaged" if sha256 == PACKAGED_SHA256 else "unknown"',
        'origin = "packaged"',
        ("tests/test_weights.py::test_all_layouts_are_read[converted]",),
    ),
    Mutant(
        "A picture is turned as its EXIF orientation says.",
        "return image.transpose(_TURNS[orientation])",
        "return image",
        ("tests/test_bad_inputs.py::test_an_odd_image_has_the_right_pixels[EXIF 6]",),
    ),
    Mutant(
        "A PNG of another gamma is converted to sRGB.",
        "curve = _power(1e5 / g)",
        "curve = _power(g / 1e5)",
        ("tests/test_colour.py::test_a_gamma_that_is_not_srgbs_is_converted",),
    ),
    Mutant(
        "The transparent parts of a picture are laid on white.",
        'white = Image.new("RGBA", image.size, (255, 255, 255, 255))',
        'white = Image.new("RGBA", image.size, (0, 0, 0, 255))',
        ("tests/test_bad_inputs.py::test_an_odd_image_has_the_right_pixels[RGBA]",),
    ),
    # What comes out.
    Mutant(
        "A command some of whose cells diverged ends with 1.",
        "say_diverged(which) if diverged else 0",
        "say_diverged(which) and 0 if diverged else 0",
        ("tests/test_report.py::test_report_exits_as_promised",),
    ),
    Mutant(
        "An error is one line without control characters.",
        'text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))',
        'text = " ".join(text.split())',
        (
            "tests/test_bad_inputs.py"
            "::test_a_flag_that_cannot_be_followed_is_refused[a control character in a flag]",
        ),
    ),
    Mutant(
        "Losses in results.csv read back as the same float32.",
        "numbers = {name: str(value) for name, value in line.items() if",
        'numbers = {name: f"{value:.6g}" for name, value in line.items() if',
        ("tests/test_store.py::test_csv_numbers_read_back_as_the_same_float32",),
    ),
    Mutant(
        "Rows of results.h5 stand in the order of cells, whatever the chunks.",
        "    for group in groups.values():\n        group.cells.sort()\n",
        "",
        ("tests/test_store.py::test_merged_rows_stand_in_cell_order_whatever_the_chunks",),
    ),
    Mutant(
        "A report makes every picture from the chunks anew.",
        "    if pictures:\n        for chunk in record.chunks():\n",
        "    if pictures and not record.chunk_paths:\n        for chunk in record.chunks():\n",
        ("tests/test_report.py::test_sheets_show_small_pictures_pixel_for_pixel",),
    ),
    Mutant(
        "No text of a run can end the page's element of data.",
        'return text.replace("<", "\\\\u003c").replace(">", "\\\\u003e")',
        'return text.replace(">", "\\\\u003e")',
        ("tests/test_page.py::test_data_cannot_end_its_element",),
    ),
    Mutant(
        "The distance between seeds is the mean over pairs of different seeds.",
        "upper = d[..., *np.triu_indices(d.shape[-1], 1)]\n",
        "upper = np.nan_to_num(d[..., *np.triu_indices(d.shape[-1], 0)])\n",
        ("tests/test_stats.py::test_pairwise_distances_of_constant_shifts",),
    ),
    Mutant(
        "The variance of seeds is what they do alike in every setting.",
        "(ss_seed / (seeds - 1) - ms_error) / settings",
        "(ss_seed / (seeds - 1) - ms_error) / seeds",
        ("tests/test_stats.py::test_components_of_a_noise_free_design_are_exact",),
    ),
    # Scores.
    Mutant(
        "LPIPS weighs channels by its heads.",
        "mean(0) @ head.astype(np.float64)",
        "mean(0) @ np.ones(len(head))",
        ("tests/test_scores.py::test_the_content_distance_is_its_formula",),
    ),
    Mutant(
        "The style distance is that of the nearest coupling, not of independent features.",
        "squared = apart + spread - 2 * float(np.sum(crossed))",
        "squared = apart + spread - float(np.sum(crossed))",
        ("tests/test_scores.py::test_wasserstein_of_commuting_covariances_is_of_their_roots",),
    ),
    Mutant(
        "A grid counts only beyond chance.",
        "np.maximum(0.0, squared - limit)",
        "np.maximum(0.0, squared)",
        ("tests/test_scores.py::test_a_grid_of_one_grey_level_is_found_and_the_photograph_is_not",),
    ),
    Mutant(
        "Dots that are not in step with the poolings are seen.",
        "return math.sqrt(max(grid, _dots(",
        "return math.sqrt(max(grid, 0 * _dots(",
        ("tests/test_scores.py::test_the_dots_of_a_real_transfer_are_found_and_blurring_removes_them",),
    ),
    Mutant(
        "A copy is told from a style that is like itself elsewhere.",
        "elsewhere = (down - y) ** 2 + (across - x) ** 2 > (side // 4) ** 2",
        "elsewhere = (down - y) ** 2 + (across - x) ** 2 >= 0",
        ("tests/test_scores.py::test_a_shifted_copy_is_a_copy_and_noise_is_none",),
    ),
    Mutant(
        "An unfinished run is not ranked.",
        "if not manifest.is_complete(record):\n        why",
        "if record is None:\n        why",
        ("tests/test_scores.py::test_what_cannot_be_scored_is_refused_in_one_line",),
    ),
    # Code.
    Mutant(
        "Settings, plans and reports start without JAX.",
        "CHUNK_BYTES = 256 * 2**20\n",
        "import jax  # noqa\n\nCHUNK_BYTES = 256 * 2**20\n",
        ("tests/test_house.py::test_modules_that_promise_to_need_no_jax_import_none",),
    ),
    Mutant(
        "One vmap over cells, in the engine: everything else is of one picture.",
        "return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)",
        "return jax.vmap(lambda a, b: jnp.where(condition, a, b))(yes, no)",
        ("tests/test_house.py::test_one_vmap_one_loop",),
    ),
    # Results that later commands use.
    Mutant(
        "Nothing that was kept is used after a change of the code.",
        "        manifest.code_digest(),\n        manifest.versions(*USED),",
        "        manifest.versions(*USED),",
        ("tests/test_kept.py::test_nothing_is_found_after_a_change_of_code_versions_flags_or_machine",),
    ),
    Mutant(
        "A damaged file in the cache counts as absent.",
        "zlib.decompress(packed) if hashlib.sha256(packed).digest() == digest else None",
        "zlib.decompress(packed)",
        ("tests/test_kept.py::test_a_damaged_file_counts_as_absent",),
    ),
    Mutant(
        "Targets are kept for these pixels alone.",
        "jax.tree.map(_digest, (pixels, tuple(maps)))",
        "jax.tree.map(np.shape, (pixels, tuple(maps)))",
        ("tests/test_kept.py::test_kept_targets_are_the_computed_ones_of_the_same_image_and_weights",),
    ),
    Mutant(
        "Targets are kept for this network alone, though a normalised one comes from the same file.",
        'f"{inputs.weights.sha256} {self.sweep.network}"',
        "inputs.weights.sha256",
        ("tests/test_kept.py::test_a_run_of_one_cell_keeps_targets_and_one_of_several_does_not",),
    ),
    Mutant(
        "A balance is kept for these pixels alone.",
        "return repr((program, of, shares, pixels))",
        "return repr((program, of, shares))",
        ("tests/test_kept.py::test_a_kept_balance_is_the_measured_one",),
    ),
    Mutant(
        "A balance is that of a cell's own pooling, padding and style loss.",
        "key = (*key, program.regions, program.pool, program.padding, program.style_loss)",
        "key = (*key, program.regions)",
        ("tests/test_textures.py::test_cells_of_several_looks_are_those_of_runs_of_their_own",),
    ),
    Mutant(
        "What a command names of the look is compared with the run of the defaults that it goes on with.",
        'found.pop("balance_optional", None)',
        "pass",
        ("tests/test_continued.py::test_what_a_command_names_of_the_look_is_compared_with_the_run",),
    ),
    Mutant(
        "Levels of a mask are names, whatever gamma its file says.",
        "colour_spaces.Labels(None, {}) if as_stored else labels",
        "labels",
        ("tests/test_regions.py::test_names_of_regions_are_the_levels_of_the_file_whatever_gamma_it_says",),
    ),
    Mutant(
        "A chunk is told when it is on the disk.",
        "if pending is not None and pending.done():",
        "if False:",
        (
            "tests/test_python_api.py::test_a_chunk_is_told_when_it_is_on_the_disk_not_when_the_next_is_done_too",
        ),
    ),
    # Quieter corners.
    Mutant(
        "Cells that several grids have are told once, also where axes that are not neighbours are zipped.",
        "identity = tuple(same.get(axis) for axis in axes)",
        "identity = tuple(same.get(axis) for axis in told)",
        ("tests/test_grid.py::test_cells_of_a_zipped_grid_that_another_grid_has_are_not_repeated",),
    ),
    Mutant(
        "A cell's targets follow from its own program, not from the largest style of its run.",
        "edge = max(largest.height_px, largest.width_px, *halved_shape_of(shape, 1, least_px))",
        "edge = max(p.shape[0] for p in self.pictures.style.values())",
        ("tests/test_sweep.py::test_a_cell_has_the_same_bytes_whatever_other_sizes_of_styles_its_run_has",),
    ),
    Mutant(
        "Given weights of layers are used as they are, beside balanced ones of the same layers.",
        "return style_set(text), has_weights(text)",
        "return style_set(text), False",
        (
            "tests/test_grid.py::test_weights_of_layers_that_are_given_are_other_cells_only_than_balanced_ones",
        ),
    ),
    Mutant(
        "A picture never replaces a file that it is made from, such as a mask.",
        "out = one_cell.check_out(flags.out, named_files(sweep))",
        "out = one_cell.check_out(flags.out, [flags.content, flags.style])",
        ("tests/test_single.py::test_no_file_that_is_read_is_replaced",),
    ),
    Mutant(
        "A run is read without its plugin, also where the plugin names the axis of its weight.",
        'optional = ("axis",)',
        'optional = ("axis",)\n    internal = ("always", "equal_sizes", "sums_pixels", "axis", "help")',
        ("tests/test_plugins.py::test_a_run_is_read_without_its_plugin_whatever_the_plugin_names",),
    ),
    Mutant(
        "A run holds no cells of two losses, where what a loss reads changes after it was registered.",
        "if row.origin.of_row and _digest(row) != row.origin.sha256",
        "if False and _digest(row) != row.origin.sha256",
        ("tests/test_plugins.py::test_a_term_is_refused_once_what_it_reads_has_changed",),
    ),
    Mutant(
        "Ratios of other seeds are compared by as many pairs of seeds as there could be.",
        "if np.triu(known, 1).sum() < len(pairs)",
        "if not pairs",
        ("tests/test_variance.py::test_ratios_of_other_seeds_are_weighed_by_as_many_pairs",),
    ),
    Mutant(
        "The fall of the last tenth of a loss curve is not that of all of it.",
        "if earliest <= step <= (1 - LAST_PART) * end",
        "if step <= (1 - LAST_PART) * end",
        ("tests/test_stimuli.py::test_the_rule_for_failed_syntheses",),
    ),
    # Masks and their images.
    Mutant(
        "A mask stays with its image when a stronger source names the images in another order.",
        "found[key] = [masks[image] for image in has.masked]",
        "found[key] = list(masks.values())[: len(has.masked)]",
        ("tests/test_mask_order.py::test_a_flag_that_names_other_contents_takes_each_with_its_mask",),
    ),
    Mutant(
        "A part of weight 0 does not move the masks of a blend.",
        "return tuple(by[image] for image in own)",
        "return masks",
        ("tests/test_mask_order.py::test_a_weight_of_0_does_not_move_the_masks_of_a_ladder",),
    ),
    Mutant(
        "An extension does not give an image another mask than the run has.",
        "if had[image] != has[image] and not _alike(had[image], has[image]):",
        "if had[image] != had[image]:",
        (
            "tests/test_mask_order.py::test_an_extension_by_another_image_needs_its_mask_and_keeps_the_others",
        ),
    ),
    Mutant(
        "A layer that leaves every region out has no part in the balance.",
        "present = {name for name, i in at.items() if np.any(np.asarray(regions.weights)[i])}",
        "present = {*at}",
        ("tests/test_regions.py::test_a_layer_that_leaves_every_region_out_has_no_part_in_the_balance",),
    ),
    Mutant(
        "The loss of a finished picture is of its pixels as saved, where they were held too.",
        "targets = targets._replace(held=held._replace(where=np.zeros(held.where.shape, np.float32)))",
        "targets = targets._replace(held=held)",
        (
            "tests/test_regions.py"
            "::test_the_loss_of_a_finished_picture_is_that_of_the_file_where_pixels_were_held",
        ),
    ),
    # What follows from the results.
    Mutant(
        "Results that lack cells are made again, whatever their date.",
        "return {*where} == computed",
        "return True",
        ("tests/test_variance.py::test_results_that_lack_cells_are_made_again_whatever_their_date",),
    ),
    Mutant(
        "The page gives a best picture the lowest loss up to its step.",
        "return before[int(np.nanargmin(total[before]))]",
        "return before[-1]",
        ("tests/test_page.py::test_losses_of_the_best_pictures_are_the_lowest_up_to_their_step",),
    ),
    Mutant(
        "A plan has the memory of the largest style.",
        "if planned.target_bytes > max(takes.values()):",
        "if planned.target_bytes < 0:",
        ("tests/test_limits.py::test_the_memory_of_the_largest_style_is_in_the_plan",),
    ),
)


# --- how they are applied -------------------------------------------------------------------------


def modules(root: Path) -> dict[Path, str]:
    """The text of every module of the package in a working tree."""
    return {path: path.read_text("utf-8") for path in sorted((root / "jaxstyle").rglob("*.py"))}


def application(mutant: Mutant, texts: Mapping[Path, str]) -> tuple[Path, str]:
    """The module that a mutant changes, and its text then. Raises ValueError unless it is one place."""
    count = sum(text.count(mutant.old) for text in texts.values())
    if count != 1:
        raise ValueError(f"stands {count} times in the package: {mutant.old!r}")
    path = next(path for path, text in texts.items() if mutant.old in text)
    return path, texts[path].replace(mutant.old, mutant.new)


def missing(tests: Iterable[str], root: Path) -> list[str]:
    """Those of some tests whose file has no function of that name."""
    wanted = [(test, *test.partition("[")[0].split("::")) for test in tests]
    there: set[tuple[str, str]] = set()
    for file in {file for _, file, _ in wanted if (root / file).is_file()}:
        body = ast.parse((root / file).read_text("utf-8")).body
        there |= {(file, node.name) for node in body if isinstance(node, ast.FunctionDef)}
    return [test for test, file, name in wanted if (file, name) not in there]


def copy_tree(source: Path, target: Path) -> None:
    """Copy what git would not ignore, times included: what Python has compiled is known by those."""
    listing = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


# --- running --------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """What tests came to."""

    outcome: str
    seconds: float
    said: str
    """The tests that failed, or why there is nothing to tell."""


def run_tests(root: Path, tests: Iterable[str], cache: Path, *options: str) -> Ended:
    """Run some tests of a working tree by themselves."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *tests],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "JAXSTYLE_TESTS_CACHE": str(cache)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Ended(FAULT, time.monotonic() - began, f"took over {SECONDS} s")
    lines = (done.stdout + done.stderr).splitlines()
    failed = [line for line in lines if re.match("(FAILED|ERROR) ", line)]
    outcome = OUTCOMES.get(done.returncode, FAULT)
    if outcome == KILLED and not failed:
        outcome = FAULT
    said = failed or ([] if outcome == SURVIVED else [f"pytest ended with {done.returncode}", *lines[-5:]])
    return Ended(outcome, time.monotonic() - began, "\n".join(said))


def tried(mutant: Mutant, number: int, root: Path, cache: Path) -> Ended:
    """What the tests of a mutant come to in a working tree, which is then as it was.

    Python knows what it has compiled by the size and the second of its text: every mutant has its own.
    """
    texts = modules(root)
    path, text = application(mutant, texts)
    before = path.stat()
    try:
        path.write_text(text, "utf-8")
        os.utime(path, (before.st_atime, before.st_mtime + 10 * (number + 1)))
        return run_tests(root, mutant.tests, cache, "-x")
    finally:
        path.write_text(texts[path], "utf-8")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def survey(chosen: Sequence[Mutant], folder: Path, jobs: int) -> int:
    """Try every mutant, tell what comes of them, and return how many are not killed."""
    trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for job in range(jobs):
        copy_tree(ROOT, folder / f"tree{job}")
        trees.put(folder / f"tree{job}")
    cache, alive, began = folder / "cache", 0, time.monotonic()

    def ended(number: int, mutant: Mutant) -> Ended:
        root = trees.get()
        try:
            return tried(mutant, number, root, cache)
        finally:
            trees.put(root)

    plain = run_tests(folder / "tree0", dict.fromkeys(t for m in chosen for t in m.tests), cache)
    if plain.outcome != SURVIVED:
        print(f"without any mutant:\n{plain.said}")
        return 1
    print(f"{'all pass':9}{plain.seconds:6.1f} s  without any mutant", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        for mutant, end in zip(chosen, pool.map(ended, range(len(chosen)), chosen), strict=True):
            alive += end.outcome != KILLED
            print(f"{end.outcome:9}{end.seconds:6.1f} s  {mutant.claim}", flush=True)
            for line in end.said.splitlines():
                print(f"{'':19}{line[:180]}", flush=True)
    killed = f"{len(chosen) - alive} of {len(chosen)} mutants killed"
    print(f"\n{killed} in {(time.monotonic() - began) / 60:.1f} minutes")
    return alive


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m tests.mutants`; 1 if a mutant survives, or a test that it names is not there."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="those with this text in them")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (1)")
    given = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if given.only.lower() in str(mutant).lower()]
    if not chosen:
        parser.error(f"no mutant has {given.only!r} in it")
    if absent := missing([test for mutant in chosen for test in mutant.tests], ROOT):
        print("no such test:", *absent, sep="\n  ")
        return 1
    texts = modules(ROOT)
    try:
        for mutant in chosen:
            application(mutant, texts)
    except ValueError as error:
        print(error)
        return 1
    with tempfile.TemporaryDirectory(prefix="jaxstyle-mutants-") as folder:
        return 1 if survey(chosen, Path(folder), given.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
