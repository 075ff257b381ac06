"""What reads prompts that are changed while a live conversation runs."""

import pytest
import torch

from livetalk_core.presets import PRESETS


class Clip:
    """A text encoder whose tokens are so wide, and hold what it was asked for last."""

    def __init__(self, width):
        self.width = width

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[torch.full((1, 5, self.width), float(len(tokens))), {}]]


@pytest.fixture
def prompt_encoder(pack):
    return pack("nodes.live").prompt_encoder


def test_the_embedded_model_reads_them_by_itself(prompt_encoder):
    config = PRESETS["nano"].transformer
    tokens = prompt_encoder(config, None)("A person is talking.")
    assert tokens.shape[-1] == config.text_dim


def test_others_need_a_text_encoder_and_flashhead_reads_none(prompt_encoder):
    assert prompt_encoder(PRESETS["14b"].transformer, None) is None
    assert prompt_encoder(PRESETS["flashhead-pro"].transformer, Clip(4096)) is None


def test_a_text_encoder_gives_what_it_is_asked_for_or_is_refused_at_once(prompt_encoder, pack):
    config = PRESETS["14b"].transformer
    tokens = prompt_encoder(config, Clip(config.text_dim))("A smile.")
    assert tokens.shape == (5, config.text_dim) and tokens.eq(8).all()
    with pytest.raises(pack("livetalk_core.errors").InputError, match="clip gives tokens 768 wide; this model needs"):
        prompt_encoder(config, Clip(768))
