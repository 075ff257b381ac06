"""A MODEL that is marked with devices is run by workers on them; nothing else changes."""

import gc

import pytest
import torch

from tests.nodes.fake_host import Interrupted


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
        (marked,) = node.execute(model=model, devices=devices, shard_weights=False, **others).args
        assert model.get_attachment("livetalk_devices") is None
        return marked, vae

    return make


def test_without_the_node_comfyui_runs_the_model(nodes, host, fleet):
    model, *_ = nodes["LiveTalkEmbeddedModel"][0].execute().args
    assert type(fleet.engine_for(model)).__name__ == "LocalEngine"
    assert fleet.devices_of(model) == ""


def test_devices_that_cannot_work_are_refused(embedded, host, pack):
    with pytest.raises(pack("livetalk_core.errors").InputError, match="devices 'gpus'; write auto"):
        embedded("gpus")


def test_what_workers_send_and_how_they_split_is_set_up(embedded, host, fleet):
    model, _ = embedded("cpu x2", send_fp8=True, mesh="ring=2")
    engine = fleet.engine_for(model)
    setup, _ = engine.fleet._setup
    assert setup["send_fp8"] and fleet.Ways(*setup["ways"]).mesh == (1, 2)
    assert fleet.devices_of(model) == "cpu, cpu, which send FP8"
    assert fleet.engine_for(embedded("cpu x2")[0]).fleet is not engine.fleet


def test_workers_of_other_hosts_are_waited_for(embedded, host, fleet, pack, monkeypatch):
    monkeypatch.delenv("LIVETALK_SECRET", raising=False)
    refused = pack("livetalk_core.errors").InputError
    with pytest.raises(refused, match="a secret of 0 bytes"):
        embedded("auto", hosts="127.0.0.1:29700 x3")
    monkeypatch.setenv("LIVETALK_SECRET", "a secret of this fleet")
    with pytest.raises(refused, match="hosts 'here'; write where to wait"):
        embedded("auto", hosts="here")
    model, _ = embedded("auto", hosts="127.0.0.1:29700 x3")
    source = fleet.engine_for(model).fleet._source()
    assert (source.ranks, source._address) == (3, ("127.0.0.1", 29700))
    assert fleet.devices_of(model) == "3 workers" and fleet.RUNNING.leases == []


def test_a_lora_is_given_to_the_workers(embedded, host, fleet, pack):
    model, _ = embedded("cpu x2")
    assert fleet.engine_for(model).patches == (None, [])
    patch = pack("livetalk_core.parallel.patches").Patch
    lora = patch("blocks.0.ffn.0.weight", 0.5, torch.ones(4, 1), torch.ones(1, 4))
    model.patches, model.patches_uuid = {lora.name: lora}, "with a LoRA"
    assert fleet.engine_for(model).patches == ("with a LoRA", [lora])


def test_one_fleet_is_kept_and_ends_with_its_model(embedded, host, fleet):
    model, _ = embedded("cpu x2")
    kept = fleet.engine_for(model).fleet
    assert fleet.engine_for(model.clone()).fleet is kept
    assert fleet.devices_of(model) == "cpu, cpu"
    other, _ = embedded("cpu")
    assert fleet.engine_for(other).fleet is not kept
    del other
    gc.collect()
    assert fleet.RUNNING.fleet is None


def test_comfyui_is_told_what_the_workers_hold_and_may_ask_for_it(nodes, host, fleet, monkeypatch):
    model, *_ = nodes["LiveTalkEmbeddedModel"][0].execute().args
    for sharded, size in ((False, 1000), (True, 500)):
        (marked,) = nodes["LiveTalkDevices"][0].execute(model=model, devices="cpu x2", shard_weights=sharded).args
        kept = fleet.engine_for(marked).fleet
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
    engine, latent = fleet.engine_for(model, vae), torch.randn(16, 2, 4, 4)
    alone = pack("livetalk_core.streaming.engine").LocalEngine(None, vae)
    found, wanted = (torch.cat(list(each.decode(latent)), dim=1) for each in (engine, alone))
    assert (found - wanted).abs().max() <= 1e-5
    host.cancelled = True
    with pytest.raises(Interrupted):
        list(engine.decode(latent))
    host.cancelled = False
    assert torch.equal(torch.cat(list(engine.decode(latent)), dim=1), found)
