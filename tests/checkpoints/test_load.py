"""Every published layout loads, and what does not fit is refused before a weight is read."""

import json
import re
import resource
import shlex
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from livetalk_core.checkpoints import keys, kinds, load, nano
from livetalk_core.checkpoints.convert import _layout, convert
from livetalk_core.checkpoints.header import CONVERT
from livetalk_core.checkpoints.load import (
    audio_encoder_part,
    load_audio_encoder,
    load_text_encoder,
    load_transformer,
    load_vae,
    open_model,
    transformer_part,
    vae_part,
)
from livetalk_core.config import LTXVAEConfig, TransformerConfig
from livetalk_core.errors import CheckpointError
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import LTX, WAN

from .conftest import TRANSFORMER_CONFIG, image_file, save_shards, weights

CPU = "cpu"
F32 = torch.float32
CONFIG = {"config": json.dumps(TRANSFORMER_CONFIG)}


@pytest.fixture(scope="module")
def manifest(golden):
    return json.loads((golden / "checkpoint_keys.json").read_text())


@pytest.fixture(scope="module")
def family(golden):
    return json.loads((golden / "flashhead_keys.json").read_text())


def sparse(path, shapes, metadata=None, dtype=torch.bfloat16):
    """A safetensors file of the right size whose zeros take no room on the disk."""
    tensors = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    header, _, size = _layout(tensors, metadata or {})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)


def same(model, wanted):
    state = model.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)


# --- the published sizes ---


