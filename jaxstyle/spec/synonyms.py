"""Names that other projects use for a setting or a layer, and the names here.

Users of neural-style, its ports to PyTorch and TensorFlow, style-transfer-pytorch, pastiche or a tutorial
type the names from there. The name here with the most similar spelling often means something else.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jaxstyle.vgg import layers

_RATIO = "--alpha-beta is the ratio of content to style weight, --beta the style weight"
_SEVERAL = "several values are snapshots"
_DEVICE = "JAX computes on the GPU or TPU that it is installed for; JAX_PLATFORMS=cpu makes it take the CPU"
_RATIO_OF = "content_weight content_loss_weight lambda_content alpha cw ratio content_style_ratio"
_RATIO_OF += " style_weight style_loss_weight lambda_style sw content_weight_blend"


class Synonym(NamedTuple):
    """The answer to a name of another project."""

    setting: str | None
    """The setting here; None if there is none."""
    why: str = ""
    """Explanation for the error message."""


def _all(names: str, setting: str | None, why: str = "") -> dict[str, Synonym]:
    return dict.fromkeys(names.split(), Synonym(setting, why))


SETTINGS = {
    **_all(
        "content_image content_img content_path content_image_path content_img_path content_img_name"
        " content_file content_dir contents base_image base_image_path base_img input input_image img"
        " image images source photo target content_target",
        "content",
    ),
    **_all(
        "style_image style_images style_img style_imgs style_path style_image_path style_img_path"
        " style_img_name style_file style_dir styles style_reference style_reference_image"
        " style_reference_image_path style_target painting",
        "style",
    ),
    **_all(
        "image_size img_size imsize im_size imgsize size_px size_pixels max_size max_dim max_edge"
        " resolution content_size output_size end_scale width height img_nrows scale shape",
        "size",
    ),
    **_all("style_scale style_scales style_scale_fac style_size_pixels style_img_size", "style_size"),
    **_all(
        "iterations iteration iter iters n_iter n_iters niter num_iter num_iters num_iterations"
        " n_iterations max_iter max_iters max_iterations num_steps n_steps nsteps step max_steps"
        " total_steps epochs epoch n_epochs num_epochs steps_per_epoch initial_iterations",
        "steps",
    ),
    **_all(
        "save_iter save_every save_freq saving_freq save_interval save_steps print_iter print_every"
        " print_iterations print_iter_every checkpoint_iterations log_interval log_every info_step"
        " snapshot snapshots",
        "steps",
        _SEVERAL,
    ),
    **_all(_RATIO_OF, "alpha_beta", _RATIO),
    **_all("learning_rates lr rate step_size stepsize alpha_lr", "learning_rate"),
    **_all(
        "tv tv_loss tv_loss_weight tv_strength tvw tw tv_reg tv_lambda lambda_tv total_variation"
        " total_variation_weight variation_weight tv_weight_1 tv_weight_2 smoothness smoothing_weight",
        "tv_weight",
    ),
    **_all("content_layers content_layer_name content_features content_layers_default", "content_layer"),
    **_all("style_layer style_layer_names style_features style_layers_default", "style_layers"),
    **_all(
        "style_layer_weights style_layer_weight style_layers_weights",
        "style_layers",
        "weights follow the layers' names, as in conv1_1:20+conv4_1:0.05",
    ),
    **_all(
        "init_image init_img init_method init_type init_img_type init_path initial initial_image start"
        " starting_image start_image initialization initialisation random_init from_content",
        "init",
    ),
    **_all("pooling pool_type pooling_type pool_mode", "pool"),
    **_all("padding_mode pad_mode pad padding_type", "padding"),
    **_all(
        "model model_file model_path model_weights model_dir vgg vgg19 vgg_path vgg_weights vgg_file"
        " network_path pretrained pretrained_weights proto_file caffemodel weight_file weights_path"
        " weights_file ckpt",
        "weights",
        "the network is VGG19",
    ),
    **_all("normalize_weights normalise_weights normalize normalise", "network", "it can be normalised"),
    **_all("normalize_gradients normalise_gradients", "style_weights", "balanced does something similar"),
    **_all("random_seed manual_seed rng rng_seed random_state seeds torch_seed", "seed"),
    **_all("optim optimiser optimization solver", "optimizer"),
    **_all("lbfgs_num_correction num_correction history_size lbfgs_history max_cor", "lbfgs_memory"),
    **_all(
        "octaves num_scales n_scales scales min_scale multires multiscale multi_scale levels", "pyramid"
    ),
    **_all("dtype fp16 half float16 bf16 bfloat16 amp mixed_precision tf32 allow_tf32", "precision"),
    **_all("noise noise_ratio noise_scale noise_level noise_sigma initial_noiseblend", "noise_std"),
    **_all("scheduler lr_schedule lr_scheduler lr_decay decay learning_rate_decay", "schedule"),
    **_all("clip clip_pixels clipping clamp_pixels", "clamp"),
    **_all(
        "device gpu gpus cuda cpu tpu use_gpu use_cuda no_cuda no_gpu gpu_id gpu_ids gpu_device accelerator"
        " backend platform multigpu_strategy multidevice_strategy supplemental_device supplemental_devices",
        "devices",
        _DEVICE,
    ),
    **_all("num_gpus n_gpus num_devices n_devices ngpu", "devices"),
    **_all(
        "output output_image output_img output_path output_file output_dir output_folder output_filename"
        " outdir out_dir out_path out_file outfile outpath o save save_dir save_path save_to img_output_dir"
        " result result_dir result_path result_prefix results results_dir log_dir logdir target_dir"
        " checkpoint_output destination dest",
        "out",
    ),
    **_all("config config_file cfg yaml toml settings settings_file params study", "spec"),
    **_all("dryrun dry plan estimate show_plan", "dry_run"),
    **_all("continue restart restore resume_from resume_run load_checkpoint", "resume"),
    **_all("silent no_progress no_verbose", "quiet"),
    **_all(
        "checkpoint checkpoints checkpoint_interval checkpoint_freq checkpoint_steps", "checkpoint_every"
    ),
    **_all("cluster_address ray ray_address", "cluster"),
    **_all("shards array_task", "shard"),
    **_all("reproducible cudnn_deterministic", "deterministic"),
    **_all("no_cache disable_cache nocache", "no_compile_cache"),
    **_all(
        "overwrite force",
        None,
        "a run is never overwritten, so give a new --out; a picture always is",
    ),
    **_all(
        "batch_size batch batchsize bs", None, "the number of cells in a launch follows from the memory"
    ),
    **_all(
        "num_workers workers jobs n_jobs threads num_threads nthreads cpus",
        None,
        "a process uses every core that it may run on; NPROC=N in the environment gives it N threads",
    ),
    **_all(
        "original_colors original_colours preserve_color preserve_colors preserve_colour preserve_colours"
        " keep_colors keep_colours color_control color_convert_type color_preserve luminance_only",
        "colour",
        "luminance keeps the colours of the content, match moves the style's to them",
    ),
    **_all(
        "style_blend_weights style_img_weights style_imgs_weights style_interpolation_weights blend",
        "style",
        "weights stand in it, as in a.jpg:0.7+b.jpg:0.3",
    ),
    **_all("content_layer_weights content_layers_weights", None, "a picture has one content layer"),
    **_all("beta1 beta2 beta_1 beta_2 eps epsilon", None, "Adam's are 0.9, 0.999 and 1e-8"),
    **_all("mask masks semantic_mask content_masks", "content_mask", "a PNG for --regions masks"),
    **_all("style_masks", "style_mask", "a PNG for --regions masks"),
    **_all("verbose debug progress", None, "everything is printed by default; see quiet and log_format"),
}
"""Answers by name, in lower case and with _ for -."""


def setting(key: str) -> Synonym | None:
    """The answer to another project's name of a setting; None if it is not known."""
    return SETTINGS.get(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key[:100]).replace("-", "_").lower())


