"""What a record says of the machine and the checkout that made it."""

import os
import subprocess
from pathlib import Path

import torch

from livetalk_core.hardware.machine import available_memory, commit, total_ram


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
