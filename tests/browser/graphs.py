"""The example workflows as lists of nodes, from which the frontend makes the saved files (`save_workflows.py`)."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

OURS = {"cnr_id": "livetalk"}
CORE = {"cnr_id": "comfy-core", "ver": "0.33.0"}
WAN = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
REPACKAGED = "https://huggingface.co/Comfy-Org"
TEXT_ENCODER, VISION_ENCODER = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "clip_vision_h.safetensors"
VAE, UPSCALER, INTERPOLATOR = "wan_2.1_vae.safetensors", "RealESRGAN_x4plus.safetensors", "film_net_fp16.safetensors"
TRANSFORMER, AUDIO_ENCODER = "livetalk_14b_fp8.safetensors", "wav2vec2-chinese-base_fp32.safetensors"
WAN_TRANSFORMER, PATCH = "wan2.1_i2v_480p_14B_fp8_scaled.safetensors", "wan2.1_infiniteTalk_single_fp16.safetensors"
SPEED_LORA = "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"
PRO, LITE, LTX_VAE = "flashhead_pro.safetensors", "flashhead_lite.safetensors", "flashhead_ltx_vae.safetensors"
ENGLISH_ENCODER, LEAPTALK = "wav2vec2-base-960h.safetensors", "leaptalk.safetensors"
FLASHHEAD = "https://huggingface.co/Soul-AILab/SoulX-FlashHead-1_3B/resolve/main"
PUBLISHED = "diffusion_pytorch_model.safetensors"
FILES = {
    PRO: (f"{FLASHHEAD}/Model_Pro/{PUBLISHED}", "diffusion_models"),
    LITE: (f"{FLASHHEAD}/Model_Lite/{PUBLISHED}", "diffusion_models"),
    LTX_VAE: (f"{FLASHHEAD}/VAE_LTX/{PUBLISHED}", "vae"),
    ENGLISH_ENCODER: (
        "https://huggingface.co/facebook/wav2vec2-base-960h/resolve/main/model.safetensors",
        "audio_encoders",
    ),
    TEXT_ENCODER: (f"{WAN}/text_encoders/{TEXT_ENCODER}", "text_encoders"),
    VISION_ENCODER: (f"{WAN}/clip_vision/{VISION_ENCODER}", "clip_vision"),
    VAE: (f"{WAN}/vae/{VAE}", "vae"),
    AUDIO_ENCODER: (
        f"https://huggingface.co/Kijai/wav2vec2_safetensors/resolve/main/{AUDIO_ENCODER}",
        "audio_encoders",
    ),
    WAN_TRANSFORMER: (f"{WAN}/diffusion_models/{WAN_TRANSFORMER}", "diffusion_models"),
    PATCH: (f"{WAN}/model_patches/{PATCH}", "model_patches"),
    SPEED_LORA: (f"https://huggingface.co/Kijai/WanVideo_comfy/resolve/main/Lightx2v/{SPEED_LORA}", "loras"),
    UPSCALER: (f"{REPACKAGED}/Real-ESRGAN_repackaged/resolve/main/{UPSCALER}", "upscale_models"),
    INTERPOLATOR: (
        f"{REPACKAGED}/frame_interpolation/resolve/main/frame_interpolation/{INTERPOLATOR}",
        "frame_interpolation",
    ),
}
"""File -> where it can be downloaded from, and ComfyUI's folder for it."""

BELOW_AVATAR, BELOW_SPEECH = 740, 950
"""How far down it goes on below these nodes, which grow once they have run and say something."""

Link = tuple[str, int]
"""Name of a node, number of its output."""


@dataclass
class Node:
    """One node: widgets by name, and which outputs its inputs are linked to."""

    name: str
    type: str
    pos: tuple[int, int]
    widgets: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    title: str | None = None

    @property
    def properties(self) -> dict[str, Any]:
        """Where the node comes from, and the files that it needs."""
        if self.type == "MarkdownNote":
            return {}
        needed = [file for file in self.widgets.values() if file in FILES]
        models = [{"name": file, "url": FILES[file][0], "directory": FILES[file][1]} for file in needed]
        return (OURS if self.type.startswith("LiveTalk") else CORE) | ({"models": models} if models else {})

    def as_dict(self) -> dict[str, Any]:
        """For the page that builds the graph."""
        return asdict(self) | {"properties": self.properties}