def test_the_14b_transformer_loads_with_every_key(manifest, tmp_path):
    """All 1,633 keys, none missing, widths found from shapes alone; the weights stay on the disk."""
    shapes, names = manifest["dit_14b"], list(manifest["dit_14b"])
    assert len(shapes) == 1633
    where = {}
    for index in range(8):
        sparse(tmp_path / f"s{index}.safetensors", {name: shapes[name] for name in names[index::8]})
        where |= dict.fromkeys(names[index::8], f"s{index}.safetensors")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    part = transformer_part(index)
    model = part.load(CPU, torch.bfloat16)
    assert part.config == PRESETS["14b"].transformer
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(18.88e9, rel=1e-3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_the_published_vae_loads_with_every_key(manifest, tmp_path):
    sparse(tmp_path / "Wan2.1_VAE.safetensors", manifest["vae"])
    part = vae_part(tmp_path / "Wan2.1_VAE.safetensors")
    assert part.config == PRESETS["14b"].vae
    state = part.load(CPU, torch.bfloat16).state_dict()
    assert len(state) == 194
    assert {name: list(tensor.shape) for name, tensor in state.items()} == manifest["vae"]


def test_one_key_less_is_noticed(manifest, tmp_path):
    shapes = {name: shape for name, shape in manifest["vae"].items() if name != "conv2.bias"}
    sparse(tmp_path / "vae.safetensors", shapes)
    with pytest.raises(CheckpointError, match=r"missing: conv2\.bias \[16\]"):
        vae_part(tmp_path / "vae.safetensors")


# --- the family's published files ---


@pytest.mark.parametrize(("name", "geometry"), [("head_pro", WAN), ("head_lite", LTX)])
def test_the_published_flashheads_load_with_every_key(family, tmp_path, name, geometry):
    """All 843 keys, in float32 as published: used, or named as unread; widths from shapes and the published config."""
    folder = tmp_path / name
    folder.mkdir()
    sparse(folder / "diffusion_pytorch_model.safetensors", family[name], dtype=F32)
    (folder / "config.json").write_text(json.dumps(family["configs"][name]))
    part = transformer_part(folder)
    assert part.config == TransformerConfig.published(family["configs"][name] | family["configs"]["not_in_the_files"])
    assert part.config.geometry == geometry and part.config.num_heads == 12
    unread = keys.unread(part.checkpoint)
    assert {name.split(".")[0] for name in unread} == {"text_embedding", "audio_emb"} and len(unread) == 12
    model = transformer_part(folder).load(CPU, torch.bfloat16)
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == {key: shape for key, shape in family[name].items() if key not in unread}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


def test_a_flashhead_needs_no_config(family, tmp_path):
    """As a file among others, with ComfyUI's prefix: heads are 128 wide, as published."""
    shapes = {f"model.diffusion_model.{key}": shape for key, shape in family["head_pro"].items()}
    sparse(tmp_path / "pro.safetensors", shapes)
    published = family["configs"]["head_pro"] | family["configs"]["not_in_the_files"]
    assert transformer_part(tmp_path / "pro.safetensors").config == TransformerConfig.published(published)


def test_a_flashhead_beside_the_config_of_another_member_is_refused(family, tmp_path):
    sparse(tmp_path / "lite.safetensors", family["head_lite"])
    (tmp_path / "config.json").write_text(json.dumps(family["configs"]["head_pro"]))
    with pytest.raises(CheckpointError, match=r"vae_stride \[4, 8, 8\] \(the weights: \[8, 32, 32\]\)"):
        transformer_part(tmp_path / "lite.safetensors")


@pytest.mark.parametrize(
    "key", ["blocks.7.cross_attn.k.weight", "audio_proj.proj1_vf.weight", "head.head.weight", "patch_embedding.bias"]
)
def test_a_flashhead_that_lacks_a_key_is_refused_with_its_name(family, tmp_path, key):
    shapes = {name: shape for name, shape in family["head_lite"].items() if name != key}
    sparse(tmp_path / "lite.safetensors", shapes)
    with pytest.raises(CheckpointError, match=f"(?s)FlashHead Lite's video transformer.*{re.escape(key)}"):
        transformer_part(tmp_path / "lite.safetensors")


def test_a_flashhead_converts_to_fp8_and_loads(golden, tmp_path):
    """A small one: merged, scaled, unread tensors and all."""
    with safe_open(golden / "head_pro.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        own = {n.removeprefix("weights."): file.get_tensor(n) for n in file.keys() if n.startswith("weights.")}  # noqa: SIM118
    save_file(own, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "out").mkdir()
    model = load_transformer(convert(tmp_path, tmp_path / "out" / "fp8.safetensors", fp8=True), CPU, F32)
    assert model.config == TransformerConfig.published({**config, "text_dim": TransformerConfig.text_dim})
    assert model.blocks[0].cross_attn.q.weight.dtype == torch.float8_e4m3fn
    assert model.blocks[0].norm3.weight.dtype == F32


def test_the_published_ltx_vae_loads_with_every_key(family, tmp_path):
    """All 190 keys of VAE_LTX, in float32 as published, loaded as bfloat16."""
    sparse(tmp_path / "diffusion_pytorch_model.safetensors", family["vae_ltx"], dtype=F32)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size > 1.6e9
    (tmp_path / "config.json").write_text(json.dumps(family["configs"]["vae_ltx"]))
    part = vae_part(tmp_path)
    assert part.config == LTXVAEConfig() == LTXVAEConfig.published(family["configs"]["vae_ltx"])
    state = part.load(CPU, torch.bfloat16).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == family["vae_ltx"]
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["latents_mean", "decoder.conv_out.conv.bias", "encoder.conv_in.conv.weight"])
def test_a_key_less_of_the_ltx_vae_is_named(family, tmp_path, name):
    path = tmp_path / "vae.safetensors"
    sparse(path, {other: shape for other, shape in family["vae_ltx"].items() if other != name})
    with pytest.raises(CheckpointError, match=f"(?s)an LTX VAE, .*{re.escape(name)}"):
        vae_part(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_causal": True}, r"decoder_causal True \(needs False\)"),
        ({"resnet_norm_eps": 1e-5}, "resnet_norm_eps"),
        ({"spatio_temporal_scaling": [True] * 4}, "spatio_temporal_scaling"),
    ],
)
def test_other_variants_of_the_ltx_vae_are_refused(family, tmp_path, change, message):
    sparse(tmp_path / "vae.safetensors", family["vae_ltx"])
    (tmp_path / "config.json").write_text(json.dumps(family["configs"]["vae_ltx"] | change))
    with pytest.raises(CheckpointError, match=message):
        vae_part(tmp_path / "vae.safetensors")


