"""A newcomer's evening in a real ComfyUI (see `first_evening`).

Each example at one of both frontends and both kinds of nodes, in turn; `first_evening --everywhere` has each at all.
"""

import pytest

from tests.browser.conftest import need_frontend
from tests.browser.examples import FRONTENDS, RUN_TWICE, in_turn, needed
from tests.nodes.comfy_server import prepare
from tests.nodes.workflow import WORKFLOWS

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]


def evenings_on(comfyui, base):
    for frontend in FRONTENDS:
        need_frontend(frontend)
    from tests.browser.first_evening import Evenings

    made = Evenings(comfyui, base)
    yield made
    made.close()


@pytest.fixture(scope="class")
def evenings(comfyui, base):
    yield from evenings_on(comfyui, base)


@pytest.fixture(scope="class")
def bare_evenings(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    prepare(comfyui, folder, models=False)
    yield from evenings_on(comfyui, folder)


class TestWithItsFiles:
    @pytest.mark.parametrize(("place", "name"), in_turn(RUN_TWICE))
    def test_run_twice_an_example_shows_nothing_red_and_the_video_once(self, evenings, place, name):
        assert not evenings.at(place).run(name)


class TestWithoutItsFiles:
    @pytest.mark.parametrize(("place", "name"), in_turn(filter(needed, RUN_TWICE)))
    def test_an_example_says_where_all_of_them_can_be_had(self, bare_evenings, place, name):
        assert not bare_evenings.at(place).look(name)


def test_all_examples_are_opened():
    others = {"livetalk_live", "livetalk_loop_interpolation"}
    assert set(RUN_TWICE) == {path.stem for path in WORKFLOWS} - others
