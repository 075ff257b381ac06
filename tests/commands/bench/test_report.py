"""What `bench` counts, and the table that it writes."""

import errno
import os

import pytest
import torch

from livetalk_core.commands.bench.report import report, table, update_document
from livetalk_core.errors import OutputError
from livetalk_core.hardware.memory import operations_of
from livetalk_core.presets import PRESETS

RECORD = {
    "preset": "nano", "size": [128, 64], "dtype": "float32", "device": "cpu", "new_frames": 28, "chunk_seconds": 0.5,
    "attention": "sdpa", "compiled": False, "peak_bytes": 2**30,
    "seconds": {"VAE decode": {"median": 0.2, "least": 0.1, "most": 0.3}},
    "operations": {"VAE decode": 4_000_000_000}, "floor_seconds": {"VAE decode": 0.05},
    "matrix_operations_per_second": 8e10, "copied_bytes_per_second": 1e10,
    "iteration": {"seconds": [0.5, 0.5], "first_frame_seconds": [0.25, 0.25], "outside_seconds": [0.05, 0.05]},
    "machine": {"processor": "A", "threads": 1, "torch": "2", "commit": "0123456789abcdef"},
}  # fmt: skip


def test_operations_of_the_published_model():
    """By hand: 460 TFLOP a step, of which 120 are in attention (12,096 tokens, 40 layers, 5,120 wide)."""
    counted = operations_of(PRESETS["14b"], 768, 448, torch.bfloat16)
    assert 455e12 < counted["transformer step"] < 475e12
    assert counted["transformer step"] > 4 * 12_096**2 * 5120 * 40
    assert counted["VAE encode"] < counted["VAE decode"] < counted["transformer step"]


def test_operations_follow_the_size():
    small, large = (operations_of(PRESETS["nano"], 64, side, torch.float32) for side in (64, 128))
    assert 1.9 < large["VAE decode"] / small["VAE decode"] < 2.2
    assert large["transformer step"] > 2 * small["transformer step"] * 0.99


def test_report_and_table_say_what_share_of_the_rate_is_reached():
    assert "25% of its rate" in report(RECORD) and "56.0 frames/s" in report(RECORD)
    assert "| VAE decode | 200.0 ms | 100.0 .. 300.0 | 4.0 G | 25% |" in table(RECORD)
    assert "| first frame leaves after | 50% of the chunk |" in table(RECORD)
    assert "| sound, colour, video | 10% of the chunk |" in table(RECORD)
    assert "commit 0123456789ab." in table(RECORD)


def test_a_table_replaces_the_one_of_the_same_title_only(tmp_path):
    document = tmp_path / "performance.md"
    document.write_text("# Performance\n\nWords.\n")
    update_document(document, table(RECORD))
    update_document(document, table({**RECORD, "dtype": "bfloat16"}))
    faster = {"VAE decode": {"median": 0.1, "least": 0.1, "most": 0.1}}
    update_document(document, table({**RECORD, "seconds": faster}))
    text = document.read_text()
    assert text.startswith("# Performance\n\nWords.\n") and text.count("###") == 2
    assert "| 100.0 ms |" in text and text.count("| 200.0 ms |") == 1


def test_a_document_that_is_not_utf_8_is_left_alone(tmp_path):
    document = tmp_path / "performance.md"
    document.write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(OutputError, match=r"performance\.md .*needed is Markdown in UTF-8"):
        update_document(document, table(RECORD))
    assert document.read_bytes() == "# Größe\n".encode("latin-1")


def test_a_full_disk_keeps_the_document(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    document = tmp_path / "performance.md"
    document.write_text("# Performance\n")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device\): free some space"):
        update_document(document, table(RECORD))
    assert [file.name for file in tmp_path.iterdir()] == ["performance.md"]
    assert document.read_text() == "# Performance\n"