def test_the_published_960h_encoder_loads_with_every_key(family, tmp_path):
    """All 212 keys: those of the head that spells text are known and left out, none of ours is missing."""
    sparse(tmp_path / "model.safetensors", family["wav2vec2_base_960h"], dtype=F32)
    part = audio_encoder_part(tmp_path)
    assert part.config == PRESETS["14b"].audio
    unused = {name for name in family["wav2vec2_base_960h"] if name.startswith("lm_head.")}
    assert len(part.load(CPU, F32).state_dict()) == 212 - len(unused) == 210


def test_published_files_are_told_apart_by_their_headers(manifest, family):
    """Under whatever name: the 14B transformer, Pro's, Lite's, either VAE, the adapter and its projection."""
    wanted = {
        "head_pro": kinds.FLASHHEAD_PRO, "head_lite": kinds.FLASHHEAD_LITE, "vae_ltx": kinds.LTX_VAE,
        "wav2vec2_base_960h": kinds.WAV2VEC2, "leaptalk_lora": kinds.ADAPTER,
        "leaptalk_audio_proj": kinds.AUDIO_PROJECTION, "dit_14b": kinds.LIVETALK, "vae": kinds.WAN_VAE,
    }  # fmt: skip
    for name, kind in wanted.items():
        shapes = (manifest | family)[name]
        for prefix in ("", "model.diffusion_model.") if kind in kinds.TRANSFORMERS else ("",):
            weights = {prefix + key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
            assert kinds.identify(weights) == kind


# --- layouts of the transformer ---


@pytest.mark.parametrize("told", [{"repeats_portrait": True}, {"repeats_portrait": False}, {}])
def test_a_repeated_portrait_is_told_by_the_config(tmp_path, told):
    config = {name: value for name, value in TRANSFORMER_CONFIG.items() if name != "repeats_portrait"} | told
    save_file(weights("transformer"), tmp_path / "m.safetensors", {"config": json.dumps(config)})
    loaded = load_transformer(tmp_path / "m.safetensors", CPU, F32)
    assert loaded.config.repeats_portrait == told.get("repeats_portrait", False)


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_one_file_with_any_prefix(tmp_path, prefix):
    own = weights("transformer")
    save_file({prefix + name: tensor for name, tensor in own.items()}, tmp_path / "m.safetensors", CONFIG)
    model = load_transformer(tmp_path / "m.safetensors", CPU, F32)
    assert model.config == PRESETS["nano"].transformer
    assert same(model, own)


@pytest.mark.parametrize("target", ["index", "folder"])
def test_shards(tmp_path, target):
    own = weights("transformer")
    index = save_shards(tmp_path, own)
    (tmp_path / "config.json").write_text(json.dumps(TRANSFORMER_CONFIG))
    assert same(load_transformer(index if target == "index" else tmp_path, CPU, F32), own)


def forward(model):
    generator = torch.Generator().manual_seed(0)
    config = model.config
    with torch.inference_mode():
        text = torch.randn(1, 5, config.text_dim, generator=generator)
        clip = torch.randn(1, 9, config.clip_dim, generator=generator)
        windows = torch.randn(1, 5, 5, config.audio_blocks, config.audio_channels, generator=generator)
        latent, cond = (torch.randn(1, c, 2, 4, 4, generator=generator) for c in (16, 20))
        context, audio = model.embed_context(text, clip), model.embed_audio(windows)
        return model(latent, torch.tensor([500.0]), cond, context, audio)


@pytest.mark.parametrize("layout", ["older", "newer", "prefixed"])
def test_scaled_fp8_stays_fp8_and_computes_nearly_the_same(tmp_path, layout):
    source, output = tmp_path / "m.safetensors", tmp_path / "fp8.safetensors"
    prefix = "model.diffusion_model." if layout == "prefixed" else ""
    save_file({prefix + name: tensor for name, tensor in weights("transformer").items()}, source, CONFIG)
    convert(source, output, fp8=True)
    if layout == "newer":
        output = as_newer_layout(output)
    model = load_transformer(output, CPU, F32)
    linear = model.blocks[0].ffn[0]
    assert linear.weight.dtype == torch.float8_e4m3fn
    assert linear.scale_weight.dtype == torch.float32
    assert model.blocks[0].norm3.weight.dtype == torch.float32
    wanted, found = forward(load_transformer(source, CPU, F32)), forward(model)
    error = (wanted - found).abs().mean() / wanted.abs().mean()
    assert 0 < error < 0.1
    linear.scale_weight *= 1.5
    assert not torch.equal(forward(model), found)


def as_newer_layout(path):
    note = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    tensors = load_file(path)
    del tensors["scaled_fp8"]
    for name in [name for name in tensors if name.endswith(".scale_weight")]:
        layer = name.removesuffix(".scale_weight")
        tensors[f"{layer}.weight_scale"] = tensors.pop(name)
        tensors[f"{layer}.comfy_quant"] = note.clone()
    target = path.with_name("newer.safetensors")
    save_file(tensors, target, CONFIG)
    return target


def test_other_quantisation_is_named(tmp_path):
    note = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    save_file({**weights("transformer"), "blocks.0.ffn.0.comfy_quant": note}, tmp_path / "m.safetensors", CONFIG)
    with pytest.raises(CheckpointError, match="quantised as nvfp4"):
        load_transformer(tmp_path / "m.safetensors", CPU, F32)
    layers = {"_quantization_metadata": json.dumps({"layers": {"blocks.0.ffn.0": {"format": "int8_tensorwise"}}})}
    save_file(weights("transformer"), tmp_path / "n.safetensors", {**CONFIG, **layers})
    with pytest.raises(CheckpointError, match="quantised as int8_tensorwise"):
        load_transformer(tmp_path / "n.safetensors", CPU, F32)


@pytest.mark.parametrize("layers", [[], None, 1, "x", {"a": []}, {"a": None}, {"a": "float8_e4m3fn"}])
def test_a_damaged_note_of_quantisation_in_the_metadata(tmp_path, layers):
    note = {"_quantization_metadata": json.dumps({"layers": layers})}
    save_file(weights("transformer"), tmp_path / "m.safetensors", {**CONFIG, **note})
    with pytest.raises(CheckpointError, match=r"note of .*m\.safetensors is damaged; needed is a table"):
        load_transformer(tmp_path / "m.safetensors", CPU, F32)


@pytest.mark.parametrize(
    "note",
    [
        torch.ones(4), torch.tensor([300, -1]), torch.tensor(7, dtype=torch.uint8), torch.ones(2, 2).byte(),
        torch.tensor([123, 255], dtype=torch.uint8), torch.full((5000,), 91, dtype=torch.uint8), torch.ones(0).byte(),
        torch.tensor(list(b"[1]"), dtype=torch.uint8),
    ],
)  # fmt: skip
def test_a_damaged_note_of_quantisation_of_a_layer(tmp_path, note):
    save_file({**weights("transformer"), "blocks.0.ffn.0.comfy_quant": note}, tmp_path / "m.safetensors", CONFIG)
    with pytest.raises(CheckpointError, match=r"the quantisation note of .*m\.safetensors"):
        load_transformer(tmp_path / "m.safetensors", CPU, F32)


NO_NUMBERS = ["6", None, -1, 0, 2**70, [6], {}, 6.5, True]


BROKEN_CONFIGS = {
    ("transformer", "num_heads"): [*NO_NUMBERS, 7, 192],
    ("transformer", "text_len"): NO_NUMBERS,
    ("transformer", "audio_blocks"): NO_NUMBERS,
    ("transformer", "audio_channels"): NO_NUMBERS,
    ("transformer", "eps"): ["1e-6", None, -1e-6, 0, 1.0, [], float("nan"), True],
    ("audio_encoder", "num_attention_heads"): [*NO_NUMBERS, 7],
    ("image_encoder", "num_heads"): [*NO_NUMBERS, 7],
}
"""A part, an entry of its config, and values that no model can have."""


@pytest.mark.parametrize(("part", "name"), BROKEN_CONFIGS)
def test_a_config_with_what_is_no_width_is_refused(tmp_path, part, name):
    path, config = tmp_path / "m.safetensors", TRANSFORMER_CONFIG if part == "transformer" else {}
    for value in BROKEN_CONFIGS[part, name]:
        sparse(path, SHAPES[part](), {"config": json.dumps({**config, name: value})})
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            getattr(load, f"{part}_part")(path)


def own_shapes(part, prefix=""):
    return {prefix + name: list(tensor.shape) for name, tensor in weights(part).items()}


def image_shapes():
    with TemporaryDirectory() as folder:
        image_file(Path(folder) / "m.safetensors")
        return {name: list(tensor.shape) for name, tensor in load_file(Path(folder) / "m.safetensors").items()}


SHAPES = {
    "transformer": lambda: own_shapes("transformer"),
    "vae": lambda: own_shapes("vae"),
    "audio_encoder": lambda: own_shapes("audio_encoder", "wav2vec2."),
    "image_encoder": image_shapes,
    "text_encoder": lambda: {
        name.replace("block.", "encoder.block."): s for name, s in own_shapes("text_encoder").items()
    },
}
"""A file's shapes under published names."""


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("transformer", "audio_proj.proj1.weight"),
        ("transformer", "audio_proj.proj1_vf.weight"),
        ("transformer", "patch_embedding.weight"),
        ("transformer", "audio_proj.norm.weight"),
        ("transformer", "audio_proj.proj3.weight"),
        ("transformer", "head.head.weight"),
        ("vae", "decoder.head.0.gamma"),
        ("audio_encoder", "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
        ("image_encoder", "vision_model.embeddings.patch_embedding.weight"),
        ("image_encoder", "vision_model.embeddings.position_embedding.weight"),
        ("image_encoder", "vision_model.encoder.layers.0.mlp.fc1.weight"),
        ("text_encoder", "shared.weight"),
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ],
)
def test_a_weight_that_no_width_can_be_read_from_is_refused(tmp_path, part, name):
    path, shapes = tmp_path / "m.safetensors", SHAPES[part]()
    sides = len(shapes[name])
    for shape in ([], [0] * sides, [1] * sides, [1] * (sides + 1), [*shapes[name][:-1], 2**20]):
        sparse(path, {**shapes, name: shape})
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            getattr(load, f"{part}_part")(path)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 2), (1, 3), (1, 1, 1)])
def test_a_scale_that_fits_no_weight_is_refused(published, tmp_path, part, shape):
    if part == "transformer":
        tensors, layer = weights(part), "blocks.0.ffn.0"
    else:
        layer = "encoder.block.0.layer.0.SelfAttention.q"
        tensors = load_file(published / "models_t5_umt5-xxl-enc-bf16.safetensors")
    tensors[f"{layer}.scale_weight"] = torch.ones(shape)
    save_file(tensors, tmp_path / "m.safetensors", CONFIG)
    with pytest.raises(CheckpointError, match=r"scale_weight"):
        getattr(load, f"{part}_part")(tmp_path / "m.safetensors")


