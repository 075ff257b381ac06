"""The nodes before the render: loaders, speech, avatar."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def embedded(nodes):
    """The embedded model's parts: model, vae, audio encoder."""
    return nodes["LiveTalkEmbeddedModel"][0].execute().args


def avatar_of(nodes, vae, image, **options):
    settings = {"width": 64, "height": 96, "prompt": "hello", "crop": "center", "crop_box": ""} | options
    return nodes["LiveTalkAvatar"][0].execute(image=image, vae=vae, **settings).args[0]


def speech_of(nodes, encoder, waveform, mode="window", rate=16_000, offset=0):
    audio = {"waveform": waveform, "sample_rate": rate}
    settings = {"audio_encoder": encoder, "audio": audio, "mode": mode, "audio_offset": offset}
    return nodes["LiveTalkEncodeSpeech"][0].execute(**settings).args[0]


@pytest.fixture
def errors(pack):
    return pack("livetalk_core.errors")


class TestEmbeddedModel:
    def test_gives_the_same_weights_each_time(self, nodes, embedded):
        first = embedded[0].state_dict()
        second = nodes["LiveTalkEmbeddedModel"][0].execute().args[0].state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


class TestLoadModel:
    @pytest.fixture
    def file(self, host, embedded, tmp_path):
        host.models["talk.safetensors"] = tmp_path / "talk.safetensors"

        def write(weights):
            config = json.dumps(dataclasses.asdict(embedded[0].config))
            save_file(weights, host.models["talk.safetensors"], {"config": config})

        return write

    def load(self, nodes, patch="none"):
        return (
            nodes["LiveTalkLoadModel"][0]
            .execute(model_name="talk.safetensors", model_patch=patch, weight_dtype="default")
            .args[0]
        )

    def test_loads_a_file_with_comfyuis_prefix(self, nodes, file, embedded):
        weights = embedded[0].state_dict()
        file({f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()})
        model = self.load(nodes)
        assert model.config == embedded[0].config
        assert torch.equal(model.head.head.weight, weights["head.head.weight"])
        assert "talk.safetensors" in model.name

    def test_other_weights_under_the_same_name_are_told_apart(self, nodes, file, embedded):
        names = []
        for factor in (1, 1, 2):
            file({key: factor * tensor for key, tensor in embedded[0].state_dict().items()})
            names.append(self.load(nodes).name)
        assert names[0] == names[1] != names[2]

    def test_names_what_is_missing_before_it_loads(self, nodes, file, embedded, errors):
        weights = dict(embedded[0].state_dict())
        del weights["blocks.3.self_attn.q.weight"]
        file(weights)
        with pytest.raises(errors.CheckpointError, match=r"missing: blocks\.3\.self_attn\.q\.weight"):
            self.load(nodes)

    def test_joins_a_wan_model_and_its_patch(self, nodes, host, file, embedded, pack, tmp_path):
        weights = embedded[0].state_dict()
        added = {n: t for n, t in weights.items() if "audio" in n or "norm_x" in n}
        file({f"model.diffusion_model.{name}": weights[name] for name in weights.keys() - added.keys()})
        host.models["patch.safetensors"] = tmp_path / "patch.safetensors"
        save_file(added, host.models["patch.safetensors"])
        model = self.load(nodes, "patch.safetensors")
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
        assert pack("nodes.guidance").guidance_of(model) == pack("livetalk_core.config").Guidance()
        assert pack("nodes.guidance").guidance_of(embedded[0]) is None
        assert pack("nodes.guidance").guided_by(model).made_for == pack("livetalk_core.config").INFINITETALK
        assert "talk.safetensors with patch.safetensors" in model.name

    def test_finds_the_other_shards(self, pack, tmp_path):
        whole_model = pack("nodes.loaders").whole_model
        shard = tmp_path / "model-00002-of-00003.safetensors"
        assert whole_model(shard) == shard
        index = tmp_path / "model.safetensors.index.json"
        index.touch()
        assert whole_model(shard) == index
        assert whole_model(tmp_path / "other.safetensors") == tmp_path / "other.safetensors"