def note(text: str, pos: tuple[int, int], size: tuple[int, int]) -> Node:
    """A note in Markdown, with links to the files that the graph needs."""
    return Node("note", "MarkdownNote", pos, {"": text}, size=size)


def files(*names: str) -> str:
    """A list of files to download, and where they go."""
    rows = [f"- [{name}]({FILES[name][0]}) in **models/{FILES[name][1]}**" for name in names]
    return "\n".join(rows)


def embedded(x: int = 40, y: int = 60) -> list[Node]:
    """The embedded model: no download."""
    return [Node("model", "LiveTalkEmbeddedModel", (x, y), size=(300, 80))]


def portrait_and_speech(x: int = 40) -> list[Node]:
    """What the user brings."""
    return [
        Node("image", "LoadImage", (x, 200), {"image": "livetalk_portrait.png"}, size=(300, 340)),
        Node("audio", "LoadAudio", (x, 600), {"audio": "livetalk_speech.wav"}, size=(300, 140)),
    ]


def small_avatar(**links: Link) -> Node:
    """The portrait for the embedded model."""
    widgets = {"width": 0, "height": 0, "prompt": "A person is talking to the camera."}
    given = {"image": ("image", 0), "vae": ("model", 1)} | links
    return Node("avatar", "LiveTalkAvatar", (400, 60), widgets, given, size=(340, 500))


def encode(audio_encoder: Link = ("model", 2), **links: Link) -> Node:
    """The speech."""
    given = {"audio_encoder": audio_encoder, "audio": ("audio", 0)} | links
    return Node("speech", "LiveTalkEncodeSpeech", (400, BELOW_AVATAR), {"mode": "window"}, given, size=(340, 140))


def render(x: int = 800, vae: Link = ("model", 1), prefix: str = "video/LiveTalk", **links: Link) -> Node:
    """The render node."""
    widgets = {"seed": 1, "control_after_generate": "fixed", "filename_prefix": prefix, "resume": False, "steps": 0}
    given = {"model": ("model", 0), "vae": vae, "avatar": ("avatar", 0), "speech": ("speech", 0)} | links
    return Node("render", "LiveTalkRender", (x, 200), widgets, given, size=(400, 640))


QUICK_START = """## Quick start

1. Run: a portrait and a speech to begin with are there. Then choose your own.
2. The video is as long as the speech and lands in **output/video**.

This is the small embedded model: nothing to download, and it runs on a CPU. The workflow *livetalk_14b_24gb* has the \
large one. Drag the finished video into ComfyUI to get this graph back.
"""


def quick_start() -> list[Node]:
    """The embedded model on the demo's files."""
    text = note(QUICK_START, (40, BELOW_SPEECH), (700, 210))
    return [*embedded(), *portrait_and_speech(), small_avatar(), encode(), render(), text]


LIVE = """## A face that answers while you speak

Queue this, then open the page whose address the live node shows: **http://127.0.0.1:8190/**

Type a sentence, press the microphone and talk, or drop a sound file on the face. *Interrupt* stops it at once. *End* \
on the page, closing it, or Cancel here ends the conversation; the recording is in the output folder.

Typing needs **espeak-ng** (a package of every Linux). A model that is too slow for real time stops and goes on.
"""


def live() -> list[Node]:
    """The embedded model, live."""
    portrait = portrait_and_speech()[:1]
    links = {"model": ("model", 0), "vae": ("model", 1), "avatar": ("avatar", 0), "audio_encoder": ("model", 2)}
    widgets = {
        "seed": 1,
        "control_after_generate": "fixed",
        "port": 8190,
        "filename_prefix": "video/LiveTalk_live",
        "steps": 0,
    }
    node = Node("live", "LiveTalkLive", (800, 200), widgets, links, size=(400, 480))
    return [*embedded(), *portrait, small_avatar(), node, note(LIVE, (40, BELOW_AVATAR), (700, 250))]


LARGE = f"""## The 14B model on one card of 24 GB

{files(TEXT_ENCODER, VISION_ENCODER, VAE, AUDIO_ENCODER)}
- **{TRANSFORMER}** in **models/diffusion_models**: made from the published weights of \
[SoulX-FlashTalk-14B](https://huggingface.co/Soul-AILab/SoulX-FlashTalk-14B) with \
**python -m livetalk_core convert --fp8**; or put the published files there, choose any of them, and set \
**weight_dtype** to fp8_e4m3fn

FP8 halves the transformer's memory; ComfyUI moves the other models out of the way by itself.
"""