def test_every_difference_is_reported_at_once(tmp_path):
    own = weights("transformer")
    for block in range(6):
        del own[f"blocks.{block}.norm_x.weight"]
    own["blocks.0.ffn.0.bias"] = torch.zeros(3)
    own["blocks.0.ffn.2.bias"] = own["blocks.0.ffn.2.bias"].to(torch.int32)
    own["lora.weight"] = torch.zeros(1)
    save_file(own, tmp_path / "m.safetensors", CONFIG)
    with pytest.raises(CheckpointError) as caught:
        load_transformer(tmp_path / "m.safetensors", CPU, F32)
    _, *lines = str(caught.value).splitlines()
    assert lines == [
        "  missing: blocks.*.norm_x.weight (6 of them) [192]",
        "  unexpected: lora.weight [1]",
        "  wrong shape: blocks.0.ffn.0.bias [3], needs [512]",
        "  wrong dtype: blocks.0.ffn.2.bias torch.int32, needs floating point",
    ]


def test_dtype_is_converted(tmp_path):
    save_file(weights("vae"), tmp_path / "vae.safetensors")
    vae = load_vae(tmp_path / "vae.safetensors", CPU, torch.bfloat16)
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.bfloat16}
    assert vae.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert not vae.training


def test_operations_are_the_callers(tmp_path):
    from livetalk_core.models import operations

    class Mine:
        Linear, LayerNorm, RMSNorm, Conv3d = (
            getattr(operations, n) for n in ("Linear", "LayerNorm", "RMSNorm", "Conv3d")
        )

        class Conv2d(operations.Conv2d):
            pass

    save_file(weights("vae"), tmp_path / "vae.safetensors")
    vae = load_vae(tmp_path / "vae.safetensors", CPU, F32, Mine)
    assert any(isinstance(module, Mine.Conv2d) for module in vae.modules())


