"""The stages on the embedded model's shapes, small: prepared takes, adaptation, distillation, calibration."""

import copy
import json

import pytest
import torch

from livetalk_core.checkpoints import nano
from livetalk_core.errors import InputError
from livetalk_core.models.audio_encoder import windows
from livetalk_core.presets import PRESETS
from livetalk_core.training.adapt import Adaptation, condition_of, decode_normalized, dropped, roughened, softened
from livetalk_core.training.chance import generator_of
from livetalk_core.training.data import TakeSource, video
from livetalk_core.training.distill import Distillation
from livetalk_core.training.encoders import AudioTask, ImageTask
from livetalk_core.training.flow import Denoiser, attend_plainly, estimate, guided_estimate, noised
from livetalk_core.training.latents import (
    CAPTIONS,
    Encoders,
    Pool,
    Preparation,
    encode_window,
    prepare_take,
    save_texts,
)
from livetalk_core.training.speech import SpeechFolder
from livetalk_core.training.trainer import Schedule, Trainer
from livetalk_core.training.vae import Phase, VAETask, calibrate, decode, moments

SIZE = (48, 32)
STREAM = PRESETS["nano"].stream


class Tone(SpeechFolder):
    """Bursts of a tone, half a second each."""

    def __init__(self) -> None:
        time = torch.arange(16_000 * 4) / 16_000
        sound = 9000 * torch.sin(time * 3000) * ((time * 2).long() % 2)
        super().__init__([sound.short().numpy()])


@pytest.fixture(scope="module")
def source() -> TakeSource:
    return TakeSource(Tone(), seed=3)


@pytest.fixture(scope="module")
def vae():
    return nano.vae("cpu", torch.float32)


