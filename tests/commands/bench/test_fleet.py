"""`bench --devices`: parts and chunks on workers of random weights, and the bytes that these send."""

import json

import pytest

from livetalk_core.commands.bench.fleet import report, table
from livetalk_core.commands.main import main
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import VideoShape

SIDE = 32


def record_of(tmp_path, *options):
    path = tmp_path / "record.json"
    sizes = ["--size", f"{SIDE}x{SIDE}", "--repeats", "1", "--json", str(path)]
    assert main(["bench", "--devices", "cpu x2", *sizes, *options]) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("options", "mesh", "exchanges"),
    [
        ([], [2, 1], 4 / 2),
        (["--overlap", "2", "--memory", "18M"], [2, 1], 4 / 2),
        (["--mesh", "ring=2", "--shard-weights"], [1, 2], 2),
    ],
    ids=["ulysses", "in pieces, streamed", "ring"],
)
def test_two_workers_say_what_they_send(tmp_path, capsys, options, mesh, exchanges):
    """In each block queries, keys, values and the result, half of each; or keys and values. Then the output."""
    record, preset = record_of(tmp_path, *options), PRESETS["nano"]
    shape = VideoShape(preset.stream.frame_num, SIDE, SIDE).latent(preset.geometry)
    tokens = -(-shape.tokens(preset.geometry) // 2)
    config = preset.transformer
    exchanged = config.num_layers * exchanges * tokens * config.dim * 4
    joined = tokens * config.out_dim * preset.geometry.patch**2 * 4
    assert record["mesh"] == mesh
    if "--shard-weights" in options:
        assert min(record["sent_bytes_per_step"]) > exchanged + joined
    else:
        assert record["sent_bytes_per_step"] == [exchanged + joined] * 2
    assert min(part["least"] for part in record["seconds"].values()) > 0
    assert record["chunk_seconds"] > 0 and record["link_bytes_per_second"] > 0
    assert capsys.readouterr().out.strip() == report(record)


def test_the_table_says_what_was_measured():
    seconds = {"median": 2.0, "least": 1.0, "most": 3.0}
    record = {
        "preset": "nano", "size": [64, 32], "dtype": "float32", "devices": "cpu, cpu", "mesh": [2, 1],
        "compiled": True, "fp8": False, "sharded": False, "send_fp8": True, "new_frames": 28, "chunk_seconds": 4.0,
        "seconds": {"transformer step": seconds}, "iteration": {"first_frame_seconds": [1.0]},
        "sent_bytes_per_step": [2e8, 1e8], "link_bytes_per_second": 1e9, "peak_bytes": [2**29, 2**30],
        "machine": {"processor": "A", "threads": 2, "torch": "2", "commit": "0123456789abcdef"},
    }  # fmt: skip
    lines = table(record).splitlines()
    assert lines[0] == "### nano at 64x32, float32, compiled, sent as FP8, on cpu, cpu: ulysses 2 x ring 1"
    assert "| chunk | 4000.0 ms, 7.0 frames/s; first frame after 25% |" in lines
    assert "| sent in a step, a rank | 200.00 MB |" in lines
    assert "| link | 1.00 GB/s: 200.0 ms, 10.0% of the step |" in lines
    assert "| peak memory, a rank | 1.00 GiB |" in lines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "."], "leave out --devices"),
        (["--memory", "1G", "--shard-weights"], "--memory streams whole weights"),
        (["--shard-weights", "--compile"], "--compile and --fp8 are for whole weights"),
    ],
)
def test_what_does_not_go_together_is_refused(capsys, options, message):
    assert main(["bench", "--devices", "cpu x2", *options]) == 1
    assert message in capsys.readouterr().err
