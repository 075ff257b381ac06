"""SoulX-FlashHead, from its own checkout: the reference of Pro's and Lite's build."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor

from ...checkpoints import keys
from ...config import LTXVAEConfig
from ...models.attention import AttentionFunction
from ...models.ltx_vae import LOG_VARIANCE, LTXVAE
from ...presets import Preset
from ...sampling.chunk import NoiseSource
from ...streaming.avatar import posterior_noise
from .reference import Inputs, MetaInputs, Networks, Reference, Weights, placed
from .stand_ins import quiet

STATISTICS = "per_channel_statistics."
"""What the reference calls the LTX VAE's means and deviations by."""


class FlashHead(Reference):
    """See `Reference`. Lite's latents are drawn with the noise that ours are drawn with."""

    repository = "SoulX-FlashHead"
    commit = "12467ce"
    modules: ClassVar[dict[str, str]] = {
        "transformer": "flash_head.src.modules.flash_head_model",
        "vae": "flash_head.wan.modules.vae",
        "LTX VAE": "flash_head.ltx_video.ltx_vae",
        "LTX network": "flash_head.ltx_video.models.autoencoders.causal_video_autoencoder",
        "LTX posterior": "flash_head.ltx_video.models.autoencoders.vae",
        "LTX names": "flash_head.ltx_video.utils.diffusers_config_mapping",
        "pipeline": "flash_head.src.pipeline.flash_head_pipeline",
    }

    def use(self, attention: AttentionFunction) -> None:
        """See `Reference.use`."""

        def call(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
            return attention(*(x.unflatten(-1, (num_heads, -1)) for x in (q, k, v))).flatten(2)

        self._modules["transformer"].flash_attention = call

    def networks(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> Networks:
        """See `Reference.networks`."""
        transformer, widths = self._transformer(preset, device, dtype), preset.vae
        if isinstance(widths, LTXVAEConfig):
            return Networks(transformer, self._ltx_vae(widths, device, dtype))
        return Networks(transformer, self._wan_vae(widths, device, dtype))

    def _transformer(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> Any:
        module, config, geometry = self._modules["transformer"], preset.transformer, preset.geometry
        names = ("dim", "in_dim", "ffn_dim", "out_dim", "text_dim", "freq_dim", "eps", "num_heads", "num_layers")
        stride, patch_size = geometry.spatial_stride, geometry.patch
        with quiet(), torch.device("meta"):
            model = module.WanModelAudioProject(
                **{name: getattr(config, name) for name in names}, has_image_input=False,
                vae_stride=(geometry.temporal_stride, stride, stride), patch_size=(1, patch_size, patch_size),
            )  # fmt: skip
            model.audio_proj = module.AudioProjModel(
                seq_len=config.audio_window, seq_len_vf=config.audio_window + geometry.temporal_stride - 1,
                blocks=config.audio_blocks, channels=config.audio_channels, norm_output_audio=True,
                intermediate_dim=config.intermediate_dim, output_dim=config.output_dim,
                context_tokens=config.context_tokens,
            )  # fmt: skip
        model = placed(model, device, dtype)
        model.freqs = module.precompute_freqs_cis_3d(config.head_dim)
        return model.eval().requires_grad_(False)

    def _ltx_vae(self, config: LTXVAEConfig, device: torch.device, dtype: torch.dtype) -> Any:
        with quiet(), torch.device("meta"):
            network = self._modules["LTX network"].CausalVideoAutoencoder.from_config(self._described(config))
        network = placed(network, device, dtype).eval().requires_grad_(False)
        for name, fill in (("mean_of_means", torch.zeros), ("std_of_means", torch.ones)):
            network.register_buffer(name, fill(config.latent_channels, device=device, dtype=dtype))
        vae = object.__new__(self._modules["LTX VAE"].LtxVAE)
        vae.model = network
        self._draw_with(posterior_noise(0))
        return vae

    def _described(self, config: LTXVAEConfig) -> dict[str, Any]:
        """The VAE in the reference's own terms: as published, of another width (levels of 1, 2, 4, 4 times it)."""
        width = config.block_out_channels[0]
        published = replace(LTXVAEConfig(), block_out_channels=(width, 2 * width, 4 * width, 4 * width))
        assert config == published, "a preset's"
        widths = {"encoder_base_channels": width, "decoder_base_channels": width}
        return self._modules["LTX names"].OURS_VAE_CONFIG | widths

    def _draw_with(self, noise: NoiseSource) -> None:
        """Have the VAE's draws made from `noise`, of the chunks 0, 1, 2 ... in the order in which they are asked for.

        The avatar's is of chunk 0, as ours is.
        """
        indices = itertools.count()

        class Posterior:
            def __init__(self, moments: Tensor) -> None:
                self.mean, log_variance = moments.chunk(2, dim=1)
                self.deviation = (0.5 * log_variance.clamp(*LOG_VARIANCE)).exp()

            def sample(self) -> Tensor:
                drawn = noise(next(indices), tuple(self.mean.shape[1:]))
                return self.mean + self.deviation * drawn.to(self.mean)

        self._modules["LTX posterior"].DiagonalGaussianDistribution = Posterior

    def weights(self, networks: Networks) -> Weights:
        """See `Reference.weights`."""
        transformer, network = keys.transformer(networks.transformer.state_dict()), networks.vae.model.state_dict()
        if "mean_of_means" not in network:
            return Weights(transformer, network)
        return Weights(transformer, {name: network[self._renamed(name)] for name in _published_names()})

    def _renamed(self, name: str) -> str:
        """What the reference calls a weight of the published LTX VAE."""
        for published, own in self._modules["LTX names"].VAE_KEYS_RENAME_DICT.items():
            name = name.replace(published, own)
        return name.removeprefix(STATISTICS).replace("-", "_")

    def pipeline(self, preset: Preset, networks: Networks, inputs: Inputs, seed: int) -> Any:
        """See `Reference.pipeline`."""
        module, stream, geometry = self._modules["pipeline"], preset.stream, preset.geometry
        like, lite = next(networks.transformer.parameters()), isinstance(preset.vae, LTXVAEConfig)
        stride = (geometry.temporal_stride, geometry.spatial_stride, geometry.spatial_stride)
        pipeline = object.__new__(module.FlashHeadPipeline)
        vars(pipeline).update(
            device=like.device, param_dtype=like.dtype, rank=0, use_usp=False, sp_size=1, num_timesteps=1000,
            use_timestep_transform=True, model=networks.transformer, vae=networks.vae, use_ltx=lite,
            model_type="lite" if lite else "pro",
            config=SimpleNamespace(out_dim=geometry.latent_channels, vae_stride=stride),
        )  # fmt: skip
        self._draw_with(posterior_noise(seed))
        with quiet(), patch.object(module, "get_cond_image_dict", lambda image, _: {"portrait": image}):
            pipeline.prepare_params(
                inputs.image, (stream.height, stream.width), stream.frame_num, stream.motion_frames, stream.steps,
                seed, stream.shift, stream.color_correction,
            )  # fmt: skip
        return pipeline

    def condition(self, pipeline: Any) -> Tensor:
        """See `Reference.condition`."""
        return pipeline.ref_img_latent

    def compile(self, pipeline: Any) -> None:
        """See `Reference.compile`."""
        pipeline.model = torch.compile(pipeline.model)
        coder = pipeline.vae.model if pipeline.use_ltx else pipeline.vae
        coder.encode, coder.decode = map(torch.compile, (coder.encode, coder.decode))

    def step(self, preset: Preset, transformer: Any, inputs: MetaInputs) -> Tensor:
        """See `Reference.step`."""
        latent = inputs.latent[None]
        beside = latent.new_empty(1, preset.transformer.in_dim - preset.transformer.out_dim, *latent.shape[2:])
        return transformer(latent, timestep=torch.empty(1, device="meta"), context=inputs.windows, y=beside)


def _published_names() -> list[str]:
    """The names that the published LTX VAE's weights have, whatever their widths."""
    with torch.device("meta"):
        return list(LTXVAE(LTXVAEConfig()).state_dict())
