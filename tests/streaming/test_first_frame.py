"""When a chunk's first new frame leaves: counted in operations, so that a loaded machine makes no difference."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from livetalk_core.commands.bench.parts import random_avatar
from livetalk_core.hardware.memory import meta_models
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import VideoShape
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.plan import Chunk, ChunkPlan
from livetalk_core.streaming.session import Frames, Session

NANO = PRESETS["nano"]


class Silence:
    """Audio windows of the embedded model's widths."""

    def for_chunk(self, chunk: Chunk):
        widths = NANO.transformer
        return torch.zeros(1, chunk.frames, widths.audio_window, widths.audio_blocks, widths.audio_channels)


def test_the_first_new_frame_leaves_before_60_percent_of_a_chunk(monkeypatch):
    monkeypatch.setattr("livetalk_core.streaming.finite.Watch.read", lambda _, *kept: list(kept))  # meta has no numbers
    """Of every chunk: the first, which begins with new frames, and later ones, which repeat five before."""
    stream = NANO.stream
    engine = LocalEngine(*meta_models(NANO, torch.float32), "meta")
    avatar = random_avatar(NANO, VideoShape(stream.frame_num, stream.height, stream.width))
    plan = ChunkPlan.of(stream.frame_num + 2 * stream.new_frames, stream)
    session = Session(engine, avatar, Silence(), plan, stream)
    shares = []
    with FlopCounterMode(display=False) as counter:
        begun, first = 0, None
        for event in session.run(session.start(0)):
            now = counter.get_total_flops()
            if not isinstance(event, Frames):
                shares.append((first - begun) / (now - begun))
                begun, first = now, None
            elif first is None:
                first = now
    assert len(shares) == 3
    assert max(shares) < 0.6, shares
