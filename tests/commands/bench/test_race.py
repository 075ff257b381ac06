"""The race with the reference: what it needs of a checkout, and what it says."""

import importlib
import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from livetalk_core.commands.bench import race as bench_against
from livetalk_core.commands.bench.flashhead import FlashHead
from livetalk_core.commands.bench.flashtalk import FlashTalk
from livetalk_core.commands.bench.race_report import table
from livetalk_core.commands.bench.reference import same_noise
from livetalk_core.commands.bench.stand_ins import standing_in
from livetalk_core.commands.bench.stopwatch import DECODE, STEP, Stopwatch
from livetalk_core.commands.main import main
from livetalk_core.config import LTXVAEConfig, VAEConfig
from livetalk_core.errors import InputError
from livetalk_core.models.vae import VAE
from livetalk_core.presets import PRESETS

CPU = torch.device("cpu")
NANO = PRESETS["nano"].sized((32, 32))
TINY = replace(NANO, transformer=replace(NANO.transformer, num_layers=1), vae=replace(NANO.vae, dim=4))
HEAD = {"dim": 96, "output_dim": 96, "ffn_dim": 128, "num_heads": 4, "num_layers": 1, "audio_channels": 32}


def tiny_head(member: str):
    """Pro or Lite, as narrow as its reference can be built."""
    preset = PRESETS[member].sized((64, 64))
    vae = LTXVAEConfig((4, 8, 16, 16)) if member == "flashhead-lite" else VAEConfig(4)
    return replace(preset, transformer=replace(preset.transformer, **HEAD), vae=vae)


def checkout(variable: str) -> Path:
    """Where a reference lies, by the environment."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no checkout")
    return Path(os.environ[variable])


@pytest.mark.reference
def test_race_with_the_reference():
    """The whole loop of both, two chunks; in float32 they agree, and ours takes fewer operations."""
    record = bench_against.race(checkout("REFERENCE_PATH"), TINY, CPU, torch.float32, 2)
    assert all(errors["frames"]["error"] < 1e-3 for errors in record["errors"])
    assert [len(record["parts"][part]["ours"]) for part in bench_against.PARTS] == [8, 2, 2, 2]
    assert all(found["faster_by_operations"] >= 1 for found in record["parts"].values())
    assert "| transformer step |" in table(record)


@pytest.mark.reference
@pytest.mark.parametrize("member", ["flashhead-pro", "flashhead-lite"])
def test_race_with_the_reference_of_flashhead(member):
    """Three chunks: the draws of Lite's latents are the same, too, and what a chunk computes once is counted once."""
    path = checkout("FLASHHEAD_PATH")
    record = bench_against.race(path, tiny_head(member), CPU, torch.float32, 3)
    assert all(error["error"] < 5e-3 * error["of"] for errors in record["errors"] for error in errors.values())
    assert all(found["faster_by_operations"] >= 1 for found in record["parts"].values())
    assert record["parts"][STEP]["faster_by_operations"] > 1
    assert "SoulX-FlashHead at " in table(record)


@pytest.mark.reference
def test_different_results_are_no_race(monkeypatch):
    monkeypatch.setattr(VAE, "encode", lambda self, video: torch.zeros(1, 16, 2, 4, 4))
    with pytest.raises(InputError, match="motion of chunk 0 differ"):
        bench_against.race(checkout("REFERENCE_PATH"), TINY, CPU, torch.float32, 1)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path, capsys):
    assert main(["bench", "--size", "32x32", "--device", "cpu", "--against", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "is no checkout of the reference: it has no flash_talk/" in error and "SoulX-FlashTalk at df95a36" in error


def test_each_build_has_its_own_reference(tmp_path, capsys):
    options = ["--device", "cpu", "--size", "64x64", "--against", str(tmp_path)]
    assert main(["bench", "--preset", "small-lite", *options]) == 1
    error = capsys.readouterr().err
    assert "has no flash_head/src/modules/" in error and "a clone of SoulX-FlashHead at 12467ce" in error
    assert main(["bench", "--preset", "leaptalk", *options]) == 1
    assert "LeapTalk's own pipeline is not run here" in capsys.readouterr().err


@pytest.mark.parametrize(("reference", "preset"), [(FlashTalk, TINY), (FlashHead, tiny_head("flashhead-pro"))])
def test_a_checkout_that_cannot_be_imported_is_refused(tmp_path, reference, preset):
    for name in reference.modules.values():
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("import a_package_that_nobody_has\n")
    with pytest.raises(InputError, match="No module named 'a_package_that_nobody_has'; install"):
        bench_against.race(tmp_path, preset, CPU, torch.float32, 1)


def test_bfloat16_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(InputError, match="float32 alone"):
        bench_against.race(tmp_path, TINY, CPU, torch.bfloat16, 1)


def test_stand_ins_are_gone_afterwards():
    with standing_in(["diffusers_that_are_missing"]):
        module = importlib.import_module("diffusers_that_are_missing.models.any")
        assert isinstance(module.Anything, type)
    assert importlib.util.find_spec("diffusers_that_are_missing") is None
    with pytest.raises(ImportError):
        importlib.import_module("diffusers_that_are_missing.models.any")


def test_noise_is_drawn_in_the_reference_s_order():
    """A start and one draw for every step, the last of which it multiplies by 0."""
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(16, 1, 2, 2, generator=generator) for _ in range(6)]
    draw = same_noise(3, CPU, torch.float32)
    for chunk in range(2):
        assert torch.equal(draw(chunk, (2, 16, 1, 2, 2)), torch.stack(drawn[3 * chunk : 3 * chunk + 2]))


def test_signals_keep_their_size_under_the_weights():
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)) for _ in range(8)))
    bench_against.fill(layers, 0)
    assert 0.7 < layers(torch.randn(100, 64)).std() < 1.4


def side(value: float, seconds: dict) -> bench_against.Side:
    watch = Stopwatch(CPU)

    def chunk() -> bench_against.Outcome:
        for part, spent in seconds.items():
            watch.seconds[part].extend(spent)
        return bench_against.Outcome(torch.full((3, 1, 2, 2), value), torch.ones(16, 1, 1, 1))

    return bench_against.Side(chunk, watch)


SECONDS = {STEP: [1.0, 1.0], DECODE: [1.0], "VAE encode": [1.0], "chunk": [4.0]}
TWICE = {part: [2 * seconds for seconds in spent] for part, spent in SECONDS.items()}
COUNTS = {STEP: 10, DECODE: 5, "VAE encode": 5}


def test_ratios_come_from_pairs_and_the_untimed_chunk_is_dropped():
    sides = {"reference": side(1.0, TWICE), "ours": side(1.0, SECONDS)}
    errors = bench_against._run(sides, 1, 3, exact=True)
    parts = bench_against._parts(sides, {"reference": {**COUNTS, STEP: 20}, "ours": COUNTS}, 2)
    assert len(errors) == 4 and errors[0]["frames"]["error"] == 0
    assert len(parts[STEP]["ours"]) == 6 and len(parts["chunk"]["ours"]) == 3
    assert parts["chunk"]["faster"] == {"median": 2.0, "least": 2.0, "most": 2.0}
    assert parts["chunk"]["faster_by_operations"] == 50 / 30


def test_a_nan_counts_as_a_difference():
    sides = {"reference": side(float("nan"), TWICE), "ours": side(1.0, SECONDS)}
    with pytest.raises(InputError, match="frames of chunk 0 differ by nan"):
        bench_against._run(sides, 0, 1, exact=True)
