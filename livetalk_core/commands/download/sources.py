"""What `download` knows, as data: which files of which repositories make each model, and where they are put.

Folders are those of the publishers, so parts that two models share are there once.
"""

from typing import NamedTuple

FLASHTALK = "Soul-AILab/SoulX-FlashTalk-14B"
FLASHHEAD = "Soul-AILab/SoulX-FlashHead-1_3B"
LEAPTALK = "z-rx/leaptalk"
WAN = "Wan-AI/Wan2.1-I2V-14B-480P"
COMFY = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
INFINITETALK = "wan2.1_infiniteTalk_single_fp16.safetensors"
UMT5 = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"


class Source(NamedTuple):
    """Files of one repository.

    `pattern` is a name there, or a pattern of names. They go to `folder`, below the one that the user names, with their
    path in the repository, or without it where `flat`. A pickle is converted to the file `converted` beside it.
    """

    repository: str
    pattern: str
    folder: str
    converted: str = ""
    flat: bool = False


class Bundle(NamedTuple):
    """All that a model needs, and what to do with it: a command's end, or a sentence; `{}` stands for the folder."""

    files: tuple[Source, ...]
    generate: str = ""
    advice: str = ""


def _ready(repository: str, folder: str, *patterns: str) -> tuple[Source, ...]:
    return tuple(Source(repository, pattern, folder) for pattern in patterns)


def _pickles(repository: str, folder: str, *names: str) -> tuple[Source, ...]:
    return tuple(Source(repository, f"{name}.pth", folder, f"{name}.safetensors") for name in names)


WAN_FILES = ("config.json", "diffusion_pytorch_model*.safetensors*", "google/umt5-xxl/*")
WAN_PICKLES = (
    "models_t5_umt5-xxl-enc-bf16",
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14",
    "Wan2.1_VAE",
)
CHINESE_WAV2VEC2 = (
    Source("TencentGameMate/chinese-wav2vec2-base", "config.json", "chinese-wav2vec2-base"),
    Source(
        "TencentGameMate/chinese-wav2vec2-base", "pytorch_model.bin", "chinese-wav2vec2-base", "model.safetensors"
    ),
)  # fmt: skip
ENGLISH_WAV2VEC2 = _ready("facebook/wav2vec2-base-960h", "wav2vec2-base-960h", "config.json", "model.safetensors")
FLASHHEAD_FOLDER = "SoulX-FlashHead-1_3B"
PRO = (
    *_ready(FLASHHEAD, FLASHHEAD_FOLDER, "Model_Pro/config.json", "Model_Pro/diffusion_pytorch_model.safetensors"),
    Source(FLASHHEAD, "VAE_Wan/Wan2.1_VAE.pth", FLASHHEAD_FOLDER, "Wan2.1_VAE.safetensors"),
    *ENGLISH_WAV2VEC2,
)
LITE = (
    *_ready(FLASHHEAD, FLASHHEAD_FOLDER, "Model_Lite/config.json", "Model_Lite/diffusion_pytorch_model.safetensors"),
    *_ready(FLASHHEAD, FLASHHEAD_FOLDER, "VAE_LTX/config.json", "VAE_LTX/diffusion_pytorch_model.safetensors"),
    *ENGLISH_WAV2VEC2,
)

BUNDLES = {
    "14b": Bundle(
        (
            *_ready(FLASHTALK, "SoulX-FlashTalk-14B", *WAN_FILES),
            *_pickles(FLASHTALK, "SoulX-FlashTalk-14B", *WAN_PICKLES),
            *CHINESE_WAV2VEC2,
        ),
        generate="--model {}/SoulX-FlashTalk-14B",
    ),
    "flashhead-pro": Bundle(PRO, generate="--model {}/SoulX-FlashHead-1_3B/Model_Pro"),
    "flashhead-lite": Bundle(LITE, generate="--model {}/SoulX-FlashHead-1_3B/Model_Lite"),
    "leaptalk": Bundle(
        (
            *PRO,
            *_ready(LEAPTALK, "leaptalk", "lora/adapter_config.json", "lora/adapter_model.safetensors"),
            Source(LEAPTALK, "audio_proj_step_10400.pt", "leaptalk", "audio_proj.safetensors"),
        ),
        generate="--model {0}/SoulX-FlashHead-1_3B/Model_Pro --patch {0}/leaptalk",
    ),
    "infinitetalk": Bundle(
        (
            *_ready(WAN, "Wan2.1-I2V-14B-480P", *WAN_FILES),
            *_pickles(WAN, "Wan2.1-I2V-14B-480P", *WAN_PICKLES),
            Source(COMFY, f"split_files/model_patches/{INFINITETALK}", "InfiniteTalk", flat=True),
            *CHINESE_WAV2VEC2,
        ),
        generate=f"--model {{0}}/Wan2.1-I2V-14B-480P --patch {{0}}/InfiniteTalk/{INFINITETALK}",
    ),
    "comfyui-encoders": Bundle(
        (
            Source(COMFY, f"split_files/text_encoders/{UMT5}", "text_encoders", flat=True),
            Source(COMFY, "split_files/clip_vision/clip_vision_h.safetensors", "clip_vision", flat=True),
            Source(COMFY, "split_files/vae/wan_2.1_vae.safetensors", "vae", flat=True),
            Source("Kijai/wav2vec2_safetensors", "wav2vec2-chinese-base_fp32.safetensors", "audio_encoders"),
        ),
        advice="for ComfyUI: with --to ComfyUI/models its loaders list them",
    ),
}  # fmt: skip
"""Each model's name, as a user types it."""
