"""Packages that the published reference implementations ask for at import, and of which a chunk needs next to nothing.

Those that are not installed are stood in for meanwhile.
"""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

PACKAGES = (
    "decord", "diffusers", "easydict", "ftfy", "imageio", "librosa", "loguru", "mediapipe", "optimum", "pyloudnorm",
    "skimage", "torchvision", "xformers", "xfuser",
)  # fmt: skip


def _center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = ((have - want) // 2 for have, want in zip(image.shape[-2:], size, strict=True))
    return image[..., top : top + size[0], left : left + size[1]]


NEEDED_OF_THEM: dict[str, dict[str, Any]] = {
    "diffusers": {"ModelMixin": nn.Module},
    "diffusers.models.modeling_utils": {"ModelMixin": nn.Module},
    "diffusers.configuration_utils": {"register_to_config": lambda initialize: initialize},
    "diffusers.utils": {"logging": SimpleNamespace(get_logger=logging.getLogger)},
    "diffusers.utils.torch_utils": {"maybe_allow_in_graph": lambda cls: cls},
    "loguru": {"logger": logging.getLogger(__name__)},
    "torchvision.transforms": {"functional": SimpleNamespace(center_crop=_center_crop)},
}
"""What a chunk does need of them; everything else is an empty class."""


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(MetaPathFinder, Loader):
    """Finds packages that are not there, and every module in them."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self.packages:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(NEEDED_OF_THEM.get(module.__name__, {}))


@contextlib.contextmanager
def standing_in(packages: Sequence[str]) -> Iterator[None]:
    """While it lasts, imports of `packages` succeed; afterwards nobody finds them."""
    finder = _StandIns(packages)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The reference prints in its loop, warns, and asks for a GPU and waits for it whether there is one or not."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if not torch.cuda.is_available():
            stack.enter_context(patch.object(torch.cuda, "synchronize", lambda *_: None))
            stack.enter_context(patch.object(torch.cuda, "current_device", lambda: "cpu"))
        yield
