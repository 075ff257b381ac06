"""Real workers under a real render: the same video as one process, and no finished chunk is lost when one dies."""

import pytest
import torch
from faulty_fleets import playable, processes_of

from livetalk_core.checkpoints import nano
from livetalk_core.commands.main import main
from livetalk_core.commands.prepare import prepare
from livetalk_core.config import CorrectionConfig, Guidance
from livetalk_core.errors import InputError, NumbersError
from livetalk_core.hardware.placement import Placement, residence
from livetalk_core.media.place import partial_path
from livetalk_core.parallel.fleet import Limits, local_fleet
from livetalk_core.parallel.patches import Patch
from livetalk_core.streaming.avatar import Avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.fleet_engine import FleetEngine, Patches, Ways, engine_setup
from livetalk_core.streaming.session import ChunkEnd, Frames, ignore_step

PATIENT = Limits(start=900, silence=60, patience=900, floor=300)
"""On a loaded machine these renders take minutes."""


@pytest.fixture(scope="module")
def fleet():
    with local_fleet(["cpu", "cpu"], "engine", fields=engine_setup("nano", torch.float32), limits=PATIENT) as fleet:
        yield fleet


def pixels_of(events):
    return torch.cat([event.pixels for event in events if isinstance(event, Frames)])


@pytest.mark.parametrize("guidance", [None, Guidance(3.0, 2.0)])
def test_frames_are_those_of_one_process(settings, fleet, guidance):
    renders = [prepare(settings(*of, guidance=guidance))[0] for of in (("one",), ("two", fleet))]
    alone, together = (pixels_of(render.run()).short() for render in renders)
    assert (alone - together).abs().max() <= 1  # of 0..255


@pytest.mark.parametrize("options", [{}, {"correction": CorrectionConfig(interval=1)}], ids=["plain", "corrected"])
def test_chunks_computed_as_a_whole_are_those_of_their_parts(settings, fleet, options):
    """To the bit, with fewer bytes (how few: benchmarks.fleet_path)."""
    session = prepare(settings("whole", fleet, **options))[0].session
    session.prompts = {1: session.avatar.text[:2]}
    found = []
    for pixels in (True, False):
        session.pixels = pixels
        before, events = sum(fleet.traffic), list(session.run(session.start(7)))
        ends = [event.state.tensors() for event in events if isinstance(event, ChunkEnd)]
        found.append((pixels_of(events), ends, sum(fleet.traffic) - before))
    (whole, ends, few), (parts, wanted, many) = found
    assert torch.equal(whole, parts)
    assert all(torch.equal(end[name], state[name]) for end, state in zip(ends, wanted, strict=True) for name in state)
    assert few * 2 < many


def test_a_lora_reaches_the_workers_and_leaves_with_the_next_job(fleet):
    chunk = a_chunk()
    plain, changed = (alone(chunk, patches) for patches in ([], LORA))
    assert (plain - changed).abs().max() > 1e-2
    for patches, wanted in ((LORA, changed), ([], plain), (LORA, changed), (LORA[:1], alone(chunk, LORA[:1]))):
        engine = FleetEngine(fleet, patches=Patches(len(patches) or None, patches))
        assert (engine.denoise(*chunk, ignore_step) - wanted).abs().max() <= 1e-4
    processes = processes_of(fleet)
    wrong = FleetEngine(fleet, patches=Patches("wrong", [LORA[0]._replace(name="blocks.0.nothing.weight")]))
    with pytest.raises(InputError, match=r"blocks\.0\.nothing\.weight, which this model does not have"):
        wrong.denoise(*chunk, ignore_step)
    assert (FleetEngine(fleet).denoise(*chunk, ignore_step) - plain).abs().max() <= 1e-4
    assert processes_of(fleet) == processes


def test_a_ring_is_a_mesh_too():
    setup, chunk = engine_setup("nano", torch.float32, ways=Ways(mesh=(1, 2))), a_chunk()
    with local_fleet(["cpu", "cpu"], "engine", fields=setup, limits=PATIENT) as fleet:
        assert (FleetEngine(fleet).denoise(*chunk, ignore_step) - alone(chunk, [])).abs().max() <= 1e-4