STARTS = {
    **dict.fromkeys(("random", "rand", "randn", "gaussian", "normal"), "noise"),
    **dict.fromkeys(("image", "content_image", "content-image"), "content"),
    **dict.fromkeys(("style_image", "style-image"), "style"),
    **dict.fromkeys(("recolored", "recolor", "recolour"), "recoloured"),
}
"""Kinds of start by the names that other projects give them."""


# --- layers ---------------------------------------------------------------------------------------

POOLS = tuple(sum(row.pools < block for row in layers.VGG19) for block in range(1, 6))
"""Number of convolutions before each pooling."""


def _torchvision() -> dict[int, tuple[str, str]]:
    """Kind of module and name of its layer at each index of torchvision's `vgg19().features`."""
    found: dict[int, tuple[str, str]] = {}
    for number, name in enumerate(layers.NAMES, 1):
        found[len(found)] = "convolution", name
        found[len(found)] = "ReLU of", name
        if number in POOLS:
            found[len(found)] = "pooling", f"pool{POOLS.index(number) + 1}"
    return found


TORCHVISION = _torchvision()
_BLOCK = re.compile(r"block_?(\d+)[_./]?(conv|relu|pool)_?(\d*)", re.IGNORECASE)
_POOL = re.compile(r"(?:max|avg)?_?pool(?:ing)?_?(\d+)(?:_\d+)?|p([1-5])", re.IGNORECASE)
_NAMED = re.compile(
    r"(?:vgg_?19[_./])?(?:conv\d[_./])?(?:(?:conv|relu|r)(\d)[_.-]?|(?:conv|relu)_(\d)[_.-])(\d)(?:[_./]relu)?",
    re.IGNORECASE,
)
_INDEXED = re.compile(r"(?:(?:vgg_?19)?[_./]?features)?[_.\[]?(\d{1,2})\]?", re.IGNORECASE)
_COUNTED = re.compile(r"(?:conv|relu)_(\d{1,2})", re.IGNORECASE)


