"""The avatar: everything about a portrait and a prompt that stays the same for a whole stream."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import StreamConfig
from ..errors import InputError
from ..shapes import Geometry, VideoShape
from .finite import check_avatar


@dataclass(frozen=True, eq=False)
class Avatar:
    """Made once, used by every chunk.

    reference [1,3,1,H,W] in -1..1: the portrait, resized and cropped. cond [20,F,h,w]: 4 mask channels (one where
    the frame is given) and the encoded portrait followed by grey frames. clip [1,S,clip_dim]: image tokens.
    text [L,text_dim]: prompt tokens. masks [3,h,w] for two speakers: left, right, background. held [16,k,h,w]: the
    portrait held still for the frames that a chunk hands on, which retrospective correction compares with. encoders:
    tells the weights that encoded it from others, where somebody cares.
    """

    reference: Tensor
    cond: Tensor
    clip: Tensor
    text: Tensor
    masks: Tensor | None = None
    held: Tensor | None = None
    encoders: str = ""

    def first_motion(self, geometry: Geometry) -> Tensor:
        """Clean latent that the first chunk starts from: the encoded portrait, [16,1,h,w]."""
        return self.cond[-geometry.latent_channels :, :1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.reference.shape[-2], self.reference.shape[-1]

    @property
    def fingerprint(self) -> str:
        """Identifies portrait, size and speakers' masks, but not the prompt."""
        digest = hashlib.sha256(str(self.size).encode())
        for tensor in (self.reference, self.masks):
            if tensor is not None:
                digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def with_text(self, text: Tensor) -> "Avatar":
        """The same avatar with another prompt, [L,text_dim]."""
        return replace(self, text=text)

    def for_chunks(self, stream: StreamConfig, encode: Callable[[Tensor], Tensor]) -> "Avatar":
        """The same avatar for the chunks of `stream`, which may be longer or shorter than those it was made for.

        `encode` is as in `prepare_avatar`.
        """
        if self.cond.shape[1] == stream.geometry.latent_frames(stream.frame_num):
            return self
        again = prepare_avatar(self.reference, self.clip, self.text, encode, stream, self.masks)
        return replace(again, encoders=self.encoders)


def prepare_avatar(
    reference: Tensor,
    clip: Tensor,
    text: Tensor,
    encode: Callable[[Tensor], Tensor],
    stream: StreamConfig,
    masks: Tensor | None = None,
) -> Avatar:
    """Encode the portrait as the model's condition.

    `reference` [1,3,1,H,W] in -1..1, `clip` [1,S,clip_dim], `text` [L,text_dim]; `encode` takes a video
    [3,T,H,W] and gives its latent [16,t,h,w]. `masks` [3,H or h,W or w] come with two speakers. Raises
    `InputError` where anything of it is NaN or infinite.
    """
    height, width = reference.shape[-2:]
    if masks is not None and masks.shape[0] != 3:
        raise InputError(f"{masks.shape[0]} masks; two speakers need 3: left, right, background")
    check_avatar(("portrait", reference), ("prompt's tokens", text), ("portrait's tokens", clip))
    shape = VideoShape(stream.frame_num, height, width).latent(stream.geometry)
    video = torch.zeros(3, stream.frame_num, height, width)
    video[:, :1] = reference[0]
    latent = encode(video)
    mask = torch.zeros(stream.geometry.temporal_stride, *shape, device=latent.device, dtype=latent.dtype)
    mask[:, 0] = 1
    held = encode(reference[0].expand(-1, stream.motion_frames, -1, -1))
    check_avatar(("portrait's latent", latent), ("portrait's latent", held))
    return Avatar(reference, torch.cat([mask, latent]), clip, text, masks, held)