# --- encoders ---


def test_text_encoder_from_scaled_fp8(published, tmp_path):
    path = published / "models_t5_umt5-xxl-enc-bf16.safetensors"
    tensors = load_file(path)
    layer = "encoder.block.0.layer.0.SelfAttention.q"
    scale = tensors[f"{layer}.weight"].abs().max() / 448
    tensors[f"{layer}.weight"] = (tensors[f"{layer}.weight"] / scale).to(torch.float8_e4m3fn)
    extras = {f"{layer}.scale_weight": scale, "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    save_file({**tensors, **extras, "spiece_model": torch.zeros(3, dtype=torch.uint8)}, tmp_path / "fp8.safetensors")
    plain, scaled = (load_text_encoder(p, CPU, F32) for p in (path, tmp_path / "fp8.safetensors"))
    ids = torch.tensor([5, 6, 1])
    error = (plain.encode(ids, 32) - scaled.encode(ids, 32)).abs().max()
    assert 0 < error < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_stable_layer_norm": True}, "do_stable_layer_norm True"),
        ({"feat_extract_activation": "relu"}, "feat_extract_activation relu"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "conv_stride"),
    ],
)
def test_other_variants_of_wav2vec2_are_refused(published, change, message):
    folder = published / "chinese-wav2vec2-base"
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_audio_encoder(folder, CPU)


