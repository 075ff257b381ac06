"""What a worker holds: weights of the file's own dtype are the file's pages, which all workers of a host share."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from livetalk_core.checkpoints import nano
from livetalk_core.config import Guidance, TransformerConfig
from livetalk_core.errors import InputError
from livetalk_core.hardware.placement import Placement, layers_of, place, residence
from livetalk_core.models.operations import Linear
from livetalk_core.parallel import weights
from livetalk_core.parallel.offload import streamed_layers
from livetalk_core.streaming import engine_runner
from livetalk_core.streaming.engine_runner import load_transformer, step_operations
from livetalk_core.streaming.fleet_engine import Ways, engine_setup


def mapped(path) -> list[range]:
    """The addresses at which a file is mapped into this process."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [range(*(int(bound, 16) for bound in re.split("-", fields[0]))) for fields in lines]


@pytest.fixture
def path(tmp_path):
    """A file of float32 weights."""
    path = tmp_path / "transformer.safetensors"
    save_file(nano.transformer("cpu", torch.float32).state_dict(), path, {"config": '{"num_heads": 6}'})
    return path


def shares_of(model, path) -> list[bool]:
    places = mapped(path)
    return [any(weight.data_ptr() in place for place in places) for weight in model.parameters()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "shared"), [(torch.float32, True), (torch.bfloat16, False)])
def test_weights_are_mapped_from_their_file_where_the_dtype_allows(path, dtype, shared):
    model = load_transformer(str(path), dtype, torch.device("cpu"))
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert all(shares_of(model, path)) if shared else not any(shares_of(model, path))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_of_another_dtype_are_converted_one_by_one_on_their_way(path, monkeypatch):
    """No copy of the whole model in main memory: until a weight is placed it is a part of the file."""
    placed = []

    def note(model, device, dtype):
        placed.append((shares_of(model, path), dtype))
        return weights.place_weights(model, device, dtype)

    monkeypatch.setattr(engine_runner, "place_weights", note)
    load_transformer(str(path), torch.bfloat16, torch.device("cpu"))
    ((shared, dtype),) = placed
    assert all(shared) and dtype == torch.bfloat16


def test_weights_that_are_converted_on_their_way_are_those_of_a_plain_load(path):
    placed = load_transformer(str(path), torch.bfloat16, torch.device("cpu")).state_dict()
    plain = nano.transformer("cpu", torch.bfloat16).state_dict()
    assert placed.keys() == plain.keys() and all(torch.equal(placed[name], plain[name]) for name in plain)


def test_fp8_weights_and_their_scales_stay():
    layer = Linear(4, 4, dtype=torch.bfloat16)
    layer.weight.data, layer.scale_weight = layer.weight.data.to(torch.float8_e4m3fn), torch.tensor(0.123456789)
    weights.place_weights(layer, torch.device("cpu"), torch.bfloat16)
    assert layer.weight.dtype == torch.float8_e4m3fn and layer.bias.dtype == torch.bfloat16
    assert layer.scale_weight.item() == pytest.approx(0.123456789, rel=1e-7)


def test_a_model_that_is_a_link_is_found_beside_its_other_parts(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a1b").write_bytes(b"")
    link = tmp_path / "model.safetensors"
    link.symlink_to(tmp_path / "blobs" / "0a1b")
    setup = engine_setup(str(link), torch.float32, patch=link)
    assert setup["model"] == setup["patch"] == str(link)


def test_a_larger_picture_is_more_work():
    small, large = (step_operations(TransformerConfig(), (9, size, size), None) for size in (8, 96))
    assert large > 144 * small
    assert step_operations(TransformerConfig(), (9, 8, 8), Guidance(5.0, 4.0)) == 3 * small


def test_a_worker_in_fp8_holds_what_one_device_does(path):
    found = load_transformer(str(path), torch.float32, torch.device("cpu"), fp8=True).state_dict()
    layers = layers_of(Placement(fp8=True), torch.device("cpu"))
    alone = place(nano.transformer("cpu", torch.float32, layers), torch.device("cpu"), fp8=True).state_dict()
    assert found.keys() == alone.keys() and all(torch.equal(found[name], alone[name]) for name in alone)
    assert any(weight.dtype == torch.float8_e4m3fn for weight in found.values())


def set_up(ranks, ways, **fields):
    """The job by which a worker is set up."""
    setup = {**engine_setup("nano", torch.float32, ways=ways), "crew": [["here", rank] for rank in range(ranks)]}
    return SimpleNamespace(fields={**setup, **fields}, device=torch.device("cpu"))


def test_a_worker_streams_what_its_memory_does_not_hold():
    """Fewer blocks than one device of that memory: each of two works on half of the tokens and rows."""
    whole = residence(nano.PRESET, torch.float32, Placement(), (2, 1))
    assert engine_runner.streamed_blocks(set_up(2, Ways(memory=whole.total)), nano.PRESET) == []
    ways = Ways(memory=whole.total - 1)
    assert 0 < len(engine_runner.streamed_blocks(set_up(2, ways), nano.PRESET)) < 6
    with pytest.raises(InputError, match=r"needs at least .* with all blocks streamed"):
        engine_runner.streamed_blocks(set_up(1, ways), nano.PRESET)
    size = {"size": [256, 256]}
    with pytest.raises(InputError, match=r"at 256x256 needs at least .* on each of 2 devices, with all blocks"):
        engine_runner.streamed_blocks(set_up(2, ways, **size), nano.PRESET)


def test_a_rank_needs_all_weights_and_its_share_of_the_rest():
    alone, two = (residence(nano.PRESET, torch.float32, Placement(), mesh).needed for mesh in (None, (2, 1)))
    assert alone.keys() - two.keys() == {"audio encoder weights"}, "it stays with the controller"
    assert all(two[part] == alone[part] for part in ("transformer weights", "VAE weights"))
    for part in ("transformer step", "VAE decode", "VAE encode"):
        assert 0.4 < two[part] / alone[part] < 0.8


def test_streamed_blocks_are_not_loaded_onto_the_device(path):
    model = load_transformer(str(path), torch.float32, torch.device("cpu"), streamed=[1, 4])
    here = [all("weight" in layer._parameters for layer in streamed_layers([block])) for block in model.blocks]
    assert here == [True, False, True, True, False, True]


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(InputError, match="mesh ulysses=2,ring=2 on 3 devices; needs a product of 3"):
        engine_runner.ulysses_of(12, set_up(3, Ways(mesh=(2, 2))))
