"""Prints, as JSON, what Triton's compiler makes of the kernels for GPUs that are not here, by compute capability.

Of each kernel the registers a thread takes, and whether more spill. The package's own calls are compiled, with the 14B
model's sizes and dtypes; nothing is launched. A process of its own: Triton believes that there is a GPU.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from livetalk_core.hardware import fused, triton_kernels
from livetalk_core.presets import PRESETS

CAPABILITIES = (80, 89, 90, 120)
FP8_FROM = 89
KERNELS = ("_join_norm", "_norm_rotate", "_to_fp8")
READER = Path(nvidia.__file__).parent / "bin" / "cuobjdump"


class Driver:
    """What Triton asks its driver of a GPU in order to compile for it. Each capability is a device of its own."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _device: int) -> int:
        return 0


class Compiled:
    """A kernel that is compiled when it is called, and not launched."""

    def __init__(self, name: str, kernel: Any) -> None:
        self.name, self.kernel, self.binaries = name, kernel, {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def call(*arguments: Any, **settings: Any) -> None:
            made = self.kernel.warmup(*arguments, grid=grid, **settings)
            means = {name: value for name, value in settings.items() if name.isupper()}
            self.binaries[f"{self.name} {means}"] = made.asm["cubin"]

        return call


def resources(binary: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes that did not fit into them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        said = subprocess.run([READER, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    sizes = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    return {"registers": sizes["REG"], "spilled": sizes["STACK"] + sizes["LOCAL"]}


def compiled(capability: int) -> dict[str, dict[str, int]]:
    """All kernels for one kind of GPU."""
    driver.set_active(Driver(capability))
    kept = {name: getattr(triton_kernels, name) for name in KERNELS}
    exchanged = {name: Compiled(name, kernel) for name, kernel in kept.items()}
    vars(triton_kernels).update(exchanged)
    config = PRESETS["14b"].transformer
    shape = (torch.device("cpu"), torch.bfloat16, config.dim, config.num_heads)
    for trial in fused.trials(fused.Fused(), *shape, rows=16).values():
        trial()
    for width in (config.dim, config.ffn_dim) if capability >= FP8_FROM else ():
        triton_kernels.to_fp8(torch.randn(16, width).bfloat16())
    vars(triton_kernels).update(kept)
    return {name: resources(binary) for kernel in exchanged.values() for name, binary in kernel.binaries.items()}


if __name__ == "__main__":
    with torch.inference_mode():
        sys.stdout.write(json.dumps({capability: compiled(capability) for capability in CAPABILITIES}))
