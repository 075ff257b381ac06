"""A whole session with small random models, for the tests of the loop and of rendering."""

import pytest
import torch

from livetalk_core.config import StreamConfig, TransformerConfig, VAEConfig
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.plan import Chunk, ChunkPlan
from livetalk_core.streaming.session import Session

STREAM = StreamConfig(height=32, width=32, frame_num=9, motion_frames=5, steps=2)
CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=1, freq_dim=32, text_len=8, text_dim=12, clip_dim=10,
    audio_blocks=2, audio_channels=6, intermediate_dim=16, output_dim=12, context_tokens=3,
)  # fmt: skip
TOTAL = 9 + 2 * 4 - 3  # three chunks, the last one cut short


class RandomFeatures:
    """Audio windows that depend on the chunk's place alone."""

    def for_chunk(self, chunk: Chunk):
        return torch.randn(1, chunk.frames, 5, 2, 6, generator=torch.Generator().manual_seed(chunk.start + 100))


def randomized(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module.eval().requires_grad_(False)


def make_session() -> Session:
    engine = LocalEngine(randomized(Transformer(CONFIG), 1), randomized(VAE(VAEConfig(dim=4)), 2))
    reference = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    clip, text = torch.ones(1, 4, 10), torch.ones(3, 12)
    avatar = prepare_avatar(reference, clip, text, engine.encode, STREAM)
    return Session(engine, avatar, RandomFeatures(), ChunkPlan.of(TOTAL, STREAM), STREAM)


@pytest.fixture(scope="module")
def session() -> Session:
    return make_session()
