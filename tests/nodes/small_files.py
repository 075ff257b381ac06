"""Model files of a few hundred kilobytes, under the names that the example workflows ask for.

Run by ComfyUI's interpreter: `small_files.py CHECKOUT MODELS`.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT, MODELS = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
sys.path[:0] = [str(ROOT), str(CHECKOUT), str(ROOT / "tests" / "checkpoints")]
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import flashhead as family  # noqa: E402
import torch  # noqa: E402
from comfy_extras.frame_interpolation_models.ifnet import IFNet  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact  # noqa: E402

from livetalk_core.checkpoints import nano  # noqa: E402
from livetalk_core.checkpoints.convert import convert  # noqa: E402
from livetalk_core.models.ltx_vae import LTXVAE  # noqa: E402


def save(folder, name, weights, metadata=None):
    """Write one file into a model folder; gives its path."""
    path = MODELS / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path, metadata)
    return path


def random_weights(module):
    """Small random values, the same each time."""
    torch.manual_seed(11)
    return {key: torch.randn(tensor.shape) * 0.02 for key, tensor in module.state_dict().items()}


config = {"config": json.dumps(dataclasses.asdict(nano.PRESET.transformer))}
plain = save("diffusion_models", "plain.safetensors", nano.transformer("cpu", torch.float32).state_dict(), config)
fp8 = convert(plain, plain.with_name("livetalk_14b_fp8.safetensors"), fp8=True)
hearing = {key: tensor.half() for key, tensor in load_file(plain).items() if "audio" in key or "norm_x" in key}
save("model_patches", "wan2.1_infiniteTalk_single_fp16.safetensors", hearing)
deaf = {key: tensor for key, tensor in load_file(fp8).items() if "audio" not in key and "norm_x" not in key}
save("diffusion_models", "wan2.1_i2v_480p_14B_fp8_scaled.safetensors", deaf, config)
plain.unlink()
save("vae", "wan_2.1_vae.safetensors", nano.vae("cpu", torch.float32).state_dict())
audio = {"config": json.dumps(dataclasses.asdict(nano.PRESET.audio))}
save("audio_encoders", "wav2vec2-chinese-base_fp32.safetensors", nano.audio_encoder("cpu").state_dict(), audio)
save("audio_encoders", "wav2vec2-base-960h.safetensors", nano.audio_encoder("cpu").state_dict(), audio)
members = {"flashhead_pro": family.PRO, "flashhead_lite": family.LITE}
for name, widths in members.items():
    known = {"config": json.dumps(family.published_config(widths))}
    save("diffusion_models", f"{name}.safetensors", family.transformer_weights(widths), known)
save("vae", "flashhead_ltx_vae.safetensors", nano.first_weights("vae", LTXVAE(family.LTX_WIDTHS)))
with tempfile.TemporaryDirectory() as folder:
    adapter = Path(folder) / "leaptalk"
    family.adapter_folder(adapter, family.PRO)
    convert(adapter / "audio_proj_step_10400.pt", adapter / "audio_proj.safetensors")
    (MODELS / "loras").mkdir(exist_ok=True)
    convert(adapter, MODELS / "loras" / "leaptalk.safetensors")
upscaler = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4)
save("upscale_models", "RealESRGAN_x4plus.safetensors", random_weights(upscaler))
lora = {}
for layer in ("blocks.0.self_attn.q", "blocks.1.ffn.0", "blocks.2.audio_cross_attn.kv_linear"):
    rows, columns = nano.transformer("cpu", torch.float32).get_submodule(layer).weight.shape
    generator = torch.Generator().manual_seed(rows)
    lora[f"diffusion_model.{layer}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.3
    lora[f"diffusion_model.{layer}.lora_down.weight"] = torch.randn(2, columns, generator=generator) * 0.3
    lora[f"diffusion_model.{layer}.alpha"] = torch.tensor(1.0)
save("loras", "talk.safetensors", lora)
save("loras", "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors", lora)
interpolator = IFNet(head_ch=4, channels=[8, 8, 8, 8, 8])
save("frame_interpolation", "film_net_fp16.safetensors", random_weights(interpolator))
for folder, name in (
    ("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"), ("clip_vision", "clip_vision_h.safetensors"),
):  # fmt: skip
    save(folder, name, {"empty": torch.zeros(1)})  # listed, never loaded: stand-ins take these loaders' place
