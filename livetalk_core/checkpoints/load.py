"""Weights into models: a file's header is checked as a whole, then its tensors are mapped and assigned.

`open_model` takes a folder laid out as published (its `.pth` files converted), or the name of the
embedded model; every part's header is checked before any weight is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..config import INFINITETALK
from ..errors import CheckpointError
from ..files import fault_of, shown
from ..models import operations as default_operations
from ..models.audio_encoder import AudioEncoder
from ..models.codec import build_vae
from ..models.image_encoder import ImageEncoder
from ..models.ltx_vae import LTXVAE
from ..models.text_encoder import FileTokenizer, TextEncoder
from ..models.transformer import Transformer
from ..models.vae import VAE
from ..presets import Preset, member_of
from ..shapes import LTX
from . import configs, keys, kinds, nano
from .adapted import adapted, is_adapter
from .filled import warn_of_zeros
from .folder import (
    AUDIO_ENCODER,
    ENGLISH_AUDIO_ENCODER,
    IMAGE_ENCODER,
    LTX_VAE_FILE,
    TEXT_ENCODER,
    TOKENIZER,
    TRANSFORMER,
    VAE_FILE,
    Place,
    files_of,
)
from .header import AGAIN, Checkpoint, check, fingerprint, joined, json_object, open_checkpoint
from .model import Model

M = TypeVar("M", bound=nn.Module)
Device = torch.device | str
Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")
NOTE_BYTES = 4096
"""A note says one layer's format: anything longer is none."""


class Part(Generic[M]):
    """One model's file, checked against the model that its shapes describe; `load` reads the weights."""

    def __init__(
        self,
        path: Path,
        rename: Rename,
        infer: Callable[[Checkpoint, Mapping[str, Tensor]], Any],
        build: Callable[[Any, torch.dtype], M],
        keeps_fp8: bool = False,
        patch: Path | None = None,
    ) -> None:
        self._rename, self._build, self._keeps_fp8 = rename, build, keeps_fp8
        self.patched = patch is not None
        self.checkpoint = open_checkpoint(path) if patch is None else patched(path, patch)
        _check_quantization(self.checkpoint)
        self._header = rename(self.checkpoint.header())
        self.config = infer(self.checkpoint, self._header)
        check(self._empty(torch.float32).state_dict(), self._header, self._name(path, patch))
        warn_of_zeros(self.checkpoint)

    def _name(self, path: Path, patch: Path | None) -> str:
        return f"{path}, {kinds.identify(self.checkpoint)}," if patch is None else f"{path} with the patch {patch}"

    def _empty(self, dtype: torch.dtype) -> M:
        """The model on the meta device, with room for the file's FP8 scales."""
        with torch.device("meta"):
            model = self._build(self.config, dtype)
        layers: dict[str | None, Any] = dict(model.named_modules())
        for name in self._header:
            layer = layers.get(keys.base_of_scale(name))
            if layer is not None and hasattr(layer, "scale_weight"):
                scale = self._header[name]
                layer.scale_weight = (
                    torch.empty_like(scale) if keys.fits_scale(scale, layer.weight) else torch.empty(())
                )
        return model

    def load(self, device: Device, dtype: torch.dtype | None) -> M:
        """The model with its weights, as `dtype` (FP8 weights that the layers multiply out stay FP8), for inference.

        None leaves each weight in the file's own dtype: on the CPU it is then mapped from there, and copied nowhere.
        """
        model = self._empty(dtype or torch.float32)
        weights = self._rename(self.checkpoint)
        model.load_state_dict({n: self._place(n, weights[n], device, dtype) for n in list(weights)}, assign=True)
        assert not any(t.is_meta for t in (*model.parameters(), *model.buffers())), "a weight was not loaded"
        return model.eval().requires_grad_(False)

    def weights(self) -> dict[str, Tensor]:
        """The weights under the model's own names, mapped from the file."""
        renamed = self._rename(self.checkpoint)
        return {name: renamed[name] for name in renamed}

    def _place(self, name: str, tensor: Tensor, device: Device, dtype: torch.dtype | None) -> Tensor:
        kept = self._keeps_fp8 and (tensor.dtype in keys.FP8 or keys.base_of_scale(name) is not None)
        return tensor.to(device) if kept or not tensor.is_floating_point() else tensor.to(device, dtype)


