"""What the processes of the distributed tests run; each is called alike on every rank."""

from functools import cache
from typing import NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.overlap import traced
from livetalk_core.checkpoints import nano
from livetalk_core.config import LTXVAEConfig, TransformerConfig, VAEConfig
from livetalk_core.errors import InputError
from livetalk_core.hardware.memory import meta_attend, peak_bytes, weight_bytes
from livetalk_core.models.color import ColorStatistics, match_color
from livetalk_core.models.ltx_vae import LTXVAE
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE
from livetalk_core.parallel import rows as row_exchange
from livetalk_core.parallel import weights
from livetalk_core.parallel.collectives import exchange
from livetalk_core.parallel.fp8 import expand, squeeze
from livetalk_core.parallel.frames import split_frames
from livetalk_core.parallel.imagined import rank_memory
from livetalk_core.parallel.ltx_vae import SplitLTXVAE
from livetalk_core.parallel.mesh import Mesh, group_of, host_group
from livetalk_core.parallel.patches import Patch, patch_weights
from livetalk_core.parallel.sequence import Share, split_sequence
from livetalk_core.parallel.traffic import GATHER, counted
from livetalk_core.parallel.vae import SplitVAE
from livetalk_core.parallel.weights import Layer, shard_weights, sharded_bytes
from livetalk_core.shapes import VideoShape

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


def sound_transformer(geometry, heads) -> Transformer:
    """One that reads no prompt."""
    widths = {**WIDTHS, "output_dim": heads * 12, "in_dim": 2 * geometry.latent_channels}
    config = TransformerConfig(
        dim=heads * 12, num_heads=heads, out_dim=geometry.latent_channels, geometry=geometry, prompted=False, **widths
    )
    return randomized(Transformer(config), 1)


@torch.inference_mode()
def sound_error(geometry, heads, ulysses, grid) -> float:
    """Largest difference of a split transformer that reads no prompt, relative to the whole one's largest value."""
    frames, rows, columns = grid[0], geometry.patch * grid[1], geometry.patch * grid[2]
    generator = torch.Generator().manual_seed(0)
    latent, cond = torch.randn(2, 1, geometry.latent_channels, frames, rows, columns, generator=generator)
    windows = torch.randn(1, 1 + geometry.temporal_stride * (frames - 1), 5, 2, 6, generator=generator)
    whole, split = sound_transformer(geometry, heads), sound_transformer(geometry, heads)
    split_sequence(split, mesh(heads, ulysses))
    found, wanted = (
        model(latent, torch.tensor([750.0]), cond, model.embed_context(None, None), model.embed_audio(windows))
        for model in (split, whole)
    )
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


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


def in_pieces(heads, ulysses, pieces) -> Transformer:
    """The split model of `split_transformer`, whose ranks exchange heads in pieces."""
    return split_sequence(split_transformer(heads, ulysses), mesh(heads, ulysses), pieces=pieces)


def pieces_error(heads, ulysses, pieces, grid, speakers) -> float:
    """Largest difference that exchanging heads in pieces makes."""
    x = draw_sample(grid, speakers)
    found, wanted = (evaluate(in_pieces(heads, ulysses, each), x) for each in (pieces, 1))
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@torch.inference_mode()
def attended_meanwhile(heads, ulysses, pieces) -> tuple[int, int]:
    """How many calls of attention have run while something was exchanged; and how many exchanges there were."""
    model, x = in_pieces(heads, ulysses, pieces), draw_sample((2, 3, 4))
    context, audio = model.embed_context(x.text, x.clip), model.embed_audio(x.audio)
    with traced() as (timeline, attention):
        model(x.latent, torch.tensor([750.0]), x.cond, context, audio, attention=attention)
    return sum(count > 0 for count in timeline.under_way), len(timeline.exchanges)