def large_loaders(transformer: str = TRANSFORMER, patch: str = "none") -> list[Node]:
    """The 14B model's parts."""
    chosen = {"model_name": transformer, "model_patch": patch}
    return [
        Node("model", "LiveTalkLoadModel", (40, 60), chosen, size=(380, 80)),
        Node("hearing", "LiveTalkLoadAudioEncoder", (40, 280), {"encoder_name": AUDIO_ENCODER}, size=(380, 80)),
        Node("vae", "VAELoader", (40, 430), {"vae_name": VAE}, size=(380, 80)),
        Node("vision", "CLIPVisionLoader", (40, 560), {"clip_name": VISION_ENCODER}, size=(380, 80)),
        Node("clip", "CLIPLoader", (40, 690), {"clip_name": TEXT_ENCODER, "type": "wan"}, size=(380, 110)),
    ]


def large_avatar(x: int = 440) -> list[Node]:
    """The portrait for the 14B model."""
    text = {"text": "A person is talking to the camera."}
    links = {"image": ("image", 0), "vae": ("vae", 0), "clip_vision": ("vision", 0), "conditioning": ("text", 0)}
    return [
        Node("image", "LoadImage", (x, 60), {"image": "livetalk_portrait.png"}, size=(320, 340)),
        Node("text", "CLIPTextEncode", (x, 450), text, {"clip": ("clip", 0)}, size=(320, 120)),
        Node("audio", "LoadAudio", (x, 630), {"audio": "livetalk_speech.wav"}, size=(320, 140)),
        Node("avatar", "LiveTalkAvatar", (820, 60), {"width": 0, "height": 0, "prompt": ""}, links, size=(340, 530)),
    ]


def large_speech() -> Node:
    """The speech for the 14B model."""
    node = encode(("hearing", 0))
    node.pos = (820, BELOW_AVATAR)
    return node


def large() -> list[Node]:
    """The 14B model on one card."""
    made = render(1220, ("vae", 0))
    made.pos = (1220, 60)
    text = note(LARGE, (40, BELOW_SPEECH), (1120, 230))
    return [*large_loaders(), *large_avatar(), large_speech(), made, text]


SEVERAL_GPUS = f"""## The 14B model on several GPUs (Linux, WSL)

{files(TEXT_ENCODER, VISION_ENCODER, VAE, AUDIO_ENCODER)}
- **{TRANSFORMER}** in **models/diffusion_models**, of \
[SoulX-FlashTalk-14B](https://huggingface.co/Soul-AILab/SoulX-FlashTalk-14B): see *livetalk_14b_24gb*

*LiveTalk Devices* runs the model on all GPUs of this machine (**auto**), or on those you name (**cuda:0,cuda:1**): \
the same video, sooner. Turn on **shard_weights** where the weights do not fit into one card. Its help page says more.
"""


def several_gpus() -> list[Node]:
    """The 14B model on all GPUs of a machine."""
    spread = {"devices": "auto", "shard_weights": False}
    made = render(1220, ("vae", 0), "video/LiveTalk_several_gpus", model=("devices", 0))
    made.pos = (1220, 290)
    return [
        *large_loaders(), *large_avatar(), large_speech(),
        Node("devices", "LiveTalkDevices", (1220, 60), spread, {"model": ("model", 0)}, (400, 110)),
        made,
        note(SEVERAL_GPUS, (40, BELOW_SPEECH), (1120, 230)),
    ]  # fmt: skip


ANY_LENGTH = f"""## A talk of any length, each chunk upscaled

{files(UPSCALER)}

The upscaler works inside the render node, chunk by chunk, on the way to the file: an hour needs no more memory than a \
minute. Cancel keeps a video that plays; turn on **resume** and run again to go on.

*LiveTalk Prompt* changes the prompt at 3 s, *LiveTalk Correction* holds the colours of the portrait. Both are optional.
"""


def any_length() -> list[Node]:
    """Upscaling, prompts and correction in the render node."""
    made = render(
        prefix="video/LiveTalk_upscaled",
        upscale_model=("upscaler", 0), prompts=("later", 0), correction=("correction", 0),
    )  # fmt: skip
    later = {"prompt": "A person is talking and smiling.", "from_second": 3.0}
    return [
        *embedded(), *portrait_and_speech(), small_avatar(), encode(),
        Node("upscaler", "UpscaleModelLoader", (800, 60), {"model_name": UPSCALER}, size=(400, 80)),
        Node("later", "LiveTalkPrompt", (400, BELOW_SPEECH), later, size=(340, 180)),
        Node("correction", "LiveTalkCorrection", (400, BELOW_SPEECH + 270), {"color_correction": 1.0}, size=(340, 80)),
        made,
        note(ANY_LENGTH, (1260, 200), (400, 330)),
    ]  # fmt: skip


