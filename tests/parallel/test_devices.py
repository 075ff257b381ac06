"""What users write for devices, on machines with and without GPUs."""

import os
from types import SimpleNamespace

import pytest

from livetalk_core.errors import InputError
from livetalk_core.parallel.devices import address, parse_devices, parse_hosts, parse_mesh, shown_address


@pytest.fixture(autouse=True)
def gpus(monkeypatch, request):
    monkeypatch.setattr("torch.cuda.device_count", lambda: getattr(request, "param", 2))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: gpu())


def gpu(processors=128, major=8, name="a card"):
    return SimpleNamespace(multi_processor_count=processors, major=major, name=name)


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
        ("cuda x9999", r"cuda:9, ...: this machine has 2 GPU"),
    ],
)
def test_what_cannot_work_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_devices(text)


def test_more_cpu_workers_than_cores_is_worth_a_warning(caplog):
    workers = (os.cpu_count() or 1) + 1
    parse_devices(f"cpu x{workers}")
    assert f"{workers} CPU workers" in caplog.text


@pytest.mark.parametrize("workers", ["9999", "99999999999", "9" * 5000])
def test_more_cpu_workers_than_a_machine_can_start_are_refused(workers):
    with pytest.raises(InputError, match=r"the most that can work is cpu x|write auto"):
        parse_devices(f"cpu x{workers}")


def test_addresses():
    assert address("10.0.0.1:29700") == ("10.0.0.1", 29700)
    assert address("[::1]:5") == ("::1", 5)
    assert [shown_address(*address(text)) for text in ("[::1]:5", "here:5")] == ["[::1]:5", "here:5"]
    for text in (
        "10.0.0.1", "host:", ":5", "host:x", "host:70000", "host:²", "host:\u0663", "host:" + "9" * 5000, "a b:5",
        "\0:5", "a..b:5", "x" * 5000 + ":5", "\udcff:5", " :5",
    ):  # fmt: skip
        with pytest.raises(InputError, match="write HOST:PORT") as refused:
            address(text)
        assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        ([gpu(128), gpu(128), gpu(20, 7, "a display card")], ["cuda:0", "cuda:1"]),
        ([gpu(20, 8, "a display card"), gpu(128)], ["cuda:1"]),
        ([gpu(82), gpu(128), gpu(128)], ["cuda:1", "cuda:2"]),
        ([gpu(100), gpu(128), gpu(128)], ["cuda:0", "cuda:1", "cuda:2"]),
        ([gpu(68, 7), gpu(68, 7)], ["cuda:0", "cuda:1"]),
        ([gpu(300, 7, "an old one"), gpu(128)], ["cuda:1"]),
    ],
)
def test_auto_takes_those_that_are_fastest_together(monkeypatch, caplog, gpus, devices):
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: gpus[index])
    assert parse_devices("auto") == devices
    assert caplog.text.count("is left out") == len(gpus) - len(devices)


def test_windows_is_refused_before_anything_is_started(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(InputError, match="on Windows; several are for Linux and WSL"):
        parse_devices("cuda:0,cuda:1")


def test_meshes():
    assert parse_mesh(None) is None
    assert parse_mesh("ulysses=2,ring=4") == parse_mesh("ulysses=2, ring=4") == (2, 4)
    assert parse_mesh("ring=3") == (1, 3) and parse_mesh("ulysses=5") == (5, 1)
    for text in ("", "2x2", "ulysses=0,ring=2", "ring=2,ulysses=2", "ulysses=2;ring=1"):
        with pytest.raises(InputError, match="write ulysses=2,ring=2"):
            parse_mesh(text)


def test_hosts_are_where_and_how_many():
    assert parse_hosts(" 192.168.1.5:29700 x4 ") == (("192.168.1.5", 29700), 4)
    assert parse_hosts("gpu-box:29700x2") == (("gpu-box", 29700), 2)
    assert parse_hosts(" ") is None


@pytest.mark.parametrize("text", ["192.168.1.5:29700", "x4", "192.168.1.5:29700 x0", "192.168.1.5:29700 x-1"])
def test_hosts_that_say_too_little_are_refused(text):
    with pytest.raises(InputError, match="write where to wait for how many workers"):
        parse_hosts(text)
