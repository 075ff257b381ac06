"""`verify --ranks N`: every golden row passes however the models are split, through real worker processes."""

import re

import pytest

from livetalk_core.commands.main import main
from livetalk_core.commands.verify.golden import NOTHING_TO_SPLIT

MESHES = {1: 1, 2: 2, 3: 1, 4: 3, 5: 1, 8: 3}
"""Ways to split the golden transformers' 4 heads over so many ranks."""


def lines(golden, capsys, ranks, *names) -> list[str]:
    files = [str(golden / f"{name}.safetensors") for name in names]
    assert main(["verify", "--ranks", str(ranks), *files]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("ranks", [2, 5])
def test_every_way_passes(golden, capsys, ranks):
    found = lines(golden, capsys, ranks, "dit_double", "vae", "color")
    assert all(" ok " in line for line in found)
    assert len([line for line in found if "dit_double" in line]) == MESHES[ranks]
    assert len([line for line in found if re.search(rf"vae .* {ranks} x rows$", line)]) == 3
    assert [line.endswith(NOTHING_TO_SPLIT) for line in found if "color" in line] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", MESHES)
def test_every_file_passes(golden, capsys, ranks):
    found = lines(golden, capsys, ranks, "dit_single", "dit_double", "vae", "stream", "audio", "text", "image")
    assert all(" ok " in line for line in found)
    assert len([line for line in found if "chunk.2" in line]) == MESHES[ranks]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_member_of_the_family_passes(golden, capsys, ranks):
    """Their golden transformers have 2 heads."""
    streams = ("stream_pro", "stream_lite", "leap_pro")
    found = lines(golden, capsys, ranks, "head_pro", "head_lite", "ltx_vae", *streams)
    assert all(" ok " in line for line in found)
    ways = 1 if ranks in (1, 3) else 2
    assert len([line for line in found if "chunk.1" in line]) == ways * len(streams)
    assert len([line for line in found if line.startswith("head_")]) == 2 * ways


def test_no_rank_is_refused(golden, capsys):
    assert main(["verify", "--ranks", "0", str(golden / "color.safetensors")]) == 1
    assert "0 workers cannot work; the nearest number that can is 1" in capsys.readouterr().err