LOOP = f"""## Loop with frame interpolation

{files(INTERPOLATOR)}

Needs ComfyUI 0.36 or newer (Start Loop, End Loop). Each pass makes one chunk, doubles its frames, and hands its state \
to the next. With **overlap** on, a chunk brings the frame before it, so that interpolation also fills the seam; \
*ImageFromBatch* drops that frame again.

Loops keep all frames in memory: for minutes, not hours. *livetalk_job* has no such limit.
"""


def loop() -> list[Node]:
    """Core's loop around a chunk, doubled to 50 frames per second."""
    chunk = {"seed": 1, "control_after_generate": "fixed", "steps": 0}
    return [
        *embedded(), *portrait_and_speech(), small_avatar(), encode(),
        Node("start", "StartLoop", (800, 60), {"mode": "simple"}, {"mode.num_iterations": ("speech", 1)}, (300, 200)),
        Node("sample", "LiveTalkSampleChunk", (800, 320), chunk, {
            "model": ("model", 0), "avatar": ("avatar", 0), "speech": ("speech", 0), "state": ("start", 4),
        }, (300, 200)),
        Node("decode", "LiveTalkDecodeChunk", (800, 580), {"overlap": True}, {
            "latent": ("sample", 0), "vae": ("model", 1), "state": ("sample", 1),
        }, (300, 150)),
        Node("interpolator", "FrameInterpolationModelLoader", (1160, 60), {"model_name": INTERPOLATOR}, size=(320, 80)),
        Node("double", "FrameInterpolate", (1160, 200), {"multiplier": 2}, {
            "interp_model": ("interpolator", 0), "images": ("decode", 0),
        }, (320, 100)),
        Node("drop", "ImageFromBatch", (1160, 360), {"batch_index": 1, "length": 4096}, {"image": ("double", 0)},
             (320, 110)),
        Node("end", "EndLoop", (1160, 530), {"accumulate": True}, {
            "output_value": ("drop", 0), "next_iteration_value": ("decode", 1),
        }, (320, 130)),
        Node("join", "RebatchImages", (1160, 720), {"batch_size": 4096}, {"images": ("end", 0)}, (320, 80)),
        Node("video", "CreateVideo", (1540, 360), {"fps": 50.0}, {"images": ("join", 0), "audio": ("audio", 0)},
             (300, 110)),
        Node("save", "SaveVideo", (1540, 530), {"filename_prefix": "video/LiveTalk_loop"}, {"video": ("video", 0)},
             (300, 320)),
        note(LOOP, (40, BELOW_SPEECH), (700, 280)),
    ]  # fmt: skip


JOB = f"""## A job: any length through any nodes

{files(UPSCALER)}

Every chunk is a run of its own. *Job End* adds it to the video on disk and queues the next one, so memory never \
grows, whatever stands between. To stop, cancel. To go on, also after a restart, turn on **resume** in *Job Start* and \
run.

The upscaler here is only an example: put face restoration, interpolation or grading in its place.
"""


def job() -> list[Node]:
    """The re-queue pair around a chunk, with an upscaler between."""
    chunk = {"seed": 1, "control_after_generate": "fixed", "steps": 0}
    prefix = {"filename_prefix": "video/LiveTalk_job", "resume": False, "job": ""}
    return [
        *embedded(), *portrait_and_speech(), small_avatar(), encode(),
        Node("start", "LiveTalkJobStart", (800, 60), prefix, {"avatar": ("avatar", 0), "speech": ("speech", 0)},
             (320, 180)),
        Node("sample", "LiveTalkSampleChunk", (800, 300), chunk, {
            "model": ("model", 0), "avatar": ("avatar", 0), "speech": ("speech", 0), "state": ("start", 0),
        }, (320, 200)),
        Node("decode", "LiveTalkDecodeChunk", (800, 560), {"overlap": False}, {
            "latent": ("sample", 0), "vae": ("model", 1), "state": ("sample", 1),
        }, (320, 150)),
        Node("upscaler", "UpscaleModelLoader", (1180, 60), {"model_name": UPSCALER}, size=(320, 80)),
        Node("upscale", "ImageUpscaleWithModel", (1180, 200), {}, {
            "upscale_model": ("upscaler", 0), "image": ("decode", 0),
        }, (320, 80)),
        Node("end", "LiveTalkJobEnd", (1180, 340), {}, {
            "job": ("start", 1), "state": ("decode", 1), "images": ("upscale", 0),
        }, (320, 400)),
        note(JOB, (40, BELOW_SPEECH), (700, 260)),
    ]  # fmt: skip


