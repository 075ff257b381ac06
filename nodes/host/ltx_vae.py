"""The LTX VAE's weights in ComfyUI's stock VAE, whose names differ from those of the published file, which are ours."""

from typing import Any

import torch

from ...livetalk_core.config import LTX_LEVELS, LTXVAEConfig
from ...livetalk_core.errors import InputError
from ...livetalk_core.models.ltx_vae import LTXVAE

STATISTICS = {
    "latents_mean": "per_channel_statistics.mean-of-means",
    "latents_std": "per_channel_statistics.std-of-means",
}
LAYERS = ((".norm3.", ".norm3.norm."), (".conv_shortcut.conv.", ".conv_shortcut."))
"""Our names of layers in a residual block, and ComfyUI's."""
RESIDUAL, HALVE, WIDEN = "res_x", "compress_all", "res_x_y"
"""What ComfyUI calls residual blocks of one width, half or twice the size, and one block to twice the width."""


def stock_names(config: LTXVAEConfig) -> dict[str, str]:
    """Every weight's name in our model -> its name in ComfyUI's."""
    with torch.device("meta"):
        names = LTXVAE(config).state_dict()
    stages = {**_encoder_stages(config), **_decoder_stages(config)}
    return {name: STATISTICS.get(name) or _stock_name(name, stages) for name in names}


def stock_settings(config: LTXVAEConfig) -> dict[str, Any]:
    """What ComfyUI's VAE is built from; its decoder pads with zeros, as FlashHead's does."""
    blocks: list[list[Any]] = []
    for level, (width, count) in enumerate(zip(config.block_out_channels, config.layers_per_block, strict=False)):
        blocks.append([RESIDUAL, count])
        if level < LTX_LEVELS - 1:
            blocks.append([HALVE, 1])
            blocks += [[WIDEN, 1]] * (config.block_out_channels[level + 1] != width)
    base = config.block_out_channels[0]
    return {
        "dims": 3, "latent_channels": config.latent_channels, "patch_size": config.patch_size,
        "blocks": [*blocks, [RESIDUAL, config.layers_per_block[-1]]],
        "encoder_base_channels": base, "decoder_base_channels": base,
        "norm_layer": "pixel_norm", "latent_log_var": "uniform", "causal_decoder": False,
        "spatial_padding_mode": "zeros",
    }  # fmt: skip


def config_of(settings: dict[str, Any]) -> LTXVAEConfig:
    """The widths of a stock LTX VAE built from these settings; `InputError` for a later version's."""
    if "blocks" not in settings or settings.get("timestep_conditioning"):
        raise InputError(
            "this is a later LTX VAE than FlashHead Lite's; needed is the one that was published with it: choose it in "
            "LiveTalk Load VAE"
        )
    width, widths, counts = settings.get("encoder_base_channels", LTXVAEConfig.block_out_channels[0]), [], []
    for kind, count in settings["blocks"]:
        width *= 2 if kind == WIDEN else 1
        if kind == RESIDUAL:
            widths.append(width)
            counts.append(count)
    return LTXVAEConfig(tuple(widths[:-1]), tuple(counts), settings["latent_channels"], settings["patch_size"])


def _encoder_stages(config: LTXVAEConfig) -> dict[str, str]:
    """The beginning of our names in the encoder -> that of ComfyUI's, which numbers all stages in one row."""
    stages: list[tuple[str, str]] = []
    for level in range(LTX_LEVELS):
        stages.append((f"down_blocks.{level}.resnets.", "res_blocks."))
        if level < LTX_LEVELS - 1:
            stages.append((f"down_blocks.{level}.downsamplers.0.", ""))
            stages += [(f"down_blocks.{level}.conv_out.", "")] * _widens(config, level)
    stages.append(("mid_block.resnets.", "res_blocks."))
    return {f"encoder.{own}": f"encoder.down_blocks.{index}.{ending}" for index, (own, ending) in enumerate(stages)}


def _decoder_stages(config: LTXVAEConfig) -> dict[str, str]:
    """As `_encoder_stages`."""
    stages = [("mid_block.resnets.", "res_blocks."), ("up_blocks.0.resnets.", "res_blocks.")]
    for level in range(1, LTX_LEVELS):
        stages += [(f"up_blocks.{level}.conv_in.", "")] * _widens(config, LTX_LEVELS - 1 - level)
        stages += [(f"up_blocks.{level}.upsamplers.0.", ""), (f"up_blocks.{level}.resnets.", "res_blocks.")]
    return {f"decoder.{own}": f"decoder.up_blocks.{index}.{ending}" for index, (own, ending) in enumerate(stages)}


def _widens(config: LTXVAEConfig, level: int) -> bool:
    return config.block_out_channels[level] != config.block_out_channels[level + 1]


def _stock_name(name: str, stages: dict[str, str]) -> str:
    for own, stock in stages.items():
        if name.startswith(own):
            name = stock + name.removeprefix(own)
            break
    for own, stock in LAYERS:
        name = name.replace(own, stock)
    return name
