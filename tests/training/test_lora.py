"""LoRA: factors beside a frozen transformer, trained, written, and added to its weights with the same effect."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from livetalk_core.checkpoints import nano
from livetalk_core.checkpoints.lora import add_lora, write_lora
from livetalk_core.commands.main import main
from livetalk_core.errors import CheckpointError, InputError
from livetalk_core.models.fp8 import FP8, quantize
from livetalk_core.presets import PRESETS
from livetalk_core.sampling.schedule import sigmas
from livetalk_core.training import commands
from livetalk_core.training.adapt import condition_of
from livetalk_core.training.chance import generator_of
from livetalk_core.training.data import TakeSource
from livetalk_core.training.evaluation.entrants import Entrant
from livetalk_core.training.flow import Denoiser
from livetalk_core.training.latents import Encoders, Pool, Preparation, encode_window, save_texts
from livetalk_core.training.looks import draw_looks
from livetalk_core.training.lora import Likeness, LowRank, MatchedLikeness, pairs_of
from livetalk_core.training.settings import Data, Settings, read_settings
from livetalk_core.training.speech import SpeechFolder
from livetalk_core.training.trainer import Schedule, Trainer

SIZE = (32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pool of one drawn person, and her recordings."""
    folder = tmp_path_factory.mktemp("person")
    encoders = Encoders(
        nano.vae("cpu", torch.float32), nano.audio_encoder("cpu"), nano.image_encoder("cpu", torch.float32)
    )
    noise = (torch.randn(16_000 * 9, generator=torch.Generator().manual_seed(0)) * 3000).short().numpy()
    source = TakeSource(SpeechFolder([noise]), seed=3, person=2)
    list(Preparation(2, (SIZE,), windows=2).fill(folder / "pool", source.scene, encoders))
    save_texts(folder / "pool", [torch.ones(5, 32)])
    return folder


def base() -> Denoiser:
    return Denoiser.of(nano.transformer("cpu", torch.float32)).requires_grad_(False)


def velocity(transformer, pool) -> torch.Tensor:
    batch = pool.draw(0, 2)
    return transformer(batch["latent"], torch.tensor([0.9, 0.5]), condition_of(batch, batch["latent"][:, :, :2]))


def pool_of(folder) -> Pool:
    return Pool(folder / "pool", 32)


def filled(lora: LowRank) -> None:
    """Factors that change something."""
    for name, weight in lora.named_parameters():
        torch.nn.init.normal_(weight, std=0.05, generator=generator_of("filled", name))


def test_every_take_shows_the_person_who_is_measured():
    source = TakeSource(SpeechFolder([torch.zeros(160_000).short().numpy()]), seed=5, person=1)
    for index in range(2):
        assert torch.equal(source.take(index).looks.skin, draw_looks([("held", 0, 1)]).skin)
    assert not torch.equal(source.take(0).pose.x, source.take(1).pose.x)


def test_new_factors_change_nothing_and_written_ones_are_what_was_trained(folder, tmp_path):
    pool, plain, trained = pool_of(folder), base(), base()
    before = velocity(plain, pool)
    lora = LowRank(trained, rank=4, alpha=8.0)
    assert torch.equal(velocity(trained, pool), before)
    filled(lora)
    beside = velocity(trained, pool)
    assert (beside - before).abs().max() > 0.05
    write_lora(tmp_path / "a.safetensors", pairs_of(lora.state_dict()), lora.alpha, {})
    add_lora(plain, tmp_path / "a.safetensors")
    assert torch.allclose(velocity(plain, pool), beside, atol=5e-3), "the file holds half precision"


def test_an_fp8_base_stays_and_its_factors_learn(folder, tmp_path):
    transformer = base()
    for block in transformer.blocks:
        quantize(block)
    copy = Denoiser.of(transformer)
    assert copy.blocks[0].self_attn.q.weight.dtype == FP8
    assert torch.allclose(velocity(copy, pool_of(folder)), velocity(transformer, pool_of(folder)), atol=1e-4)
    task = Likeness(transformer, nano.vae("cpu", torch.float32), pool_of(folder), clips=1, rank=2)
    transformer.checkpointing = True
    kept = transformer.blocks[0].self_attn.q.weight.clone()
    Trainer(task, Schedule(steps=2, workers=0), tmp_path).run()
    assert torch.equal(kept.float(), transformer.blocks[0].self_attn.q.weight.float())
    changed = [float(weight.abs().max()) for name, weight in task.networks["lora"].state_dict().items() if "up" in name]
    assert min(changed) > 0, "every layer's factors get a gradient"
    assert set(load_file(tmp_path / "step-0000002/lora.safetensors")) == set(task.networks["lora"].state_dict())


