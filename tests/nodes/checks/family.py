"""FlashHead Pro, FlashHead Lite and LeapTalk: their MODELs, the LTX VAE, and what does not go together."""

import tempfile
from dataclasses import replace
from pathlib import Path

import folder_paths
import torch
from checks.common import close, interrupted, weights_of
from livetalk_in_comfyui.livetalk_core.checkpoints.convert import convert
from livetalk_in_comfyui.livetalk_core.config import LTXVAEConfig, TransformerConfig
from livetalk_in_comfyui.livetalk_core.errors import InputError
from livetalk_in_comfyui.livetalk_core.models.ltx_vae import LTXVAE
from livetalk_in_comfyui.livetalk_core.models.transformer import Transformer
from livetalk_in_comfyui.livetalk_core.presets import PRESETS
from livetalk_in_comfyui.livetalk_core.shapes import LTX, WAN
from livetalk_in_comfyui.livetalk_core.streaming.avatar import Avatar
from livetalk_in_comfyui.livetalk_core.streaming.engine import LocalEngine
from livetalk_in_comfyui.nodes import guidance, host
from safetensors.torch import save_file

from nodes import LoraLoaderModelOnly

PRO = TransformerConfig(
    dim=48, ffn_dim=96, num_heads=4, num_layers=2, in_dim=32, freq_dim=32, audio_blocks=4, audio_channels=64,
    intermediate_dim=32, output_dim=48, context_tokens=4, prompted=False,
)  # fmt: skip
LITE = replace(PRO, in_dim=256, out_dim=128, geometry=LTX)
WIDTHS = LTXVAEConfig((4, 8, 16, 16), (2, 1, 1, 1, 2))
RANK, ALPHA = 4, 8


def member(config):
    """A small transformer of a member, and the MODEL of its weights."""
    core = Transformer(config)
    weights = weights_of(core, 1)
    core.load_state_dict(weights)
    return core, host.build_model("test", config, dict(weights), (member, (config,)), False)


def denoise(engine, config, steps=4):
    """One chunk."""
    generator = torch.Generator().manual_seed(3)
    channels, frames = config.geometry.latent_channels, 3

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    avatar = Avatar(draw(1, 3, 1, 64, 64), draw(channels, frames, 4, 6))
    sound = draw(1, 1 + config.geometry.temporal_stride * (frames - 1), 5, config.audio_blocks, config.audio_channels)
    return engine.denoise(avatar, sound, draw(channels, 1, 4, 6), draw(steps, channels, frames, 4, 6), lambda _: None)


def check_members_denoise_as_the_core_does():
    for config in (PRO, LITE):
        core, model = member(config)
        close(denoise(host.HostEngine(model), config), denoise(LocalEngine(core, None), config), 1e-4)


def check_a_bridge_is_crossed_as_in_the_core():
    core, model = member(PRO)
    for steps in (1, 2):
        found = denoise(host.HostEngine(model, bridge=True), PRO, steps)
        close(found, denoise(LocalEngine(core, None, bridge=True), PRO, steps), 1e-4)


def ltx_vae():
    """The core's LTX VAE, and the stock VAE of the same weights."""
    core = LTXVAE(WIDTHS)
    weights = weights_of(core, 2)
    core.load_state_dict(weights)
    return core, host.stock_vae(weights, WIDTHS)


def check_the_ltx_vae_computes_what_the_core_does():
    core, stock = ltx_vae()
    assert host.vae_config(stock) == WIDTHS
    assert host.vae_weights(stock).keys() == core.state_dict().keys()
    engine, expected = host.HostEngine(vae=stock), LocalEngine(None, core)
    generator = torch.Generator().manual_seed(4)
    video = torch.rand(3, 9, 64, 32, generator=generator) * 2 - 1
    noise = torch.randn(128, 2, 2, 1, generator=generator)
    for drawn in (None, noise):
        close(engine.encode(video, drawn), expected.encode(video, drawn), 1e-4)
    (frames,) = engine.decode(noise)
    close(frames, next(iter(expected.decode(noise))), 1e-4)
    interrupted(lambda: list(host.HostEngine(vae=stock).decode(noise)))


