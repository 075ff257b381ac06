"""From files to scores: one video, or all of a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ....errors import InputError
from ....files import check_readable, files_below
from ....media.image import load_image, to_reference
from ....shapes import FRAMES_PER_SECOND
from ...detection import Face, find_faces
from ...footage import SUFFIXES
from .measure import Meter, Scores
from .networks import Embedder, SyncJudge, open_network
from .render import Render, as_frames

LOOKED_AT = 16
"""Pictures of a video in which the face is sought."""
SHOWN = 8
"""Pictures of a video that are kept to look at."""


@dataclass(frozen=True)
class Judges:
    """How videos are judged. `reference`: the portrait in place of the first frame, framed as the video is; `face`: its
    place in the first frame; `syncnet`: files of the networks for lips and sound; `embedder`: a file."""

    reference: Path | None = None
    face: Face | None = None
    syncnet: tuple[Path, Path] | None = None
    embedder: Path | None = None

    def check(self) -> None:
        """Raise `InputError` for files that cannot be read."""
        for path, what in ((self.reference, "reference"), *((file, "network") for file in self.networks)):
            if path is not None:
                check_readable(path, what, "a picture" if what == "reference" else "TorchScript or ONNX", InputError)

    @property
    def networks(self) -> tuple[Path, ...]:
        """All files of networks."""
        return (*(self.syncnet or ()), *([self.embedder] if self.embedder is not None else []))

    def meter(self, render: Render, face: Face, first: Tensor) -> Meter:
        """What measures a video whose first frame is `first` [3,1,H,W]."""
        reference = first
        if self.reference is not None:
            reference = to_reference(load_image(self.reference), *render.size)[0]
        syncnet = None
        if self.syncnet is not None:
            lips, sound = map(open_network, self.syncnet)
            syncnet = SyncJudge(lips, sound, face)
        embedder = None if self.embedder is None else Embedder.of(open_network(self.embedder), face, reference)
        return Meter(face, reference, syncnet, embedder)


class Verdict(NamedTuple):
    """What came of a video: `courses` of the series [T] each, `pictures` [n,3,H,W] in -1..1, and a `note`."""

    name: str
    seconds: float
    size: tuple[int, int]
    face: Face
    scores: Scores
    courses: dict[str, Tensor]
    pictures: Tensor
    note: str


def judge(path: Path, audio: Path | None, judges: Judges) -> Verdict:
    """Judge one video; `InputError` says what it lacks."""
    render = Render.open(path, audio)
    looked_at = render.samples(LOOKED_AT)
    face, note = (judges.face, "") if judges.face else _face(looked_at, path.name)
    if not face.inside(render.size):
        raise InputError(
            f"the face {face} lies outside of {path.name}, {render.size[1]}x{render.size[0]} px; name its place"
        )
    meter = judges.meter(render, face, as_frames(looked_at[:1], render.size))
    for frames in render.batches():
        meter.add(frames)
    pictures = as_frames(looked_at[:: max(1, len(looked_at) // SHOWN)][:SHOWN], render.size).transpose(0, 1)
    seconds = render.frames / FRAMES_PER_SECOND
    return Verdict(path.name, seconds, render.size, face, meter.scores(render), meter.courses, pictures, note)


def _face(pictures: Sequence[np.ndarray], name: str) -> tuple[Face, str]:
    """The face to judge, and a note where there are others."""
    try:
        faces = find_faces(pictures, name)
    except InputError as error:
        raise InputError(f"{error}: name its place with --face LEFT,TOP,WIDTH,HEIGHT") from None
    return faces[0], f"{len(faces)} faces are seen; the largest is judged" if len(faces) > 1 else ""


def videos_of(folder: Path) -> list[Path]:
    """The videos in a folder, by name; `InputError` where there is none."""
    check_readable(folder, "clips", "a folder of videos", InputError, folders=True)
    paths = files_below(folder, SUFFIXES)
    if not paths:
        raise InputError(f"{folder} holds no video; needed is a folder of {', '.join(sorted(SUFFIXES))}")
    return paths


def judge_all(
    paths: list[Path], judges: Judges, done: Callable[[], object] = lambda: None
) -> tuple[list[Verdict], dict[str, str]]:
    """The verdicts on all videos that can be judged, and why the others cannot; `InputError` where none can."""
    verdicts: list[Verdict] = []
    left_out: dict[str, str] = {}
    for path in paths:
        try:
            verdicts.append(judge(path, None, judges))
        except InputError as error:
            left_out[path.name] = str(error)
        done()
    if not verdicts:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"none of {len(paths)} videos can be judged: {reasons}")
    return verdicts, left_out
