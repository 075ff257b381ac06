"""A MODEL that is marked with devices is run by workers on them; nothing else changes."""

import gc
from dataclasses import replace

import pytest
import torch

from livetalk_core.presets import PRESETS
from tests.nodes.fake_host import Interrupted

STREAM = PRESETS["nano"].stream


@pytest.fixture
def fleet(pack):
    """The module, with no fleet left behind."""
    module = pack("nodes.fleet")
    yield module
    module.RUNNING.end()


@pytest.fixture
def embedded(nodes):
    """`embedded(devices, **others)`: the model on those devices, and its VAE."""

    def make(devices, **others):
        model, vae, _ = nodes["LiveTalkEmbeddedModel"][0].execute().args
        node = nodes["LiveTalkDevices"][0]
        (marked,) = node.execute(**{"model": model, "devices": devices, "shard_weights": False, **others}).args
        assert model.get_attachment("livetalk_devices") is None
        return marked, vae

    return make


def test_without_the_node_comfyui_runs_the_model(nodes, host, fleet):
    model, *_ = nodes["LiveTalkEmbeddedModel"][0].execute().args
    assert type(fleet.engine_for(model, STREAM)).__name__ == "LocalEngine"
    assert fleet.devices_of(model) == ""


def test_devices_that_cannot_work_are_refused(embedded, host, pack):
    with pytest.raises(pack("livetalk_core.errors").InputError, match="devices 'gpus'; write auto"):
        embedded("gpus")


def test_what_workers_send_and_how_they_split_is_set_up(embedded, host, fleet):
    model, _ = embedded("cpu x2", send_fp8=True, mesh="ring=2")
    engine = fleet.engine_for(model, STREAM)
    setup, _ = engine.fleet._setup
    assert setup["send_fp8"] and fleet.Ways(*setup["ways"]).mesh == (1, 2)
    assert fleet.devices_of(model) == "cpu, cpu, which send FP8"
    assert fleet.engine_for(embedded("cpu x2")[0], STREAM).fleet is not engine.fleet


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [([(9, 0), (8, 0)], "bfloat16"), ([(7, 5), (7, 5)], "float16"), ([(8, 6), (7, 0)], "float16")],
)
def test_workers_compute_in_what_all_of_their_gpus_attend_in(fleet, monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])
    spread = fleet.Spread("nano", None, ("cuda:0", "cuda:1"), False)
    assert spread.dtype == getattr(torch, dtype)


def test_what_each_device_holds_at_most_is_set_up_for_the_size_of_the_talk(embedded, host, fleet, pack):
    refused = pack("livetalk_core.errors").InputError
    with pytest.raises(refused, match="'14' is no amount of memory; write a number and a unit, such as 14G"):
        embedded("cpu x2", memory="14")
    with pytest.raises(refused, match="memory streams whole weights, which shard_weights splits"):
        embedded("cpu x2", memory="14G", shard_weights=True)
    model, _ = embedded("cpu x2", memory=" 0.5G ")
    kept = fleet.engine_for(model, STREAM).fleet
    setup, _ = kept._setup
    assert fleet.Ways(*setup["ways"]).memory == 2**29 and setup["size"] == (STREAM.height, STREAM.width)
    assert fleet.engine_for(model, STREAM).fleet is kept
    assert fleet.engine_for(model, replace(STREAM, height=256)).fleet is not kept, "its blocks were counted for another"
    whole, _ = embedded("cpu x2")
    kept = fleet.engine_for(whole, STREAM).fleet
    assert fleet.engine_for(whole, replace(STREAM, height=256)).fleet is kept


def test_comfyui_is_told_no_more_than_the_devices_hold_at_most(embedded, host, fleet):
    model, _ = embedded("cpu x2", memory="0.0000001G")
    fleet.engine_for(model, STREAM)
    assert [lease.size for lease in host.claimed] == [107]


def test_workers_of_other_hosts_are_waited_for(embedded, host, fleet, pack, monkeypatch):
    monkeypatch.delenv("LIVETALK_SECRET", raising=False)
    refused = pack("livetalk_core.errors").InputError
    with pytest.raises(refused, match="a secret of 0 bytes"):
        embedded("auto", hosts="127.0.0.1:29700 x3")
    monkeypatch.setenv("LIVETALK_SECRET", "a secret of this fleet")
    with pytest.raises(refused, match="hosts 'here'; write where to wait"):
        embedded("auto", hosts="here")
    model, _ = embedded("auto", hosts="127.0.0.1:29700 x3")
    source = fleet.engine_for(model, STREAM).fleet._source()
    assert (source.ranks, source._address) == (3, ("127.0.0.1", 29700))
    assert fleet.devices_of(model) == "3 workers" and fleet.RUNNING.leases == []


def test_a_lora_is_given_to_the_workers(embedded, host, fleet, pack):
    model, _ = embedded("cpu x2")
    assert fleet.engine_for(model, STREAM).patches == (None, [])
    patch = pack("livetalk_core.parallel.patches").Patch
    lora = patch("blocks.0.ffn.0.weight", 0.5, torch.ones(4, 1), torch.ones(1, 4))
    model.patches, model.patches_uuid = {lora.name: lora}, "with a LoRA"
    assert fleet.engine_for(model, STREAM).patches == ("with a LoRA", [lora])


def test_one_fleet_is_kept_and_ends_with_its_model(embedded, host, fleet):
    model, _ = embedded("cpu x2")
    kept = fleet.engine_for(model, STREAM).fleet
    assert fleet.engine_for(model.clone(), STREAM).fleet is kept
    assert fleet.devices_of(model) == "cpu, cpu"
    other, _ = embedded("cpu")
    assert fleet.engine_for(other, STREAM).fleet is not kept
    del other
    gc.collect()
    assert fleet.RUNNING.fleet is None


def test_comfyui_is_told_what_the_workers_hold_and_may_ask_for_it(nodes, host, fleet, monkeypatch):
    model, *_ = nodes["LiveTalkEmbeddedModel"][0].execute().args
    for sharded, size in ((False, 1000), (True, 500)):
        (marked,) = nodes["LiveTalkDevices"][0].execute(model=model, devices="cpu x2", shard_weights=sharded).args
        kept = fleet.engine_for(marked, STREAM).fleet
        (lease,) = host.claimed
        assert (lease.device, lease.size, lease.running()) == ("cpu", size, False)
    ended = []
    monkeypatch.setattr(kept, "close", lambda: ended.append(True))
    kept.busy = True
    lease.end()
    assert not ended, "a job under way is not broken off"
    kept.busy = False
    lease.end()
    assert ended and fleet.RUNNING.fleet is kept


@pytest.mark.slow
def test_workers_decode_what_the_vae_socket_holds(embedded, host, fleet, pack):
    model, vae = embedded("cpu x2")
    vae.first_stage_model, vae.get_sd = torch.nn.Identity(), vae.state_dict
    engine, latent = fleet.engine_for(model, STREAM, vae), torch.randn(16, 2, 4, 4)
    alone = pack("livetalk_core.streaming.engine").LocalEngine(None, vae)
    found, wanted = (torch.cat(list(each.decode(latent)), dim=1) for each in (engine, alone))
    assert (found - wanted).abs().max() <= 1e-5
    host.cancelled = True
    with pytest.raises(Interrupted):
        list(engine.decode(latent))
    host.cancelled = False
    assert torch.equal(torch.cat(list(engine.decode(latent)), dim=1), found)
