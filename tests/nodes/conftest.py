"""The pack with ComfyUI faked, and a real ComfyUI where one is at hand."""

import importlib

import pytest

from tests.nodes.comfy_server import ComfyServer, prepare
from tests.nodes.fake_host import FakeHost
from tests.nodes.fakes import PACK, forget_pack, import_pack


@pytest.fixture(scope="session")
def pack():
    """Imports a module of the pack by its name: `pack("nodes.render")`."""
    module = import_pack(FakeHost(PACK))
    yield lambda name="": importlib.import_module(f"{PACK}.{name}") if name else module
    forget_pack()


@pytest.fixture
def host(pack, tmp_path):
    """The fake host, as new, writing to a folder of this test's own."""
    fake = pack("nodes.host")
    fake.reset(tmp_path)
    return fake


@pytest.fixture(scope="session")
def nodes(pack):
    """The node classes by id, with their schemas."""
    import asyncio

    async def collect():
        extension = await pack().comfy_entrypoint()
        return await extension.get_node_list()

    return {schema.node_id: (cls, schema) for cls in asyncio.run(collect()) for schema in [cls.define_schema()]}


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    """A running ComfyUI with this pack."""
    base = tmp_path_factory.mktemp("comfyui")
    prepare(comfyui, base)
    running = ComfyServer(comfyui, base)
    yield running
    running.close()
