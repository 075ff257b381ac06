"""A stopped render goes on with what it began with alone: each input that is another is refused by its name."""

import copy
import dataclasses

import pytest
import torch

from tests.nodes.fake_host import Interrupted
from tests.nodes.test_stream import Doubler, avatar_of, correction_of, parts, render, speech_of  # noqa: F401 - a fixture

IMAGE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
"""As the first picture of that seed, so not the portrait of `parts`."""


def other_model(nodes, talk):
    model = copy.copy(talk["model"])
    model.name = f"{model.name}, patches of another LoRA"
    return {"model": model}


def other_vae(nodes, talk):
    vae = copy.deepcopy(talk["vae"])
    vae.decoder.head[0].gamma.mul_(1.1)
    return {"vae": vae}


def other_avatar(nodes, talk, **changes):
    return {"avatar": dataclasses.replace(talk["avatar"], **changes)}


def other_speech(nodes, talk, **settings):
    wave = torch.rand(1, 1, 44_800, generator=torch.Generator().manual_seed(9)) - 0.5
    return {"speech": speech_of(nodes, talk["encoder"], wave, **settings)}


CHANGES = {
    "model": other_model,
    "vae": other_vae,
    "avatar": lambda nodes, talk: {"avatar": avatar_of(nodes, talk["vae"], 1 - IMAGE)},
    "height": lambda nodes, talk: {"avatar": avatar_of(nodes, talk["vae"], IMAGE, size=80)},
    "speech": other_speech,
    "prompt": lambda nodes, talk: other_avatar(nodes, talk, text=talk["avatar"].text + 1),
    "encoders of the avatar": lambda nodes, talk: other_avatar(nodes, talk, encoders="another vision encoder"),
    "later prompts": lambda nodes, talk: {
        "prompts": nodes["LiveTalkPrompt"][0].execute(prompt="smile", from_second=1.5).args[0]
    },
    "steps": lambda nodes, talk: {"steps": 3},
    "color correction": lambda nodes, talk: {"correction": correction_of(nodes, 0.5)},
    "correction": lambda nodes, talk: {"correction": correction_of(nodes, 1.0, retrospection=1.0)},
    "joins": lambda nodes, talk: {"correction": correction_of(nodes, 1.0, join="always")},
    "start images": lambda nodes, talk: {"start_images": IMAGE.expand(5, -1, -1, -1)},
    "upscale model": lambda nodes, talk: {"upscale_model": Doubler},
    "codec": lambda nodes, talk: {"codec": "av1"},
    "crf": lambda nodes, talk: {"crf": 25},
}


def test_each_input_that_is_another_is_named_and_the_same_go_on(nodes, parts, host, pack):  # noqa: F811
    errors = pack("livetalk_core.errors")
    host.cancel_after = 3
    with pytest.raises(Interrupted):
        render(nodes, parts)
    host.cancel_after, steps = None, host.steps
    for name, change in CHANGES.items():
        with pytest.raises(errors.ResumeError, match=rf"another [a-z ,]*\b{name}\b"):
            render(nodes, parts, resume=True, **change(nodes, parts))
    assert host.steps == steps, "refused before anything is computed"
    assert render(nodes, parts, resume=True).args[0].file


def test_a_mask_is_part_of_the_portrait(nodes, parts, host, pack):  # noqa: F811
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :24] = 1
    plain, masked = (
        nodes["LiveTalkAvatar"][0].execute(
            image=IMAGE, vae=parts["vae"], width=64, height=64, prompt="talking", crop="center", crop_box="", **masks
        ).args[0]
        for masks in ({}, {"mask_1": mask})
    )  # fmt: skip
    assert plain.fingerprint != masked.fingerprint