class TestNothingToLoad:
    @pytest.mark.parametrize(("node", "named"), [
        ("LiveTalkLoadModel", "SoulX-FlashTalk-14B"), ("LiveTalkLoadAudioEncoder", "wav2vec2-chinese-base"),
        ("LiveTalkLoadVAE", "SoulX-FlashHead-1_3B/resolve/main/VAE_LTX"),
    ])  # fmt: skip
    def test_an_empty_list_says_what_to_download(self, nodes, host, errors, node, named):
        cls = nodes[node][0]
        name = cls.define_schema().inputs[0]
        (choice,) = name.options["options"]
        others = {"model_patch": "none", "weight_dtype": "default"} if node == "LiveTalkLoadModel" else {}
        with pytest.raises(errors.InputError, match=f"download https://huggingface.co/.*{named}"):
            cls.execute(**{name.id: choice}, **others)


class TestLoadAudioEncoder:
    def test_loads_a_file(self, nodes, host, embedded, tmp_path):
        weights = embedded[2].patcher.state_dict()
        host.models["ears.safetensors"] = tmp_path / "ears.safetensors"
        save_file(dict(weights), tmp_path / "ears.safetensors", {"config": '{"num_attention_heads": 4}'})
        encoder = nodes["LiveTalkLoadAudioEncoder"][0].execute(encoder_name="ears.safetensors").args[0]
        assert (encoder.blocks, encoder.channels, encoder.lufs) == (4, 64, -23.0)
        sound = torch.linspace(-1, 1, 6400)
        assert torch.equal(encoder.embed(sound, 10), embedded[2].embed(sound, 10))


class TestEncodeSpeech:
    def test_is_lazy(self, nodes, embedded, monkeypatch):
        monkeypatch.setattr(type(embedded[2].patcher), "embed", None)
        speech_of(nodes, embedded[2], torch.zeros(1, 2, 4000))

    @pytest.mark.parametrize(("samples", "frames"), [(1, 1), (640, 1), (641, 2), (16_000, 25), (16_001, 26)])
    def test_asks_for_as_many_frames_as_the_sound_covers(self, nodes, pack, embedded, samples, frames):
        stream = pack("livetalk_core.config").StreamConfig()
        plan = speech_of(nodes, embedded[2], torch.ones(1, 1, samples)).plan(stream)
        assert plan.total_frames == frames
        assert not plan.live

    def test_stream_mode_makes_a_live_plan(self, nodes, pack, embedded):
        stream = pack("livetalk_core.config").StreamConfig()
        assert speech_of(nodes, embedded[2], torch.ones(1, 1, 16_000), "stream").plan(stream).live

    @pytest.mark.parametrize(
        ("waveform", "message"),
        [
            (torch.zeros(2, 1, 100), "batch of 2 sounds"),
            (torch.zeros(1, 1, 0), "no samples"),
            (torch.full((1, 1, 100), torch.nan), "NaN"),
        ],
    )
    def test_refuses_what_is_no_speech(self, nodes, embedded, errors, waveform, message):
        with pytest.raises(errors.InputError, match=message):
            speech_of(nodes, embedded[2], waveform)