def test_a_model_that_reads_no_prompt_learns_from_the_portrait_held_still(tmp_path):
    """FlashHead Pro's build, small: condition without a mask, no tokens of prompt and portrait."""
    encoders = Encoders(nano.vae("cpu", torch.float32), nano.audio_encoder("cpu"), None)
    source = TakeSource(SpeechFolder([torch.randn(160_000).mul(3000).short().numpy()]), seed=3, person=2)
    list(Preparation(1, (SIZE,), windows=2).fill(tmp_path / "pool", source.scene, encoders))
    save_texts(tmp_path / "pool", [torch.zeros(1, 1)])
    pool = Pool(tmp_path / "pool", 512)
    batch = pool.draw(0, 1)
    assert batch["cond"].shape[1] == 16
    still = encode_window(encoders.vae, batch["reference"].expand(-1, -1, 33, -1, -1))
    assert torch.allclose(batch["cond"], still, atol=2e-2)
    config = replace(
        nano.PRESET.transformer, dim=48, ffn_dim=96, num_heads=4, num_layers=2, in_dim=32, output_dim=48, prompted=False
    )
    transformer = Denoiser(config).requires_grad_(False)
    transformer.load_state_dict(nano.first_weights("transformer", transformer))
    task = Likeness(transformer, encoders.vae, pool, clips=1, rank=2)
    Trainer(task, Schedule(steps=2, workers=0), tmp_path / "run").run()
    names = {name for name, _ in task.networks["lora"].named_children()}
    assert "blocks:1:cross_attn:v" in names and not any("audio_cross_attn" in name for name in names)


def test_it_learns_at_the_levels_of_the_streams_steps(folder):
    run = commands.Run(Settings(Schedule(1), dtype="float32", data=Data(pool=folder / "pool")))
    task = commands.lora_task(run)
    assert tuple(task.levels) == sigmas(4, 5.0)[:-1]
    drawn = task._levels(200, generator_of("levels"), torch.device("cpu"))
    assert set(drawn.tolist()) == {float(torch.tensor(level)) for level in task.levels}


def test_what_cannot_be_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="rank 0"):
        LowRank(base(), 0, 1.0)
    with pytest.raises(InputError, match="match no layer"):
        LowRank(base(), 2, 2.0, "nothing")
    with pytest.raises(InputError, match="train adapt has fp8"):
        commands.train("adapt", Settings(Schedule(1), fp8=True), tmp_path)
    pairs = {"blocks.0.self_attn.q": (torch.ones(2, 64), torch.ones(64, 2))}
    write_lora(tmp_path / "other.safetensors", pairs, 2.0, {})
    with pytest.raises(CheckpointError, match="does not fit"):
        Entrant.parse(f"nano,lora={tmp_path / 'other.safetensors'}").open(torch.device("cpu"), torch.float32)
    vae = nano.vae("cpu", torch.float32)
    Trainer(Likeness(base(), vae, pool_of(folder), clips=1, rank=2), Schedule(1, workers=0), tmp_path / "run").run()
    with pytest.raises(CheckpointError, match=r"lora\.safetensors"):
        Trainer(Likeness(base(), vae, pool_of(folder), clips=1, rank=3), Schedule(2, workers=0), tmp_path / "run").run()


