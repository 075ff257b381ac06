"""Pictures of clips, to look at."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def save_strip(path: Path, rows: Sequence[Tensor]) -> None:
    """Clips [3,T,H,W] in -1..1 as a PNG: one row each, time to the right."""
    picture = torch.cat([row.float().permute(2, 1, 3, 0).flatten(1, 2) for row in rows])
    Image.fromarray(((picture + 1) * 127.5).clamp(0, 255).byte().cpu().numpy()).save(path)
