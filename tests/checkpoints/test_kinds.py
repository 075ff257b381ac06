"""A file that lacks any one of its weights is still called what it is, and the weight is named."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from livetalk_core.checkpoints import kinds
from livetalk_core.checkpoints.load import audio_encoder_part, transformer_part, vae_part
from livetalk_core.errors import CheckpointError

from .test_load import sparse

LAYER = re.compile(r"(?:^|\.)(?:blocks|layers)\.(\d+)\.")
LAYERS = 2
"""Kept of the published ones, which are alike."""
TRANSFORMERS = {
    "dit_14b": kinds.LIVETALK,
    "head_pro": kinds.FLASHHEAD_PRO,
    "head_lite": kinds.FLASHHEAD_LITE,
}
FILES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    **{name: (kind, transformer_part) for name, kind in TRANSFORMERS.items()},
    "vae": (kinds.WAN_VAE, vae_part),
    "vae_ltx": (kinds.LTX_VAE, vae_part),
    "wav2vec2_base_960h": (kinds.WAV2VEC2, audio_encoder_part),
}
UNUSED = ("text_embedding.", "audio_emb.", "lm_head.")
"""Of FlashHead's files and the audio encoder's; 14B reads the first."""


@pytest.fixture(scope="module")
def published(golden: Path) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of every published file, its transformers with their first layers alone."""
    files = [json.loads((golden / name).read_text()) for name in ("checkpoint_keys.json", "flashhead_keys.json")]
    return {name: _first_layers(shapes) for name, shapes in (files[0] | files[1]).items() if name != "configs"}


def _first_layers(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    return {key: s for key, s in shapes.items() if (match := LAYER.search(key)) is None or int(match[1]) < LAYERS}


def each_one_less(shapes: dict[str, list[int]]) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """Every name, and all others."""
    for gone in shapes:
        yield gone, {name: shape for name, shape in shapes.items() if name != gone}


@pytest.mark.parametrize("name", [*FILES, "leaptalk_lora", "leaptalk_audio_proj"])
def test_a_file_is_told_without_any_one_of_its_weights(published, name):
    kind = FILES[name][0] if name in FILES else {"lora": kinds.ADAPTER}.get(name[9:], kinds.AUDIO_PROJECTION)
    for gone, rest in each_one_less(published[name]):
        weights = {key: torch.empty(shape, device="meta") for key, shape in rest.items()}
        assert kinds.identify(weights) == kind, gone


@pytest.mark.parametrize("name", FILES)
def test_the_weight_that_is_missing_is_named(published, tmp_path, name):
    """Each of them; those that nobody reads may be missing."""
    (kind, part), path = FILES[name], tmp_path / "file.safetensors"
    for gone, rest in each_one_less(published[name]):
        if name != "dit_14b" and gone.startswith(UNUSED):
            continue
        sparse(path, rest)
        with pytest.raises(CheckpointError) as error:
            part(path)
        said = str(error.value)
        assert kind in said and gone.removeprefix("wav2vec2.").rpartition(".")[0] in said, (gone, said)


def test_what_is_missing_of_leaptalk_is_named(published, golden, tmp_path):
    """Of the adapter, of which two belong together, and of the projection of sound, which is put in as a whole."""
    pro, lora, projection = tmp_path / "pro.safetensors", tmp_path / "lora", tmp_path / "audio_proj.safetensors"
    lora.mkdir()
    config = json.loads((golden / "flashhead_keys.json").read_text())["configs"]["leaptalk_lora"]
    (lora / "adapter_config.json").write_text(json.dumps(config))
    sparse(pro, published["head_pro"])
    sparse(lora / "adapter_model.safetensors", published["leaptalk_lora"])
    for gone, rest in each_one_less(published["leaptalk_audio_proj"]):
        sparse(projection, rest)
        with pytest.raises(CheckpointError, match=f"projection of sound .* lacks {re.escape(gone)}; "):
            transformer_part(pro, patch=tmp_path)
    sparse(projection, published["leaptalk_audio_proj"])
    for gone, rest in each_one_less(published["leaptalk_lora"]):
        sparse(lora / "adapter_model.safetensors", rest)
        with pytest.raises(CheckpointError, match=re.escape(gone.partition(".lora_")[0])):
            transformer_part(pro, patch=tmp_path)
    sparse(lora / "adapter_model.safetensors", published["leaptalk_lora"])
    assert transformer_part(pro, patch=tmp_path).patched, "whole, they fit"