def _check_quantization(checkpoint: Checkpoint) -> None:
    """Raise `CheckpointError` for weights quantised in a way that is not read here."""
    what = f"the quantisation note of {checkpoint.path}"
    layers = json_object(checkpoint.metadata.get("_quantization_metadata", "{}"), what).get("layers", {})
    notes = [_note(checkpoint, name, what) for name in checkpoint if name.endswith(".comfy_quant")]
    marks = [*(layers.values() if isinstance(layers, dict) else [layers]), *notes]
    if not all(isinstance(mark, dict) for mark in marks):
        raise CheckpointError(f"{what} is damaged; needed is a table of `layers`, each with its `format`: {AGAIN}")
    foreign = sorted({str(mark.get("format")) for mark in marks} - set(FP8_FORMATS))
    if foreign:
        raise CheckpointError(
            f"{checkpoint.path} is quantised as {', '.join(foreign)}; readable here are 16 and 32 bit and FP8 "
            f"({', '.join(FP8_FORMATS)}): use such a file, or load this one in ComfyUI"
        )


def _note(checkpoint: Checkpoint, name: str, what: str) -> dict[str, Any]:
    """What a tensor says of how its layer is quantised: bytes of JSON."""
    entry = checkpoint.placeholder(name)
    if entry.dtype != torch.uint8 or entry.ndim != 1 or len(entry) > NOTE_BYTES:
        raise CheckpointError(
            f"{what}, {name}, is {entry.dtype} {list(entry.shape)}; needed are bytes of text: {AGAIN}"
        )
    return json_object(bytes(checkpoint[name].tolist()), what)


def patched(path: Path, patch: Path) -> Checkpoint:
    """A Wan 2.1 model and the audio layers that `patch` adds, or FlashHead Pro and the adapter that changes it.

    A `CheckpointError` where they are anything else.
    """
    if is_adapter(patch):
        return adapted(open_checkpoint(path), patch)
    model, added = open_checkpoint(path), open_checkpoint(patch)
    for checkpoint, needed, remedy in (
        (model, kinds.WAN, "choose a Wan 2.1 image-to-video 14B model, or leave the patch out"),
        (added, kinds.AUDIO_PATCH, "choose an InfiniteTalk or MultiTalk patch"),
    ):
        kind = kinds.identify(keys.transformer(checkpoint.header()))
        if kind != needed:
            raise CheckpointError(f"{checkpoint.path} is {kind}; needed is {needed}: {remedy}")
    return joined(model, added)


def transformer_part(path: Path, operations: Any = default_operations, patch: Path | None = None) -> Part[Transformer]:
    """The video transformer: one file, an index of shards, or a folder; plain, ComfyUI-prefixed or FP8-scaled.

    With `patch`, `path` is a Wan 2.1 image-to-video model and the patch brings its audio layers (InfiniteTalk), or
    `path` is FlashHead Pro and the patch an adapter's file or folder (LeapTalk).
    """
    return Part(
        path,
        keys.transformer,
        configs.transformer_config,
        lambda config, dtype: Transformer(config, operations, dtype=dtype),
        keeps_fp8=True,
        patch=patch,
    )


def vae_part(path: Path, operations: Any = default_operations) -> Part[VAE | LTXVAE]:
    """Wan 2.1's VAE, or LTX's."""
    return Part(path, keys.vae, configs.vae_config, lambda config, dtype: build_vae(config, operations, None, dtype))


def audio_encoder_part(path: Path) -> Part[AudioEncoder]:
    """A Wav2Vec2 file or folder."""
    return Part(path, keys.audio_encoder, configs.audio_encoder_config, lambda config, _: AudioEncoder(config))