class TestAvatar:
    def test_uses_the_embedded_encoders_when_none_is_connected(self, nodes, embedded, pack):
        image = torch.rand(1, 100, 80, 3, generator=torch.Generator().manual_seed(1))
        avatar = avatar_of(nodes, embedded[1], image)
        assert avatar.reference.shape == (1, 3, 1, 96, 64)
        made = avatar.avatar(embedded[0].config, pack("livetalk_core.config").StreamConfig(96, 64))
        assert made.cond.shape == (20, 9, 12, 8)
        assert avatar.clip.shape == (1, 65, 64)
        assert avatar.text.shape == (len("hello") + 1, 32)

    def test_prompt_changes_the_text_and_not_the_identity(self, nodes, embedded):
        image = torch.rand(1, 100, 80, 3, generator=torch.Generator().manual_seed(1))
        one, other = (avatar_of(nodes, embedded[1], image, prompt=prompt) for prompt in ("hello", "world"))
        assert not torch.equal(one.text, other.text)
        assert one.fingerprint == other.fingerprint

    def test_uses_stock_encoders_when_both_are_connected(self, nodes, pack, embedded):
        vision = pack("livetalk_core.checkpoints.nano").image_encoder("cpu", torch.float32)
        tokens = torch.randn(1, 512, 4096, generator=torch.Generator().manual_seed(2))
        image = torch.full((1, 128, 128, 3), 0.5)
        avatar = avatar_of(nodes, embedded[1], image, clip_vision=vision, conditioning=[[tokens, {}]])
        assert torch.equal(avatar.text, tokens[0])
        assert avatar.clip.shape == (1, 65, 64)

    def test_pixels_survive_the_way_through_float(self, pack):
        pixels = torch.arange(256, dtype=torch.uint8).repeat(64, 1)[:, :, None].expand(-1, -1, 3)
        assert torch.equal(torch.from_numpy(pack("nodes.inputs").one_image(pixels[None] / 255)), pixels)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image": torch.zeros(2, 64, 64, 3)}, "a batch of 2; one portrait"),
            ({"image": torch.zeros(1, 64, 64, 5)}, "images .n,height,width,3. are needed"),
            ({"image": torch.full((1, 64, 64, 3), torch.nan)}, "portrait"),
            ({"image": torch.zeros(1, 1, 1, 3)}, "1x1 px; at least 64"),
            ({"image": torch.zeros(1, 64, 20_000, 3)}, "20000x64 px; at most 8192"),
            ({"crop": "box", "crop_box": "0,0,99,9"}, "needed is a part of it"),
            ({"crop": "box", "crop_box": "left"}, "needed is top, center, or X,Y,W,H"),
            ({"clip_vision": object()}, "conditioning is not connected"),
            ({"conditioning": [[torch.zeros(1, 1, 32), {}]]}, "clip_vision is not connected"),
        ],
    )
    def test_refuses_what_it_cannot_use(self, nodes, embedded, errors, change, message):
        with pytest.raises(errors.InputError, match=message):
            avatar_of(nodes, embedded[1], **({"image": torch.zeros(1, 64, 64, 3)} | change))

    @pytest.mark.parametrize("count", [0, 2])
    def test_refuses_several_prompts(self, pack, errors, count):
        with pytest.raises(errors.InputError, match=f"{count} prompts"):
            pack("nodes.inputs").prompt_tokens([[torch.zeros(1, 4, 32), {}]] * count)