def test_layer_normed_wav2vec2_is_refused_by_its_weights(published):
    path = published / "chinese-wav2vec2-base" / "model.safetensors"
    extra = {f"wav2vec2.feature_extractor.conv_layers.1.layer_norm.{end}": torch.ones(32) for end in ("weight", "bias")}
    save_file(load_file(path) | extra, path)
    with pytest.raises(CheckpointError, match="feat_extract_norm layer"):
        load_audio_encoder(path, CPU)


# --- whole models ---


def test_a_published_folder_opens(published):
    model = open_model(published, CPU, F32)
    assert str(model) == "SoulX-FlashTalk-small"
    assert model.preset.transformer == PRESETS["nano"].transformer
    assert model.preset.audio == PRESETS["nano"].audio
    assert model.preset.image == PRESETS["nano"].image
    assert model.preset.text == PRESETS["nano"].text
    embedded = nano.open_nano(CPU, F32)
    for part in ("transformer", "vae", "audio_encoder"):
        assert same(getattr(model, part), getattr(embedded, part).state_dict())
    reference = torch.rand(1, 3, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(model.encode_image(reference), embedded.encode_image(reference))
    [text] = model.encode_texts("a person talks")
    with torch.inference_mode():
        assert torch.equal(text, embedded.load_text_encoder().encode(torch.tensor([3, 4, 5, 1]), 32))


@pytest.mark.parametrize(
    ("dtype", "vision", "text"),
    [(F32, F32, F32), (torch.bfloat16, torch.float16, torch.bfloat16), (torch.float16, torch.float16, torch.bfloat16)],
)
def test_encoders_are_of_a_dtype_that_keeps_their_numbers(published, dtype, vision, text):
    model = open_model(published, CPU, dtype)
    assert {weight.dtype for weight in model.load_image_encoder().parameters()} == {vision}
    assert {weight.dtype for weight in model.load_text_encoder().parameters()} == {text}
    assert {weight.dtype for weight in model.transformer.parameters()} == {dtype}


@pytest.mark.parametrize(
    "file",
    [
        "diffusion_pytorch_model-00002-of-00003.safetensors", "Wan2.1_VAE.safetensors", "clip_vision_h.safetensors",
        "models_t5_umt5-xxl-enc-bf16.safetensors", "chinese-wav2vec2-base/model.safetensors",
    ],
)  # fmt: skip
def test_other_weights_in_the_same_folder_are_told_apart(published, file):
    before = open_model(published, CPU, F32).fingerprint()
    assert before == open_model(published, CPU, F32).fingerprint()
    tensors = load_file(published / file)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    with safe_open(published / file, "pt") as kept:
        save_file({**tensors, name: tensors[name] + 1}, published / file, kept.metadata())
    assert before != open_model(published, CPU, F32).fingerprint()


def test_audio_encoder_may_lie_beside_the_folder(published):
    shutil.move(published / "chinese-wav2vec2-base", published.parent)
    assert open_model(published, CPU, F32).preset.audio == PRESETS["nano"].audio


def test_the_transformers_file_may_be_named(published):
    merged = convert(published, published / "merged_fp8.safetensors", fp8=True)
    model = open_model(merged, CPU, F32)
    assert model.transformer.blocks[0].self_attn.q.weight.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("models_t5_umt5-xxl-enc-bf16.safetensors", r"no text encoder; looked for models_t5_\*.safetensors, umt5_xxl"),
        ("google", "no tokenizer; looked for google/umt5-xxl"),
        ("clip_vision_h.safetensors", r"no vision encoder; looked for models_clip_\*.safetensors, clip_vision_h"),
        ("Wan2.1_VAE.safetensors", r"no VAE; looked for Wan2.1_VAE\*.safetensors, wan_2.1_vae"),
        ("chinese-wav2vec2-base", "no audio encoder; looked for chinese-wav2vec2-base"),
        ("diffusion_pytorch_model.safetensors.index.json", "3 files of the video transformer but not one"),
        ("diffusion_pytorch_model-00002-of-00003.safetensors", "1 of 3 shards are missing .*00002-of-00003"),
    ],
)
def test_a_missing_part_is_named(published, gone, message):
    path = published / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=message):
        open_model(published, CPU, F32)


