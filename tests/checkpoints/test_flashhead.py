"""FlashHead's and LeapTalk's folders open as published; parts of other members are refused by name."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from livetalk_core.checkpoints.convert import convert
from livetalk_core.checkpoints.load import open_model, transformer_part
from livetalk_core.errors import CheckpointError
from livetalk_core.models.ltx_vae import LTXVAE
from livetalk_core.models.vae import VAE
from livetalk_core.presets import PRESETS

from . import flashhead
from .test_load import sparse

CPU, F32 = "cpu", torch.float32


@pytest.fixture
def family(tmp_path: Path) -> Path:
    return flashhead.publish(tmp_path)


@pytest.fixture
def leaptalk(family: Path) -> Path:
    folder = family.parent / "leaptalk"
    convert(folder / "audio_proj_step_10400.pt", folder / "audio_proj.safetensors")
    return folder


@pytest.mark.parametrize(("member", "vae", "widths"), [("pro", VAE, flashhead.PRO), ("lite", LTXVAE, flashhead.LITE)])
@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_published_folder_opens(family, member, vae, widths, named):
    path = family / f"Model_{member.capitalize()}"
    model = open_model(path if named == "folder" else path / "diffusion_pytorch_model.safetensors", CPU, F32)
    preset = PRESETS[f"flashhead-{member}"]
    assert model.preset.transformer == widths and model.preset.stream == preset.stream
    assert model.preset.audio.lufs is None and model.preset.text is None and model.preset.image is None
    assert isinstance(model.vae, vae)
    wanted = flashhead.transformer_weights(widths)
    state = model.transformer.state_dict()
    assert state.keys() < wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in state)
    assert model.audio_encoder.lufs is None, "its sound is left as loud as it is"
    assert model.audio_encoder.config.hidden_size == 64 and len(model.fingerprint()) == 64


def test_the_folder_above_names_its_members(family):
    with pytest.raises(CheckpointError, match="holds Model_Pro and Model_Lite; needed is one model: name that folder"):
        open_model(family, CPU, F32)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("VAE_Wan/Wan2.1_VAE.safetensors", "a Wan 2.1 VAE"),
        ("../leaptalk/lora/adapter_model.safetensors", "an adapter (LoRA) in PEFT's layout"),
        ("../wav2vec2-base-960h/model.safetensors", "a Wav2Vec2 audio encoder"),
    ],
)
def test_another_part_in_the_models_place_is_named(family, file, kind):
    with pytest.raises(CheckpointError, match=rf"{re.escape(kind)}; needed is a video transformer's file .*: name"):
        open_model(family / file, CPU, F32)


@pytest.mark.parametrize(
    ("member", "gone", "message"),
    [
        ("Model_Pro", "VAE_Wan/Wan2.1_VAE.safetensors", r"no VAE; looked for .*VAE_Wan"),
        ("Model_Lite", "VAE_LTX/diffusion_pytorch_model.safetensors", r"no LTX VAE; looked for .*VAE_LTX"),
        ("Model_Lite", "../wav2vec2-base-960h", "no audio encoder; looked for wav2vec2-base-960h"),
    ],
)
def test_a_missing_part_is_named(family, member, gone, message):
    path = family / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=message):
        open_model(family / member, CPU, F32)


def test_pros_vae_as_a_pickle_says_how_to_convert_it(family):
    path = family / "VAE_Wan" / "Wan2.1_VAE.safetensors"
    path.rename(path.with_suffix(".pth"))
    with pytest.raises(CheckpointError, match=r"convert \S*VAE_Wan/Wan2\.1_VAE\.pth \S*VAE_Wan/Wan2\.1_VAE\.safe"):
        open_model(family / "Model_Pro", CPU, F32)


@pytest.mark.parametrize(
    ("member", "place", "other", "message"),
    [
        ("Lite", "VAE_LTX/diffusion_pytorch_model.safetensors", "VAE_Wan/Wan2.1_VAE.safetensors",
         r"is a Wan 2\.1 VAE; .*FlashHead Lite's video transformer, needs an LTX VAE"),
        ("Pro", "VAE_Wan/Wan2.1_VAE.safetensors", "VAE_LTX/diffusion_pytorch_model.safetensors",
         r"is an LTX VAE; .*FlashHead Pro's video transformer, needs a Wan 2\.1 VAE"),
    ],
)  # fmt: skip
def test_a_vae_of_another_member_is_refused(family, member, place, other, message):
    (family / place).write_bytes((family / other).read_bytes())
    with pytest.raises(CheckpointError, match=message):
        open_model(family / f"Model_{member}", CPU, F32)


@pytest.mark.parametrize("dtype", [F32, torch.bfloat16])
@pytest.mark.parametrize("named", [".", "lora", "lora/adapter_model.safetensors"])
def test_leaptalk_is_pro_with_its_adapter(family, leaptalk, dtype, named):
    model = open_model(family / "Model_Pro", CPU, dtype, patch=leaptalk / named)
    assert model.preset.stream == PRESETS["leaptalk"].stream
    base, lora = flashhead.transformer_weights(flashhead.PRO), flashhead.adapter_weights(flashhead.PRO)
    projection = flashhead.projection_weights(flashhead.PRO)
    for name, weight in model.transformer.state_dict().items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        wanted = base[name]
        if f"{stem}.lora_A.weight" in lora:
            wanted = wanted + 8 / flashhead.RANK * (lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"])
        elif name.startswith("audio_proj."):
            wanted = projection[name.removeprefix("audio_proj.")].float()
        torch.testing.assert_close(weight, wanted.to(dtype), rtol=1e-5, atol=1e-5)
    assert model.fingerprint() != open_model(family / "Model_Pro", CPU, dtype).fingerprint()


def test_leaptalks_projection_as_a_pickle_says_how_to_convert_it(family):
    with pytest.raises(CheckpointError, match=r"no projection of sound .*convert \S*audio_proj_step_10400\.pt"):
        open_model(family / "Model_Pro", CPU, F32, patch=family.parent / "leaptalk")


def test_leaptalks_adapter_on_lite_is_refused(family, leaptalk):
    with pytest.raises(CheckpointError, match=r"is FlashHead Lite's video transformer; the adapter .*leaptalk is for"):
        open_model(family / "Model_Lite", CPU, F32, patch=leaptalk)


def test_leaptalks_adapter_on_the_14b_model_is_refused(leaptalk, published):
    with pytest.raises(CheckpointError, match=r"is a LiveTalk video transformer; the adapter .*leaptalk is for"):
        open_model(published, CPU, F32, patch=leaptalk)


def test_an_adapter_of_another_rank_than_its_config_says_is_refused(family, leaptalk):
    save_file(flashhead.adapter_weights(flashhead.PRO, rank=3), leaptalk / "lora" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"of rank 4, which its config says; download both again"):
        open_model(family / "Model_Pro", CPU, F32, patch=leaptalk)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": None}, "says r None and lora_alpha 8"),
        ({"r": "4"}, "says r '4'"),
        ({"use_rslora": True}, "asks for use_rslora True, which is not read here"),
        ({"rank_pattern": {"q": 8}}, "asks for rank_pattern"),
    ],
)
def test_an_adapter_with_another_config_is_refused(family, leaptalk, change, message):
    path = leaptalk / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        open_model(family / "Model_Pro", CPU, F32, patch=leaptalk)


def test_an_adapter_that_lacks_a_tensor_is_refused(family, leaptalk):
    path = leaptalk / "lora" / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.blocks.1.cross_attn.v.lora_B.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.cross_attn\.v\.lora_A\.weight has no .*lora_B"):
        open_model(family / "Model_Pro", CPU, F32, patch=leaptalk)


def test_an_adapter_on_fp8_weights_is_refused(family, leaptalk):
    merged = convert(family / "Model_Pro", family / "Model_Pro" / "fp8.safetensors", fp8=True)
    assert transformer_part(merged).load(CPU, F32).blocks[0].ffn[0].weight.dtype == torch.float8_e4m3fn
    with pytest.raises(CheckpointError, match=r"fp8\.safetensors is FP8, to which an adapter cannot be added"):
        open_model(merged, CPU, F32, patch=leaptalk)


def test_the_published_adapter_fits_the_published_pro(golden, tmp_path):
    """All 480 tensors and the 10 of the projection, by shape, at full size; nothing of it is read."""
    facts = json.loads((golden / "flashhead_keys.json").read_text())
    sparse(tmp_path / "pro.safetensors", facts["head_pro"], dtype=F32)
    (tmp_path / "leaptalk" / "lora").mkdir(parents=True)
    sparse(tmp_path / "leaptalk" / "lora" / "adapter_model.safetensors", facts["leaptalk_lora"], dtype=F32)
    (tmp_path / "leaptalk" / "lora" / "adapter_config.json").write_text(json.dumps(facts["configs"]["leaptalk_lora"]))
    sparse(tmp_path / "leaptalk" / "audio_proj.safetensors", facts["leaptalk_audio_proj"])
    part = transformer_part(tmp_path / "pro.safetensors", patch=tmp_path / "leaptalk")
    assert len(part.checkpoint.files) == 3 and not part.config.prompted
    changed = part.checkpoint["blocks.29.cross_attn.o.weight"]
    assert changed.shape == (1536, 1536) and changed.dtype == F32


def published_at_full_size(folder: Path, golden: Path) -> Path:
    """All files of the family in their places, with the bytes that are published; their weights are holes."""
    facts = json.loads((golden / "flashhead_keys.json").read_text())
    for name in ("head_pro", "head_lite", "vae_ltx", "wav2vec2_base_960h", "leaptalk_lora"):
        path = folder / facts["files"][name]["path"]
        path.parent.mkdir(parents=True)
        sparse(path, facts[name], dtype=F32)
        assert abs(path.stat().st_size - facts["files"][name]["bytes"]) < HEADER_BYTES
        config = "adapter_config.json" if name == "leaptalk_lora" else "config.json"
        (path.parent / config).write_text(json.dumps(facts["configs"].get(name, {})))
    sparse(folder / "leaptalk" / "audio_proj.safetensors", facts["leaptalk_audio_proj"])
    vae = (folder / facts["files"]["vae_wan"]["path"]).with_suffix(".safetensors")
    vae.parent.mkdir()
    sparse(vae, json.loads((golden / "checkpoint_keys.json").read_text())["vae"], dtype=F32)
    return folder / "SoulX-FlashHead-1_3B"


HEADER_BYTES = 200_000
"""More than a published header and ours, of other metadata and padding, differ by."""


@pytest.mark.parametrize(
    "member", ["flashhead-pro", "flashhead-lite", pytest.param("leaptalk", marks=pytest.mark.slow)]
)
def test_a_published_folder_loads_at_full_size(golden, tmp_path, member):
    """Every part from its file, at the widths of the member's preset, no weight left out; mapped, so little is read."""
    root = published_at_full_size(tmp_path, golden)
    patch = tmp_path / "leaptalk" if member == "leaptalk" else None
    model, preset = open_model(root / flashhead.MEMBERS[member], CPU, None, patch=patch), PRESETS[member]
    assert model.preset == replace(preset, name=model.preset.name)
    assert (model.load_text_encoder, model.load_image_encoder, model.tokenizer) == (None, None, None)
    parts = (model.transformer, model.vae, model.audio_encoder)
    assert [part.config for part in parts] == [preset.transformer, preset.vae, preset.audio]
    assert [len(part.state_dict()) for part in parts] == [831, 190 if member == "flashhead-lite" else 194, 210]
    assert not any(tensor.is_meta for part in parts for tensor in part.state_dict().values())