SPEAKERS = """## Two speakers

Two voices begin together; put silence where one listens. Each mask says where its speaker is: right-click the image \
and open the mask editor, or use any node that makes a MASK of the image's size. Here the left and the right half \
stand for the two. What neither mask covers is background.
"""


def speakers() -> list[Node]:
    """Two voices, two masks."""
    half = {"left": 0, "right": 320}
    masks = [
        Node("nobody", "SolidMask", (40, 1000), {"value": 0.0, "width": 512, "height": 512}, size=(300, 130)),
        Node("person", "SolidMask", (40, 1180), {"value": 1.0, "width": 192, "height": 512}, size=(300, 130)),
        *(
            Node(name, "MaskComposite", (400, 1000 + 190 * row), {"x": x, "y": 0, "operation": "add"}, {
                "destination": ("nobody", 0), "source": ("person", 0),
            }, (340, 150))
            for row, (name, x) in enumerate(half.items())
        ),
    ]  # fmt: skip
    second = Node("audio_2", "LoadAudio", (40, 800), {"audio": "livetalk_speech.wav"}, size=(300, 140))
    avatar = small_avatar(mask_1=("left", 0), mask_2=("right", 0))
    made = render(prefix="video/LiveTalk_two_speakers")
    return [
        *embedded(), *portrait_and_speech(), second, *masks, avatar, encode(audio_2=("audio_2", 0)), made,
        note(SPEAKERS, (1260, 200), (400, 260)),
    ]  # fmt: skip


INFINITETALK = f"""## Wan 2.1 I2V 14B with an InfiniteTalk patch

{files(WAN_TRANSFORMER, PATCH, SPEED_LORA, TEXT_ENCODER, VISION_ENCODER, VAE, AUDIO_ENCODER)}

With the speed LoRA: 6 steps, one evaluation each, no guidance, as in ComfyUI's own template. Without it these weights \
are not distilled: take the LoRA out, set *LiveTalk Guidance* to 5 and 4 with a negative prompt, **steps** of \
*LiveTalk Render* to 0, which stands for 40: twenty times the work. The help of *LiveTalk Guidance* has more settings.
"""


def infinitetalk() -> list[Node]:
    """Other weights of the same architecture, with a speed LoRA."""
    strengths = {"text_guidance": 1.0, "audio_guidance": 1.0}
    lora = {"lora_name": SPEED_LORA, "strength_model": 1.0}
    made = render(1220, ("vae", 0), "video/LiveTalk_infinitetalk", model=("guidance", 0))
    made = replace(made, pos=(1220, 430), widgets=made.widgets | {"steps": 6})
    avatar = [replaced(node, {"width": 480, "height": 832}) for node in large_avatar()]
    return [
        *large_loaders(WAN_TRANSFORMER, PATCH), *avatar, large_speech(),
        Node("lora", "LoraLoaderModelOnly", (1220, 60), lora, {"model": ("model", 0)}, (400, 110)),
        Node("guidance", "LiveTalkGuidance", (1220, 230), strengths, {"model": ("lora", 0)}, (400, 130)),
        made,
        note(INFINITETALK, (40, BELOW_SPEECH), (1120, 280)),
    ]  # fmt: skip


