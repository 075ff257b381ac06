"""`verify`: every golden file passes, and a wrong weight does not."""

import random
import re
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.felt_weights import is_noticed, known, unexplained, unnoticed, weights_of
from livetalk_core.commands.main import main
from livetalk_core.commands.verify.file import Compiled, Whole
from livetalk_core.commands.verify.golden import CHECKS, Golden, Row, open_golden, verify
from livetalk_core.errors import CheckpointError
from livetalk_core.models.ltx_vae import LTXVAE

FOLDER = Path(__file__).parents[1] / "golden"
FILES = sorted(FOLDER.glob("*.safetensors"))


def test_there_is_a_file_of_each_kind():
    assert {Golden(path).metadata["kind"] for path in FILES} == set(CHECKS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_passes(path):
    rows = list(verify(path))
    assert rows
    assert [row for row in rows if not row.passed] == []


def some_weights(golden: Golden) -> list[str]:
    """Weights to try: all of them, or a few where one run takes seconds (`benchmarks.felt_weights` takes all)."""
    names = weights_of(golden)
    if golden.metadata["kind"] != "stream":
        return names
    rare = [name for name in names if name.startswith(("weights.lora.", "weights.audio_proj."))]
    return random.Random(0).sample(names, 6) + random.Random(0).sample(rare, min(6, len(rare)))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "color"], ids=lambda path: path.stem)
def test_a_weight_scaled_by_a_twentieth_fails(path):
    """Each weight tensor in turn; the few that cannot be felt are listed with their reasons."""
    golden = open_golden(path)
    assert unexplained(path.stem, unnoticed(golden, some_weights(golden))) == []


@pytest.mark.parametrize("name", ["head_lite", "ltx_vae", "vae"])
def test_what_is_not_computed_again_hides_no_weight(name):
    """A weight of each part is noticed as it is where every row is computed, and one that nothing reads is not."""
    golden = open_golden(FOLDER / f"{name}.safetensors")
    names = [*weights_of(golden)[::37], *(name for name in weights_of(golden) if "audio_emb" in name)]
    models, plain = known(golden), Whole()
    assert [is_noticed(golden, name, models) for name in names] == [is_noticed(golden, name, plain) for name in names]
    assert any(is_noticed(golden, name, models) for name in names)


def test_what_the_changed_weight_has_no_part_in_is_not_computed_again(monkeypatch):
    golden, encoded = open_golden(FOLDER / "ltx_vae.safetensors"), []
    compute = LTXVAE.posterior
    monkeypatch.setattr(LTXVAE, "posterior", lambda model, video: encoded.append(model) or compute(model, video))
    models, before = known(golden), len(encoded)
    assert before == 1, "the file's three rows of one video"
    assert is_noticed(golden, "weights.decoder.conv_out.conv.bias", models) and len(encoded) == before
    assert is_noticed(golden, "weights.encoder.conv_out.conv.bias", models) and len(encoded) == before + 1


@pytest.mark.parametrize(
    "name", ["dit_double", "head_pro", "head_lite", pytest.param("leap_pro", marks=pytest.mark.slow)]
)
def test_compiled_blocks_give_the_same(name):
    counter = CompileCounterWithBackend("aot_eager")
    rows = list(verify(FOLDER / f"{name}.safetensors", Compiled(counter)))
    assert rows and [row for row in rows if not row.passed] == []
    assert counter.frame_count == 1 or name == "leap_pro", "one graph for all blocks"
    assert counter.frame_count > 9 or name != "leap_pro", "a stream's VAE, too"


def test_compiled_in_shares_is_refused(capsys):
    assert main(["verify", "--compile", "--ranks", "2", str(FOLDER / "color.safetensors")]) == 1
    assert "leave out --device, --dtype and --compile, or --ranks" in capsys.readouterr().err


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
