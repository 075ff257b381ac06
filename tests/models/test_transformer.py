"""The transformer beyond the golden rows: caches, batches, speakers, dtypes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from livetalk_core.config import TransformerConfig
from livetalk_core.errors import InputError
from livetalk_core.models import operations
from livetalk_core.models.transformer import Transformer

CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=2, freq_dim=32, text_len=8, text_dim=12, clip_dim=10,
    audio_blocks=2, audio_channels=6, intermediate_dim=16, output_dim=12, context_tokens=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Transformer:
    generator = torch.Generator().manual_seed(1)
    model = Transformer(CONFIG)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval().requires_grad_(False)


def inputs(seed: int, speakers: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "latent": draw(1, 16, 3, 8, 6),
        "cond": draw(1, 20, 3, 8, 6),
        "text": draw(1, 5, 12),
        "clip": draw(1, 7, 10),
        "audio": draw(speakers, 9, 5, 2, 6),
    }


def evaluate(model: Transformer, x: dict[str, torch.Tensor], masks: torch.Tensor | None = None) -> torch.Tensor:
    context, audio = model.embed_context(x["text"], x["clip"]), model.embed_audio(x["audio"])
    return model(x["latent"], torch.tensor([750.0]), x["cond"], context, audio, masks)


@pytest.mark.parametrize("part", ["latent", "cond", "text", "clip", "audio"])
def test_every_input_is_felt(model: Transformer, part: str) -> None:
    x = inputs(0)
    changed = {**x, part: x[part] + 0.3 * torch.randn(x[part].shape, generator=torch.Generator().manual_seed(9))}
    assert (evaluate(model, x) - evaluate(model, changed)).abs().max() > 1e-4


def test_a_repeated_portrait_stands_beside_every_frame(model: Transformer) -> None:
    """The rest of the condition is not read; what is there is as if it had been handed in for every frame."""
    repeating = Transformer(TransformerConfig(**{**vars(CONFIG), "repeats_portrait": True})).requires_grad_(False)
    repeating.load_state_dict(model.state_dict())
    x = inputs(0)
    repeated = {**x, "cond": x["cond"][:, :, :1].expand_as(x["cond"])}
    assert torch.equal(evaluate(repeating, x), evaluate(model, repeated))
    assert not torch.equal(evaluate(repeating, x), evaluate(model, x))


def test_text_is_padded_with_zeros(model: Transformer) -> None:
    x = inputs(0)
    padded = {**x, "text": torch.cat([x["text"], torch.zeros(1, 3, 12)], dim=1)}
    torch.testing.assert_close(evaluate(model, x), evaluate(model, padded))


def test_too_long_a_prompt_is_refused(model: Transformer) -> None:
    with pytest.raises(InputError, match="prompt of 9 tokens; at most 8"):
        model.embed_context(torch.zeros(1, 9, 12), torch.zeros(1, 7, 10))


def test_audio_reaches_its_own_latent_frame_first(model: Transformer) -> None:
    """With one block's audio changed in the last latent frame, a model of one layer changes there alone."""
    single = Transformer(TransformerConfig(**{**vars(CONFIG), "num_layers": 1})).requires_grad_(False)
    single.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("blocks.1.")})
    x = inputs(0)
    audio = x["audio"].clone()
    audio[:, -1] += 1
    difference = (evaluate(single, x) - evaluate(single, {**x, "audio": audio})).abs().amax((0, 1, 3, 4))
    assert difference[-1] > 1e-4
    assert (difference[:-1] == 0).all()


def test_speakers_follow_their_masks(model: Transformer) -> None:
    """Swapping the two speakers' masks changes the result; so does swapping their audio."""
    x = inputs(0, speakers=2)
    masks = torch.zeros(3, 8, 6)
    masks[0, :, :2] = masks[1, :, 4:] = masks[2, :, 2:4] = 1
    out = evaluate(model, x, masks)
    assert (out - evaluate(model, x, masks[[1, 0, 2]])).abs().max() > 1e-4
    assert (out - evaluate(model, {**x, "audio": x["audio"].flip(0)}, masks)).abs().max() > 1e-4


def test_masks_and_speakers_must_agree(model: Transformer) -> None:
    with pytest.raises(InputError, match=r"2 speaker\(s\) without masks"):
        evaluate(model, inputs(0, speakers=2))
    with pytest.raises(InputError, match="covers no token"):
        evaluate(model, inputs(0, speakers=2), torch.zeros(3, 8, 6))


def test_kept_parts_give_what_forward_gives(model: Transformer) -> None:
    """Scene and timestep embedded beforehand, the step then: bit for bit the same."""
    x = inputs(0)
    context, audio = model.embed_context(x["text"], x["clip"]), model.embed_audio(x["audio"])
    time, scene = model.embed_timestep(torch.tensor([750.0])), model.embed_scene(x["cond"])
    assert torch.equal(model.evaluate(x["latent"], time, scene, context, audio), evaluate(model, x))
    other = model.embed_timestep(torch.tensor([500.0]))
    assert not torch.equal(model.evaluate(x["latent"], other, scene, context, audio), evaluate(model, x))


class ForeignOperations:
    """Layers whose patch embedding only the layer itself may apply, as ComfyUI's."""

    Linear, LayerNorm, RMSNorm = operations.Linear, operations.LayerNorm, operations.RMSNorm
    Conv3d = torch.nn.Conv3d


def test_foreign_patch_embedding_gives_the_same(model: Transformer) -> None:
    foreign = Transformer(CONFIG, ForeignOperations).requires_grad_(False)
    foreign.load_state_dict(model.state_dict())
    called = []
    foreign.patch_embedding.register_forward_hook(lambda *_: called.append(1))
    torch.testing.assert_close(evaluate(foreign, inputs(0)), evaluate(model, inputs(0)), rtol=1e-4, atol=1e-5)
    assert called


def test_bfloat16_is_close(model: Transformer) -> None:
    half = Transformer(CONFIG, dtype=torch.bfloat16).requires_grad_(False)
    half.load_state_dict(model.state_dict())
    expected, found = evaluate(model, inputs(0)), evaluate(half, inputs(0))
    assert found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize("speakers", [1, 2])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_step_is_one_graph_from_chunk_to_chunk(model: Transformer, speakers: int, backend: str) -> None:
    """No graph break (`fullgraph`), no second compilation for other chunks and timesteps, and the same numbers."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model.evaluate, backend=counter, fullgraph=True, dynamic=False)
    masks = torch.zeros(3, 8, 6)
    masks[0, :, :2] = masks[1, :, 4:] = masks[2, :, 2:4] = 1
    with torch.inference_mode():
        for chunk, timestep in ((0, 1000.0), (0, 750.0), (1, 1000.0)):
            x = inputs(chunk, speakers)
            context, audio = model.embed_context(x["text"], x["clip"]), model.embed_audio(x["audio"])
            time = model.embed_timestep(torch.tensor([timestep]))
            scene = model.embed_scene(x["cond"], masks if speakers == 2 else None)
            found, wanted = (run(x["latent"], time, scene, context, audio) for run in (compiled, model.evaluate))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1