@pytest.fixture(scope="module")
def pool(source, vae, tmp_path_factory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    encoders = Encoders(vae, nano.audio_encoder("cpu"), nano.image_encoder("cpu", torch.float32))
    made = list(Preparation(3, (SIZE,), windows=2, shard=2).fill(folder, source.scene, encoders))
    assert [path.name for path in made] == ["48x32-00000.safetensors", "48x32-00001.safetensors"]
    save_texts(folder, [torch.ones(5, 32), torch.zeros(7, 32)])
    return Pool(folder, 32)


@pytest.fixture
def transformer():
    return Denoiser.of(nano.transformer("cpu", torch.float32)).requires_grad_(True)


def test_a_pool_holds_what_the_parts_make(pool, source, vae):
    batch = pool.draw(0, 2)
    assert batch["latent"].shape == (2, 16, 9, 6, 4)
    assert batch["cond"].shape == (2, 20, 9, 6, 4)
    assert batch["text"].shape == (2, 32, 32)
    assert torch.allclose(batch["weight"].mean((1, 2, 3)), torch.ones(2), atol=1e-2)
    takes = [source.take(index) for index in range(3)]
    index = batch["start"][:1, None] + torch.arange(33)
    errors = [(encode_window(vae, video([take], index, SIZE))[0] - batch["latent"][0]).abs().max() for take in takes]
    assert min(errors) < 2e-2, "a window is the encoded frames of one of the takes"
    assert torch.equal(batch["latent"], pool.draw(0, 2)["latent"])
    assert not torch.equal(batch["latent"], pool.draw(1, 2)["latent"])


def test_a_caption_is_the_prompt_of_its_own_take(source, vae, tmp_path):
    class Captioned:
        """A drawn scene with a prompt of its own."""

        def __init__(self, index, size) -> None:
            scene = source.scene(index, size)
            self.frames, self.sound, self.film = scene.frames, scene.sound, scene.film
            self.caption = ("", "she laughs")[index]

    encoders = Encoders(vae, nano.audio_encoder("cpu"), nano.image_encoder("cpu", torch.float32))
    list(Preparation(2, (SIZE,), windows=2).fill(tmp_path, Captioned, encoders, captions=["he sings", "she laughs"]))
    save_texts(tmp_path, [torch.zeros(5, 32), torch.full((5, 32), 7.0)])
    save_texts(tmp_path, [torch.full((5, 32), value) for value in (1.0, 2.0)], CAPTIONS)
    batches = [Pool(tmp_path, 32).draw(step, 4) for step in range(6)]
    first = prepare_take(source.scene(0, SIZE), encoders, 33, 2, 0)["reference"]
    prompts = {True: set(), False: set()}
    for batch in batches:
        for text, reference in zip(batch["text"], batch["reference"], strict=True):
            same = torch.allclose(reference[:, 0], first / 127.5 - 1)
            prompts[same].add(float(text[0, 0]))
    assert prompts == {True: {0.0, 7.0}, False: {0.0, 2.0}}


def test_processes_share_the_shards_out_and_make_what_one_makes(pool, source, vae, tmp_path):
    encoders = Encoders(vae, nano.audio_encoder("cpu"), nano.image_encoder("cpu", torch.float32))
    preparation = Preparation(3, (SIZE,), windows=2, shard=2)
    made = [list(preparation.fill(tmp_path, source.scene, encoders, turn=(rank, 2))) for rank in range(2)]
    assert [[path.name for path in each] for each in made] == [
        ["48x32-00000.safetensors"], ["48x32-00001.safetensors"]
    ]  # fmt: skip
    for path in (path for each in made for path in each):
        assert path.read_bytes() == (pool.shards[0].parent / path.name).read_bytes()


def test_held_out_takes_are_never_trained_on_and_their_loss_is_recorded(pool, vae, transformer, tmp_path):
    folder = pool.shards[0].parent
    split = Pool(folder, 32, held=1)
    assert (split.shards, split.held) == (pool.shards[:1], pool.shards[1:])
    starts = {float(latent.sum()) for step in range(8) for latent in split.draw(step, 2)["latent"]}
    held = {float(latent.sum()) for number in range(4) for latent in split.draw_held(number, 2)["latent"]}
    assert not starts & held
    with pytest.raises(InputError, match="2 of 2 shards"):
        Pool(folder, 32, held=2)
    task = Adaptation(transformer, vae, split, clips=1)
    before = task.held_out()
    assert before == task.held_out() and Adaptation(transformer, vae, pool, clips=1).held_out() == {}
    Trainer(task, Schedule(steps=2, workers=0, log_every=1, held_every=2), tmp_path).run()
    rows = [json.loads(row) for row in (tmp_path / "record.jsonl").read_text().splitlines()]
    (recorded,) = [row["held out"] for row in rows if "held out" in row]
    assert recorded == pytest.approx(task.held_out()["held out"], rel=1e-4) and recorded != before["held out"]


def test_an_empty_pool_is_refused(tmp_path):
    with pytest.raises(InputError, match="train prepare"):
        Pool(tmp_path, 32)


def test_encoding_at_once_is_the_streamed_encoding(vae):
    frames = torch.rand(1, 3, 9, 32, 48) * 2 - 1
    latent = encode_window(vae, frames)
    assert torch.allclose(latent, vae.encode(frames), atol=1e-4)
    streamed = torch.cat(list(vae.decode_groups(latent, clamp=False)), dim=2)
    assert torch.allclose(decode_normalized(vae, latent), streamed, atol=1e-4)


def test_calibration_sets_the_statistics_and_keeps_the_pictures(vae, source):
    changed = copy.deepcopy(vae)
    frames = video([source.take(0)], torch.arange(9)[None], SIZE)
    calibrate(changed, [frames])
    latent = changed.encode(frames)
    assert torch.allclose(latent.mean((0, 2, 3, 4)), torch.zeros(16), atol=1e-3)
    assert torch.allclose(latent.std((0, 2, 3, 4)), torch.ones(16), atol=1e-3)
    before, after = decode(vae, moments(vae, frames)[0]), decode(changed, moments(changed, frames)[0])
    assert torch.allclose(before, after, atol=1e-4)


def test_a_batch_is_its_samples_one_by_one(pool, transformer):
    batch = pool.draw(0, 2)
    given = condition_of(batch, batch["latent"][:, :, :2])
    sigma = torch.tensor([0.9, 0.5])
    together = transformer(batch["latent"], sigma, given)
    for index in range(2):
        one = given._replace(**{name: value[index : index + 1] for name, value in given._asdict().items()})
        alone = transformer(batch["latent"][index : index + 1], sigma[index : index + 1], one)
        assert torch.allclose(together[index], alone[0], atol=1e-4)
    sound = batch["sound"][0]
    start = int(batch["start"][0])
    assert torch.equal(given.audio[0], windows(sound, start, start + 33))


def test_plain_attention_is_attention():
    q, k, v = torch.randn(3, 2, 7, 4, 8)
    fused = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    assert torch.allclose(attend_plainly(q, k, v), fused, atol=1e-5)


def test_softened_motion_keeps_means_and_loses_detail():
    motion = 3 + torch.randn(6, 16, 2, 12, 10, generator=generator_of("motion"))
    soft = softened(motion, 1.0, generator_of("soft"))
    assert not torch.equal(soft, motion)
    assert torch.allclose(soft.mean((3, 4)), motion.mean((3, 4)), atol=0.15)
    assert (soft.std((1, 2, 3, 4)) < motion.std((1, 2, 3, 4))).all()
    assert torch.allclose(softened(torch.full_like(motion, 2.0), 1.0, generator_of("flat")), torch.tensor(2.0))
    assert torch.equal(softened(motion, 0.0, generator_of("soft")), motion)


def test_rough_motion_has_noise_and_spots_of_another_sample():
    level = torch.tensor([0.0, 50.0, 100.0, 150.0])
    motion = level[:, None, None, None, None].expand(-1, 16, 2, 16, 16)
    rough = roughened(motion, 1.0, generator_of("rough"))
    noise = (rough - rough.mean(1, keepdim=True)).std((1, 2, 3, 4))
    assert (noise > 0).all() and noise.max() <= 0.61 and noise.max() > 2 * noise.min()
    assert (rough.mean((1, 2)) - motion[:, 0, 0])[0].max() > 5  # of the next sample
    assert ((rough - motion).abs().amax((1, 2)) < 3).float().mean() > 0.2  # beside the spots
    assert torch.equal(roughened(motion, 0.0, generator_of("rough")), motion)


def test_worn_motion_has_been_through_the_vae(pool, transformer, vae):
    task = Adaptation(transformer, vae, pool, clips=2, trips=3)
    batch = task.batch(0)
    motion = batch["latent"][:, :, :2]
    found = [task._worn(motion, batch["reference"], generator_of("worn", step)) for step in range(12)]
    changed = [one for one in found if not torch.equal(one, motion)]
    assert 1 <= len(changed) < 12
    off = {round(float((one - motion).square().mean()), 4) for one in changed}
    assert min(off) > 1e-3 and len(off) > 1  # some by more trips than others


@pytest.mark.parametrize("change", ["soften", "roughen"])
def test_only_two_motion_latents_are_changed(pool, transformer, change):
    """One is the portrait at a stream's beginning, which is never soft or rough."""
    plain, soft = (Adaptation(transformer, None, pool, clips=2, **{change: share}) for share in (0.0, 1.0))
    seen: list[torch.Tensor] = []
    transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2].motion))
    counts = set()
    for step in range(12):
        with torch.no_grad():
            for task in (plain, soft):
                task.losses(task.batch(step), step, generator_of("step", step))
        given, softer = seen[-2:]
        counts.add(given.shape[2])
        assert torch.equal(given, softer) == (given.shape[2] == 1)
    assert counts == {1, 2}


