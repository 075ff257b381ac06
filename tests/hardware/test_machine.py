"""What a record says of the machine and the checkout that made it."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from livetalk_core.hardware.machine import available_memory, commit, default_dtype, total_ram


def git(folder, *arguments) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_commit_of_checkouts_worktrees_and_neither(tmp_path):
    whole, tree = tmp_path / "whole", tmp_path / "tree"
    whole.mkdir()
    git(whole, "init", "-q", ".")
    git(whole, "commit", "-q", "--allow-empty", "-m", "first")
    git(whole, "worktree", "add", "-q", str(tree), "-b", "other")
    git(tree, "commit", "-q", "--allow-empty", "-m", "second")
    for folder in (whole, tree):
        assert commit(folder) == git(folder, "rev-parse", "HEAD").strip()
    assert commit(whole) != commit(tree)
    git(whole, "pack-refs", "--all")
    for folder in (whole, tree):
        assert commit(folder) == git(folder, "rev-parse", "HEAD").strip()
    assert commit(tmp_path) == "unknown"


def test_free_memory_is_known_where_a_system_lacks_proc_and_sysconf(monkeypatch):
    """As Windows does."""
    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.delattr(os, "sysconf")
    assert 0 < available_memory(torch.device("cpu")) <= total_ram()


@pytest.mark.parametrize(
    ("device", "capability", "rocm", "dtype"),
    [
        ("cpu", None, None, torch.float32),
        ("cuda", (7, 5), None, torch.float16),
        ("cuda:1", (8, 0), None, torch.bfloat16),
        ("cuda", (12, 0), None, torch.bfloat16),
        ("cuda", (7, 5), "6.4", torch.bfloat16),
        ("mps", None, None, torch.bfloat16),
    ],
)
def test_the_dtype_of_a_device(monkeypatch, device, capability, rocm, dtype):
    """In bfloat16 a Turing card would keep the scores of all tokens with all: 11 GiB and more of the 14B model."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", rocm)
    assert default_dtype(torch.device(device)) == dtype
