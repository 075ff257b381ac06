"""Judges whose weights the user brings: SyncNet's pair of networks, and a face embedder, as TorchScript or ONNX.

Nothing of them is shipped or downloaded. Each network takes one batch and gives one: [B,...] -> [B,n].
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ....errors import CheckpointError
from ....files import fault_of
from ....shapes import FRAMES_PER_SECOND
from ...detection import Face
from .mfcc import mfcc
from .sync import MOST_LAG
from .views import cut

Network = Callable[[Tensor], Tensor]

LIPS_SIDE, LIPS_FRAMES = 224, 5
"""SyncNet looks at five frames of a face; 0.2 s of sound belong to them: twenty frames of its features."""
SOUND_FRAMES = 20
FEATURES_A_FRAME = 100 // FRAMES_PER_SECOND
MARGIN = 0.4
"""Of half a face's height, around the face and below it."""
EMBEDDED_SIDE = 112
EYES_AT = ((38.2946, 51.6963), (73.5318, 51.5014))
"""Where ArcFace's authors have the eyes of an aligned face of 112 px."""
EYE_PLACES = ((0.31, 0.40), (0.69, 0.40))
SAMPLES = 32768.0
"""Of 16 bit, to a sound whose standard deviation is a tenth of that."""
LOUDNESS = 0.1


def open_network(path: Path) -> Network:
    """The network in a file: `.onnx` by onnxruntime, anything else as TorchScript."""
    fault = fault_of(path)
    if fault is not None:
        raise CheckpointError(f"no network at {path}, which {fault}; needed is a file of TorchScript or ONNX")
    try:
        return _onnx(path) if path.suffix.lower() == ".onnx" else torch.jit.load(path, map_location="cpu").eval()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # both readers raise whatever their parsers do
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} cannot be read ({reason}); needed is a file of TorchScript or ONNX") from error


def _onnx(path: Path) -> Network:
    session = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


class SyncScores(NamedTuple):
    """confidence: the median over all lags of the mean distance of lips and sound, less the least (Sync-C: more is
    better); distance: the least (Sync-D: less is better); lag: where it is, above 0 where the mouth is late."""

    confidence: float
    distance: float
    lag: int


@dataclass
class SyncJudge:
    """SyncNet (Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016): `lips` takes faces
    [B,3,5,224,224], blue first, 0..255; `sound` takes MFCCs [B,1,13,20]."""

    lips: Network
    sound: Network
    face: Face
    _tail: Tensor | None = None
    _seen: list[Tensor] = field(default_factory=list)

    @torch.inference_mode()
    def add(self, frames: Tensor, offsets: Tensor) -> None:
        """Look at the next frames [3,n,H,W] in -1..1, in which the face is `offsets` [n,2] from its place."""
        half = self.face.height / 2
        x, y = self.face.at(0.5, 0.5)
        side = 2 * half * (1 + MARGIN)
        box = torch.tensor([x - half * (1 + MARGIN), y - half, side, side]).repeat(len(offsets), 1)
        box[:, :2] += offsets
        faces = (cut(frames, box, LIPS_SIDE, LIPS_SIDE).flip(1) + 1) * 127.5
        faces = faces if self._tail is None else torch.cat([self._tail, faces])
        for start in range(len(faces) - LIPS_FRAMES + 1):
            self._seen.append(_row(self.lips(faces[start : start + LIPS_FRAMES].transpose(0, 1)[None].contiguous())))
        self._tail = faces[max(0, len(faces) - LIPS_FRAMES + 1) :]

    @torch.inference_mode()
    def scores(self, sound_S: Tensor) -> SyncScores:
        """Of all frames with their standardised sound."""
        features = torch.from_numpy(mfcc((sound_S * LOUDNESS * SAMPLES).clamp(-SAMPLES, SAMPLES - 1).numpy())).float().T
        seen = torch.cat(self._seen)
        starts = [FEATURES_A_FRAME * frame for frame in range(len(seen))]
        padded = F.pad(features, (0, max(0, starts[-1] + SOUND_FRAMES - features.shape[1])), mode="replicate")
        heard = torch.cat([_row(self.sound(padded[None, None, :, start : start + SOUND_FRAMES])) for start in starts])
        reach = min(MOST_LAG, len(seen) // 4)
        distances = torch.tensor([_distance(seen, heard, lag) for lag in range(-reach, reach + 1)])
        best = int(distances.argmin())
        return SyncScores(float(distances.median() - distances[best]), float(distances[best]), best - reach)


def _distance(seen: Tensor, heard: Tensor, lag: int) -> float:
    """Mean distance of the lips to the sound `lag` frames before."""
    count = len(seen) - abs(lag)
    return float((seen[max(0, lag) :][:count] - heard[max(0, -lag) :][:count]).norm(dim=1).mean())


@dataclass
class Embedder:
    """A face embedder of ArcFace's kind: faces [B,3,112,112], red first, -1..1, aligned by the eyes; what it gives is
    compared by its angle."""

    network: Network
    face: Face
    reference: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, network: Network, face: Face, reference: Tensor) -> "Embedder":
        """With the person of a reference frame [3,1,H,W]."""
        return cls(network, face, F.normalize(_row(network(_aligned(reference, face, torch.zeros(1, 2))))))

    @torch.inference_mode()
    def similarity(self, frames: Tensor, offsets: Tensor) -> Tensor:
        """Cosine to the reference (1: the same) of frames [3,N,H,W]: [N]."""
        faces = _aligned(frames, self.face, offsets)
        embedded = torch.cat([_row(self.network(face)) for face in faces.split(1)])
        return F.normalize(embedded) @ self.reference[0]


def _aligned(frames: Tensor, face: Face, offsets: Tensor) -> Tensor:
    """Faces with their eyes at `EYES_AT`: [N,3,112,112]; upright, as the eyes are placed by the face's box."""
    (left, top), (right, _) = face.at(*EYE_PLACES[0]), face.at(*EYE_PLACES[1])
    scale = (right - left) / (EYES_AT[1][0] - EYES_AT[0][0])
    side = EMBEDDED_SIDE * scale
    box = torch.tensor([left - EYES_AT[0][0] * scale, top - EYES_AT[0][1] * scale, side, side]).repeat(len(offsets), 1)
    box[:, :2] += offsets
    return cut(frames, box, EMBEDDED_SIDE, EMBEDDED_SIDE)


def _row(values: Tensor) -> Tensor:
    """What a network gives, as [B,n]; `CheckpointError` where it gives no numbers of one batch."""
    if not isinstance(values, Tensor) or values.ndim < 2:
        raise CheckpointError(
            f"a network gives {type(values).__name__}; needed is a tensor [batch, numbers]: export that"
        )
    return values.flatten(1).float()
