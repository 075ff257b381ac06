"""The avatar: everything about a portrait and a prompt that stays the same for a whole stream."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import StreamConfig
from ..errors import InputError
from ..sampling.chunk import NoiseSource, seeded_noise
from ..shapes import Geometry, VideoShape
from .finite import check_avatar

Encode = Callable[..., Tensor]
"""A video [3,T,H,W], and noise where its latent is to be drawn -> the latent [C,t,h,w]."""


def posterior_noise(seed: int) -> NoiseSource:
    """What makes the draws of latents, by the index of the chunk that starts from them; not the sampler's noise."""
    return seeded_noise(seed, "posterior of ")


AVATAR_NOISE = posterior_noise(0)
"""An avatar is made before anybody has chosen a seed."""


def encode_for(stream: StreamConfig, encode: Encode, video: Tensor, posterior: NoiseSource, index: int) -> Tensor:
    """The latent of a video [3,T,H,W] as the stream's model knows it: the mean, or a draw for chunk `index`."""
    if not stream.draws_latents:
        return encode(video)
    geometry = stream.geometry
    return encode(video, posterior(index, (geometry.latent_channels, *VideoShape(*video.shape[1:]).latent(geometry))))


class Pictured:
    """Who is shown: `reference` [1,3,1,H,W] in -1..1, and `masks` [3,...] where there are several people."""

    reference: Tensor
    masks: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.reference.shape[-2], self.reference.shape[-1]

    @property
    def speakers(self) -> int:
        """How many voices there are."""
        return 1 if self.masks is None or torch.equal(self.masks[1], self.masks[2]) else 2

    @property
    def fingerprint(self) -> str:
        """Identifies portrait, size and speakers' masks, but not the prompt."""
        digest = hashlib.sha256(str(self.size).encode())
        for tensor in (self.reference, self.masks):
            if tensor is not None:
                digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Avatar(Pictured):
    """Made once, used by every chunk.

    reference [1,3,1,H,W] in -1..1: the portrait, resized and cropped. cond: what stands beside a chunk's latent, either
    [4+C,F,h,w], mask channels (one where the frame is given) and the encoded portrait followed by grey frames, or
    [C,F,h,w], the portrait held still. clip [1,S,clip_dim] and text [L,text_dim]: image and prompt tokens, for models
    that read them. masks [3,h,w] for two speakers: left, right, background; where one speaks among others, the last two
    are the same, all that is not the speaker's. held [C,k,h,w]: the portrait held still for
    the frames that a chunk hands on, which retrospective correction compares with. encoders: tells the weights that
    encoded it from others, where somebody cares.
    """

    reference: Tensor
    cond: Tensor
    clip: Tensor | None = None
    text: Tensor | None = None
    masks: Tensor | None = None
    held: Tensor | None = None
    encoders: str = ""

    def latents(self, geometry: Geometry) -> Tensor:
        """The encoded portrait and what follows it: [C,F,h,w]."""
        return self.cond[-geometry.latent_channels :]

    def first_motion(self, geometry: Geometry) -> Tensor:
        """Clean latent that the first chunk starts from: the encoded portrait, [C,1,h,w]."""
        return self.latents(geometry)[:, :1]

    def with_text(self, text: Tensor) -> "Avatar":
        """The same avatar with another prompt, [L,text_dim]."""
        return replace(self, text=text)

    def for_chunks(self, stream: StreamConfig, encode: Encode) -> "Avatar":
        """The same avatar for the chunks of `stream`, which may be longer or shorter than those it was made for.

        `encode` is as in `prepare_avatar`.
        """
        if self.cond.shape[1] == stream.geometry.latent_frames(stream.frame_num):
            return self
        again = prepare_avatar(self.reference, self.clip, self.text, encode, stream, self.masks)
        return replace(again, encoders=self.encoders)


def prepare_avatar(
    reference: Tensor,
    clip: Tensor | None,
    text: Tensor | None,
    encode: Encode,
    stream: StreamConfig,
    masks: Tensor | None = None,
    posterior: NoiseSource = AVATAR_NOISE,
) -> Avatar:
    """Encode the portrait as the model's condition.

    `reference` [1,3,1,H,W] in -1..1, `clip` [1,S,clip_dim], `text` [L,text_dim]; `masks` [3,H or h,W or w] come with
    two speakers. `posterior` makes draws of latents, where the stream asks for them. Raises `InputError` where anything
    of it is NaN or infinite.
    """
    if masks is not None and masks.shape[0] != 3:
        raise InputError(f"{masks.shape[0]} masks; two speakers need 3: left, right, background")
    parts = {"portrait": reference, "prompt's tokens": text, "portrait's tokens": clip}
    check_avatar(*((name, part) for name, part in parts.items() if part is not None))
    cond, held = (_held if stream.holds_portrait else _masked)(reference, encode, stream, posterior)
    check_avatar(("portrait's latent", cond), ("portrait's latent", held))
    return Avatar(reference, cond, clip, text, masks, held)


def _masked(reference: Tensor, encode: Encode, stream: StreamConfig, posterior: NoiseSource) -> tuple[Tensor, Tensor]:
    """The portrait followed by grey frames, behind a mask that tells them apart; and the portrait held still."""
    video = torch.zeros(3, stream.frame_num, *reference.shape[-2:])
    video[:, :1] = reference[0]
    latent = encode_for(stream, encode, video, posterior, 0)
    mask = torch.zeros_like(latent[:1]).repeat(stream.geometry.temporal_stride, 1, 1, 1)
    mask[:, 0] = 1
    held = encode_for(stream, encode, reference[0].expand(-1, stream.motion_frames, -1, -1), posterior, 0)
    return torch.cat([mask, latent]), held


def _held(reference: Tensor, encode: Encode, stream: StreamConfig, posterior: NoiseSource) -> tuple[Tensor, Tensor]:
    """The portrait held still; and its beginning, which depends on no later frame."""
    latent = encode_for(stream, encode, reference[0].expand(-1, stream.frame_num, -1, -1), posterior, 0)
    return latent, latent[:, : stream.geometry.latent_frames(stream.motion_frames)]
