"""What the command line asks of PyTorch's allocator, before PyTorch is imported, and of the C library's."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from livetalk_core import __main__ as main


@pytest.mark.parametrize(
    ("platform", "release", "asked"),
    [
        ("linux", "6.8.0-45-generic", {main.ALLOCATOR: main.SETTING}),
        ("linux", "5.15.167.4-microsoft-standard-WSL2", {}),
        ("win32", "10", {}),
    ],
)
def test_memory_by_the_page_is_asked_for_on_linux_itself(monkeypatch, platform, release, asked):
    """Under WSL some drivers refuse the first bytes of it: `CUDA driver error: unknown error`."""
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release), raising=False)
    main._choose_allocator()
    assert environment == asked


def test_what_the_user_asks_for_stays(monkeypatch):
    environment = {main.ALLOCATOR: "backend:cudaMallocAsync"}
    monkeypatch.setattr(os, "environ", environment)
    main._choose_allocator()
    assert environment == {main.ALLOCATOR: "backend:cudaMallocAsync"}


FAULTS = """
import resource
from livetalk_core import __main__ as main

main._keep_freed_memory()
for begin in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        len(b"x" * 2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints how many pages four blocks of 64 MiB took from the system, one after the other, after four like them."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what is told")
@pytest.mark.parametrize(("setting", "keeps"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "1048576"}, False)])
def test_freed_memory_is_used_again_unless_the_user_has_said_otherwise(setting, keeps):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**environment, **setting}, capture_output=True, text=True
    )
    assert (int(done.stdout) < 100) is keeps, done
