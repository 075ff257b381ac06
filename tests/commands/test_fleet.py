"""The options for several devices: what is refused, and that nothing is started before it is needed."""

import argparse

import pytest
import torch

from livetalk_core.commands.fleet import fleet_of, fleet_options
from livetalk_core.commands.options import placement_options, speed_options
from livetalk_core.errors import InputError
from livetalk_core.streaming.fleet_engine import Ways


def fleet(*arguments):
    parser = argparse.ArgumentParser()
    fleet_options(parser)
    speed_options(parser)
    placement_options(parser)
    return fleet_of(argparse.Namespace(model="nano", patch=None, **vars(parser.parse_args(arguments))), torch.float32)


def test_without_options_there_is_none():
    assert fleet() is None


def test_a_fleet_is_named_for_its_devices_and_starts_later():
    found = fleet("--devices", "cpu x2")
    assert str(found) == "cpu, cpu" and not found.members


def test_frames_of_another_precision_are_not_taken_for_the_same():
    """The name is part of what a resumed render must not change."""
    found = fleet("--devices", "cpu x2", "--send-fp8")
    assert str(found) == "cpu, cpu, which send FP8" and found._setup[0]["send_fp8"]
    assert not fleet("--devices", "cpu x2")._setup[0]["send_fp8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "127.0.0.1:5"], "--listen needs --ranks"),
        (["--listen", "127.0.0.1:5", "--ranks", "2", "--devices", "cpu"], "no --devices"),
        (["--listen", "here", "--ranks", "2"], "address 'here'; write HOST:PORT"),
        (["--devices", "cpu x0"], "the nearest number that can is 1"),
        (["--devices", ""], "devices ''; write auto"),
        (["--listen", ""], "--listen needs --ranks"),
        (["--ranks", "2"], "--ranks is for workers of other hosts"),
        (["--devices", "cpu", "--secret-file", "x"], "--secret-file is for workers of other hosts"),
        (["--shard-weights"], "--shard-weights is for several devices"),
        (["--send-fp8"], "--send-fp8 is for several devices"),
        (["--mesh", "ring=2"], "--mesh is for several devices"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message, monkeypatch):
    monkeypatch.setenv("LIVETALK_SECRET", "a secret of this fleet")
    with pytest.raises(InputError, match=message):
        fleet(*arguments)


def test_a_secret_is_needed_from_a_file_or_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("LIVETALK_SECRET", raising=False)
    listen = ["--listen", "127.0.0.1:5", "--ranks", "2"]
    with pytest.raises(InputError, match="a secret of 0 bytes; needs at least 16"):
        fleet(*listen)
    with pytest.raises(InputError, match=r"nowhere cannot be read \(No such file"):
        fleet(*listen, "--secret-file", str(tmp_path / "nowhere"))
    for file, fault in (("/dev/zero", "more than 65536 bytes"), (str(tmp_path), "Is a directory"), ("a\0b", "null")):
        with pytest.raises(InputError, match=fault):
            fleet(*listen, "--secret-file", file)
    (tmp_path / "secret").write_text("a secret of this fleet\n")
    assert str(fleet(*listen, "--secret-file", str(tmp_path / "secret"))) == "2 workers"


def test_what_workers_compute_with_is_told_to_them():
    ways = fleet("--devices", "cpu x2", "--mesh", "ring=2", "--attention", "sdpa", "--compile", "--fp8")._setup[0][
        "ways"
    ]
    assert Ways(*ways) == Ways("sdpa", compiled=True, fp8=True, mesh=(1, 2))
    ways = fleet("--devices", "cpu x2", "--overlap", "3", "--memory", "14G")._setup[0]["ways"]
    assert Ways(*ways) == Ways("auto", pieces=3, memory=14 * 2**30)
    with pytest.raises(InputError, match="--compile and --fp8 are for whole weights"):
        fleet("--devices", "cpu x2", "--shard-weights", "--fp8")
    with pytest.raises(InputError, match="--memory streams whole weights"):
        fleet("--devices", "cpu x2", "--shard-weights", "--memory", "14G")