def test_adaptation_leaves_motion_latents_out_and_reaches_every_weight(pool, transformer):
    task = Adaptation(transformer, None, pool, clips=2, drop_audio=0.0, drop_image=0.0)
    losses = task.losses(task.batch(0), 0, generator_of("a"))
    losses["loss"].backward()
    still = [name for name, weight in transformer.named_parameters() if weight.grad is None]
    assert not still
    changed = task.batch(0)
    changed["latent"][:, :, :1] += 5  # only ever a motion latent
    assert torch.isfinite(task.losses(changed, 0, generator_of("a"))["loss"])


def test_sound_and_picture_are_dropped(pool):
    batch = pool.draw(0, 2)
    given = condition_of(batch, batch["latent"][:, :, :2])
    silent = dropped(given, 1.0, 0.0, generator_of("b"))
    assert not silent.audio.any()
    assert torch.equal(silent.cond, given.cond)
    blind = dropped(given, 0.0, 1.0, generator_of("b"))
    assert not blind.cond.any()
    assert not blind.clip.any()
    assert torch.equal(blind.audio, given.audio)


def test_guidance_by_prompt_and_sound_goes_from_neither_to_both(pool, transformer):
    batch = pool.draw(0, 1)
    given, sigma = condition_of(batch, batch["latent"][:, :, :2]), torch.tensor([0.8])
    with torch.no_grad():
        none, heard, both = (
            estimate(transformer, batch["latent"], sigma, one)
            for one in (given.without(text=True, audio=True), given.without(text=True), given)
        )
        found = guided_estimate(transformer, batch["latent"], sigma, given, 4.0, 3.0)
        by_text = guided_estimate(transformer, batch["latent"], sigma, given, 1.0, 3.0)
    assert torch.allclose(found, none + 4 * (heard - none) + 3 * (both - heard), atol=1e-4)
    assert torch.allclose(by_text, heard + 3 * (both - heard), atol=1e-4)
    assert (both - heard).abs().max() > 1e-3, "the prompt is read"


