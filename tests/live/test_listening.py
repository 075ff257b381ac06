"""What cannot be listened at is said before a model is loaded."""

import socket

import pytest

from livetalk_core.errors import OutputError
from livetalk_core.live.server.listening import check_listens


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_addresses_of_this_machine(host):
    check_listens(host, 0)


@pytest.mark.parametrize("host", ["", " ", "999.1.1.1", "http://0.0.0.0", "192.0.2.1", "x" * 5000, "a\0b"])
def test_what_is_no_address_of_this_machine(host):
    with pytest.raises(OutputError, match=r"^cannot listen at .{0,110}:8190 \(.+\); choose") as error:
        check_listens(host, 8190)
    assert "\n" not in str(error.value)


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot listen at 127.0.0.1:{port} "):
            check_listens("127.0.0.1", port)
    check_listens("127.0.0.1", port)
