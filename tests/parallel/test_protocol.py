"""Messages come out as they went in; strangers, wrong secrets and other versions do not get in."""

import json
import socket
import struct
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from livetalk_core.errors import WorkerError
from livetalk_core.parallel import protocol
from livetalk_core.parallel.protocol import Connection, Disconnected, Message, introduce, pack, welcome

SECRET = b"a secret of this fleet"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.float8_e4m3fn])
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@pytest.fixture
def sockets():
    pair = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(pair.getsockname())
    server, _ = pair.accept()
    yield server, client
    for each in (pair, client, server):
        each.close()


def answer(call, *arguments):
    """Run `call` in a thread; gives the thread, and a list that holds the result or the error once it is joined."""
    found = []

    def run():
        try:
            found.append(call(*arguments))
        except WorkerError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_messages_arrive_as_they_were_sent(sockets):
    one, other = (Connection(each) for each in sockets)

    @settings(max_examples=50)
    @given(st.text(), st.integers(0, 2**40), st.dictionaries(st.text(), VALUES, max_size=4), DTYPES, SHAPES)
    def check(kind, job, fields, dtype, shape):
        tensor = torch.randint(0, 50, shape).to(dtype)
        one.send(Message(kind, job, fields, {"x": tensor, "view of x": tensor[:1] if shape else tensor}))
        found = other.receive()
        assert (found.kind, found.job, found.fields) == (kind, job, fields)
        assert torch.equal(found.tensors["x"].float(), tensor.float()) and found.tensors["x"].dtype == dtype

    check()


def test_both_sides_with_the_secret_are_let_in(sockets):
    thread, found = answer(introduce, sockets[1], SECRET)
    welcome(sockets[0], SECRET).send(Message("hello"))
    thread.join()
    assert found[0].receive().kind == "hello"


def test_a_wrong_secret_is_told_to_both(sockets):
    thread, found = answer(introduce, sockets[1], b"another secret, of someone else")
    with pytest.raises(WorkerError, match="another secret"):
        welcome(sockets[0], SECRET)
    sockets[0].close()
    thread.join()
    assert "the controller has another secret" in str(found[0])


def test_a_controller_that_does_not_know_the_secret_is_not_served(sockets):
    """It cannot send back what it was sent."""
    thread, found = answer(introduce, sockets[1], SECRET)
    opening = sockets[0].recv(4096)
    sockets[0].sendall(opening)
    proof = sockets[0].recv(protocol.PROOF_BYTES)
    sockets[0].sendall(proof)
    thread.join()
    assert "another secret" in str(found[0])


def test_another_version_is_refused_by_both(sockets, monkeypatch):
    sockets[1].sendall(struct.pack(">8sH", b"LiveTalk", 7) + bytes(32))
    with pytest.raises(WorkerError, match="the worker has protocol version 7; this one needs 2"):
        welcome(sockets[0], SECRET)
    header = json.dumps({"version": 7, "kind": "call", "job": 1, "fields": {}}).encode()
    with pytest.raises(WorkerError, match="the message has protocol version 7; this one needs 2"):
        protocol.unpack(header, b"")


def test_another_program_is_refused(sockets):
    sockets[1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(32))
    with pytest.raises(WorkerError, match="no LiveTalk; another program uses this address"):
        welcome(sockets[0], SECRET)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused(header, body):
    with pytest.raises(WorkerError):
        protocol.unpack(header, body or b"x")


def test_a_length_beyond_belief_is_not_allocated(sockets):
    sockets[1].sendall(struct.pack(">IQ", 10, 2**60))
    with pytest.raises(WorkerError, match="bytes; the sender is no LiveTalk"):
        Connection(sockets[0]).receive()


def test_a_message_that_is_cut_short_is_the_end(sockets):
    sockets[1].sendall(pack(Message("call", 1, {}, {"x": torch.ones(9)}))[:-5])
    sockets[1].close()
    with pytest.raises(Disconnected):
        Connection(sockets[0]).receive()


def test_nothing_that_is_sent_is_a_pickle():
    data = pack(Message("call", 1, {"a": 1}, {"x": torch.ones(2)}))
    assert b'"kind": "call"' in data and b'{"x":{"dtype":"F32"' in data
    with pytest.raises(TypeError):
        pack(Message("call", 1, {"a": object()}))
