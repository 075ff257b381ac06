"""Videos of a drawn person who speaks: as it is, still, and with its sound moved."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from livetalk_core.shapes import SAMPLE_RATE, SAMPLES_PER_FRAME
from livetalk_core.training.evaluation.subjects import Cast, Subject

FRAMES = 110
SHIFT = 5


def write_video(path: Path, frames: torch.Tensor | None, sound: torch.Tensor | None, fps: int = 25) -> Path:
    """Frames [3,T,H,W] in -1..1 and 16 kHz sound [S] in -1..1 as a file."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps) if frames is not None else None
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound is not None else None
        if video is not None and frames is not None:
            video.height, video.width = frames.shape[2:]
            video.pix_fmt, video.options = "yuv420p", {"crf": "16", "preset": "veryfast"}
            for picture in ((frames + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy():
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                block = np.ascontiguousarray(sound[None, start : start + 1024].numpy().astype(np.float32))
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = SAMPLE_RATE, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def late(sound: torch.Tensor, frames: int) -> torch.Tensor:
    """Sound that comes so many frames later, of the same length."""
    count = frames * SAMPLES_PER_FRAME
    return torch.cat([torch.zeros(count), sound[:-count]])


@pytest.fixture(scope="session")
def speaker(cast) -> Subject:
    return Cast(cast.speech, FRAMES, (96, 96)).subject(1)


@pytest.fixture(scope="session")
def spoken(speaker) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames [3,T,H,W] and sound [S] in -1..1."""
    return speaker.drawn(torch.arange(FRAMES)), (speaker.take.sound * 0.1).clamp(-1, 1)


@pytest.fixture(scope="session")
def folder(spoken, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("renders")
    frames, sound = spoken
    write_video(folder / "own.mp4", frames, sound)
    write_video(folder / "late_sound.mp4", frames, late(sound, SHIFT))
    write_video(folder / "still.mp4", frames[:, :1].expand(-1, FRAMES, -1, -1), sound)
    return folder
