"""Arithmetic of frames, latents, tokens and audio samples, in Python ints."""

from typing import NamedTuple

from .errors import InputError

FRAMES_PER_SECOND = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_SECOND
MOST_SIDE = 8192
"""Pixels of a video's longer side: H.264's levels end there."""


class Geometry(NamedTuple):
    """How a model's video, latents and tokens relate; the model's preset owns it.

    One latent frame holds the first video frame; each further one holds `temporal_stride`. Space shrinks by
    `spatial_stride`, and the transformer sees patches of 1 x `patch` x `patch` latent points, each of `latent_channels`
    values.
    """

    temporal_stride: int
    spatial_stride: int
    patch: int
    latent_channels: int

    @property
    def size_multiple(self) -> int:
        """Pixels to a side of a token: what the sides of a video must be multiples of."""
        return self.spatial_stride * self.patch

    def latent_frames(self, frames: int) -> int:
        """Latent frames of `frames` video frames; these must be a multiple of the temporal stride, and one more."""
        stride = self.temporal_stride
        if frames < 1 or (frames - 1) % stride:
            raise InputError(
                f"{frames} frames; the VAE needs {stride}n+1 (1, {stride + 1}, {2 * stride + 1}, ... 33): "
                "choose the nearest"
            )
        return 1 + (frames - 1) // stride

    def check_size(self, height: int, width: int) -> None:
        """Raise `InputError` unless both sides are positive multiples of `size_multiple` pixels."""
        side = self.size_multiple
        if max(height, width) > MOST_SIDE:
            raise InputError(
                f"size {width}x{height} px; at most {MOST_SIDE} px a side are possible: choose a smaller one"
            )
        if min(height, width) < side or height % side or width % side:
            nearest = tuple(max(side, round(length / side) * side) for length in (height, width))
            raise InputError(
                f"size {width}x{height} px; both sides must be multiples of {side}: "
                f"the nearest is {nearest[1]}x{nearest[0]}"
            )


WAN = Geometry(temporal_stride=4, spatial_stride=8, patch=2, latent_channels=16)
"""Of Wan 2.1's VAE: the 14B model, FlashHead Pro, the embedded model."""
LTX = Geometry(temporal_stride=8, spatial_stride=32, patch=1, latent_channels=128)
"""Of LTX-Video's VAE: FlashHead Lite."""


class LatentShape(NamedTuple):
    """Size of a latent: frames, rows and columns, without its channels."""

    frames: int
    height: int
    width: int

    def grid(self, geometry: Geometry) -> tuple[int, int, int]:
        """Token grid of the transformer: frames, rows, columns."""
        return self.frames, self.height // geometry.patch, self.width // geometry.patch

    def tokens(self, geometry: Geometry) -> int:
        """Tokens of the transformer's sequence."""
        frames, rows, columns = self.grid(geometry)
        return frames * rows * columns

    def video(self, geometry: Geometry) -> "VideoShape":
        """The video that decodes from this latent."""
        frames = 1 + geometry.temporal_stride * (self.frames - 1)
        return VideoShape(frames, self.height * geometry.spatial_stride, self.width * geometry.spatial_stride)


class VideoShape(NamedTuple):
    """Size of a video: frames, and height and width in pixels."""

    frames: int
    height: int
    width: int

    def latent(self, geometry: Geometry) -> LatentShape:
        """The latent that this video encodes to."""
        stride = geometry.spatial_stride
        return LatentShape(geometry.latent_frames(self.frames), self.height // stride, self.width // stride)


def heard_samples(samples: int, sample_rate: int) -> int:
    """Samples at `SAMPLE_RATE` of a sound of so many at another rate, the last one rounded up."""
    return -(-samples * SAMPLE_RATE // sample_rate)


def frames_of_samples(samples: int, sample_rate: int) -> int:
    """Video frames that cover `samples` of sound, the last one rounded up; at least one."""
    return max(1, -(-samples * FRAMES_PER_SECOND // sample_rate))