def image_encoder_part(path: Path) -> Part[ImageEncoder]:
    """A CLIP vision encoder, published or ComfyUI's."""
    return Part(path, keys.image_encoder, configs.image_encoder_config, lambda config, _: ImageEncoder(config))


def text_encoder_part(path: Path) -> Part[TextEncoder]:
    """A umT5 encoder, published or ComfyUI's."""
    return Part(path, keys.text_encoder, configs.text_encoder_config, lambda config, _: TextEncoder(config))


def load_transformer(
    path: Path, device: Device, dtype: torch.dtype, operations: Any = default_operations
) -> Transformer:
    """See `transformer_part`."""
    return transformer_part(path, operations).load(device, dtype)


def load_vae(path: Path, device: Device, dtype: torch.dtype, operations: Any = default_operations) -> VAE | LTXVAE:
    """See `vae_part`."""
    return vae_part(path, operations).load(device, dtype)


def load_audio_encoder(path: Path, device: Device, dtype: torch.dtype = torch.float32) -> AudioEncoder:
    """See `audio_encoder_part`."""
    return audio_encoder_part(path).load(device, dtype)


def load_image_encoder(path: Path, device: Device, dtype: torch.dtype) -> ImageEncoder:
    """See `image_encoder_part`."""
    return image_encoder_part(path).load(device, dtype)


def load_text_encoder(path: Path, device: Device, dtype: torch.dtype) -> TextEncoder:
    """See `text_encoder_part`."""
    return text_encoder_part(path).load(device, dtype)


def open_model(
    name: str | Path,
    device: Device,
    dtype: torch.dtype | None,
    patch: Path | None = None,
    operations: Any = default_operations,
    home: Device | None = None,
    text_home: Device | None = None,
) -> Model:
    """The embedded model by its name (`nano`), or a folder, or the transformer's file in such a folder.

    Everything is found and checked here; weights are read when a part is first used. The audio encoder is
    float32 whatever `dtype` is; None: see `Part.load`. `patch` is a file of audio layers for a folder of Wan 2.1, which
    has none, or an adapter for FlashHead Pro. The transformer is made of `operations`; it goes to `home` if not to
    `device`, and the text encoder to `text_home`.
    """
    home = device if home is None else home
    if str(name) == nano.NAME:
        if patch is not None:
            raise CheckpointError(
                f"{nano.NAME} takes no patch {shown(Path(patch))}; needed is a folder of Wan 2.1 or FlashHead Pro: "
                "give it"
            )
        embedded = nano.open_nano(device, dtype)
        return replace(embedded, load_transformer=lambda: nano.transformer(home, dtype, operations))
    path = Path(name)
    fault = fault_of(path, folders=True)
    if fault is not None:
        raise CheckpointError(
            f"no model at {shown(path)}, which {fault}; needed is {nano.NAME!r}, or a folder of weights"
        )
    files = files_of(path)
    transformer = transformer_part(files[TRANSFORMER], operations, patch)
    vae = vae_part(files[VAE_FILE] if VAE_FILE in files else files[LTX_VAE_FILE])
    audio = audio_encoder_part(files[AUDIO_ENCODER] if AUDIO_ENCODER in files else files[ENGLISH_AUDIO_ENCODER])
    text, image = _prompt_parts(files) if transformer.config.prompted else (None, None)
    check_vae(transformer, vae)
    preset = _preset(files[TRANSFORMER].resolve().parent.name, transformer, vae, audio, text, image)
    check_widths(preset)
    audio.config = preset.audio  # its loudness is the member's: no file says it
    parts = [part for part in (transformer, vae, text, audio, image) if part is not None]
    return Model(
        name=preset.name,
        preset=preset,
        tokenizer=None if text is None else _tokenizer(files[TOKENIZER], text),
        fingerprint=lambda: fingerprint(file for part in parts for file in part.checkpoint.files),
        load_transformer=lambda: transformer.load(home, dtype),
        load_vae=lambda: vae.load(device, dtype),
        load_audio_encoder=lambda: audio.load(device, torch.float32),
        load_image_encoder=None if image is None else lambda: image.load(device, of_vision(dtype)),
        load_text_encoder=None if text is None else lambda: text.load(text_home or device, of_text(dtype)),
    )


