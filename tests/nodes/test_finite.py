"""A NaN at any stage of a chunk stops ComfyUI's nodes at that chunk: one line, and the part before it plays."""

from contextlib import ExitStack
from functools import partial

import pytest
import torch

from tests.nodes.test_stream import decode, frames_of, parts, render, sample  # noqa: F401 - `parts` is a fixture

STAGES = {
    "sound": "latents",
    "condition": "latents",
    "step": "latents",
    "decode": "frames",
    "color": "matched colours",
    "encode": "motion latents it hands on",
}
FIRST_CHUNK = 33


@pytest.fixture
def errors(pack):
    return pack("livetalk_core.errors")


@pytest.fixture
def spoiling(pack, parts, monkeypatch):  # noqa: F811
    """`spoiling(stage)`: from then on, one number of that stage is NaN in every chunk but the first."""
    session, chunks = pack("livetalk_core.streaming.session"), []
    inputs, match_color = session.Session._inputs, session.Session._match_color
    model, vae = parts["model"], parts["vae"]
    modules = {
        "sound": model.audio_proj,
        "condition": model.text_embedding,
        "step": model.blocks[0],
        "decode": list(vae.decoder.head.modules())[-1],
        "encode": list(vae.encoder.head.modules())[-1],
    }

    def of_chunk(this, seed, index):
        chunks.append(index)
        return inputs(this, seed, index)

    def spoiled(numbers):
        if chunks[-1]:
            numbers = numbers.clone(memory_format=torch.contiguous_format)
            numbers.view(-1)[0] = torch.nan
        return numbers

    monkeypatch.setattr(session.Session, "_inputs", of_chunk)
    with ExitStack() as hooks:

        def begin(stage):
            if stage == "color":
                monkeypatch.setattr(session.Session, "_match_color", lambda *given: spoiled(match_color(*given)))
                return
            hook = modules[stage].register_forward_hook(lambda _, __, out: spoiled(out))
            hooks.callback(hook.remove)

        yield begin


@pytest.fixture
def later(nodes):
    """Another prompt from the second chunk on: its tokens are embedded then."""
    tokens = [[torch.zeros(1, 4, 32), {}]]
    return nodes["LiveTalkPrompt"][0].execute(prompt="", conditioning=tokens, from_second=1.4).args[0]


@pytest.mark.parametrize("stage", STAGES)
def test_the_render_node_keeps_what_was_before_it(nodes, parts, host, errors, tmp_path, spoiling, later, stage):  # noqa: F811
    spoiling(stage)
    with pytest.raises(errors.NumbersError) as caught:
        render(nodes, parts, prompts=later)
    message = str(caught.value)
    assert message.startswith(f"chunk 2 (from 1.32 s on): its {STAGES[stage]} are not finite") and "\n" not in message
    partial_video = next(tmp_path.rglob("*.partial.mp4"))
    assert len(frames_of(partial_video)) == FIRST_CHUNK
    assert f"What is done: {partial_video}" in host.said[-1]


@pytest.mark.parametrize("stage", STAGES)
def test_the_chunk_nodes_stop_where_it_is(nodes, parts, errors, spoiling, later, stage):  # noqa: F811
    """Sampling where the latents are, decoding where its frames or what they hand on are."""
    spoiling(stage)
    _, state = decode(nodes, parts, *sample(nodes, parts, prompts=later))
    sampling = partial(sample, nodes, parts, state=state, prompts=later)
    with pytest.raises(errors.NumbersError, match=f"^chunk 2 .* its {STAGES[stage]} are not finite"):
        if STAGES[stage] == "latents":
            sampling()
        else:
            decode(nodes, parts, *sampling())