def layer(name: str) -> str | None:
    """A message for another project's name of a layer: whose it is, and the name here; None if unknown."""
    text = name.strip()[:60]
    if re.sub(r"[-. ]", "_", text.lower()) in layers.TAPS:  # a name of ours with a wrong separator
        return None
    if found := _BLOCK.fullmatch(text):
        whose = "pastiche's" if found[2].lower() == "relu" else "Keras'"
        own = f"pool{found[1]}" if found[2].lower() == "pool" else f"conv{found[1]}_{found[3]}"
        return _renamed(text, f"{whose} name for", own)
    if found := _POOL.fullmatch(text):
        return _renamed(text, "another name for", f"pool{found[1] or found[2]}")
    if found := _NAMED.fullmatch(text):
        return _renamed(text, "another name for", f"conv{found[1] or found[2]}_{found[3]}")
    if found := _INDEXED.fullmatch(text):
        kind, own = TORCHVISION.get(int(found[1]), ("", ""))
        return _renamed(text, f"torchvision's number for the {kind}", own)
    if found := _COUNTED.fullmatch(text):
        own = dict(enumerate(layers.NAMES, 1)).get(int(found[1]), "")
        return _renamed(text, "the PyTorch tutorial's name for", own)
    return None


def _renamed(text: str, whose: str, own: str) -> str | None:
    if own not in layers.TAPS:
        block = [other for other in layers.NAMES if other.startswith(own[:6])] if own else []
        return (
            f"VGG19 has no layer {text!r}; its block {own[4]} has {block[0]} to {block[-1]}"
            if block
            else None
        )
    taken = "" if own in layers.POOLS else " (layers are taken after their ReLU)"
    return f"{text} is {whose} {own}; write {own}{taken}"
