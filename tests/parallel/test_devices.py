"""What users write for devices, on machines with and without GPUs."""

import pytest

from livetalk_core.errors import InputError
from livetalk_core.parallel.devices import address, parse_devices


@pytest.fixture(autouse=True)
def gpus(monkeypatch, request):
    monkeypatch.setattr("torch.cuda.device_count", lambda: getattr(request, "param", 2))


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("auto", ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"]), ("cuda:1, cuda:0", ["cuda:1", "cuda:0"]),
        ("cuda x2", ["cuda:0", "cuda:1"]), ("cpu", ["cpu"]), ("CPU x 3", ["cpu"] * 3), ("cpux2", ["cpu"] * 2),
    ],
)  # fmt: skip
def test_forms(text, devices):
    assert parse_devices(text) == devices


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_auto_without_a_gpu_is_the_cpu(gpus):
    assert parse_devices("auto") == ["cpu"]
    with pytest.raises(InputError, match=r"this machine has 0 GPU\(s\); cpu, or cpu x2"):
        parse_devices("cuda:0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda x3", r"devices cuda:2: this machine has 2 GPU\(s\); the most that can work is cuda x2"),
        ("cuda:0,cuda:0", "cuda:0 named twice"),
        ("cpu x0", "0 workers cannot work; the nearest number that can is 1"),
        ("cuda:0,cpu", "all GPUs or all CPUs"),
        ("tpu", "devices 'tpu'; write auto"),
        ("", "devices ''; write auto"),
        ("cpu:1", "write auto"),
        ("cuda:1 x2", "write auto"),
    ],
)
def test_what_cannot_work_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_devices(text)


def test_more_cpu_workers_than_cores_is_worth_a_warning(caplog):
    parse_devices("cpu x1000")
    assert "1000 CPU workers" in caplog.text


def test_addresses():
    assert address("10.0.0.1:29700") == ("10.0.0.1", 29700)
    assert address("[::1]:5") == ("::1", 5)
    for text in ("10.0.0.1", "host:", ":5", "host:x", "host:70000"):
        with pytest.raises(InputError, match="write HOST:PORT"):
            address(text)
