"""The text encoder: umT5's encoder (each layer has its own position bias), its layers from `transformers`."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import ftfy
import torch
from tokenizers import Tokenizer as StoredTokenizer
from torch import Tensor, nn
from transformers import UMT5Config
from transformers.models.umt5.modeling_umt5 import UMT5Block, UMT5LayerNorm

from ..config import TextEncoderConfig
from ..errors import CheckpointError, InputError
from .audio_encoder import first_of

MAX_DISTANCE = 128
"""Positions further apart share one bucket."""
BYTE_OFFSET = 3
END = 1


class TextEncoder(nn.Module):
    """Token ids to text tokens."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        stock = _stock_config(config)
        self.shared = nn.Embedding(config.vocab, config.dim)
        self.block = nn.ModuleList(UMT5Block(stock, layer_idx=index) for index in range(config.num_layers))
        self.final_layer_norm = UMT5LayerNorm(config.dim, eps=stock.layer_norm_epsilon)

    def encode(self, ids: Tensor, length: int) -> Tensor:
        """Token ids [n] -> [n, dim].

        The reference pads to `length` and masks the padding; masked tokens weigh exactly nothing, so none are
        computed here. Raises `InputError` for more than `length` ids.
        """
        if len(ids) > length:
            raise InputError(f"prompt of {len(ids)} tokens; at most {length} are read: shorten the prompt")
        hidden = self.shared(ids.to(self.shared.weight.device)[None])
        for block in self.block:
            hidden = first_of(block(hidden))
        return self.final_layer_norm(hidden)[0]


def _stock_config(config: TextEncoderConfig) -> UMT5Config:
    return UMT5Config(
        vocab_size=config.vocab,
        d_model=config.dim,
        d_kv=config.dim_attn // config.num_heads,
        d_ff=config.dim_ffn,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.num_buckets,
        relative_attention_max_distance=MAX_DISTANCE,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
        # The one that knows position biases in every version.
        attn_implementation="eager",  # pyright: ignore[reportCallIssue] - every config takes it
    )


def clean(text: str) -> str:
    """As the reference does: mojibake mended and curly quotes made plain, HTML entities resolved (twice), white space
    collapsed."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


class Tokenizer(Protocol):
    """Text to token ids."""

    def __call__(self, text: str, length: int) -> Tensor:
        """Ids [n], n <= `length`, cut where longer; the end token comes last."""
        ...


class ByteTokenizer:
    """UTF-8 bytes as tokens, for the embedded model: id = byte + 3, then 1 as the end."""

    def __call__(self, text: str, length: int) -> Tensor:
        """Ids [n], n <= `length`, cut where longer; the end token comes last."""
        text_bytes = clean(text).encode()[: length - 1]
        return torch.tensor([*(byte + BYTE_OFFSET for byte in text_bytes), END])


class FileTokenizer:
    """The published tokenizer, from its `tokenizer.json` (`google/umt5-xxl`): data alone, no code beside it is read.

    All its ids are below `vocabulary`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            self._tokenizer = StoredTokenizer.from_file(str(path))
            self._tokenizer.no_padding()
            self.vocabulary = 1 + max(self._tokenizer.get_vocab().values(), default=0)

    def __call__(self, text: str, length: int) -> Tensor:
        """Ids [n], n <= `length`, cut where longer; the end token comes last."""
        with self._reading():
            self._tokenizer.enable_truncation(length)
            return torch.tensor(self._tokenizer.encode(clean(text)).ids)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the library raises no narrower one
            raise CheckpointError(
                f"{self.path} is no tokenizer that works ({error}); needed is the tokenizer.json of google/umt5-xxl, "
                "which comes with the published model: copy it again"
            ) from error
