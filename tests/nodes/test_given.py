"""What other nodes give: in forms that ComfyUI lets through, and what no node of ours can use."""

import dataclasses
import math

import numpy as np
import pytest
import torch

RATE = 16_000
WAVE = torch.linspace(-0.5, 0.5, RATE).reshape(1, 1, -1)


@pytest.fixture
def given(pack):
    return pack("nodes.given")


@pytest.fixture
def refuses(pack):
    """Refuses with `message`, in one line and without Python's own words."""
    return lambda message: pytest.raises(pack("livetalk_core.errors").InputError, match=message)


def heard(given, waveform, rate=RATE):
    return torch.as_tensor(
        given.sound("audio", {"waveform": waveform, "sample_rate": rate}).read(0, RATE, RATE, mono=True)
    )


class TestSound:
    @pytest.mark.parametrize("wrap", [
        lambda w: w, lambda w: w[0], lambda w: w[0, 0], lambda w: w.tolist(), lambda w: w.numpy(), lambda w: w.double(),
        lambda w: w.clone().requires_grad_(),
    ])  # fmt: skip
    @pytest.mark.parametrize("rate", [16_000, 16_000.0, "16000", torch.tensor(16_000), np.int64(16_000)])
    def test_takes_what_other_packs_give(self, given, wrap, rate):
        assert torch.allclose(heard(given, wrap(WAVE), rate).flatten(), WAVE.flatten(), atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
    def test_whole_numbers_are_parts_of_their_range(self, given, dtype):
        half = torch.full((1, 1, RATE), torch.iinfo(dtype).max // 2, dtype=dtype)
        assert abs(float(heard(given, half)[0, 0]) - 0.5) < 1e-3

    def test_bytes_are_around_the_middle_of_theirs(self, given):
        loud_and_still = torch.tensor([0, 128] * (RATE // 2), dtype=torch.uint8)
        assert heard(given, loud_and_still)[0, :2].tolist() == [-1, 0]

    @pytest.mark.parametrize(
        ("audio", "message"),
        [
            (None, "audio is empty: .* silent video"),
            ({"waveform": torch.zeros(2, 1, 100), "sample_rate": RATE}, "audio is a batch of 2 sounds"),
            ({"waveform": torch.zeros(1, 1, 1, 9), "sample_rate": RATE}, r"\[1, 1, 1, 9\]; one"),
            ({"waveform": torch.full((1, 1, 9), torch.nan), "sample_rate": RATE}, "samples that are no numbers"),
            ({"waveform": [[1.0], [1.0, 2.0]], "sample_rate": RATE}, "audio's waveform is a list; a tensor"),
            ({"waveform": None, "sample_rate": RATE}, "audio's waveform is empty"),
            ({"waveform": WAVE.to(torch.complex64), "sample_rate": RATE}, "complex64"),
            ({"waveform": WAVE.to("meta"), "sample_rate": RATE}, "plain numbers .torch.float32, meta"),
            ({"waveform": WAVE, "sample_rate": math.nan}, "a sample_rate of nan"),
            ({"waveform": WAVE, "sample_rate": math.inf}, "a sample_rate of inf"),
            ({"waveform": WAVE, "sample_rate": None}, "a sample_rate of None"),
            ({"waveform": WAVE}, "without waveform and sample_rate"),
            ((WAVE, RATE), "a tuple without"),
        ],
    )
    def test_refuses(self, given, refuses, audio, message):
        with refuses(message):
            given.sound("audio", audio)


class TestPictures:
    PIXELS = torch.arange(256, dtype=torch.uint8).repeat(64, 1)[None, :, :, None].expand(-1, -1, -1, 3)

    @pytest.mark.parametrize("wrap", [
        lambda p: p, lambda p: p / 255, lambda p: (p / 255).double(), lambda p: (p / 255).numpy(), lambda p: p[0] / 255,
        lambda p: [(p[0] / 255).tolist()],
    ])  # fmt: skip
    def test_takes_bytes_arrays_and_lists(self, given, wrap):
        assert torch.allclose(given.pictures("image", wrap(self.PIXELS)), self.PIXELS / 255)

    @pytest.mark.parametrize(("channels", "expected"), [(1, 0.25), (2, 0.8125), (3, 0.25), (4, 0.8125)])
    def test_grey_is_spread_and_transparency_laid_on_white(self, given, channels, expected):
        images = given.pictures("image", torch.full((2, 8, 9, channels), 0.25))
        assert images.shape == (2, 8, 9, 3)
        assert torch.allclose(images, torch.tensor(expected))

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (None, "image is empty; a tensor"),
            ("face.png", "image is a str"),
            (torch.zeros(8, 9), r"image of shape \[8, 9\]; images \[n,height,width,3\]"),
            (torch.zeros(1, 8, 9, 5), "image of shape"),
            (torch.zeros(0, 8, 9, 3), "image of shape"),
            (torch.zeros(1, 8, 0, 3), "image of shape"),
            (torch.zeros(1, 1, 8, 9, 3), "image of shape"),
            (torch.zeros(1, 8, 9, 3, dtype=torch.int64), "values of torch.int64"),
        ],
    )
    def test_refuses(self, given, refuses, images, message):
        with refuses(message):
            given.pictures("image", images)

    def test_a_job_and_a_render_that_goes_on_take_them_too(self, pack):
        stream = dataclasses.replace(pack("livetalk_core.config").StreamConfig(), height=64, width=64)
        before = pack("nodes.render").frames_before_talk
        assert torch.equal(before(self.PIXELS[0], stream), before(self.PIXELS / 255, stream))
        assert (before(torch.zeros(9, 64, 64, 2), stream) == 1).all()


class TestMask:
    MASK = torch.rand(8, 9, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize("wrap", [
        lambda m: m, lambda m: m[None], lambda m: m[None, None], lambda m: m[None, :, :, None], lambda m: m.tolist(),
        lambda m: m.double().numpy(),
    ])  # fmt: skip
    def test_takes_any_number_of_dimensions_of_one(self, given, wrap):
        assert torch.allclose(given.one_mask("mask_1", wrap(self.MASK)), self.MASK)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (torch.zeros(2, 8, 9), "mask_1 is a batch of 2 masks"),
            (torch.zeros(0, 8, 9), "mask_1 is a batch of 0 masks"),
            (torch.zeros(1, 8, 9, 3), "mask_1 is a batch of 8 masks"),
            (torch.zeros(1, 0, 0), r"\[1, 0, 0\]"),
            (torch.tensor(1.0), r"\[\]"),
            (torch.full((8, 9), math.nan), "no numbers"),
            (3, r"\[\]"),
            ("mask", "mask_1 is a str"),
        ],
    )
    def test_refuses(self, given, refuses, mask, message):
        with refuses(message):
            given.one_mask("mask_1", mask)


class TestChecked:
    def test_nothing_is_refused_where_something_is_needed(self, nodes, refuses):
        settings = {"width": 64, "height": 64, "prompt": "", "crop": "center", "crop_box": ""}
        with refuses("vae is empty: what is connected gave nothing"):
            nodes["LiveTalkAvatar"][0].execute(image=torch.ones(1, 64, 64, 3), vae=None, **settings)

    def test_nothing_is_as_good_as_open_where_an_input_may_be(self, nodes):
        cls = nodes["LiveTalkPrompt"][0]
        assert cls.execute(prompts=None, conditioning=None, prompt="smile", from_second=1.0).args[0][0].from_second == 1

    def test_what_is_not_of_our_nodes_is_named(self, nodes, refuses):
        with refuses("state is a str; needed is a ChunkState of LiveTalk"):
            nodes["LiveTalkDecodeChunk"][0].execute(latent={}, vae=object(), state="x", overlap=False)

    @pytest.mark.parametrize("second", [math.nan, -1.0, math.inf])
    def test_a_prompt_begins_at_a_number(self, nodes, refuses, second):
        with refuses(f"from second {second} on"):
            nodes["LiveTalkPrompt"][0].execute(prompt="smile", from_second=second)


class TestConditioning:
    @pytest.mark.parametrize(
        ("conditioning", "message"),
        [
            ("x", "conditioning holds a str"),
            ([], "conditioning holds 0 prompts"),
            ([[None, {}]], "tokens is empty"),
            ([[torch.zeros(2, 5, 32), {}]], r"\[2, 5, 32\]; one prompt"),
            ([[torch.zeros(5, 32), {}]], r"\[5, 32\]"),
            ([[torch.zeros(1, 0, 32), {}]], r"\[1, 0, 32\]"),
        ],
    )
    def test_refuses(self, pack, refuses, conditioning, message):
        with refuses(message):
            pack("nodes.inputs").prompt_tokens(conditioning)

    def test_what_is_put_to_a_prompt_and_not_used_is_said(self, nodes, host):
        put = {"pooled_output": None, "attention_mask": 1, "concat_latent_image": 1, "hooks": 2, "mask": None}
        conditioning = [[torch.zeros(1, 5, 32), put]]
        nodes["LiveTalkPrompt"][0].execute(prompt="", from_second=1.0, conditioning=conditioning)
        assert host.said == ["not used by LiveTalk of conditioning: concat latent image, hooks"]