RENAME = "Each under the name that is given here: the publishers call several files alike."
FLASHHEAD_PRO = f"""## FlashHead Pro: three files, 512x512

{files(PRO, VAE, ENGLISH_ENCODER)}

{RENAME} No text encoder and no vision encoder: this model reads no prompt.

**LeapTalk** makes a chunk in one step instead of four: the workflow *livetalk_leaptalk*.
"""
LEAPTALK_ON_PRO = f"""## LeapTalk: a LoRA on FlashHead Pro, one step a chunk

{files(PRO, VAE, ENGLISH_ENCODER)}
- **{LEAPTALK}** in **models/loras**: made from the published files of [LeapTalk](https://huggingface.co/z-rx/leaptalk)

{RENAME} To make the LoRA, in a terminal, in the folder of these nodes:

*python -m livetalk_core download leaptalk --to published* gets its files, and Pro's with them,

*python -m livetalk_core convert published/leaptalk {LEAPTALK}* makes them one file.

Without the LoRA this is FlashHead Pro, which takes four steps a chunk: with **steps** of *LiveTalk Render* at 0 each \
takes its own.
"""
FLASHHEAD_LITE = f"""## FlashHead Lite: three files, 512x512, for gaming cards

{files(LITE, LTX_VAE, ENGLISH_ENCODER)}

{RENAME} No text encoder and no vision encoder: this model reads no prompt. Its VAE comes from *LiveTalk Load VAE*, \
which knows the published file. Width and height are multiples of 32.
"""


def wan_vae() -> Node:
    """The VAE that FlashHead Pro shares with the 14B model."""
    return Node("vae", "VAELoader", (40, 430), {"vae_name": VAE}, size=(380, 80))


def flashhead(transformer: str, vae: Node, text: str, prefix: str) -> list[Node]:
    """A member of the family that reads no prompt."""
    chosen = {"model_name": transformer, "model_patch": "none"}
    avatar = replace(small_avatar(vae=("vae", 0)), widgets={"width": 512, "height": 512, "prompt": ""}, pos=(820, 60))
    speech = replace(encode(("hearing", 0)), pos=(820, BELOW_AVATAR))
    made = replace(render(1220, ("vae", 0), prefix), pos=(1220, 60))
    image, audio = (replace(node, pos=(440, 60 + 570 * row)) for row, node in enumerate(portrait_and_speech()))
    return [
        Node("model", "LiveTalkLoadModel", (40, 60), chosen, size=(380, 80)),
        Node("hearing", "LiveTalkLoadAudioEncoder", (40, 280), {"encoder_name": ENGLISH_ENCODER}, size=(380, 80)),
        vae, image, audio, avatar, speech, made, note(text, (40, BELOW_SPEECH), (1120, 300)),
    ]  # fmt: skip


def flashhead_pro() -> list[Node]:
    """FlashHead Pro, with Wan's VAE."""
    return flashhead(PRO, wan_vae(), FLASHHEAD_PRO, "video/LiveTalk_flashhead_pro")


def leaptalk() -> list[Node]:
    """FlashHead Pro with LeapTalk's LoRA."""
    chosen = {"lora_name": LEAPTALK, "strength_model": 1.0}
    lora = Node("lora", "LoraLoaderModelOnly", (1220, 60), chosen, {"model": ("model", 0)}, (400, 110))
    nodes = flashhead(PRO, wan_vae(), LEAPTALK_ON_PRO, "video/LiveTalk_leaptalk")
    return [lora, *(behind(lora, node) if node.name == "render" else node for node in nodes)]


def flashhead_lite() -> list[Node]:
    """FlashHead Lite, with its own VAE."""
    vae = Node("vae", "LiveTalkLoadVAE", (40, 430), {"vae_name": LTX_VAE}, size=(380, 80))
    return flashhead(LITE, vae, FLASHHEAD_LITE, "video/LiveTalk_flashhead_lite")


def behind(patch: Node, made: Node) -> Node:
    """The node that makes the video, below a node that patches its model."""
    return replace(made, pos=(patch.pos[0], patch.pos[1] + 170), links=made.links | {"model": (patch.name, 0)})


def replaced(node: Node, widgets: dict[str, Any]) -> Node:
    """The node with those of `widgets` that it has set to other values."""
    return replace(node, widgets=node.widgets | {name: widgets[name] for name in widgets if name in node.widgets})


WORKFLOWS = {
    "livetalk_quick_start": quick_start,
    "livetalk_live": live,
    "livetalk_flashhead_pro": flashhead_pro,
    "livetalk_flashhead_lite": flashhead_lite,
    "livetalk_leaptalk": leaptalk,
    "livetalk_14b_24gb": large,
    "livetalk_14b_several_gpus": several_gpus,
    "livetalk_any_length_upscaled": any_length,
    "livetalk_loop_interpolation": loop,
    "livetalk_job": job,
    "livetalk_two_speakers": speakers,
    "livetalk_infinitetalk": infinitetalk,
}
