"""The VAE, the vision encoder and the upscaler against ComfyUI's and the core's."""

import json
from pathlib import Path

import comfy.clip_vision
import comfy.latent_formats
import torch
from checks.common import F, H, W, close, stock_vae, upscale_model
from livetalk_in_comfyui.livetalk_core.errors import InputError
from livetalk_in_comfyui.nodes import host
from livetalk_in_comfyui.nodes.host.vae import vae_patcher
from safetensors import safe_open

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def check_upscaler_enlarges_each_frame():
    probe = torch.rand(1, 3, 1, 600, 80) * 2 - 1  # higher than one tile
    upscaler = host.Upscaler(upscale_model(2, 2), probe)
    frames = torch.rand(3, 4, 600, 80) * 2 - 1
    assert upscaler.scale == 2
    close(upscaler(frames), frames.repeat_interleave(2, 2).repeat_interleave(2, 3), 1e-5)


def check_upscaler_refuses_another_aspect():
    try:
        host.Upscaler(upscale_model(1, 2), torch.zeros(1, 3, 1, 64, 64))
    except InputError as error:
        assert "1 times as wide and 2 times as high" in str(error)
    else:
        raise AssertionError("accepted")


def check_vae_equals_stock_and_the_core():
    ours, stock = stock_vae()
    engine = host.HostEngine(vae=stock)
    latent = torch.randn(16, F, H, W, generator=torch.Generator().manual_seed(4))
    frames = torch.cat(list(engine.decode(latent)), dim=1)
    close(frames, ours.decode(latent[None])[0], 1e-5)
    theirs = stock.decode(comfy.latent_formats.Wan21().process_out(latent[None]))
    close((frames.permute(1, 2, 3, 0) + 1) / 2, theirs.reshape(-1, *theirs.shape[-3:]), 1e-5)
    close(engine.encode(frames), ours.encode(frames[None])[0], 1e-4)


def check_vae_is_built_once_and_shares_its_weights():
    _, stock = stock_vae()
    first = vae_patcher(stock)
    assert vae_patcher(stock) is first
    key = "decoder.conv1.weight"
    assert first.model.state_dict()[key].data_ptr() == stock.get_sd()[key].data_ptr()


def check_other_vaes_are_refused():
    class Other:
        pass

    _, stock = stock_vae()
    stock.get_sd = lambda: {"encoder.conv_in.weight": torch.zeros(1)}
    try:
        vae_patcher(stock)
    except InputError as error:
        assert "neither Wan 2.1's nor FlashHead Lite's" in str(error)
    else:
        raise AssertionError("accepted")


def check_image_tokens_are_the_references():
    path = GOLDEN / "image.safetensors"
    with safe_open(path, "pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a safetensors handle
    clip = comfy.clip_vision.ClipVisionModel(
        {
            "num_hidden_layers": about["num_layers"], "hidden_size": about["dim"], "hidden_act": "gelu",
            "num_attention_heads": about["num_heads"], "intermediate_size": 4 * about["dim"],
            "image_size": about["image_size"], "patch_size": about["patch_size"], "num_channels": 3,
            "model_type": "clip_vision_model", "projection_dim": 16,
        }
    )  # fmt: skip
    missing, _ = clip.load_sd(transformers_keys(golden, about["num_layers"]))
    assert not missing, missing
    close(host.image_tokens(clip, golden["io.frame"]), golden["io.out"], 1e-4)


def transformers_keys(golden, layers):
    """The vision encoder's weights under the keys of `transformers`, which stock ComfyUI uses."""
    source = {key.removeprefix("weights.visual."): value for key, value in golden.items()}
    model = {
        "embeddings.class_embedding": source["cls_embedding"].flatten(),
        "embeddings.patch_embedding.weight": source["patch_embedding.weight"],
        "embeddings.position_embedding.weight": source["pos_embedding"][0],
    }
    for theirs, ours in (("pre_layrnorm", "pre_norm"), ("post_layernorm", "post_norm")):
        model |= {f"{theirs}.{part}": source[f"{ours}.{part}"] for part in ("weight", "bias")}
    names = {"self_attn.out_proj": "attn.proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
    names |= {"layer_norm1": "norm1", "layer_norm2": "norm2"}
    for layer in range(layers):
        theirs, ours = f"encoder.layers.{layer}", f"transformer.{layer}"
        for part in ("weight", "bias"):
            model |= {f"{theirs}.{a}.{part}": source[f"{ours}.{b}.{part}"] for a, b in names.items()}
            qkv = source[f"{ours}.attn.to_qkv.{part}"].chunk(3)
            model |= {f"{theirs}.self_attn.{n}_proj.{part}": x for n, x in zip("qkv", qkv, strict=True)}
    return {"visual_projection.weight": source["head"].T} | {f"vision_model.{key}": v for key, v in model.items()}
