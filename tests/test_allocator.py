"""What the command line asks of PyTorch's allocator before PyTorch is imported."""

import os
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