def of_vision(dtype: torch.dtype | None) -> torch.dtype | None:
    """What the vision encoder runs in: float16 for bfloat16, as in the reference (0.1 % from float32, not 1 %).

    None: as the file stores it.
    """
    return torch.float16 if dtype == torch.bfloat16 else dtype


def of_text(dtype: torch.dtype | None) -> torch.dtype | None:
    """What the text encoder runs in: bfloat16 instead of float16, in which umT5 overflows. None: as stored."""
    return torch.bfloat16 if dtype == torch.float16 else dtype


def _prompt_parts(files: Mapping[Place, Path]) -> tuple[Part[TextEncoder], Part[ImageEncoder]]:
    return text_encoder_part(files[TEXT_ENCODER]), image_encoder_part(files[IMAGE_ENCODER])


def _preset(
    name: str,
    transformer: Part[Transformer],
    vae: Part[VAE | LTXVAE],
    audio: Part[AudioEncoder],
    text: Part[TextEncoder] | None,
    image: Part[ImageEncoder] | None,
) -> Preset:
    """The parts' widths, and the rest of the family's member that the transformer is."""
    member = _member(transformer)
    return replace(
        member,
        name=name,
        transformer=transformer.config,
        vae=vae.config,
        audio=replace(audio.config, lufs=member.audio.lufs),
        image=None if image is None else image.config,
        text=None if text is None else text.config,
    )


def _member(transformer: Part[Transformer]) -> Preset:
    """A patch brings its own way of sampling."""
    member = member_of(transformer.config, transformer.patched)
    return replace(member, stream=INFINITETALK) if transformer.config.prompted and transformer.patched else member


def check_vae(transformer: Part[Transformer], vae: Part[VAE | LTXVAE]) -> None:
    """Raise `CheckpointError` where the VAE makes latents that the transformer was not trained on."""
    if vae.config.geometry != transformer.config.geometry:
        needed = kinds.LTX_VAE if transformer.config.geometry == LTX else kinds.WAN_VAE
        raise CheckpointError(
            f"{vae.checkpoint.path} is {kinds.identify(vae.checkpoint)}; {transformer.checkpoint.path}, "
            f"{kinds.identify(transformer.checkpoint)}, needs {needed}: use the one that was published with it"
        )


def check_widths(preset: Preset) -> None:
    """Raise `CheckpointError` unless the encoders give what the transformer takes."""
    config = preset.transformer
    encoders = {"audio_blocks": preset.audio.num_hidden_layers, "audio_channels": preset.audio.hidden_size}
    if preset.text is not None and preset.image is not None:
        encoders = {"text_dim": preset.text.dim, "clip_dim": preset.image.dim, **encoders}
    needed = {name: getattr(config, name) for name in encoders}
    faults = [f"{name} {encoders[name]} (needs {needed[name]})" for name in encoders if encoders[name] != needed[name]]
    if faults:
        raise CheckpointError(
            f"the encoders do not fit the transformer of {preset.name}: {', '.join(faults)}; "
            "use the encoders that were published with it"
        )


def _tokenizer(path: Path, text: Part[TextEncoder]) -> FileTokenizer:
    """The tokenizer; a `CheckpointError` where it gives ids that the text encoder has no row for."""
    tokenizer = FileTokenizer(path)
    if tokenizer.vocabulary > text.config.vocab:
        raise CheckpointError(
            f"{tokenizer.path} has {tokenizer.vocabulary:,} tokens and {text.checkpoint.path} {text.config.vocab:,}; "
            "use the tokenizer that was published with the text encoder"
        )
    return tokenizer
