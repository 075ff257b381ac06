"""`verify`: every golden file passes, and a wrong weight does not."""

import random
import re
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from livetalk_core.commands.main import main
from livetalk_core.commands.verify.golden import CHECKS, Golden, Row, verify
from livetalk_core.errors import CheckpointError

FOLDER = Path(__file__).parents[1] / "golden"
FILES = sorted(FOLDER.glob("*.safetensors"))

NEVER_READ = r"weights\.(dit\.)?(text_embedding|audio_emb)\."
UNFELT = {
    "audio": (
        # Queries and keys of 0.02 in this file: the attention they make is flat to within the tolerance.
        r"attention\.[qk]_proj\.weight",
        # A norm follows and undoes any scale: group norm after the first convolution, weight norm's own division,
        # and the first layer's norms after the encoder's.
        r"conv_layers\.0\.conv\.weight|weight\.original1|encoder\.layer_norm\.weight",
        # SpecAugment's mask, for training only.
        r"masked_spec_embed",
    ),
    "audio_960h": (
        # As above.
        r"conv_layers\.0\.conv\.weight|weight_v|encoder\.layer_norm\.weight",
        # Softmax takes keys' biases away.
        r"k_proj\.bias",
        # The head of the recogniser that it was trained as.
        r"lm_head\.",
    ),
    # In the published files, and never read.
    "head_pro": (NEVER_READ,),
    "head_lite": (NEVER_READ,),
    "stream_pro": (NEVER_READ,),
    "stream_lite": (NEVER_READ,),
    # The adapter brings another.
    "leap_pro": (NEVER_READ, r"weights\.dit\.audio_proj\."),
    # Read before the last layer, so that layer, the norm and the projection after it do not act.
    "image": (r"visual\.(post_norm|head|transformer\.2)\b",),
}
"""Weights that a row cannot feel, with the reason. Beside them: biases that are zero in the file stay zero."""


def test_there_is_a_file_of_each_kind():
    assert {Golden(path).metadata["kind"] for path in FILES} == set(CHECKS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_passes(path):
    rows = list(verify(path))
    assert rows
    assert [row for row in rows if not row.passed] == []


def scaled_weights(path: Path) -> list[str]:
    """Weights to try: all of them, or a few where one run takes seconds (their models have rows of their own)."""
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith("weights.")]  # noqa: SIM118 - not a dict
    if Golden(path).metadata["kind"] != "stream":
        return names
    rare = [name for name in names if name.startswith(("weights.lora.", "weights.audio_proj."))]
    return random.Random(0).sample(names, 6) + random.Random(0).sample(rare, min(6, len(rare)))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "color"], ids=lambda path: path.stem)
def test_a_weight_scaled_by_a_twentieth_fails(path, monkeypatch):
    """Each weight tensor in turn; the few that cannot be felt are listed above."""
    golden = Golden(path)
    monkeypatch.setattr("livetalk_core.commands.verify.golden.Golden", lambda *_: golden)
    unnoticed = []
    for name in scaled_weights(path):
        original = golden.tensors[name]
        golden.tensors[name] = original * 1.05
        if original.any() and all(row.passed for row in verify(path)):
            unnoticed.append(name)
        golden.tensors[name] = original
    patterns = UNFELT.get(path.stem, ())
    assert [name for name in unnoticed if not any(re.search(pattern, name) for pattern in patterns)] == []


def test_the_command_names_the_row_that_fails(tmp_path, capsys):
    with safe_open(FOLDER / "dit_single.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata()
    tensors["weights.blocks.1.ffn.0.weight"] *= 1.05
    save_file(tensors, tmp_path / "broken.safetensors", metadata)
    assert main(["verify", str(FOLDER / "color.safetensors")]) == 0
    assert main(["verify", str(FOLDER / "color.safetensors"), str(tmp_path / "broken.safetensors")]) == 1
    out = capsys.readouterr().out
    assert re.search(r"broken\s+out\s.*FAILED", out)
    assert re.search(r"color\s+full\s.*ok", out)


def test_a_file_that_lacks_something_is_named(tmp_path):
    with safe_open(FOLDER / "color.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != "io.half"}  # noqa: SIM118
        save_file(tensors, tmp_path / "part.safetensors", file.metadata())
    with pytest.raises(CheckpointError, match=r"part\.safetensors lacks 'io\.half'"):
        list(verify(tmp_path / "part.safetensors"))


def test_nan_fails():
    assert not Row("x", float("nan"), 1.0).passed


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "notes.safetensors"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match="no golden file"):
        Golden(text)
    with pytest.raises(CheckpointError, match=r"nowhere.safetensors does not exist"):
        Golden(tmp_path / "nowhere.safetensors")