class TestFrame:
    def size(self, nodes, host, embedded, portrait, width, height, **options):
        image = torch.rand(1, *portrait[::-1], 3)
        height, width = avatar_of(nodes, embedded[1], image, width=width, height=height, **options).size
        return (width, height), host.said[-1]

    def test_is_the_pictures_shape_at_the_models_area_by_itself(self, nodes, host, embedded):
        assert self.size(nodes, host, embedded, (300, 300), 0, 0)[0] == (128, 128)
        (width, height), said = self.size(nodes, host, embedded, (300, 400), 0, 0)
        assert (width, height) == (112, 144) and said == "112x144 px"

    def test_the_14b_models_own_size_is_not_the_embedded_ones(self, pack):
        framing, crop = pack("nodes.framing"), pack("livetalk_core.media.crop").CENTER
        config = pack("livetalk_core.config")
        vaes = {8: config.VAEConfig(dim=8), 96: config.VAEConfig(), 0: config.LTXVAEConfig()}
        sizes = {
            (width, prompted): framing.frame_size((448, 768), 0, 0, crop, framing.preset_of(vaes[width], prompted))
            for width, prompted in ((8, False), (96, True), (96, False), (0, False))
        }
        areas = {key: height * width for key, (height, width) in sizes.items()}
        assert sizes[96, True] == (768, 448)
        assert areas[8, False] <= 128 * 128 < 200_000 < areas[96, False] <= 512 * 512
        assert all(side % 32 == 0 for side in sizes[0, False])

    def test_a_side_of_0_follows_the_picture(self, nodes, host, embedded):
        assert self.size(nodes, host, embedded, (200, 400), 64, 0)[0] == (64, 128)
        assert self.size(nodes, host, embedded, (200, 400), 0, 128)[0] == (64, 128)

    def test_a_size_that_the_model_does_not_have_becomes_the_nearest_and_is_said(self, nodes, host, embedded):
        size, said = self.size(nodes, host, embedded, (200, 200), 100, 90)
        assert size == (96, 96) and "the nearest to 100x90: sides are multiples of 16" in said

    def test_what_is_cut_away_is_said(self, nodes, host, embedded):
        _, said = self.size(nodes, host, embedded, (200, 400), 64, 64)
        assert "50% of the picture is shown" in said and "25% at the bottom" in said
        _, said = self.size(nodes, host, embedded, (200, 400), 64, 64, crop="top")
        assert "50% at the bottom" in said

    def test_the_crop_chooses_what_is_shown(self, nodes, embedded):
        image = torch.zeros(1, 200, 100, 3)
        image[:, :100, :, 0] = 1
        image[:, 100:, :, 2] = 1
        top = avatar_of(nodes, embedded[1], image, height=64, crop="top").reference
        bottom = avatar_of(nodes, embedded[1], image, height=64, crop="box", crop_box="0,100,100,100").reference
        assert (top[0, 0, 0, :-1] == 1).all() and (top[0, 2, 0, :-1] == -1).all()
        assert (bottom[0, 2, 0, 1:] == 1).all() and (bottom[0, 0, 0, 1:] == -1).all()

    def test_the_page_gets_the_portrait(self, nodes, embedded):
        made = nodes["LiveTalkAvatar"][0].execute(
            image=torch.rand(1, 100, 80, 3), vae=embedded[1], width=64, height=64, prompt="", crop="top", crop_box=""
        )
        assert made.ui["livetalk_portrait"][0] | {"filename": ""} == {"filename": "", "width": "80", "height": "100"}


