"""Which clips of real people are fit to train on, each filter with a reason; and how a face is framed.

The beginning of a clip is judged as any finished video is (`evaluation.renders`).
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..media.crop import Box
from ..shapes import FRAMES_PER_SECOND, SAMPLES_PER_FRAME
from .data import FEATURE_WEIGHT, Size
from .detection import Face, find_faces
from .evaluation.renders.measure import Meter, Scores
from .evaluation.renders.render import Render, as_frames

FILTERS = ("face", "cuts", "background", "sync")
"""face: one face, and one alone, is seen from the front; cuts: it is one shot; background: it stands still; sync: lips
and sound belong together, and in step."""
JUDGED_SECONDS = 20
LOOKED_AT = 16
"""Pictures in which faces are sought."""
MOST_JUMPS = 0.0
MOST_GROUND_FLICKER = 0.8
"""Percent of black to white: a camera on a tripod has a tenth, one in a hand more than one."""
LEAST_SYNC, MOST_LAG = 0.3, 3
"""Of `lip_sync`, and frames that lips and sound may be apart."""
FACE_WIDTH, FACE_HEIGHT, FACE_MIDDLE = 0.5, 0.45, 0.45
"""Most of a frame that a face takes, and where its middle is from the top: shares of the frame."""
SPOTS = ((0.31, 0.40), (0.69, 0.40), (0.5, 0.79))
"""Eyes and mouth in a face's box."""
SPOT = 0.18
"""Radius of the weight around them, in faces."""


class LeftOut(NamedTuple):
    """Why a clip is not used: the filter's name, and a reason."""

    name: str
    reason: str


def judged(path: Path, filters: Collection[str]) -> Face | LeftOut:
    """The face that a clip shows, or which of `filters` leaves it out."""
    render = Render.open(path)
    frames = min(render.frames, JUDGED_SECONDS * FRAMES_PER_SECOND)
    render = replace(render, frames=frames, sound=render.sound[: frames * SAMPLES_PER_FRAME])
    pictures = render.samples(LOOKED_AT)
    try:
        faces = find_faces(pictures, path.name)
    except InputError as error:
        return LeftOut("face", str(error))
    if len(faces) > 1 and "face" in filters:
        return LeftOut("face", f"{len(faces)} faces are seen; one alone is needed")
    if set(filters) <= {"face"}:
        return faces[0]
    meter = Meter(faces[0], as_frames(pictures[:1], render.size))
    for part in render.batches():
        meter.add(part)
    return next((fault for fault in _faults(meter.scores(render)) if fault.name in filters), faces[0])


def _faults(scores: Scores) -> list[LeftOut]:
    sync, ground = scores.sync, scores.ground_flicker
    faults: list[LeftOut] = []
    if scores.seams.jumps > MOST_JUMPS:
        faults.append(LeftOut("cuts", f"{scores.seams.jumps:.1f} cuts or jumps a minute; one shot is needed"))
    if ground is not None and ground > MOST_GROUND_FLICKER:
        faults.append(LeftOut("background", f"it moves ({ground:.2f} %); a camera that stands still is needed"))
    if sync.score < LEAST_SYNC or abs(sync.lag) > MOST_LAG:
        what = f"lips foretell the sound by {sync.score:.2f}, {sync.lag} frames late"
        faults.append(LeftOut("sync", f"{what}; at least {LEAST_SYNC} and at most {MOST_LAG} frames are needed"))
    return faults


def framed(face: Face, picture: Size, bucket: Size) -> Box:
    """The part of a picture (height, width), of a bucket's shape, that shows a face as portraits do.

    It is not enlarged beyond the picture's own pixels.
    """
    aspect = bucket[1] / bucket[0]
    most = min(picture[0], picture[1] / aspect)
    near = max(face.width / FACE_WIDTH / aspect, face.height / FACE_HEIGHT, bucket[0])
    height = min(most, near)
    width = height * aspect
    x, y = face.at(0.5, 0.5)
    left = round(min(max(0.0, x - width / 2), picture[1] - width))
    top = round(min(max(0.0, y - FACE_MIDDLE * height), picture[0] - height))
    return Box(left, top, min(picture[1], left + round(width)), min(picture[0], top + round(height)))


def weight_of(face: Face, box: Box, size: Size) -> Tensor:
    """How much each point of a frame counts that shows `box`: more around eyes and mouth, [1,H,W], 1 elsewhere."""
    across, down = size[1] / box.width, size[0] / box.height
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    spots = torch.zeros(size)
    for place in SPOTS:
        at_x, at_y = face.at(*place)
        far = ((x - (at_x - box.left) * across) ** 2 + (y - (at_y - box.top) * down) ** 2).sqrt()
        spots += torch.exp(-((far / (SPOT * face.width * across)) ** 2))
    return 1 + FEATURE_WEIGHT * spots.clamp(max=1)[None]
