"""`bench --counted`: operations by hand, floors by hand from the published rates, and nothing that is run."""

import json
import re

import pytest

from livetalk_core.commands.bench import measure
from livetalk_core.commands.bench.counted import CARDS, SIZES, counted
from livetalk_core.commands.main import main
from livetalk_core.hardware.fit import usable
from livetalk_core.presets import PRESETS

TOKENS = {"flashhead-pro": 9 * 32 * 32, "flashhead-lite": 5 * 16 * 16}
"""At 512x512."""


@pytest.fixture(scope="module")
def records():
    return {member: counted(PRESETS[member], sized=True) for member in TOKENS}


@pytest.mark.parametrize("member", TOKENS)
def test_a_step_is_what_it_is_by_hand(records, member):
    """Tokens n, width d, feed-forward f, 30 blocks: 2n(6d^2 + 2df) in products, 4n^2 d in attention, and the sound."""
    row = records[member]["sizes"][0]
    assert row["size"] == [512, 512]
    config, tokens = PRESETS[member].transformer, TOKENS[member]
    blocks = 30 * (2 * tokens * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim) + 4 * tokens**2 * config.dim)
    assert blocks < row["operations"]["transformer step"] < 1.05 * blocks


@pytest.mark.parametrize("member", TOKENS)
def test_floors_are_the_published_rates(records, member):
    for row in records[member]["sizes"]:
        for card in CARDS:
            for part, seconds in row["floor_seconds"][card.name].items():
                products, reading = row["operations"][part] / card.operations, row["weight_bytes"][part] / card.memory
                assert seconds == max(products, reading) > 0


def test_two_sizes_are_counted_where_none_is_given():
    sizes = [row["size"] for row in counted(PRESETS["nano"], sized=False)["sizes"]]
    assert sizes == [[512, 512], [448, 768]] == [[width, height] for height, width in SIZES]


def test_what_fits_is_counted_in_both_precisions(records):
    for record in records.values():
        for row in record["sizes"]:
            assert row["at_once_fp8"] < row["at_once"] < usable(8)
            assert [size for size, *_ in row["fits"]] == [8, 12, 16, 24]
            assert all(said.startswith("whole, ") for _, *both in row["fits"] for said in both)


def test_the_command_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "bench", pytest.fail)
    kept, document = tmp_path / "counted.json", tmp_path / "performance.md"
    document.write_text("# Performance\n")
    words = ["bench", "--preset", "flashhead-lite", "--counted", "--size", "320x576", "--json", str(kept)]
    assert main([*words, "--document", str(document)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"320x576: \d\.\d\d GiB at once in bfloat16, \d\.\d\d GiB in FP8", out)
    assert re.search(r"new frames +\d+ /s +\d+ /s +\d+ /s", out) and "8 GB: bfloat16 whole" in out
    assert json.loads(kept.read_text())["sizes"][0]["size"] == [320, 576]
    text = document.read_text()
    assert text.startswith("# Performance\n") and "| 320x576 | transformer step | " in text
    assert "RTX 4090 165.2, 1,008, RTX 5090 209.5, 1,792, H200 989.5, 4,800" in text


def test_a_place_that_cannot_be_written_is_found_before_it_counts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure.counted, "counted", pytest.fail)
    assert main(["bench", "--counted", "--json", str(tmp_path / "none" / "a.json")]) == 1
    assert "none is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [["--against", "somewhere"], ["--fp8"], ["--memory", "8G"], ["--device", "cpu"], ["--dtype", "float16"],
     ["--attention", "sdpa"], ["--compile"], ["--devices", "cpu"], ["--ranks", "2"], ["--mesh", "ring=2"],
     ["--shard-weights"], ["--repeats", "3"], ["--secret-file", "x"], ["--overlap", "2"]],
)  # fmt: skip
def test_what_counting_does_not_heed_is_refused(capsys, monkeypatch, option):
    monkeypatch.setattr(measure.counted, "counted", pytest.fail)
    assert main(["bench", "--counted", *option]) == 1
    assert (
        f"--counted counts in bfloat16 and in FP8, and runs nothing; leave out {option[0]}" in capsys.readouterr().err
    )


def test_files_that_cannot_take_what_is_measured_are_named_before_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "bench", pytest.fail)
    picture, text = tmp_path / "a.png", tmp_path / "a.md"
    picture.write_bytes(b"\x89PNG\xff")
    assert main(["bench", "--document", str(picture)]) == 1
    assert "needed is Markdown in UTF-8" in capsys.readouterr().err
    assert main(["bench", "--json", str(text), "--document", f"{tmp_path}/./a.md"]) == 1
    assert "--json and --document are both" in capsys.readouterr().err
    assert not text.exists() and picture.read_bytes() == b"\x89PNG\xff"
