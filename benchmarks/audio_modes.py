"""How far the features of audio mode `window` are from those of `whole`.

    python -m benchmarks.audio_modes [--seconds 120]

The demo speech, repeated, through a Wav2Vec2 encoder of the published widths with random weights (transformers'
own initialisation). A trained encoder attends more locally than a random one; run this with real weights to know
its own figure: --encoder FOLDER.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from livetalk_core.checkpoints.load import load_audio_encoder
from livetalk_core.config import AudioEncoderConfig, StreamConfig
from livetalk_core.media.audio import TensorAudio, open_audio
from livetalk_core.models.audio_encoder import AudioEncoder
from livetalk_core.streaming.features import speech_features
from livetalk_core.streaming.plan import ChunkPlan

SPEECH = Path(__file__).resolve().parent.parent / "demo" / "speech.wav"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--encoder", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder = (
        AudioEncoder(AudioEncoderConfig()) if options.encoder is None else load_audio_encoder(options.encoder, "cpu")
    )
    once = open_audio(SPEECH)
    sound = once.read(0, round(once.seconds * 16_000), 16_000, mono=True)[0]
    sound = np.resize(sound, round(options.seconds * 16_000))
    source = TensorAudio(torch.from_numpy(sound)[None], 16_000)
    plan = ChunkPlan.of(-(-len(sound) // 640), StreamConfig())
    by_window, at_once = (
        torch.cat([features.for_chunk(plan.chunk(i))[0] for i in range(plan.count)])
        for features in (speech_features(source, encoder.eval(), plan, mode) for mode in ("window", "whole"))
    )
    difference = (by_window - at_once).flatten(2).norm(dim=2) / at_once.flatten(2).norm(dim=2)
    print(f"{options.seconds:.0f} s of speech, {encoder.blocks} layers of {encoder.channels}: relative difference")
    print(f"mean {difference.mean():.4f}, 99th percentile {difference.quantile(0.99):.4f}, most {difference.max():.4f}")
    cosine = torch.nn.functional.cosine_similarity(by_window.flatten(2), at_once.flatten(2), dim=2)
    print(f"cosine similarity: mean {cosine.mean():.5f}, least {cosine.min():.5f}")


if __name__ == "__main__":
    main()
