"""Arithmetic of frames, latents, tokens and audio samples, in Python ints.

One latent frame holds the first video frame; each further one holds four. Space shrinks by 8,
and the transformer sees patches of 1x2x2 latent points.
"""

from typing import NamedTuple

from .errors import InputError

FRAMES_PER_SECOND = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_SECOND
TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 8
PATCH = 2
SIZE_MULTIPLE = SPATIAL_STRIDE * PATCH


class LatentShape(NamedTuple):
    """Size of a latent: frames, rows and columns, without its channels."""

    frames: int
    height: int
    width: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Token grid of the transformer: frames, rows, columns."""
        return self.frames, self.height // PATCH, self.width // PATCH

    @property
    def tokens(self) -> int:
        """Tokens of the transformer's sequence."""
        frames, rows, columns = self.grid
        return frames * rows * columns

    @property
    def video(self) -> "VideoShape":
        """The video that decodes from this latent."""
        frames = 1 + TEMPORAL_STRIDE * (self.frames - 1)
        return VideoShape(frames, self.height * SPATIAL_STRIDE, self.width * SPATIAL_STRIDE)


class VideoShape(NamedTuple):
    """Size of a video: frames, and height and width in pixels."""

    frames: int
    height: int
    width: int

    @property
    def latent(self) -> LatentShape:
        """The latent that this video encodes to (frames of 4n+1)."""
        return LatentShape(latent_frames(self.frames), self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE)


def latent_frames(frames: int) -> int:
    """Latent frames of `frames` video frames; `frames` must be 4n+1."""
    if frames < 1 or (frames - 1) % TEMPORAL_STRIDE:
        raise InputError(f"{frames} frames; the VAE needs 4n+1 (1, 5, 9, ... 33): choose the nearest")
    return 1 + (frames - 1) // TEMPORAL_STRIDE


def check_size(height: int, width: int) -> None:
    """Raise `InputError` unless both sides are positive multiples of 16 pixels."""
    if min(height, width) < SIZE_MULTIPLE or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
        nearest = tuple(max(SIZE_MULTIPLE, round(side / SIZE_MULTIPLE) * SIZE_MULTIPLE) for side in (height, width))
        raise InputError(
            f"size {width}x{height} px; both sides must be multiples of {SIZE_MULTIPLE}: "
            f"the nearest is {nearest[1]}x{nearest[0]}"
        )


def frames_of_samples(samples: int, sample_rate: int) -> int:
    """Video frames that cover `samples` of sound, the last one rounded up; at least one."""
    return max(1, -(-samples * FRAMES_PER_SECOND // sample_rate))
