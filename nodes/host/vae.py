"""The VAE socket: our streamed arithmetic on the weights of a stock VAE."""

from typing import Any

import comfy.latent_formats
import comfy.model_management as memory
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ...livetalk_core.config import VAEConfig
from ...livetalk_core.errors import InputError
from ...livetalk_core.models.vae import VAE
from .models import KEY, Patcher, Weights, make_patcher


class Conv3d(comfy.ops.manual_cast.Conv3d):
    """ComfyUI's layer; on CPUs through oneDNN, since PyTorch's own path for one small clip is 4-5 times slower."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any, **options: Any) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return super()._conv_forward(input, weight, bias, *rest, **options)
        return torch.mkldnn_convolution(input, weight, bias, self.padding, self.stride, self.dilation, self.groups)


class VAEOperations(comfy.ops.manual_cast):
    """Layers of the VAE."""


VAEOperations.Conv3d = Conv3d


def stock_vae(weights: Weights) -> comfy.sd.VAE:
    """The embedded VAE as a stock VAE: it keeps Wan's layout."""
    vae = comfy.sd.VAE(sd=weights)
    vae.throw_exception_if_invalid()
    return vae


def vae_width(vae: comfy.sd.VAE) -> int:
    """Base width of a VAE of Wan's layout, which tells the embedded one from Wan's own; 0 for another layout."""
    head = vae.get_sd().get("decoder.head.0.gamma")
    return 0 if head is None else len(head)


def vae_patcher(vae: comfy.sd.VAE) -> Patcher:
    """Our VAE on the weights of a stock one (shared, not copied, while those are off the GPU); made once per VAE."""
    patcher, device = vae.patcher.get_attachment(KEY), vae.patcher.load_device
    if patcher is None or patcher.load_device != device:  # a clone for another device keeps its attachments
        offload = vae.patcher.offload_device
        patcher = make_patcher(_our_vae(vae, offload), device, offload)
        vae.patcher.set_attachments(KEY, patcher)
    return patcher


def _our_vae(vae: comfy.sd.VAE, offload: torch.device) -> VAE:
    weights = {key: tensor.to(offload) for key, tensor in vae.get_sd().items()}
    head = weights.get("decoder.head.0.gamma")
    ours = VAE(VAEConfig(dim=1 if head is None else len(head)), VAEOperations, device="meta", dtype=vae.vae_dtype)
    needed = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    found = {key: tensor.shape for key, tensor in weights.items()}
    if needed != found:
        raise InputError(
            f"this VAE ({type(vae.first_stage_model).__name__}) is not Wan 2.1's; LiveTalk needs one with its layout: "
            "load wan_2.1_vae.safetensors, or use the embedded model's VAE"
        )
    memory.archive_model_dtypes(ours)
    ours.load_state_dict(weights, assign=True)
    return ours.eval().requires_grad_(False)


def raw_latent(latent: Tensor) -> Tensor:
    """Our normalised latent [B,16,F,h,w] as ComfyUI's LATENT holds it: not normalised."""
    return comfy.latent_formats.Wan21().process_out(latent)


def normalised_latent(samples: Tensor) -> Tensor:
    """The inverse of `raw_latent`."""
    return comfy.latent_formats.Wan21().process_in(samples)
