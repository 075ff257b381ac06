"""The command `generate`: which part of the portrait is shown, and what is said of the rest."""

import wave
from types import SimpleNamespace

import av
import pytest
import torch
from PIL import Image

from livetalk_core.checkpoints import nano
from livetalk_core.checkpoints.lora import add_lora, write_lora
from livetalk_core.commands.loading import ModelSettings, engine_of
from livetalk_core.commands.loras import Lora
from livetalk_core.commands.main import main
from livetalk_core.commands.prepare import Settings, choices, prepare
from livetalk_core.hardware.placement import Placement
from livetalk_core.media.crop import CENTER, Crop
from livetalk_core.models.fp8 import is_quantized
from livetalk_core.streaming.fleet_engine import FleetEngine
from livetalk_core.streaming.session import Frames

HEAD = (200, 30, 40)
CUT = "person.png, 360x640, as 64x64: 56% of the picture is shown; cut away: 22% at the top, 22% at the bottom; --crop"


@pytest.fixture
def inputs(tmp_path):
    """A person from head to foot, the head in the upper sixth, and a tenth of a second of sound."""
    person = Image.new("RGB", (360, 640), "white")
    person.paste(HEAD, (150, 20, 210, 100))
    person.paste((20, 40, 90), (110, 100, 250, 640))
    person.save(tmp_path / "person.png")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    return tmp_path / "person.png", tmp_path / "speech.wav", tmp_path / "talk.mp4"


def has_head(reference):
    head = (torch.tensor(HEAD) / 255 - 0.5) * 2
    return bool(((reference[0, :, 0] - head[:, None, None]).abs().amax(dim=0) < 0.1).any())


@pytest.mark.parametrize(
    ("crop", "shown"), [(CENTER, False), (Crop(top=True), True), (Crop.parse("60,0,240,240"), True)]
)
def test_the_head_of_a_person_is_in_the_frame_of_a_crop(inputs, crop, shown):
    render, _ = prepare(Settings(*inputs, size=(64, 64), crop=crop))
    assert has_head(render.session.avatar.reference) == shown


def test_the_pictures_own_shape_shows_all_of_it(inputs, capsys):
    render, _ = prepare(Settings(*inputs, portrait_shape=True))
    assert (render.session.stream.height, render.session.stream.width) == (160, 96)
    assert has_head(render.session.avatar.reference)
    assert "cut away" not in capsys.readouterr().err


def test_what_is_cut_away_is_said(inputs, capsys):
    prepare(Settings(*inputs, size=(64, 64)))
    assert CUT in capsys.readouterr().err


def test_options_choose_the_part(inputs):
    image, audio, output = map(str, inputs)
    options = ["--size", "auto", "--crop", "0,0,360,480", "--steps", "1"]
    assert main(["generate", "--image", image, "--audio", audio, "--output", output, *options]) == 0
    with av.open(output) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (112, 144)


@pytest.mark.parametrize(
    ("crop", "words"), [("left", "needed is top, center, or X,Y,W,H"), ("0,0,900,900", "of a picture of 360x640")]
)
def test_a_crop_that_cannot_be_is_named(inputs, capsys, crop, words):
    image, audio, output = map(str, inputs)
    assert main(["generate", "--image", image, "--audio", audio, "--output", output, "--crop", crop]) == 1
    assert words in capsys.readouterr().err


@pytest.fixture
def loras(tmp_path):
    """Two LoRAs of nano, of different ranks."""
    weights = nano.transformer("cpu", torch.float32).state_dict()
    for rank in (2, 3):
        chance = torch.Generator().manual_seed(rank)
        pairs = {
            name.removesuffix(".weight"): (
                torch.randn(rank, weight.shape[1], generator=chance) * 0.1,
                torch.randn(weight.shape[0], rank, generator=chance) * 0.1,
            )
            for name, weight in weights.items()
            if is_quantized(name)
        }
        write_lora(tmp_path / f"{rank}.safetensors", pairs, 4.0, {})
    return [tmp_path / "2.safetensors", tmp_path / "3.safetensors"]


def shown(session):
    return torch.cat([event.frames for event in session.run(session.start(0)) if isinstance(event, Frames)], dim=1)


def test_loras_change_what_adding_them_to_the_weights_changes(inputs, loras):
    settings = {"size": (64, 64), "steps": 1}
    chosen = tuple(Lora.parse(words) for words in ((str(loras[0]), "0.5"), (str(loras[1]),)))
    (plain, model), (changed, _) = (prepare(Settings(*inputs, **settings, loras=given)) for given in ((), chosen))
    before, found = shown(plain.session), shown(changed.session)
    assert (found - before).abs().max() > 0.2
    for path, strength in chosen:
        add_lora(model.transformer, path, strength)
    again, _ = prepare(Settings(*inputs, **settings))
    again.session.engine.transformer = model.transformer
    assert (shown(again.session) - found).abs().max() < 1e-3
    eight = {**settings, "placement": Placement(fp8=True)}
    quantized, with_loras = (prepare(Settings(*inputs, **eight, loras=given))[0] for given in ((), chosen))
    assert (shown(with_loras.session) - found).abs().mean() < 0.5 * (shown(quantized.session) - found).abs().mean()


def test_a_resumed_render_has_the_loras_that_it_began_with(inputs, loras):
    stream = nano.PRESET.stream
    names = [choices(Settings(*inputs, loras=given), stream).get("LoRAs") for given in (
        (), (Lora(loras[0]),), (Lora(loras[0], 0.5),), (Lora(loras[1]),), (Lora(loras[0]), Lora(loras[1]))
    )]  # fmt: skip
    assert names[0] is None and len({str(name) for name in names}) == 5


def test_workers_are_sent_the_loras(loras):
    fleet = SimpleNamespace(set_up=lambda **_: None)
    settings = ModelSettings(loras=(Lora(loras[0], 0.5), Lora(loras[1])), fleet=fleet)
    engine = engine_of(settings, None, nano.PRESET.stream, None)
    assert isinstance(engine, FleetEngine)
    weights = nano.transformer("cpu", torch.float32).state_dict()
    assert len(engine.patches.patches) == 2 * sum(map(is_quantized, weights))
    assert [scale for _, scale in engine.patches.key] == [0.5, 1.0]
    assert engine_of(ModelSettings(fleet=fleet), None, nano.PRESET.stream, None).patches.key is None


def test_a_lora_that_cannot_be_is_named_before_the_work(inputs, loras, tmp_path, capsys):
    image, audio, output = map(str, inputs)
    command = ["generate", "--image", image, "--audio", audio, "--output", output]
    other = tmp_path / "other.safetensors"
    write_lora(other, {"blocks.70.self_attn.q": (torch.ones(2, 64), torch.ones(64, 2))}, 2.0, {})
    for words, message in (
        ([str(loras[0]), "strong"], "at most one number"),
        ([str(loras[0]), "1", "2"], "at most one number"),
        ([str(loras[0]), "nan"], "at most one number"),
        ([str(tmp_path / "none")], "does not exist"),
        ([image], "person.png"),
        ([str(nano.ASSETS / "nano_vae.safetensors")], "is no LoRA"),
        ([str(other)], "does not fit"),
    ):
        assert main([*command, "--lora", *words]) == 1
        assert message in capsys.readouterr().err, words