def test_prompts_are_dropped_where_the_configuration_says_so(pool, transformer):
    seen = []
    transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2].text))
    for share in (0.0, 1.0):
        task = Adaptation(transformer, None, pool, clips=1, drop_text=share)
        with torch.no_grad():
            task.losses(task.batch(0), 0, generator_of("text"))
    assert seen[0].any() and not seen[1].any()


def distillation(pool, transformer, vae, **changes) -> Distillation:
    critic, teacher = copy.deepcopy(transformer), copy.deepcopy(transformer).requires_grad_(False)
    return Distillation(transformer, critic, teacher, vae, pool, STREAM, clips=1, critic_steps=2, **changes)


def test_student_and_critic_take_turns(pool, transformer, vae):
    task = distillation(pool, transformer, vae)
    assert [task.trains(step) for step in range(4)] == [("critic",), ("critic",), ("student",), ("critic",)]
    for step, name in ((1, "critic"), (2, "student")):
        task.losses(task.batch(step), step, generator_of("c", step))["loss"].backward()
        other = {"student": "critic", "critic": "student"}[name]
        assert any(weight.grad is not None for weight in task.networks[name].parameters())
        assert all(weight.grad is None for weight in task.networks[other].parameters())
        task.networks[name].zero_grad()


def test_a_student_that_is_its_teacher_only_has_the_noise_of_guidance_to_learn(pool, transformer, vae):
    task = distillation(pool, transformer, vae, guidance=1.0, motion_weight=0.0)
    same = task.losses(task.batch(0), 2, generator_of("d"))["matching"]
    with torch.no_grad():
        for weight in task.critic.parameters():
            weight.mul_(1.1)
    other = task.losses(task.batch(0), 2, generator_of("d"))["matching"]
    assert same < 1e-8 < 1e-3 * other


def test_a_rollout_goes_on_from_its_own_chunk(pool, transformer, vae):
    task = distillation(pool, transformer, vae, chunks=3)
    batch = task.batch(0)
    first, second, third = (task.rollout(batch, count, generator_of("e")) for count in (1, 2, 3))
    assert first.motion.shape[2] in (1, 2)
    assert second.motion.shape[2] == third.motion.shape[2] == 2
    assert not torch.equal(second.motion, third.motion)
    counts = {float(task.losses(task.batch(n), 3 * n, generator_of("e", n))["chunks"]) for n in range(12)}
    assert counts == {1.0, 2.0, 3.0}


def test_the_steps_of_a_round_share_a_rollout(pool, transformer, vae):
    task = distillation(pool, transformer, vae, chunks=2)
    assert [task.draw_of(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    made = []
    task.rollout = lambda *given: made.append(given) or Distillation.rollout(task, *given)
    course = [float(task.losses(task.batch(task.draw_of(n)), n, generator_of("h", n))["loss"]) for n in range(4)]
    assert len(made) == 2
    resumed = distillation(pool, transformer, vae, chunks=2)
    assert float(resumed.losses(resumed.batch(0), 1, generator_of("h", 1))["loss"]) == pytest.approx(course[1])


def test_a_step_denoises_towards_the_clean_latent():
    clean, noise = torch.randn(2, 1, 16, 3, 2, 2)
    sigma = torch.tensor([0.7])
    assert torch.allclose(noised(clean, noise, sigma) - 0.7 * (noise - clean), clean, atol=1e-6)
    assert estimate.__doc__


@pytest.mark.parametrize("phase", [Phase(9, 2, 1, 32), Phase(9, 1, 5, 48)])
def test_the_vae_learns_from_pictures_and_clips(source, vae, phase):
    network = copy.deepcopy(vae).requires_grad_(True)
    task = VAETask(network, source, (phase,), size=64)
    losses = task.losses(task.batch(0), 0, generator_of("f"))
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert network.encoder.conv1.weight.grad.abs().sum() > 0


def test_encoders_learn(source):
    for task in (
        AudioTask(nano.audio_encoder("cpu").requires_grad_(True), source, clips=1),
        ImageTask(nano.image_encoder("cpu", torch.float32).requires_grad_(True), source, faces=2, size=64),
    ):
        batch = task.batch(0)
        networks = [task.networks[name] for name in task.trains(0)]
        optimizer = torch.optim.AdamW([weight for network in networks for weight in network.parameters()], lr=1e-3)
        course = []
        for _ in range(6):
            loss = task.losses(batch, 0, generator_of("g"))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.append(float(loss.detach()))
        assert course[-1] < course[0]