@torch.inference_mode()
def held_in_a_step(ulysses, side) -> tuple[int, int]:
    """Most bytes that a rank of the embedded model holds in a step, and how many were counted without processes."""
    model, preset = nano.transformer("cpu", torch.float32), nano.PRESET
    config, shape = preset.transformer, VideoShape(preset.stream.frame_num, side, side).latent(preset.geometry)
    split_sequence(model, mesh(config.num_heads, ulysses))
    windows = (1, preset.stream.frame_num, config.audio_window, config.audio_blocks, config.audio_channels)
    text = model.embed_context(
        torch.randn(1, config.text_len, config.text_dim), torch.randn(1, preset.image_tokens, config.clip_dim)
    )
    sound, times = model.embed_audio(torch.randn(windows)), model.embed_timestep(torch.zeros(1))
    scene = model.embed_scene(torch.randn(1, config.in_dim - config.out_dim, *shape))
    latent = torch.randn(1, config.out_dim, *shape)
    held = peak_bytes(lambda: model.evaluate(latent, times, scene, text, sound, meta_attend))
    counted = rank_memory(preset, side, side, torch.float32, ulysses, dist.get_world_size() // ulysses)
    return held, counted["transformer step"]


def fp8_error(ulysses, grid, speakers) -> float:
    """As `transformer_error`, as root mean square, of ranks that send each other FP8."""
    x, model = draw_sample(grid, speakers), split_transformer(4, ulysses)
    split_sequence(model, mesh(4, ulysses), send_fp8=True)
    wanted = evaluate(transformer(), x)
    error = evaluate(model, x) - wanted
    return (error.square().mean() / wanted.square().mean()).sqrt().item()


def sent_as_fp8(shape, dtype) -> tuple[float, bool]:
    """Largest error of values exchanged as FP8, over their vector's largest; and whether the dtype is the same."""
    x = torch.randn(dist.get_world_size(), *shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[:, 0] *= 1e4
    x[:, -1] = 0
    everyone = group_of(range(dist.get_world_size()))
    wanted = exchange(x, everyone)
    found = expand(exchange(squeeze(x), everyone), dtype)
    error = (found.double() - wanted.double()).abs() / wanted.double().abs().amax(-1, keepdim=True).clamp_min(1e-9)
    return error.max().item(), found.dtype == dtype


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


@cache
def whole_vae() -> VAE:
    return randomized(VAE(VAEConfig(dim=4)), 2, 0.2)


@cache
def split_vae() -> SplitVAE:
    return SplitVAE(randomized(VAE(VAEConfig(dim=4)), 2, 0.2))


def draw_latent(shape) -> Tensor:
    """A latent of (frames, rows, columns)."""
    return torch.randn(1, 16, *shape, generator=torch.Generator().manual_seed(3))


def greatest_difference(found, wanted) -> float:
    """Largest absolute difference of two tensors of equal shape."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    return (found - wanted).abs().max().item()


@torch.inference_mode()
def decode_error(shape) -> float:
    """Largest difference of the split decoder's frames from the whole one's."""
    latent = draw_latent(shape)
    return greatest_difference(split_vae().decode(latent), whole_vae().decode(latent))


@torch.inference_mode()
def encode_error(shape, extra_rows=0) -> float:
    """Largest difference of the split encoder's latent from the whole one's."""
    size = (4 * shape[0] - 3, 8 * shape[1] + extra_rows, 8 * shape[2])
    video = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(4)).clamp(-1, 1)
    return greatest_difference(split_vae().encode(video), whole_vae().encode(video))


@torch.inference_mode()
def streamed_is_whole(shape) -> bool:
    """Whether groups come one by one and join to what `decode` gives, with an encode between two of them."""
    vae, latent = split_vae(), draw_latent(shape)
    groups = []
    for group in vae.decode_groups(latent):
        groups.append(group)
        vae.encode(torch.zeros(1, 3, 1, 8 * shape[1], 8 * shape[2]))
    assert [group.shape[2] for group in groups] == [1] + [4] * (shape[0] - 1)
    return torch.equal(torch.cat(groups, dim=2), vae.decode(latent))


@torch.inference_mode()
def unsplit_is_whole(shape) -> float:
    """As `decode_error`, of the VAE inside, which nobody has split."""
    latent = draw_latent(shape)
    return greatest_difference(split_vae().vae.decode(latent), whole_vae().decode(latent))


@torch.inference_mode()
def borderless_error(shape) -> float:
    """As `decode_error`, of ranks that do not exchange their borders."""
    vae = split_vae()
    exchanged, vae.borders = vae.borders, lambda x: (torch.zeros_like(x[..., :1, :]), torch.zeros_like(x[..., :1, :]))
    try:
        return decode_error(shape)
    finally:
        vae.borders = exchanged


class Copied(TorchDispatchMode):
    """Counts the values that are copied to put tensors together."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.values += result.numel() if func is torch.ops.aten.cat.default else 0
        return result


@torch.inference_mode()
def copied_to_join_borders(shape) -> float:
    """Values copied by `cat` in a split decode, for each value of the frames."""
    groups = split_vae().decode_groups(draw_latent(shape))
    with Copied() as copied:
        frames = [next(groups) for _ in range(shape[0])]
    return copied.values / sum(group.numel() for group in frames)


@torch.inference_mode()
def border_frames(shape) -> set[float]:
    """Of how many frames a layer at full width sends its border rows, in the mean, for each group of a decode."""
    groups, send, found = split_vae().decode_groups(draw_latent(shape)), row_exchange.send_edges, set()
    for _ in range(shape[0]):
        sent = []

        def count(first, last, group, sent=sent):
            sent.append((first.shape[-2], first.shape[1]))
            return send(first, last, group)

        with mock.patch.object(row_exchange, "send_edges", count):
            frames = next(groups)
        of_full_width = [number for width, number in sent if width == frames.shape[-1]]
        found.add(sum(of_full_width) / len(of_full_width) / frames.shape[2])
    return found


def colors_together(frames) -> tuple[bool, list[int]]:
    """Whether ranks that match colours together get what one gets, to the bit; and how many frames each has done."""
    generator, done = torch.Generator().manual_seed(6), []
    reference = ColorStatistics.of(torch.rand(1, 3, 1, 32, 48, generator=generator) * 2 - 1)
    x = torch.rand(1, 3, frames, 32, 48, generator=generator) * 2 - 1

    def match(*arguments):
        done.append(arguments[0].shape[2])
        return match_color(*arguments)

    found = split_frames(match, group_of(range(dist.get_world_size())))(x, reference, 0.7)
    return torch.equal(found, match_color(x, reference, 0.7)), done


def joined_rows_are_whole(rows) -> bool:
    """Whether join(keep(x)) is x, in latent rows and in pixel rows."""
    split = split_vae().split(rows)
    latent, video = torch.arange(3.0 * rows).view(1, rows, 3), torch.arange(3.0 * (8 * rows + 5)).view(1, -1, 3)
    pixel_rows = split.pixel_rows(video.shape[1])
    parts = ((latent, split.latent_rows), (video, pixel_rows))
    return all(torch.equal(split.join(split.keep(x, sizes), sizes), x) for x, sizes in parts)


def ltx_vae() -> LTXVAE:
    """A small one, with numbers that normalise its latent."""
    vae = randomized(LTXVAE(LTXVAEConfig((4, 4, 8, 8), (2, 1, 1, 1, 2))), 6, 0.1)
    vae.latents_mean, vae.latents_std = torch.linspace(-1, 1, 128), torch.linspace(0.5, 2, 128)
    return vae


@cache
def whole_ltx_vae() -> LTXVAE:
    return ltx_vae()


@cache
def split_ltx_vae() -> SplitLTXVAE:
    return SplitLTXVAE(ltx_vae())


@torch.inference_mode()
def ltx_errors(shape) -> list[float]:
    """Largest differences of split and whole: frames of a latent (frames, rows, columns), its mean and a draw."""
    frames, rows, columns = shape
    generator = torch.Generator().manual_seed(7)
    latent, noise = torch.randn(2, 1, 128, *shape, generator=generator)
    video = torch.randn(1, 3, 8 * frames - 7, 32 * rows, 32 * columns, generator=generator).clamp(-1, 1)
    split, whole = split_ltx_vae(), whole_ltx_vae()
    return [
        greatest_difference(split.decode(latent), whole.decode(latent)),
        greatest_difference(split.encode(video), whole.encode(video)),
        greatest_difference(split.encode_sample(video, noise), whole.encode_sample(video, noise)),
        greatest_difference(split.vae.decode(latent), whole.decode(latent)),
    ]


def ltx_errors_without_borders(shape) -> list[float]:
    """As `ltx_errors`, of ranks that do not exchange their borders."""
    vae = split_ltx_vae()
    vae.borders = lambda x: (torch.zeros_like(x[..., :1, :]), torch.zeros_like(x[..., :1, :]))
    try:
        return ltx_errors(shape)
    finally:
        del vae.borders


@cache
def sharded_transformer() -> Transformer:
    """The model of `transformer`, its tokens and its weights split."""
    model = split_transformer(4, None)
    everyone = group_of(range(dist.get_world_size()))
    shard_weights(model, torch.device("cpu"), everyone)
    return model


def sharded_error(grid, speakers) -> float:
    """As `transformer_error`, with sharded weights; twice, since the second pass knows which weight comes next."""
    x = draw_sample(grid, speakers)
    wanted = evaluate(transformer(), x)
    found = [evaluate(sharded_transformer(), x) for _ in range(2)]
    return max((each - wanted).abs().max().item() for each in found) / wanted.abs().max().item()


def shared_by_hosts(hosts, free) -> tuple[int, float, float]:
    """Over how many ranks this one's weights are split where each has so many times a whole model's bytes free.

    Then the output's error, and what this rank sends to gather weights, in bytes of a whole model.
    """
    model, x, cpu = split_transformer(4, None), draw_sample((2, 3, 4)), torch.device("cpu")
    whole, host = weight_bytes(model), host_group(hosts, cpu)
    free_here = free[dist.get_rank()] * whole * host.size()  # the ranks of a host take it from the same memory
    with mock.patch.object(weights, "available_memory", lambda _: free_here):
        group = weights.sharing_group(model, cpu, host, group_of(range(dist.get_world_size())))
    shard_weights(model, cpu, group)
    wanted = evaluate(transformer(), x)
    with counted() as sent:
        found = evaluate(model, x)
    return group.size(), ((found - wanted).abs().max() / wanted.abs().max()).item(), sent[GATHER] / whole


def limits_of_groups() -> set[float]:
    """Seconds after which an exchange counts as failed, in each group of a mesh and of a host."""
    made = mesh(4, 2), host_group(["a", "a", "b", "b"], torch.device("cpu"))
    groups = (made[0].ulysses_group, made[0].ring_group, made[1])
    return {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}


def patched_error() -> tuple[float, float, float]:
    """How far patches on the sharded model are from the same merged into the whole one; and what they change.

    The last number is how far the model is from the whole one when they have been taken off.
    """
    x, generator = draw_sample((2, 2, 3)), torch.Generator().manual_seed(5)
    merged, patches = randomized(Transformer(transformer().config), 1), []
    for name in ("blocks.0.self_attn.q", "blocks.1.ffn.2", "audio_proj.proj2", "head.head", "patch_embedding"):
        weight = merged.get_parameter(f"{name}.weight")
        up, down = (torch.randn(shape, generator=generator) for shape in ((len(weight), 2), (2, weight[0].numel())))
        patches.append(Patch(f"{name}.weight", 0.1, up, down))
        weight += 0.1 * (up @ down).view_as(weight)
    take_off = patch_weights(sharded_transformer(), patches, torch.device("cpu"), torch.float32)
    wanted, plain = evaluate(merged, x), evaluate(transformer(), x)
    patched = evaluate(sharded_transformer(), x)
    take_off()
    apart = ((patched, wanted), (wanted, plain), (evaluate(sharded_transformer(), x), plain))
    error, change, left = ((a - b).abs().max().item() / plain.abs().max().item() for a, b in apart)
    return error, change, left


def published_error() -> float:
    """As `transformer_error`, at 448x768: 12,096 tokens. The first rank alone computes the whole one's."""
    x, model = draw_sample((9, 28, 48)), split_transformer(4, None)
    found = evaluate(model, x)
    if dist.get_rank():
        return 0.0
    wanted = evaluate(transformer(), x)
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def groups_made_again() -> int:
    """How many process groups it takes to split the same models once more."""

    def split():
        Mesh.of(4), Mesh.of(4, 1)
        SplitVAE(randomized(VAE(VAEConfig(dim=4)), 2, 0.2)).decode(draw_latent((1, 2, 2)))

    split()
    before = dist.get_pg_count()
    split()
    return dist.get_pg_count() - before


def held_bytes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Bytes of sharded weights at rest, and at most gathered beside the activations: counted before, and found."""
    whole, model, x = transformer(), sharded_transformer(), draw_sample((2, 2, 3))
    layers = [hook.__closure__ for module in model.modules() for hook in module._forward_pre_hooks.values()]
    parts = [cell.cell_contents for cells in layers for cell in cells if isinstance(cell.cell_contents, Layer)]
    at_rest = weight_bytes(model) + sum(layer.part.nbytes for layer in parts)
    evaluate(model, x)
    gathered = peak_bytes(lambda: evaluate(model, x)) - peak_bytes(lambda: evaluate(split_transformer(4, None), x))
    return sharded_bytes(whole, dist.get_world_size()), (at_rest, gathered)


def wrong_shard_error() -> float:
    """As `sharded_error`, where one rank holds something else."""
    model = split_transformer(4, None)
    everyone = group_of(range(dist.get_world_size()))
    if dist.get_rank() == 1:
        model.blocks[0].ffn[0].weight.data *= 1.05
    shard_weights(model, torch.device("cpu"), everyone)
    x = draw_sample((2, 2, 3))
    return (evaluate(model, x) - evaluate(transformer(), x)).abs().max().item()


def compiled_error(ulysses, speakers, pieces=1) -> float:
    """Largest difference that compiling the split blocks makes; fails where a graph breaks."""
    model, x = in_pieces(4, ulysses, pieces), draw_sample((3, 3, 3), speakers)
    plain = evaluate(model, x)
    for block in model.blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    return (evaluate(model, x) - plain).abs().max().item()
