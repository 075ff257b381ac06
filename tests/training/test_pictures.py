"""Pictures beside drawn faces: the same for a name, of all kinds, moved smoothly; faces that they cover."""

import pytest
import torch
from PIL import Image

from livetalk_core.errors import InputError
from livetalk_core.training.chance import generator_of
from livetalk_core.training.data import TakeSource, film
from livetalk_core.training.pictures import PHOTOGRAPHS, PictureFolder, collect_photographs, moved
from livetalk_core.training.speech import SpeechFolder
from livetalk_core.training.trips import TripsTask
from livetalk_core.training.vae import Phase

from .evaluation.conftest import bursts

SIZE = (48, 48)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    Image.radial_gradient("L").convert("RGB").save(folder / "one.png")
    return folder


def test_a_picture_is_decided_by_its_name(photographs):
    for folder in (PictureFolder(), PictureFolder.open(photographs)):
        one, same, other = (folder.draw(40, "a", number) for number in (1, 1, 2))
        assert one.shape == (3, 40, 40) and one.abs().max() <= 1
        assert torch.equal(one, same)
        assert (one - other).abs().mean() > 0.05
        assert one.std() > 0.02


def test_photographs_are_shown(photographs):
    folder, shapes = PictureFolder.open(photographs), PictureFolder()
    alike = [torch.equal(folder.draw(24, number), shapes.draw(24, number)) for number in range(30)]
    assert not any(alike), "the chance that picks a kind is drawn before all else"
    grey = [folder.draw(24, number).diff(dim=1).abs().max() < 0.3 for number in range(30)]
    assert 5 < sum(map(bool, grey)) < 25, "a radial gradient has no edges, overlapping shapes have"


def test_an_empty_folder_of_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="train pictures"):
        PictureFolder.open(tmp_path)


def test_photographs_of_a_package_are_collected(tmp_path):
    pytest.importorskip("skimage")
    files = collect_photographs(tmp_path / "new")
    assert len(files) == len(PHOTOGRAPHS) == len(PictureFolder.open(tmp_path / "new").photographs)
    assert not {"astronaut", "chelsea", "coffee", "camera", "rocket"} & {file.stem for file in files}


def test_a_moved_picture_moves_a_little_a_frame():
    video = moved(PictureFolder().draw(60, "m"), 9, 48, generator_of("way"))
    change = video.diff(dim=1).abs().mean((0, 2, 3))
    assert video.shape == (3, 9, 48, 48)
    assert change.min() > 0 and change.max() < 0.2


def test_covered_takes_show_a_picture_and_keep_the_mouth():
    speech = SpeechFolder([bursts()])
    plain, covered = (TakeSource(speech, 1, covered=share).take(3) for share in (0.0, 1.0))
    assert plain.cover is None and covered.cover is not None
    index = torch.arange(4)[None]
    videos = [film([take], index, SIZE) for take in (plain, covered)]
    assert (videos[0].video - videos[1].video).abs().mean() > 0.01
    assert torch.equal(videos[0].weight, videos[1].weight)
    uncovered = plain._replace(cover=covered.cover._replace(share=torch.zeros(1, 3)))
    assert torch.allclose(film([uncovered], index, SIZE).video, videos[0].video, atol=1e-5)


def test_calm_heads_move_less_and_blink_as_often():
    speech = SpeechFolder([bursts()])
    lively, calm = (TakeSource(speech, 1, liveliness=value).take(0).pose for value in (1.0, 0.4))
    for name in ("x", "y", "roll", "yaw", "pitch"):
        assert getattr(calm, name).diff().abs().mean() < 0.5 * getattr(lively, name).diff().abs().mean(), name
    assert torch.equal(calm.opening, lively.opening)
    assert torch.allclose(calm.eyes, lively.eyes)


def test_a_decoder_learns_from_its_own_trips(photographs):
    source = TakeSource(SpeechFolder([bursts()]), 1)
    pictures = PictureFolder.open(photographs)
    task = TripsTask(
        vae(), source, (Phase(9, 1, 9, 32),), pictures, size=48, pictured=0.5, still=0.5, trips=2, returned=30
    )
    trained = {name.split(".")[0] for name, each in task.vae.named_parameters() if each.requires_grad}
    assert trained == {"decoder", "conv2"}, "latents, and all that was trained on them, stay as they are"
    batches = [task.batch(step) for step in range(4)]

    def returned():
        chance = generator_of("n")
        return sum(float(task.losses(batch, 0, chance)["returned"].detach()) for batch in batches)

    weights = [each for each in task.vae.parameters() if each.requires_grad]
    with torch.no_grad():
        for weight in weights:
            weight += 0.05 * weight.std() * torch.randn(weight.shape, generator=generator_of("worse"))
    before, optimizer = returned(), torch.optim.Adam(weights, 2e-4)
    for step in range(8):
        optimizer.zero_grad()
        task.losses(batches[step % 4], step, generator_of("n", step))["loss"].backward()
        optimizer.step()
    assert returned() < 0.95 * before


def vae():
    from livetalk_core.checkpoints import nano

    return nano.vae("cpu", torch.float32).requires_grad_(True)
