"""The one package that touches ComfyUI: memory management, attention, folders, progress, the queue, cancelling.

Node files use these verbs alone, so that tests can put a fake in their place.
"""

from .changes import unused_changes
from .engine import HostEngine
from .examples import place_examples
from .files import OutputFile, model_files, model_path, temporary_picture, video_metadata
from .identity import model_identity, weights_identity
from .lease import Lease, claim
from .models import (
    build_model,
    image_tokens,
    read_weights,
    require_livetalk,
    run_on_device,
    shift_of,
    wrap_encoder,
)
from .patches import check_loras, plain_patches
from .queue import blocked, check_cancelled, queue_again, run_until_cancelled, running_prompt
from .screen import Progress, make_way, play_once, say
from .upscale import Upscaler
from .vae import normalised_latent, raw_latent, stock_vae, vae_config, vae_weights

__all__ = [
    "HostEngine",
    "Lease",
    "OutputFile",
    "Progress",
    "Upscaler",
    "blocked",
    "build_model",
    "check_cancelled",
    "check_loras",
    "claim",
    "image_tokens",
    "make_way",
    "model_files",
    "model_identity",
    "model_path",
    "normalised_latent",
    "place_examples",
    "plain_patches",
    "play_once",
    "queue_again",
    "raw_latent",
    "read_weights",
    "require_livetalk",
    "run_on_device",
    "run_until_cancelled",
    "running_prompt",
    "say",
    "shift_of",
    "stock_vae",
    "temporary_picture",
    "unused_changes",
    "vae_config",
    "vae_weights",
    "video_metadata",
    "weights_identity",
    "wrap_encoder",
]
