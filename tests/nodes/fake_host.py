"""The verbs of `nodes/host` without ComfyUI: the core's local engine on the CPU, files in a given folder.

A MODEL is the core's transformer, a VAE the core's VAE, a CLIP_VISION its vision encoder.
"""

import copy
import importlib
import types
from pathlib import Path

import torch
from safetensors.torch import load_file


class Interrupted(BaseException):
    """ComfyUI's InterruptProcessingException."""


class FakeHost(types.ModuleType):
    """Stands in sys.modules for `<pack>.nodes.host`. Tests read what it was told from its lists."""

    def __init__(self, pack: str) -> None:
        super().__init__(f"{pack}.nodes.host")
        self.core = lambda name: importlib.import_module(f"{pack}.livetalk_core.{name}")
        self.reset(Path())

    def reset(self, output: Path) -> None:
        """Forget what happened; files go to `output` from now on."""
        self.output, self.models = output, {}
        self.said, self.shown, self.steps, self.cancel_after = [], [], 0, None
        self.queued, self.cancelled, self.unused, self.left = [], False, [], None
        self.made_way = []

    def HostEngine(self, model=None, vae=None, on_estimate=None, guidance=None, negative=None, bridge=False):
        ways = {"guidance": guidance, "negative": negative, "bridge": bridge}
        return self.core("streaming.engine").LocalEngine(model, vae, **ways)

    def require_livetalk(self, model):
        if not hasattr(model, "config"):
            raise self.core("errors").InputError(f"this MODEL is a {type(model).__name__}; needs a LiveTalk one")
        return model.config

    def shift_of(self, model):
        return model.get_model_object("model_sampling").shift

    def running_prompt(self):
        return {}

    def read_weights(self, files, fp8=False):
        assert not fp8
        return self.core("checkpoints.keys").transformer({k: v for file in files for k, v in load_file(file).items()})

    def build_model(self, name, config, weights, reload, disable_dynamic, shift=5.0):
        model = self.core("models.transformer").Transformer(config)
        model.load_state_dict(weights)
        return as_patcher(model.eval().requires_grad_(False), name, reload, {})

    def stock_vae(self, weights, config):
        build, operations = self.core("models.codec").build_vae, self.core("models.operations")
        vae = build(config, operations, None, torch.float32)
        vae.load_state_dict(weights)
        return vae.eval().requires_grad_(False)

    def vae_config(self, vae):
        return vae.config

    def vae_weights(self, vae):
        return vae.state_dict()

    def check_loras(self, model):
        return any("audio_proj" in name for name in model.patches)

    def wrap_encoder(self, model):
        return model

    def run_on_device(self, patcher, call):
        with torch.inference_mode():
            return call(patcher, torch.device("cpu"))

    def image_tokens(self, clip_vision, reference):
        with torch.inference_mode():
            return clip_vision.embed(clip_vision.preprocess(reference))

    def model_identity(self, model):
        return model.name

    def Lease(self, device, size, running, end):
        return types.SimpleNamespace(device=device, size=size, running=running, end=end)

    def claim(self, leases):
        self.claimed = leases

    def plain_patches(self, model):
        return list(model.patches.values())

    def raw_latent(self, latent, geometry):
        return 2 * latent + 1

    def normalised_latent(self, samples, geometry):
        return (samples - 1) / 2

    def video_metadata(self, prompt, extra):
        return {"prompt": str(prompt), **{key: str(value) for key, value in (extra or {}).items()}}

    def say(self, text, log=True):
        self.said.append(text)

    def make_way(self, output):
        self.made_way.append(output)

    def blocked(self, message=None):
        return Blocked(message)

    def check_cancelled(self):
        if self.cancelled:
            raise Interrupted

    def run_until_cancelled(self, call):
        try:
            call()
        except Interrupted:
            return True
        return False

    def queue_again(self, node_id, inputs):
        self.queued.append((node_id, inputs))
        return f"prompt {len(self.queued)}"

    def Upscaler(self, model, probe):
        return model(probe)

    def model_files(self, folder):
        return sorted(self.models)

    def model_path(self, folder, name):
        return self.models[name]

    def Progress(self, units, avatar, geometry):
        return Progress(self, units)

    def place_examples(self):
        self.placed = True

    def play_once(self, frames):
        assert frames.dtype == torch.uint8 and frames.ndim == 4
        self.shown.append(frames)

    def OutputFile(self, prefix, width, height, prompt, temporary=False, suffix=".mp4"):
        return OutputFile(self.output / "temp" if temporary else self.output, prefix, suffix)

    def temporary_picture(self, pixels):
        return {"filename": "portrait.jpg", "width": str(pixels.shape[1]), "height": str(pixels.shape[0])}

    def unused_changes(self, model):
        return self.unused

    def weights_identity(self, part):
        return str(sorted((key, tuple(w.shape), float(w.float().sum())) for key, w in part.state_dict().items()))


class Blocked:
    """ComfyUI's ExecutionBlocker."""

    def __init__(self, message):
        self.message = message


class Loaded:
    """What the copies of a MODEL share."""


def as_patcher(model, name, reload, attachments):
    """What the nodes ask of a MODEL: its name, origin, attachments, patches, copies, and the shift of its noise."""
    model.name, model.cached_patcher_init, model.patches, model.patches_uuid = name, reload, {}, "as loaded"
    model.model = getattr(model, "model", None) or Loaded()
    model.get_attachment, model.set_attachments = attachments.get, attachments.__setitem__
    model.model_size = lambda: 1000
    model.get_model_object = lambda _: types.SimpleNamespace(shift=5.0)
    model.clone = lambda: as_patcher(copy.copy(model), name, reload, dict(attachments))
    return model


class Progress:
    """Counts; raises `Interrupted` once `host.cancel_after` steps are done."""

    def __init__(self, host, steps):
        self.host, self.total, self.done, self.closed = host, steps, 0, False
        self.on_estimate = None

    def on_step(self, _):
        if self.host.cancel_after is not None and self.host.steps >= self.host.cancel_after:
            raise Interrupted
        self.host.steps += 1

    def skip_to(self, done):
        self.done = done

    def show(self, frames):
        assert frames.dtype == torch.uint8 and frames.ndim == 4
        self.host.shown.append(frames)

    def close(self):
        self.closed = True

    def make_way(self, output):
        assert self.closed and output["images"]

    def leave(self, output):
        self.closed = True
        self.host.left = output["images"]


class OutputFile:
    """Numbers files as ComfyUI does."""

    def __init__(self, output, prefix, suffix):
        self.subfolder, self.name = Path(prefix).parent.as_posix(), Path(prefix).name
        folder = output / self.subfolder
        folder.mkdir(parents=True, exist_ok=True)
        taken = {file.name.split("_")[1] for file in folder.glob(f"{self.name}_*")}
        counter = next(n for n in range(1, 1000) if f"{n:05}" not in taken)
        self.path = folder / f"{self.name}_{counter:05}_{suffix}"

    def unfinished(self):
        endings = {".partial.json": ".mp4", ".partial.mov.json": ".mov"}
        begun = [
            path.with_name(path.name.removesuffix(ending) + suffix)
            for ending, suffix in endings.items()
            for path in self.path.parent.glob(f"{self.name}_*_{ending}")
        ]
        other = copy.copy(self)
        other.path = max(begun, default=None)
        return other if begun else None

    def named(self, name):
        other = copy.copy(self)
        other.path = self.path.with_name(f"{name}{self.path.suffix}")
        return other
