"""Whether the golden rows feel every weight: each one in turn is scaled by 1.05, and some row must fail.

    python -m benchmarks.felt_weights [FILE ...] [--sample N] [--json FILE]

Without files: all of tests/golden that hold weights. Prints for each file how many of its weights no row can feel, by
their names; exit code 1 where there is one that `UNFELT` does not give the reason for. A weight is done with at the
first row that fails, and what it has no part in is not computed again (`Known`). With `--sample`, no more than N
weights of each file are tried. A file's record with `--json` replaces the one that is there.
"""

import argparse
import hashlib
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from livetalk_core.commands.verify.file import Golden, Splitter, Whole
from livetalk_core.commands.verify.golden import open_golden, rows_of
from livetalk_core.models.ltx_vae import LTXVAE
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
SCALE = 1.05

NEVER_READ = r"weights\.(dit\.)?(text_embedding|audio_emb)\."
UNFELT = {
    "audio": (
        # Queries and keys of 0.02 in this file: the attention they make is flat to within the tolerance.
        r"attention\.[qk]_proj\.weight",
        # A norm follows and undoes any scale: group norm after the first convolution, weight norm's own division,
        # and the first layer's norms after the encoder's.
        r"conv_layers\.0\.conv\.weight|weight\.original1|encoder\.layer_norm\.weight",
        # SpecAugment's mask, for training only.
        r"masked_spec_embed",
    ),
    "audio_960h": (
        # As above, but for the encoder's norm: its attention is not flat.
        r"conv_layers\.0\.conv\.weight|weight_v",
        # Softmax takes keys' biases away.
        r"k_proj\.bias",
        # The head of the recogniser that it was trained as.
        r"lm_head\.",
    ),
    # In the published files, and never read.
    "head_pro": (NEVER_READ,),
    "head_lite": (NEVER_READ,),
    "stream_pro": (NEVER_READ,),
    "stream_lite": (NEVER_READ,),
    # The adapter brings another.
    "leap_pro": (NEVER_READ, r"weights\.dit\.audio_proj\."),
    # Read before the last layer, so that layer, the norm and the projection after it do not act.
    "image": (r"visual\.(post_norm|head|transformer\.2)\b",),
}
"""Weights that a row cannot feel, with the reason. Beside them: biases that are zero in the file stay zero."""


def weights_of(golden: Golden) -> list[str]:
    """The names of a file's weights, without those that are zero and stay so."""
    return [name for name, tensor in golden.tensors.items() if name.startswith("weights.") and tensor.any()]


class Known(Whole):
    """Models that give again what they gave with the file's own weights and the same inputs, and compute all else.

    A weight that a method is wrongly held not to read would be called unfelt: the mistake cannot hide.
    """

    def __init__(self) -> None:
        self.results: dict[bytes, Any] = {}
        self.learning = True

    def transformer(self, model: Transformer) -> Transformer:
        """The model, with its steps known."""
        return self._knowing(model, {"evaluate": model.evaluate}, model.state_dict())

    def vae(self, model: VAE) -> VAE:
        """The model, with both ways known."""
        self._knowing(model, {"encode": model.encode}, _without(model, "decoder.", "conv2."))
        groups = model.decode_groups
        frames = {"decode_groups": lambda *inputs, **options: list(groups(*inputs, **options))}
        return self._knowing(model, frames, _without(model, "encoder.", "conv1."))

    def ltx_vae(self, model: LTXVAE) -> LTXVAE:
        """The model, with both ways known."""
        self._knowing(model, {"posterior": model.posterior}, _without(model, "decoder."))
        return self._knowing(model, {"decode": model.decode}, _without(model, "encoder."))

    def _knowing(self, model: Any, methods: dict[str, Callable[..., Any]], read: dict[str, Tensor]) -> Any:
        weights = _digest(read.values())
        for name, compute in methods.items():
            setattr(model, name, self._known(name.encode() + weights, compute))
        return model

    def _known(self, what: bytes, compute: Callable[..., Any]) -> Callable[..., Any]:
        def known(*inputs: Any, **options: Any) -> Any:
            key = what + _digest([inputs, options])
            if key in self.results:
                return _copied(self.results[key])
            result = compute(*inputs, **options)
            if self.learning:
                self.results[key] = _copied(result)
            return result

        return known


def _without(model: nn.Module, *beginnings: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(beginnings)}


def _copied(result: Any) -> Any:
    """Whoever gets it may write into it."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, result)


def _digest(values: Iterable[Any]) -> bytes:
    """Of tensors and numbers, however nested; how attention is computed and the like is the same in all runs."""
    digest = hashlib.blake2b()
    for leaf in tree_leaves(list(values)):
        if isinstance(leaf, Tensor):
            digest.update(leaf.contiguous().numpy())
        elif isinstance(leaf, int | float):
            digest.update(repr(leaf).encode())
    return digest.digest()


def known(golden: Golden) -> Known:
    """What gives again all that the file's own weights give."""
    models = Known()
    assert all(row.passed for row in rows_of(golden, models)), "it must pass as it is"
    models.learning = False
    return models


def unnoticed(golden: Golden, names: Sequence[str]) -> list[str]:
    """Those of a file's weights whose change no row notices, whatever the reason."""
    models = known(golden)
    return [name for name in names if not is_noticed(golden, name, models)]


def is_noticed(golden: Golden, name: str, models: Splitter) -> bool:
    """Whether a row fails when this weight is scaled."""
    original = golden.tensors[name]
    golden.tensors[name] = original * SCALE
    try:
        return not all(row.passed for row in rows_of(golden, models))
    finally:
        golden.tensors[name] = original


def unexplained(kind: str, names: Sequence[str]) -> list[str]:
    """Those of the unnoticed weights of a file of this name that `UNFELT` has no reason for."""
    return [name for name in names if not any(re.search(pattern, name) for pattern in UNFELT.get(kind, ()))]


def tried(golden: Golden, most: int | None) -> list[str]:
    """The weights of a file to try: all, or so many of them by chance."""
    names = weights_of(golden)
    return names if most is None or most >= len(names) else random.Random(0).sample(names, most)


def main() -> int:
    """Every weight of every file; a line for each file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", type=Path, nargs="*", default=sorted(FOLDER.glob("*.safetensors")))
    parser.add_argument("--sample", type=int, metavar="N", help="try no more than N weights of each file")
    parser.add_argument("--json", type=Path, help="also keep the record in this file")
    options = parser.parse_args()
    kept = options.json is not None and options.json.exists()
    record, failed = json.loads(options.json.read_text(encoding="utf-8")) if kept else {}, 0
    for path in options.files:
        golden, began = open_golden(path), time.monotonic()
        names = tried(golden, options.sample)
        if not names:
            continue
        missed = unnoticed(golden, names)
        wrong = unexplained(path.stem, missed)
        failed += len(wrong)
        record[path.stem] = {
            "weights": len(weights_of(golden)), "tried": len(names), "unnoticed": missed, "unexplained": wrong,
        }  # fmt: skip
        print(
            f"{path.stem:<14} {len(names) - len(missed):>4} of {len(names):>4} weights felt, {len(missed):>3} not, "
            f"{len(wrong)} of them without a known reason {wrong or ''} ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