def test_the_command_trains_resumes_and_exports(folder, tmp_path, capsys):
    config = tmp_path / "lora.toml"
    text = (
        f'dtype = "float32"\n[data]\npool = "{folder}/pool"\nspeech = "{folder}"\n'
        "[task]\nrank = 2\nalpha = 6.0\nclips = 1\n"
        "[schedule]\nsteps = {steps}\nworkers = 0\nlog_every = 1\nsave_every = 1\n"
    )
    command = ["train", "lora", "--config", str(config), "--output", str(tmp_path / "run")]
    config.write_text(text.format(steps=1))
    assert main(command) == 0
    config.write_text(text.format(steps=2))
    exported = tmp_path / "person.safetensors"
    assert main([*command, "--export", str(exported)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(exported)
    rows = [json.loads(row) for row in (tmp_path / "run/record.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    tensors = load_file(exported)
    assert float(tensors["diffusion_model.blocks.0.ffn.0.alpha"]) == 6
    layers = sum(name.endswith("lora_A.weight") for name in tensors)
    assert layers == len(tensors) // 3 == 15 * len(base().blocks)
    Entrant.parse(f"nano,lora={exported}").open(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A LoRA file that changes something, of rank 2."""
    path = tmp_path_factory.mktemp("taught") / "person.safetensors"
    lora = LowRank(base(), rank=2, alpha=4.0)
    filled(lora)
    write_lora(path, pairs_of(lora.state_dict()), lora.alpha, {})
    return path


def test_an_entrants_lora_is_as_strong_as_it_is_said(taught):
    name = "blocks.1.cross_attn.v.weight"
    plain, once, half, none = (
        Entrant.parse(f"nano{text}").open(torch.device("cpu"), torch.float32).engine.transformer.state_dict()[name]
        for text in ("", f",lora={taught}", f",lora={taught},strength=0.5", f",lora={taught},strength=0")
    )
    assert torch.equal(none, plain) and not torch.allclose(once, plain, atol=1e-4)
    assert torch.allclose(half - plain, (once - plain) / 2, atol=1e-7)


def matched(folder, taught, **changes) -> MatchedLikeness:
    first, vae = base(), nano.vae("cpu", torch.float32)
    settings = {"clips": 1, "chunks": 2, "critic_steps": 2, "motion_weight": 0.0, "rank": 2, "alpha": 4.0}
    stream = PRESETS["nano"].stream
    parts = (first.twin(), first.twin(), first, vae, pool_of(folder), stream)
    return MatchedLikeness(*parts, taught_by=taught, **(settings | changes))


def test_twins_have_the_same_weights_and_changes_of_their_own(folder):
    first = base()
    for block in first.blocks:
        quantize(block)
    pool, twin = pool_of(folder), first.twin()
    before = velocity(first, pool)
    assert torch.equal(velocity(twin, pool), before)
    assert all(own is other for own, other in zip(first.parameters(), twin.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in twin.parameters())
    filled(LowRank(twin, rank=2, alpha=2.0))
    assert torch.equal(velocity(first, pool), before) and not torch.allclose(velocity(twin, pool), before, atol=0.05)
    twin.to(torch.float64)
    assert {weight.dtype for weight in first.parameters()} == {torch.float64}, "moved together"


def test_matching_begins_at_what_was_taught_with_only_guidance_to_learn(folder, taught):
    pool, plain = pool_of(folder), base()
    task = matched(folder, taught, guidance=1.0)
    add_lora(plain, taught)
    for network in (task.student, task.critic, task.teacher):
        assert torch.allclose(velocity(network, pool), velocity(plain, pool), atol=5e-3)
    same = task.losses(task.batch(0), 2, generator_of("matched"))["matching"]
    with torch.no_grad():
        for weight in task.networks["critic"].parameters():
            weight.mul_(1.1)
    other = task.losses(task.batch(0), 2, generator_of("matched"))["matching"]
    assert same < 1e-8 < 1e-3 * other


@pytest.mark.parametrize(("step", "name"), [(1, "critic"), (2, "lora")])
def test_matching_teaches_one_lora_a_step_and_no_other_weight(folder, taught, step, name):
    task = matched(folder, taught)
    assert task.trains(step) == (name,)
    task.critic.checkpointing = task.student.checkpointing = True
    task.losses(task.batch(0), step, generator_of("turn"))["loss"].backward()
    learned = [id(weight) for weight in task.networks[name].parameters() if weight.grad is not None]
    weights = [*task.networks["lora"].parameters(), *task.networks["critic"].parameters()]
    everything = [*weights, *task.frozen["teacher_lora"].parameters(), *task.teacher.parameters()]
    assert len(learned) == len(weights) / 2, "every factor"
    assert learned == [id(weight) for weight in everything if weight.grad is not None]


def test_a_matched_run_goes_on_bit_for_bit_from_the_middle_of_a_round(folder, taught, tmp_path):
    for run, stops in (("whole", [6]), ("halves", [4, 6])):
        for steps in stops:
            schedule = Schedule(steps=steps, warmup=1, final_rate=1.0, rate=1e-3, workers=0, log_every=1, save_every=1)
            Trainer(matched(folder, taught), schedule, tmp_path / run).run()
    whole, halves = (tmp_path / run / "step-0000006" for run in ("whole", "halves"))
    kept = sorted(path.name for path in whole.glob("*.safetensors"))
    assert "lora.average.safetensors" in kept and "critic.average.safetensors" not in kept
    for name in kept:
        assert (whole / name).read_bytes() == (halves / name).read_bytes(), name
    rows = [json.loads(row) for row in (tmp_path / "halves/record.jsonl").read_text().splitlines()]
    assert ["critic" in row for row in rows] == [True, True, False] * 2


def test_the_command_matches_where_a_teacher_is_named(folder, taught, tmp_path):
    config, exported = tmp_path / "matched.toml", tmp_path / "person.safetensors"
    text = (
        f'dtype = "float32"\n[data]\npool = "{folder}/pool"\n[task]\ntaught_by = "{taught}"\nrank = {{rank}}\n'
        "alpha = 4.0\nclips = 1\nchunks = 1\ncritic_steps = 1\n[schedule]\nsteps = 2\nworkers = 0\n"
    )
    command = ["train", "lora", "--config", str(config), "--output", str(tmp_path / "run"), "--export", str(exported)]
    config.write_text(text.format(rank=2))
    assert main(command) == 0
    tensors, before = load_file(exported), load_file(taught)
    assert {name: values.shape for name, values in tensors.items()} == {
        name: values.shape for name, values in before.items()
    }, "the same format"
    assert not torch.equal(
        tensors["diffusion_model.blocks.0.ffn.0.lora_B.weight"], before["diffusion_model.blocks.0.ffn.0.lora_B.weight"]
    )
    config.write_text(text.format(rank=3))
    with pytest.raises(CheckpointError, match="has 90 layers of rank 2, the configuration 90 of rank 3"):
        commands.train("lora", read_settings(config), tmp_path / "other")
