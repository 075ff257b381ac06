"""The frontend at two versions, in Chromium; skipped, with the reason, where one of them is missing."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browser.examples import FRONTENDS

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "tests" / "browser" / "out"


def need_frontend(name):
    """Skip, with the reason, where that frontend or a browser is not installed."""
    pytest.importorskip("playwright", reason="playwright is not installed: make install")
    from tests.browser.frontend import chromium, static_files

    if chromium() is None:
        pytest.skip("no Chromium: install it (Debian: apt install chromium), or name it in CHROMIUM")
    if static_files(name) is None:
        pytest.skip(f"frontend {name} is not installed: make install")


@pytest.fixture(scope="module", params=FRONTENDS)
def frontend(request):
    """The name of a frontend version that is installed."""
    need_frontend(request.param)
    return request.param


@pytest.fixture(scope="module")
def page(frontend, tmp_path_factory):
    """A page of that frontend on the stub server, which shows the demo's files and those in `page.files`."""
    from tests.browser.frontend import SETTINGS

    with page_with(SETTINGS, frontend, tmp_path_factory.mktemp("files")) as made:
        yield made


@pytest.fixture(scope="module")
def new_page(frontend, tmp_path_factory):
    """The same with Nodes 2.0: nodes as elements of the page, not drawn on a canvas."""
    from tests.browser.frontend import NEW_NODES

    with page_with(NEW_NODES, frontend, tmp_path_factory.mktemp("files")) as made:
        yield made


@contextmanager
def page_with(settings, frontend, files):
    """A page of a frontend with these settings."""
    from tests.browser.frontend import OBJECT_INFO, opened, static_files
    from tests.browser.stub import place_examples, running

    place_examples(files)
    with running(static_files(frontend), OBJECT_INFO, settings, files) as stub, opened(stub.address) as made:
        made.stub, made.files = stub, files
        yield made