def check_comfyuis_own_ltx_vae_decodes_alike():
    """The names are mapped as ComfyUI means them: its own arithmetic gives the same picture."""
    core, stock = ltx_vae()
    latent = torch.randn(1, 128, 2, 2, 1, generator=torch.Generator().manual_seed(5))
    shown = stock.decode(latent)[0].permute(3, 0, 1, 2)
    close(shown, ((core.decode(latent)[0] + 1) / 2).clamp(0, 1), 1e-3)


def leaptalk_file(folder, config):
    """LeapTalk as published, for a transformer of these widths, made one file by `convert`."""
    generator = torch.Generator().manual_seed(6)
    lora, core = {}, Transformer(config)
    for block in range(config.num_layers):
        for layer in (
            f"blocks.{block}.{attention}.{name}" for attention in ("self_attn", "cross_attn") for name in "qkvo"
        ):
            for part, shape in (("lora_A", (RANK, config.dim)), ("lora_B", (config.dim, RANK))):
                lora[f"base_model.model.{layer}.{part}.weight"] = torch.randn(shape, generator=generator) * 0.1
    (folder / "lora").mkdir()
    save_file(lora, folder / "lora" / "adapter_model.safetensors")
    (folder / "lora" / "adapter_config.json").write_text(f'{{"r": {RANK}, "lora_alpha": {ALPHA}}}')
    save_file(weights_of(core.audio_proj, 7), folder / "audio_proj.safetensors")
    return convert(folder, folder / "leaptalk.safetensors")


def with_leaptalk(model, path):
    """The MODEL behind ComfyUI's Load LoRA."""
    folder_paths.add_model_folder_path("loras", str(path.parent), is_default=True)
    folder_paths.filename_list_cache.pop("loras", None)
    return LoraLoaderModelOnly().load_lora_model_only(model, path.name, 1.0)[0]


def check_leaptalk_by_the_stock_lora_loader_is_what_our_adapter_makes():
    from livetalk_in_comfyui.livetalk_core.checkpoints.load import transformer_part

    _, model = member(PRO)
    core = Transformer(PRO)
    weights = weights_of(core, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = leaptalk_file(folder, PRO)
        base = folder / "pro.safetensors"
        save_file(weights, base, {"config": '{"num_heads": 4, "audio_channels": 64}'})
        ours = transformer_part(base, patch=folder).load("cpu", torch.float32)
        talking = with_leaptalk(model, path)
    assert guidance.made_for(talking) == PRESETS["leaptalk"].stream
    assert guidance.made_for(model) == PRESETS["flashhead-pro"].stream
    expected = denoise(LocalEngine(ours, None, bridge=True), PRO, 1)
    close(denoise(host.HostEngine(talking, bridge=True), PRO, 1), expected, 1e-4)
    core.load_state_dict(weights)
    assert (expected - denoise(LocalEngine(core, None, bridge=True), PRO, 1)).abs().max() > 1e-2, "it changes nothing"


def check_leaptalk_on_another_model_is_refused_by_name():
    with tempfile.TemporaryDirectory() as name:
        path = leaptalk_file(Path(name), PRO)
        for config, named in ((LITE, "FlashHead Pro"), (replace(PRO, dim=96, output_dim=96), "FlashHead Pro")):
            model = with_leaptalk(member(config)[1], path)
            try:
                guidance.made_for(model)
            except InputError as error:
                assert named in str(error), error
            else:
                raise AssertionError("not refused")


def check_latents_keep_their_members_format():
    for geometry in (WAN, LTX):
        latent = torch.randn(1, geometry.latent_channels, 2, 3, 3, generator=torch.Generator().manual_seed(8))
        close(host.normalised_latent(host.raw_latent(latent, geometry), geometry), latent, 1e-6)