def test_an_unconverted_part_says_how_to_convert_it(published):
    text = published / "models_t5_umt5-xxl-enc-bf16.safetensors"
    text.rename(text.with_suffix(".pth"))
    with pytest.raises(CheckpointError) as caught:
        open_model(published, CPU, F32)
    assert f"`{CONVERT} {text.with_suffix('.pth')} {text}`" in str(caught.value)


def test_all_that_is_missing_is_named_at_once_with_commands_that_work(published, tmp_path):
    folder = published.rename(tmp_path / "my model's folder")
    text = (folder / "models_t5_umt5-xxl-enc-bf16.safetensors").rename(folder / "models_t5_umt5-xxl-enc-bf16.pth")
    (folder / "clip_vision_h.safetensors").rename(folder / "models_clip_open-clip.pth")
    (folder / "Wan2.1_VAE.safetensors").rename(folder / "Wan2.1_VAE.pth")
    (folder / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    (folder / "google" / "umt5-xxl" / "tokenizer.json").unlink()
    audio = folder / "chinese-wav2vec2-base"
    (audio / "model.safetensors").rename(audio / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        open_model(folder, CPU, F32)
    first, *lines = str(caught.value).splitlines()
    assert "lacks 6 parts" in first and len(lines) == 6
    commands = [shlex.split(command) for command in re.findall("`(.+?)`", "\n".join(lines))]
    assert [command[:4] for command in commands] == [["python", "-m", "livetalk_core", "convert"]] * 4
    assert [str(text), str(text.with_suffix(".safetensors"))] in [command[4:] for command in commands]
    assert [str(audio / "pytorch_model.bin"), str(audio / "pytorch_model.safetensors")] in [c[4:] for c in commands]


def test_encoders_of_another_model_are_refused(published):
    config = json.dumps({**TRANSFORMER_CONFIG, "audio_blocks": 2, "audio_channels": 128})
    (published / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"audio_blocks 4 \(needs 2\), audio_channels 64 \(needs 128\)"):
        open_model(published, CPU, F32)


def test_a_config_of_another_model_is_refused(published):
    (published / "config.json").write_text(json.dumps({**TRANSFORMER_CONFIG, "dim": 5120}))
    with pytest.raises(CheckpointError, match=r"dim 5120 \(the weights: 192\)"):
        open_model(published, CPU, F32)


def test_a_wrong_file_is_named_for_what_it_is(published):
    with pytest.raises(CheckpointError, match=r"is a Wan 2\.1 VAE .* needed is a LiveTalk video transformer"):
        load_transformer(published / "Wan2.1_VAE.safetensors", CPU, F32)


def test_no_model_of_that_name(tmp_path):
    with pytest.raises(CheckpointError, match="needed is 'nano', or a folder"):
        open_model(tmp_path / "nothing", CPU, F32)


def test_opening_reads_no_weights(published, monkeypatch):
    monkeypatch.setattr(load.Checkpoint, "__getitem__", lambda *_: pytest.fail("a weight was read"))
    open_model(published, CPU, F32)


# --- Wan 2.1 with a patch ---


def wan_and_patch(folder, base_prefix="", audio_proj="audio_proj."):
    """The embedded transformer as a Wan 2.1 model, which has no audio layers, and a patch that has these alone."""
    base, patch = {}, {}
    for name, tensor in weights("transformer").items():
        added = name.startswith("audio_proj.") or ".audio_cross_attn." in name or ".norm_x." in name
        if added:
            patch[name.replace("audio_proj.", audio_proj)] = tensor
        else:
            base[base_prefix + name] = tensor
    paths = folder / "wan.safetensors", folder / "patch.safetensors"
    save_file(base, paths[0], CONFIG)
    save_file(patch, paths[1])
    return paths


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("audio_proj", ["audio_proj.", "multitalk_audio_proj."])
def test_wan_with_a_patch_is_the_joined_model(tmp_path, prefix, audio_proj):
    base, patch = wan_and_patch(tmp_path, prefix, audio_proj)
    assert same(transformer_part(base, patch=patch).load(CPU, F32), weights("transformer"))


def test_the_14b_wan_and_its_patch_have_every_key(manifest, tmp_path):
    shapes = manifest["dit_14b"]
    added = {n: s for n, s in shapes.items() if n.startswith("audio_proj.") or "audio_cross" in n or "norm_x" in n}
    sparse(tmp_path / "wan.safetensors", {name: shapes[name] for name in shapes if name not in added})
    sparse(tmp_path / "patch.safetensors", added)
    part = transformer_part(tmp_path / "wan.safetensors", patch=tmp_path / "patch.safetensors")
    assert part.config == PRESETS["14b"].transformer
    assert len(part.checkpoint) == 1633 and len(added) == 330


def test_a_patch_that_lacks_weights_is_refused_with_their_names(tmp_path):
    base, patch = wan_and_patch(tmp_path)
    kept = load_file(patch)
    del kept["blocks.3.audio_cross_attn.kv_linear.weight"]
    save_file(kept, patch)
    with pytest.raises(CheckpointError) as error:
        transformer_part(base, patch=patch)
    assert f"{base} with the patch {patch}" in str(error.value)
    assert "missing: blocks.3.audio_cross_attn.kv_linear.weight" in str(error.value)


def test_files_in_the_wrong_place_are_named_for_what_they_are(tmp_path):
    base, patch = wan_and_patch(tmp_path)
    whole = tmp_path / "whole.safetensors"
    save_file(weights("transformer"), whole, CONFIG)
    with pytest.raises(CheckpointError, match=r"wan\.safetensors is a Wan video .*InfiniteTalk patch can add them"):
        transformer_part(base)
    with pytest.raises(CheckpointError, match=r"patch\.safetensors is a patch of audio layers alone"):
        transformer_part(patch)
    with pytest.raises(CheckpointError, match=r"whole\.safetensors is a LiveTalk video .*leave the patch out"):
        transformer_part(whole, patch=patch)
    with pytest.raises(CheckpointError, match=r"whole\.safetensors is a LiveTalk video .*choose an InfiniteTalk"):
        transformer_part(base, patch=whole)


def test_a_wan_folder_with_a_patch_is_sampled_as_its_makers_do(published, tmp_path):
    base, patch = wan_and_patch(tmp_path)
    for shard in published.glob("diffusion_pytorch_model*"):
        shard.unlink()
    base.rename(published / "diffusion_pytorch_model.safetensors")
    model = open_model(published, CPU, F32, patch)
    stream = model.preset.stream
    assert same(model.transformer, weights("transformer"))
    assert (stream.frame_num, stream.motion_frames, stream.steps, stream.shift) == (81, 9, 40, 7.0)
    assert (stream.guidance.text, stream.guidance.audio) == (5.0, 4.0)
    with pytest.raises(CheckpointError, match="nano takes no patch"):
        open_model("nano", CPU, F32, patch)
