"""A newcomer's evening in a real ComfyUI, at both frontends, with both kinds of nodes (see `first_evening`)."""

import pytest

from tests.nodes.comfy_server import prepare

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

KINDS = ("canvas", "nodes2")
RUN_TWICE = (
    "quick_start", "14b_24gb", "14b_several_gpus", "flashhead_pro", "flashhead_lite", "any_length_upscaled",
    "two_speakers", "infinitetalk", "job",
)  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def base(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    prepare(comfyui, folder)
    return folder


@pytest.fixture(scope="module")
def evening(comfyui, base, frontend, kind):
    from tests.browser import first_evening

    with first_evening.evening(comfyui, base, frontend, kind) as page:
        yield page


@pytest.mark.parametrize("name", RUN_TWICE)
def test_a_template_run_twice_shows_nothing_red_and_the_video_once(evening, name):
    from tests.browser.first_evening import faults

    evening.open_template(f"livetalk_{name}")
    assert not faults(evening.run_twice(f"livetalk_{name}"))


def test_all_templates_are_opened():
    from tests.browser.first_evening import RUN_TWICE as NAMES
    from tests.nodes.workflow import WORKFLOWS

    others = {"livetalk_live", "livetalk_loop_interpolation"}
    assert {f"livetalk_{name}" for name in RUN_TWICE} == set(NAMES) == {path.stem for path in WORKFLOWS} - others