def test_blocks_that_come_from_main_memory_give_the_same_also_with_a_lora():
    needed = (nano.PRESET.sized((64, 64)), torch.float32)
    memory = residence(*needed, Placement(), (2, 1)).total - 2 * 10**6
    assert residence(*needed, Placement(memory=memory), (2, 1)).streamed
    ways, chunk = Ways(pieces=2, memory=memory), a_chunk()
    setup = {**engine_setup("nano", torch.float32, ways=ways), "size": [64, 64]}
    with local_fleet(["cpu", "cpu"], "engine", fields=setup, limits=PATIENT) as fleet:
        for patches in ([], LORA):
            engine = FleetEngine(fleet, patches=Patches(len(patches) or None, patches))
            assert (engine.denoise(*chunk, ignore_step) - alone(chunk, patches)).abs().max() <= 1e-4


def test_a_chunk_that_is_not_finite_stops_the_render_and_no_worker(settings, fleet):
    """A LoRA of NaNs comes with the second chunk."""
    render, _ = prepare(settings("nan", fleet))
    processes = processes_of(fleet)
    engine, spoiled = render.session.engine, LORA[2]._replace(up=torch.full_like(LORA[2].up, float("nan")))
    with pytest.raises(NumbersError, match=r"^chunk 2 \(from 1\.32 s on\): its latents are not finite"):
        for event in render.run():
            if isinstance(event, ChunkEnd):
                engine.patches = Patches("nan", [spoiled])
    assert playable(partial_path(render.output)) == 33
    assert processes_of(fleet) == processes


def a_chunk():
    """What the embedded model denoises: an avatar, audio windows, motion latents, noise."""
    torch.manual_seed(0)
    config = nano.PRESET.transformer
    avatar = Avatar(torch.rand(1, 3, 1, 64, 64), torch.randn(20, 3, 8, 8), torch.randn(1, 65, config.clip_dim),
                    torch.randn(9, config.text_dim))  # fmt: skip
    audio = torch.randn(1, 9, config.audio_window, config.audio_blocks, config.audio_channels)
    return avatar, audio, torch.randn(16, 1, 8, 8), torch.randn(2, 16, 3, 8, 8)


def a_patch(name, *shape):
    """A change of rank 2, or a plain one."""
    generator = torch.Generator().manual_seed(len(name))
    parts = [shape] if len(shape) == 1 else [(shape[0], 2), (2, shape[1])]
    return Patch(name, 0.5, *(torch.randn(part, generator=generator) * 0.1 for part in parts))


WIDTH = nano.PRESET.transformer.dim
LORA = [
    a_patch("blocks.0.self_attn.q.weight", WIDTH, WIDTH), a_patch("blocks.1.cross_attn.k.weight", WIDTH, WIDTH),
    a_patch("blocks.1.norm3.bias", WIDTH), a_patch("blocks.0.audio_cross_attn.proj.weight", WIDTH, WIDTH),
]  # fmt: skip


def alone(chunk, patches):
    """The chunk's latent, with the patches merged into the weights of one process."""
    transformer = nano.transformer("cpu", torch.float32)
    for patch in patches:
        parameter = transformer.get_parameter(patch.name)
        parameter.data = parameter + patch.scale * (patch.up if patch.down is None else patch.up @ patch.down)
    return LocalEngine(transformer, None).denoise(*chunk, ignore_step)


def test_the_command_line_takes_devices(settings, capsys):
    given = settings("line")
    inputs = ["--image", str(given.image), "--audio", str(given.audio), "--output", str(given.output)]
    options = ["--size", "64x64", "--steps", "1", "--devices", "cpu x2", "--shard-weights"]
    assert main(["generate", *inputs, *options]) == 0
    assert "on cpu, cpu" in capsys.readouterr().err
    assert playable(given.output) == 50
    assert main(["generate", *inputs, "--overwrite", "--devices", "cuda x99"]) == 1
    assert "the most that can work" in (err := capsys.readouterr().err) or "cpu x2 for trying out" in err
