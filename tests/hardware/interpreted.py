"""Prints, as JSON, how far Triton's kernels are from PyTorch's own passes, run by Triton's interpreter on the CPU.

A process of its own: whether Triton interprets is decided when it is imported. Golden files of other names are tried
instead where they are given: `python -m tests.hardware.interpreted stream stream_pro leap_pro`, two minutes.
"""

import json
import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import torch
from triton.runtime import interpreter

from livetalk_core.commands.verify import golden
from livetalk_core.hardware import fused
from livetalk_core.models import fp8
from livetalk_core.streaming import engine

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WIDTHS = {"nano": (192, 6), "odd": (120, 5)}
"""Channels and heads; neither number of channels is a power of two."""
FILES = ("dit_single", "dit_double", "head_pro", "head_lite", "stream_lite")
GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def convert_rightly() -> None:
    """Have the interpreter round to FP8 as GPUs and PyTorch do: its own conversion loses what carries over."""
    convert = interpreter._convert_float

    def rounded(values, given, wanted, rounding):
        if str(wanted) != "fp8e4nv":
            return convert(values, given, wanted, rounding)
        return torch.from_numpy(values.astype("float32")).to(fp8.FP8).view(torch.uint8).numpy()

    interpreter._convert_float = rounded


def fp8_error() -> dict[str, float]:
    """The largest difference of the quantised values, in steps of their scale, and of the scales themselves."""
    x = torch.randn(5, 120, generator=torch.Generator().manual_seed(0)).bfloat16()
    x[3] = 0
    (values, scale), (expected, exact_scale) = fused._to_fp8(x), fp8.scaled(x, rows=True)
    return {
        "values": (values.float() - expected.float()).abs().max().item(),
        "scales": (scale - exact_scale).abs().max().item() / exact_scale.max().item(),
    }


def golden_errors(files: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each file's rows, errors as shares of what is allowed, the blocks' passes by Triton."""
    golden.passes_of = engine.passes_of = lambda *_: fused.Fused()
    rows = {name: golden.verify(GOLDEN / f"{name}.safetensors") for name in files}
    return {name: {row.name: row.error / row.tolerance for row in found} for name, found in rows.items()}


if __name__ == "__main__":
    convert_rightly()
    errors = {
        f"{width} {dtype}": fused.errors_of(fused.Fused(), torch.device("cpu"), DTYPES[dtype], *WIDTHS[width], rows=11)
        for width, dtype in product(WIDTHS, DTYPES)
    }
    sys.stdout.write(json.dumps({"passes": errors, "fp8": fp8_error(), "golden": golden_errors(sys.argv[1:] or FILES)}))