class TestMasks:
    def masks(self, nodes, embedded, mask_1, mask_2, image=None):
        image = torch.rand(1, 96, 64, 3) if image is None else image
        return avatar_of(nodes, embedded[1], image, mask_1=mask_1, mask_2=mask_2).masks

    def test_refuses_a_batch(self, nodes, embedded, errors):
        with pytest.raises(errors.InputError, match="mask_2 is a batch of 2 masks"):
            self.masks(nodes, embedded, torch.zeros(1, 96, 64), torch.zeros(2, 96, 64))

    @pytest.mark.parametrize("shape", [(96, 64), (1, 192, 128), (48, 32)])
    def test_another_size_is_scaled(self, nodes, embedded, shape):
        top, other = torch.zeros(1, 96, 64), torch.zeros(shape)
        top[:, :32] = 1
        other[..., -(shape[-2] // 3) :, :] = 1
        same = torch.zeros(1, 96, 64)
        same[:, 64:] = 1
        assert torch.equal(self.masks(nodes, embedded, top, other), self.masks(nodes, embedded, top, same))

    def test_refuses_the_second_alone(self, nodes, embedded, errors):
        with pytest.raises(errors.InputError, match="mask_2 is connected, but not mask_1"):
            self.masks(nodes, embedded, None, torch.zeros(1, 96, 64))

    def test_refuses_empty_ones(self, nodes, embedded, errors):
        with pytest.raises(errors.InputError, match=r"nothing of the .* picture is left for mask_2; each needs"):
            self.masks(nodes, embedded, torch.ones(1, 96, 64), torch.zeros(1, 96, 64))
        with pytest.raises(errors.InputError, match=r"left for those who listen"):
            self.masks(nodes, embedded, torch.ones(1, 96, 64), None)

    def test_one_alone_leaves_the_rest_to_those_who_listen(self, nodes, embedded):
        top = torch.zeros(1, 96, 64)
        top[:, :32] = 1
        first, second, background = self.masks(nodes, embedded, top, None)
        assert torch.equal(first, top[0])
        assert torch.equal(second, 1 - first) and torch.equal(background, second)

    def test_two_that_cover_all_need_no_background(self, nodes, embedded):
        top = torch.zeros(1, 96, 64)
        top[:, :48] = 1
        first, second, background = self.masks(nodes, embedded, top, 1 - top)
        assert torch.equal(first + second, torch.ones(96, 64)) and background.all()
        overlapping = self.masks(nodes, embedded, top, torch.ones(1, 96, 64))
        assert torch.equal(overlapping[1], 1 - first)

    def test_follow_the_crop(self, nodes, embedded):
        image, top = torch.rand(1, 200, 64, 3), torch.zeros(1, 200, 64)
        top[:, :96] = 1
        settings = {"mask_1": top, "mask_2": 1 - top, "height": 128}
        assert avatar_of(nodes, embedded[1], image, crop="top", **settings).masks[0].mean() == 0.75
        box = {"crop": "box", "crop_box": "0,32,64,128"}
        assert avatar_of(nodes, embedded[1], image, **box, **settings).masks[0].mean() == 0.5


class TestSpeech:
    def test_the_offset_moves_the_lips_and_is_part_of_who_it_is(self, nodes, pack, embedded):
        stream = pack("livetalk_core.config").StreamConfig()
        avatar = avatar_of(nodes, embedded[1], torch.rand(1, 96, 64, 3))
        sound = torch.rand(1, 1, 32_000, generator=torch.Generator().manual_seed(1)) - 0.5
        plain, none, moved = (speech_of(nodes, embedded[2], sound, offset=offset) for offset in (0, 0, 80))
        assert plain.fingerprint == none.fingerprint != moved.fingerprint
        features = [
            speech.features(plan := speech.plan(stream), avatar).for_chunk(plan.chunk(0)) for speech in (plain, moved)
        ]
        assert not torch.equal(*features)
        later = plain.features(plan, avatar).for_chunk(plan.chunk(0))[:, 2:12]  # 80 ms are two frames
        assert (features[1][:, :10] - later).abs().mean() < 0.5 * (features[0][:, :10] - later).abs().mean()

    def test_who_listens_hears_silence(self, nodes, pack, embedded):
        stream, mask = pack("livetalk_core.config").StreamConfig(), torch.zeros(1, 96, 64)
        mask[:, :48] = 1
        alone = avatar_of(nodes, embedded[1], torch.rand(1, 96, 64, 3), mask_1=mask)
        sound = torch.rand(1, 1, 32_000, generator=torch.Generator().manual_seed(1)) - 0.5
        speech = speech_of(nodes, embedded[2], sound)
        plan = speech.plan(stream)
        first, second = speech.features(plan, alone).for_chunk(plan.chunk(0))
        silence = speech_of(nodes, embedded[2], torch.zeros(1, 1, 32_000))
        plain = avatar_of(nodes, embedded[1], torch.rand(1, 96, 64, 3))
        assert torch.equal(first, speech.features(plan, plain).for_chunk(plan.chunk(0))[0])
        assert torch.equal(second, silence.features(plan, plain).for_chunk(plan.chunk(0))[0])

    def test_says_what_is_to_be_known_of_the_sound(self, nodes, host, embedded):
        wave = torch.sin(torch.arange(16_000) / 9)
        speech_of(nodes, embedded[2], torch.stack([wave, -wave])[None])
        assert "cancel each other" in host.said[-1]
