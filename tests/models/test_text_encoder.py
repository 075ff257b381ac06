"""The text encoder: the reference's numbers, from either layout of keys; the tokenizers."""

import json

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from livetalk_core.checkpoints import keys
from livetalk_core.config import TextEncoderConfig
from livetalk_core.errors import CheckpointError, InputError
from livetalk_core.models.text_encoder import ByteTokenizer, FileTokenizer, TextEncoder, clean

NAMES = ("vocab", "dim", "dim_attn", "dim_ffn", "num_heads", "num_layers", "num_buckets")


@pytest.fixture(scope="module")
def example(golden):
    with safe_open(golden / "text.safetensors", "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    return metadata, tensors, weights


def loaded(metadata, weights):
    encoder = TextEncoder(TextEncoderConfig(**{name: metadata[name] for name in NAMES})).eval()
    encoder.load_state_dict(keys.text_encoder(weights))
    return encoder


def comfyui_names(weights):
    """The same weights as transformers' UMT5EncoderModel calls them, with what ComfyUI's files add."""
    ends = {
        "norm1": "layer.0.layer_norm", "norm2": "layer.1.layer_norm", "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
        "ffn.fc1": "layer.1.DenseReluDense.wi_1", "ffn.fc2": "layer.1.DenseReluDense.wo",
        "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
        **{f"attn.{letter}": f"layer.0.SelfAttention.{letter}" for letter in "qkvo"},
    }  # fmt: skip
    renamed = {"spiece_model": torch.zeros(9, dtype=torch.uint8)}
    for name, tensor in weights.items():
        if name.startswith("blocks."):
            _, index, *middle = name.removesuffix(".weight").split(".")
            renamed[f"encoder.block.{index}.{ends['.'.join(middle)]}.weight"] = tensor
    renamed["shared.weight"] = renamed["encoder.embed_tokens.weight"] = weights["token_embedding.weight"]
    renamed["encoder.final_layer_norm.weight"] = weights["norm.weight"]
    return renamed


@pytest.mark.parametrize("layout", [dict, comfyui_names])
@torch.inference_mode()
def test_tokens_are_the_references(example, layout):
    metadata, tensors, weights = example
    encoder = loaded(metadata, layout(weights))
    out = encoder.encode(tensors["io.ids"], metadata["length"])
    torch.testing.assert_close(out, tensors["io.out"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("block", [0, 1, 2])
@torch.inference_mode()
def test_every_layer_has_its_own_position_bias(example, block):
    metadata, tensors, weights = example
    name = f"blocks.{block}.pos_embedding.embedding.weight"
    encoder = loaded(metadata, {**weights, name: weights[name] * 1.5})
    assert (encoder.encode(tensors["io.ids"], metadata["length"]) - tensors["io.out"]).abs().max() > 1e-4


@torch.inference_mode()
def test_scaled_fp8_weights_are_multiplied_out(example):
    metadata, tensors, weights = example
    stored = comfyui_names(weights)
    name = "encoder.block.1.layer.1.DenseReluDense.wo"
    scale = stored[f"{name}.weight"].abs().max() / 448
    stored[f"{name}.weight"] = (stored[f"{name}.weight"] / scale).to(torch.float8_e4m3fn)
    stored |= {f"{name}.scale_weight": scale, "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    out = loaded(metadata, stored).encode(tensors["io.ids"], metadata["length"])
    error = (out - tensors["io.out"]).abs().max()
    assert 1e-4 < error < 0.1


def test_a_prompt_beyond_the_length_is_refused(example):
    metadata, tensors, weights = example
    with pytest.raises(InputError, match="11 tokens; at most 10"):
        loaded(metadata, weights).encode(tensors["io.ids"], 10)


def test_text_is_cleaned_as_the_reference_does():
    assert clean("  a &amp;amp; b\n\t c&lt;d ") == "a & b c<d"
    assert clean("\u201cIt\u2019s\u201d a caf\u00c3\u00a9 \uff21") == '"It\'s" a caf\u00e9 A'


def test_bytes_as_tokens():
    assert ByteTokenizer()("  hé ", 10).tolist() == [ord("h") + 3, 0xC3 + 3, 0xA9 + 3, 1]
    assert ByteTokenizer()("hello", 3).tolist() == [ord("h") + 3, ord("e") + 3, 1]
    assert ByteTokenizer()("", 3).tolist() == [1]


def save_tokenizer(folder):
    """A tokenizer folder like the published one's, with a vocabulary of five words."""
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "person": 4, "talks": 5}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def test_tokenizer_from_its_file(tmp_path):
    save_tokenizer(tmp_path)
    tokenize = FileTokenizer(tmp_path / "tokenizer.json")
    assert tokenize(" a  person\ntalks ", 10).tolist() == [3, 4, 5, 1]
    assert tokenize("a person talks", 3).tolist() == [3, 4, 1]
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for length in (2, 3, 10):
        for text in ("", "a", "person talks a b c d a person", "talks\u3000a"):
            assert tokenize(text, length).tolist() == reference(text, truncation=True, max_length=length)["input_ids"]


def test_no_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match="is no tokenizer that works"):
        FileTokenizer(tmp_path / "tokenizer.json")
