"""The audio encoder: Wav2Vec2 (group-norm convolutions, post-norm transformer), its layers from `transformers`.

Two things differ from the stock model: the convolution features are resampled to 25 per second *before*
the transformer, and the hidden states after every layer are the result. Layers are called one by one,
since how `transformers` hands out hidden states changes between versions.

S samples at 16 kHz, T convolution features (about 50 per second), frames at 25 per second.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2Encoder,
    Wav2Vec2FeatureEncoder,
    Wav2Vec2FeatureProjection,
)

from ..config import AudioEncoderConfig

CONV_KERNEL = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDE = (5, 2, 2, 2, 2, 2, 2)
RECEPTIVE_FIELD = 400
"""Samples that one convolution feature needs; the next one starts 320 later."""
VARIANCE_EPSILON = 1e-7
"""As in transformers' Wav2Vec2FeatureExtractor."""


def first_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A layer's hidden states: some versions of `transformers` wrap them in a tuple."""
    return output if isinstance(output, Tensor) else output[0]


class AudioEncoder(nn.Module):
    """Speech to features. Parameter names are those of `transformers.Wav2Vec2Model`."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.config = config
        stock = _stock_config(config)
        self.feature_extractor = Wav2Vec2FeatureEncoder(stock)
        self.feature_projection = Wav2Vec2FeatureProjection(stock)
        self.encoder = Wav2Vec2Encoder(stock)

    @property
    def lufs(self) -> float | None:
        """Integrated loudness that the sound is set to before `standardize`, if any."""
        return self.config.lufs

    @property
    def blocks(self) -> int:
        """Hidden states stacked per frame."""
        return self.config.num_hidden_layers

    @property
    def channels(self) -> int:
        """Width of each hidden state."""
        return self.config.hidden_size

    @staticmethod
    def standardize(waveform: Tensor) -> Tensor:
        """[S] -> [S] with zero mean and unit variance over the clip, in float32."""
        waveform = waveform.double()
        deviation = (waveform.var(correction=0) + VARIANCE_EPSILON).sqrt()
        return ((waveform - waveform.mean()) / deviation).float()

    def embed(self, waveform: Tensor, frames: int) -> Tensor:
        """Standardised 16 kHz sound [S] -> [frames, blocks, channels], the frames spread evenly over it.

        Interpolated linearly with both ends kept (in float32, as the reference does: its rounding shows in the
        numbers). For sound of 640 samples a frame these are every second feature, so a window that starts at a
        frame samples exactly where the whole would.
        """
        features_TC = self._features(waveform)
        features = F.interpolate(features_TC.T[None], size=frames, mode="linear", align_corners=True)
        hidden, _ = self.feature_projection(features.transpose(1, 2))
        hidden = self.encoder.layer_norm(hidden + self.encoder.pos_conv_embed(hidden))
        states: list[Tensor] = []
        for layer in self.encoder.layers:
            hidden = first_of(layer(hidden))
            states.append(hidden[0])
        return torch.stack(states, dim=1)

    def _features(self, waveform: Tensor) -> Tensor:
        """[S] -> convolution features [T, C]."""
        sound = F.pad(waveform.to(self.feature_projection.projection.weight), (0, _missing(len(waveform))))
        hidden = sound[None, None]
        for layer in self.feature_extractor.conv_layers:
            hidden = layer(hidden)
        return hidden[0].T


def _missing(samples: int) -> int:
    return max(0, RECEPTIVE_FIELD - samples)


def _stock_config(config: AudioEncoderConfig) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        conv_dim=list(config.conv_dim),
        conv_kernel=list(CONV_KERNEL),
        conv_stride=list(CONV_STRIDE),
        num_conv_pos_embeddings=config.num_conv_pos_embeddings,
        num_conv_pos_embedding_groups=config.num_conv_pos_embedding_groups,
        feat_extract_norm="group",
        do_stable_layer_norm=False,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] - every config takes it
    )


def windows(embedding: Tensor, start: int, stop: int, size: int = 5) -> Tensor:
    """The `size` frames around each frame in [start, stop): [frames, ...] -> [stop - start, size, ...].

    Indices are clamped at both ends of the embedding.
    """
    centres = torch.arange(start, stop, device=embedding.device)[:, None]
    offsets = torch.arange(size, device=embedding.device) - size // 2
    return embedding[(centres + offsets).clamp(0, len(embedding) - 1)]
