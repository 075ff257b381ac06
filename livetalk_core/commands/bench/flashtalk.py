"""SoulX-FlashTalk, from its own checkout: the reference of the 14B model's build."""

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...config import VAEConfig
from ...models.attention import AttentionFunction
from ...presets import Preset
from ...shapes import VideoShape
from .reference import Inputs, MetaInputs, Networks, Reference, Weights, placed
from .stand_ins import quiet

TEXT_TOKENS = 16
IMAGE_TOKENS = 257
"""The reference's own number, whatever the preset's image encoder gives."""


class FlashTalk(Reference):
    """See `Reference`."""

    repository = "SoulX-FlashTalk"
    commit = "df95a36"
    modules: ClassVar[dict[str, str]] = {
        "transformer": "flash_talk.infinite_talk.modules.multitalk_model",
        "audio attention": "flash_talk.infinite_talk.modules.multitalk_attention",
        "vae": "flash_talk.wan.modules.vae",
        "pipeline": "flash_talk.src.pipeline.flash_talk_pipeline",
    }

    def use(self, attention: AttentionFunction) -> None:
        """See `Reference.use`."""

        def call(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
            return attention(q, k, v)

        self._modules["transformer"].flash_attention = call
        self._modules["audio attention"].xformers = SimpleNamespace(
            ops=SimpleNamespace(memory_efficient_attention=call)
        )

    def networks(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> Networks:
        """See `Reference.networks`."""
        assert isinstance(preset.vae, VAEConfig)
        return Networks(self._transformer(preset, device, dtype), self._wan_vae(preset.vae, device, dtype))

    def _transformer(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> Any:
        module, config = self._modules["transformer"], preset.transformer
        shared = {name: getattr(config, name) for name in ("audio_window", "intermediate_dim", "output_dim")}
        shared["context_tokens"] = config.context_tokens
        names = (
            "dim", "ffn_dim", "num_heads", "num_layers", "in_dim", "out_dim", "freq_dim", "text_len", "text_dim", "eps"
        )  # fmt: skip
        with quiet(), torch.device("meta"):
            model = module.WanModel(**{name: getattr(config, name) for name in names}, **shared, weight_init=False)
            model.img_emb = module.MLPProj(config.clip_dim, config.dim)
            window = shared.pop("audio_window")
            model.audio_proj = module.AudioProjModel(
                seq_len=window, seq_len_vf=window + config.geometry.temporal_stride - 1, blocks=config.audio_blocks,
                channels=config.audio_channels, norm_output_audio=True, **shared,
            )  # fmt: skip
        model = placed(model, device, dtype)
        model.init_freqs()
        return model.eval().requires_grad_(False)

    def weights(self, networks: Networks) -> Weights:
        """See `Reference.weights`."""
        return Weights(networks.transformer.state_dict(), networks.vae.model.state_dict())

    def pipeline(self, preset: Preset, networks: Networks, inputs: Inputs, seed: int) -> Any:
        """See `Reference.pipeline`."""
        assert inputs.text is not None
        stream = preset.stream
        pipeline = object.__new__(self._modules["pipeline"].FlashTalkPipeline)
        vars(pipeline).update(
            device=inputs.text.device, param_dtype=inputs.text.dtype, cpu_offload=False, rank=0, use_usp=False,
            sp_size=1, num_timesteps=1000, vae_stride=(4, 8, 8), patch_size=(1, 2, 2), use_timestep_transform=True,
            model=networks.transformer, vae=networks.vae, text_encoder=lambda *_: [inputs.text],
            clip=SimpleNamespace(visual=lambda _: inputs.clip),
        )  # fmt: skip
        with quiet():
            pipeline.prepare_params(
                "", inputs.image, (stream.height, stream.width), stream.frame_num, stream.motion_frames, stream.steps,
                seed, stream.shift, stream.color_correction,
            )  # fmt: skip
        return pipeline

    def condition(self, pipeline: Any) -> Tensor:
        """See `Reference.condition`."""
        return pipeline.arg_c["y"][0]

    def compile(self, pipeline: Any) -> None:
        """See `Reference.compile`."""
        pipeline.model = torch.compile(pipeline.model)
        pipeline.vae.encode, pipeline.vae.decode = map(torch.compile, (pipeline.vae.encode, pipeline.vae.decode))

    def step(self, preset: Preset, transformer: Any, inputs: MetaInputs) -> Tensor:
        """See `Reference.step`."""
        widths, stream, like = preset.transformer, preset.stream, inputs.latent
        tokens = VideoShape(stream.frame_num, stream.height, stream.width).latent(preset.geometry).tokens
        return transformer(
            [like], t=torch.empty(1, device="meta"), context=[like.new_empty(TEXT_TOKENS, widths.text_dim)],
            clip_fea=like.new_empty(1, IMAGE_TOKENS, widths.clip_dim),
            y=like.new_empty(1, widths.in_dim - widths.out_dim, *like.shape[1:]), seq_len=tokens(preset.geometry),
            audio=inputs.windows, ref_target_masks=None,
        )  # fmt: skip
