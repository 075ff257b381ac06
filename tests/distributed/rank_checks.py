"""What the processes of the distributed tests run; each is called alike on every rank."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from livetalk_core.config import TransformerConfig
from livetalk_core.errors import InputError
from livetalk_core.models.transformer import Transformer
from livetalk_core.parallel.mesh import Mesh
from livetalk_core.parallel.sequence import Share, split_sequence

WIDTHS = {
    "ffn_dim": 64, "num_layers": 2, "freq_dim": 32, "text_len": 8, "text_dim": 12, "clip_dim": 10,
    "audio_blocks": 2, "audio_channels": 6, "intermediate_dim": 16, "output_dim": 12, "context_tokens": 3,
}  # fmt: skip


class Sample(NamedTuple):
    """One forward's inputs, all on every rank."""

    latent: Tensor
    cond: Tensor
    text: Tensor
    clip: Tensor
    audio: Tensor
    masks: Tensor | None


def randomized(module, seed, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return module.eval().requires_grad_(False)


def draw_sample(grid, speakers=1, seed=0) -> Sample:
    """Inputs for a token grid (frames, rows, columns)."""
    generator = torch.Generator().manual_seed(seed)
    frames, height, width = grid[0], 2 * grid[1], 2 * grid[2]

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    masks = None
    if speakers == 2:
        masks = torch.zeros(3, height, width)
        places = torch.arange(grid[1] * grid[2]).reshape(grid[1], grid[2]) * 3 // (grid[1] * grid[2])
        for speaker in range(3):
            masks[speaker] = (places == speaker).repeat_interleave(2, 0).repeat_interleave(2, 1)
    return Sample(
        draw(1, 16, frames, height, width), draw(1, 20, frames, height, width), draw(1, 5, 12), draw(1, 7, 10),
        draw(speakers, 4 * frames - 3, 5, 2, 6), masks,
    )  # fmt: skip


@cache
def transformer(heads=4, head_dim=12) -> Transformer:
    return randomized(Transformer(TransformerConfig(dim=heads * head_dim, num_heads=heads, **WIDTHS)), 1)


@cache
def mesh(heads, ulysses) -> Mesh:
    return Mesh.of(heads, ulysses)


@torch.inference_mode()
def evaluate(model, x: Sample) -> Tensor:
    context, audio = model.embed_context(x.text, x.clip), model.embed_audio(x.audio)
    return model(x.latent, torch.tensor([750.0]), x.cond, context, audio, x.masks)


def split_transformer(heads, ulysses, padding=None) -> Transformer:
    """The model of `transformer`, split; `padding` stands where no token is."""
    model = randomized(Transformer(transformer(heads).config), 1)
    split_sequence(model, mesh(heads, ulysses))
    if padding is not None:
        model.tokens = lambda grid: Spoiled(grid, mesh(heads, ulysses), padding)
    return model


class Spoiled(Share):
    """A share with something else than zeros in its padding."""

    def __init__(self, grid, mesh, padding):
        super().__init__(grid, mesh)
        self.padding = padding

    def split(self, x):
        held = super().split(x).clone()
        held[:, max(0, self.count - self.start) :] = self.padding
        return held


def transformer_error(heads, ulysses, grid, speakers=1) -> float:
    """Largest difference of the split transformer's output from the whole one's."""
    x = draw_sample(grid, speakers)
    found, wanted = evaluate(split_transformer(heads, ulysses), x), evaluate(transformer(heads), x)
    assert found.shape == wanted.shape
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def padding_is_felt(heads, ulysses, grid, speakers, padding) -> bool:
    """Whether the output depends on what stands where no token is."""
    x = draw_sample(grid, speakers)
    outs = [evaluate(split_transformer(heads, ulysses, content), x) for content in (None, padding)]
    return not torch.equal(*outs)


def joined_is_whole(ulysses, grid) -> bool:
    """Whether join(split(x)) is x."""
    tokens = Share(grid, mesh(4, ulysses))
    x = torch.randn(2, tokens.count, 3, generator=torch.Generator().manual_seed(0))
    return torch.equal(tokens.join(tokens.split(x)), x)


class Misplaced(Share):
    """A share that takes itself to be one token further on."""

    def __init__(self, grid, mesh):
        super().__init__(grid, mesh)
        self.start += 1


def misplaced_error(heads, grid) -> float:
    """As `transformer_error`, of a split that is wrong."""
    model, x = split_transformer(heads, 1), draw_sample(grid)
    model.tokens = lambda grid: Misplaced(grid, mesh(heads, 1))
    return (evaluate(model, x) - evaluate(transformer(heads), x)).abs().max().item()


def mesh_error(heads, ulysses) -> str:
    """What a mesh that cannot work is refused with."""
    try:
        Mesh.of(heads, ulysses)
    except InputError as error:
        return str(error)
    return ""
