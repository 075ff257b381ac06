"""The VAE socket: our arithmetic on the weights of a stock VAE, Wan 2.1's or the LTX VAE of FlashHead Lite."""

import json
from typing import Any

import comfy.model_management as memory
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ...livetalk_core.config import LTXVAEConfig, VAEConfig
from ...livetalk_core.errors import InputError
from ...livetalk_core.models.codec import build_vae
from ...livetalk_core.models.ltx_vae import LTXVAE
from ...livetalk_core.models.vae import VAE
from ...livetalk_core.shapes import Geometry
from .ltx_vae import STATISTICS, config_of, stock_names, stock_settings
from .models import KEY, Patcher, Weights, latent_format, make_patcher


class Conv3d(comfy.ops.manual_cast.Conv3d):
    """ComfyUI's layer; on CPUs through oneDNN, since PyTorch's own path for one small clip is 4-5 times slower."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any, **options: Any) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return super()._conv_forward(input, weight, bias, *rest, **options)
        return torch.mkldnn_convolution(input, weight, bias, self.padding, self.stride, self.dilation, self.groups)


class VAEOperations(comfy.ops.manual_cast):
    """Layers of the VAE."""


VAEOperations.Conv3d = Conv3d


def stock_vae(weights: Weights, config: VAEConfig | LTXVAEConfig) -> comfy.sd.VAE:
    """A VAE with the published keys as a stock VAE: Wan's keeps its names, the LTX VAE gets ComfyUI's."""
    metadata = None
    if isinstance(config, LTXVAEConfig):
        names = stock_names(config)
        weights = {names[name]: tensor for name, tensor in weights.items()}
        metadata = {"config": json.dumps({"vae": stock_settings(config)})}
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.throw_exception_if_invalid()
    return vae


def vae_config(vae: comfy.sd.VAE) -> VAEConfig | LTXVAEConfig:
    """The widths of a stock VAE; an `InputError` where it is neither of those that LiveTalk knows."""
    return vae_patcher(vae).model.config


def vae_weights(vae: comfy.sd.VAE) -> Weights:
    """Its weights under the published keys."""
    return _our_weights(vae)[1]


def vae_patcher(vae: comfy.sd.VAE) -> Patcher:
    """Our VAE on the weights of a stock one (shared, not copied, while those are off the GPU); made once per VAE."""
    if not isinstance(vae, comfy.sd.VAE):
        raise InputError(f"this VAE is a {type(vae).__name__}; needed is one from Load VAE or LiveTalk's loaders")
    patcher, device = vae.patcher.get_attachment(KEY), vae.patcher.load_device
    if patcher is None or patcher.load_device != device:  # a clone for another device keeps its attachments
        offload = vae.patcher.offload_device
        patcher = make_patcher(_our_vae(vae, offload), device, offload)
        vae.patcher.set_attachments(KEY, patcher)
    return patcher


def _our_vae(vae: comfy.sd.VAE, offload: torch.device) -> VAE | LTXVAE:
    config, weights = _our_weights(vae)
    ours = build_vae(config, VAEOperations, "meta", vae.vae_dtype)
    needed = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    shapes = {key: tensor.shape for key, tensor in weights.items()}
    if needed != shapes:
        raise InputError(
            f"this VAE ({type(vae.first_stage_model).__name__}) is neither Wan 2.1's nor FlashHead Lite's; LiveTalk "
            "needs one of these: load wan_2.1_vae.safetensors, use the embedded model's VAE, or LiveTalk Load VAE"
        )
    memory.archive_model_dtypes(ours)
    ours.load_state_dict({key: tensor.to(offload) for key, tensor in weights.items()}, assign=True)
    return ours.eval().requires_grad_(False)


def _our_weights(vae: comfy.sd.VAE) -> tuple[VAEConfig | LTXVAEConfig, Weights]:
    """What a stock VAE is, and its weights under the published keys, as far as its own are known."""
    weights: Weights = vae.get_sd()
    if STATISTICS["latents_mean"] not in weights:
        head = weights.get("decoder.head.0.gamma")
        return VAEConfig(dim=1 if head is None else len(head)), weights
    config = config_of(vae.first_stage_model.config)
    published: dict[str, str] = {stock: own for own, stock in stock_names(config).items()}
    ours: Weights = {published.get(name, name): tensor for name, tensor in weights.items()}
    return config, ours


def raw_latent(latent: Tensor, geometry: Geometry) -> Tensor:
    """Our normalised latent [B,C,F,h,w] as ComfyUI's LATENT holds it: Wan's not normalised."""
    return latent_format(geometry)().process_out(latent)


def normalised_latent(samples: Tensor, geometry: Geometry) -> Tensor:
    """The inverse of `raw_latent`."""
    return latent_format(geometry)().process_in(samples)
