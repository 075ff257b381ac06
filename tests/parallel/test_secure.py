"""TLS that the secret vouches for: who stands between can neither read, nor change, nor send again; nor hold up."""

import resource
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import torch

from livetalk_core import __version__
from livetalk_core.errors import WorkerError
from livetalk_core.parallel.protocol import Disconnected, Message, introduce, welcome
from livetalk_core.parallel.reception import MOST_GUESTS, Reception
from livetalk_core.parallel.secure import SecureSocket, listener_tls, worker_context

SECRET = b"a secret of this fleet"
PROMPT = "a portrait that is nobody's business"


@pytest.fixture(scope="module")
def tls():
    return listener_tls()


@contextmanager
def pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        yield accepted, client


def connections(controller, worker, tls):
    """Both sides after their handshakes; or the errors that these end with."""
    found = []

    def come():
        try:
            found.append(introduce(worker, SECRET, True))
        except WorkerError as error:
            found.append(error)

    thread = threading.Thread(target=come)
    thread.start()
    try:
        ours = welcome(controller, SECRET, tls)
    except WorkerError as error:
        ours = error
        controller.close()
    thread.join(30)
    return ours, found[0]


def test_messages_pass_both_ways_at_once(tls):
    much = {"x": torch.arange(2**20)}
    with pair() as sockets:
        ends = connections(*sockets, tls)
        received = []

        def talk(end):
            sender = threading.Thread(target=lambda: [end.send(Message("news", 1, {}, much)) for _ in range(5)])
            sender.start()
            received.extend(end.receive() for _ in range(5))
            sender.join()

        talkers = [threading.Thread(target=talk, args=(end,)) for end in ends]
        for talker in talkers:
            talker.start()
        for talker in talkers:
            talker.join(60)
        assert len(received) == 10 and all(torch.equal(message.tensors["x"], much["x"]) for message in received)
        ends[0].close()
        with pytest.raises(Disconnected):
            ends[1].receive()


class Relay:
    """Passes on what two sockets send each other, keeps it, and may change it on the way."""

    def __init__(self, one, other):
        self.kept, self.change = {one: b"", other: b""}, lambda data: data
        for source, target in ((one, other), (other, one)):
            threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                self.kept[source] += data
                target.sendall(self.change(data))


def test_a_relay_reads_nothing_and_changes_nothing(tls):
    with pair() as (controller, near), pair() as (far, worker):
        relay = Relay(near, far)
        ours, theirs = connections(controller, worker, tls)
        ours.send(Message("call", 1, {"prompt": PROMPT}))
        assert theirs.receive().fields["prompt"] == PROMPT
        assert all(data and PROMPT.encode() not in data and SECRET not in data for data in relay.kept.values())
        relay.change = lambda data: data[:-1] + bytes([data[-1] ^ 1])
        ours.send(Message("call", 2, {"prompt": PROMPT}))
        with pytest.raises(Disconnected, match="lost"):
            theirs.receive()


def test_a_relay_with_a_certificate_of_its_own_is_refused_by_both(tls):
    """It can read the proofs, and they are of no use to it."""
    own = listener_tls()
    with pair() as (controller, near), pair() as (far, worker):

        def relay():
            with suppress(OSError):
                outer = SecureSocket(far, own.context, True)
                inner = SecureSocket(near, worker_context(), False)
                for source, target in ((outer, inner), (inner, outer)):
                    threading.Thread(target=self_pass, args=(source, target), daemon=True).start()

        def self_pass(source, target):
            buffer = memoryview(bytearray(4096))
            with suppress(OSError):
                while count := source.recv_into(buffer):
                    target.sendall(bytes(buffer[:count]))
                target.close()

        threading.Thread(target=relay, daemon=True).start()
        ours, theirs = connections(controller, worker, tls)
    assert "one between us and it" in str(ours) and isinstance(ours, WorkerError)
    assert "is one between us and it" in str(theirs) and isinstance(theirs, WorkerError)


def test_what_was_recorded_cannot_be_sent_again(tls):
    with pair() as (controller, near), pair() as (far, worker):
        relay = Relay(near, far)
        _, theirs = connections(controller, worker, tls)
        theirs.send(Message("hello"))
        time.sleep(0.2)
    with pair() as (controller, stranger):
        stranger.sendall(relay.kept[far])
        with pytest.raises(WorkerError):
            welcome(controller, SECRET, tls)


@contextmanager
def reception(tls):
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server, Reception(server, SECRET, tls) as receiving:
        yield receiving, server.getsockname()


def let_in(receiving, address):
    """A true worker, while others press in."""
    about = {"rank": 0, "ranks": 1, "release": __version__}

    def come():
        introduce(socket.create_connection(address), SECRET, True).send(Message("hello", fields=about))

    threading.Thread(target=come, daemon=True).start()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if (member := receiving.next()) is not None:
            member.connection.close()
            return member.about
    return None


def test_a_flood_of_strangers_keeps_no_worker_out(tls, caplog):
    with reception(tls) as (receiving, address):
        strangers = [socket.create_connection(address) for _ in range(3 * MOST_GUESTS)]
        assert let_in(receiving, address)["release"] == __version__
        at_once = sum(guest.thread.is_alive() for guest in list(receiving._guests.values()))
        assert at_once <= MOST_GUESTS + 1
        for stranger in strangers:
            stranger.close()
    assert caplog.text.count("was refused") == 1 and "connections from 127.0.0.1 were refused" in caplog.text


def test_without_descriptors_it_waits_until_there_are_some(tls, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with reception(tls) as (receiving, address):
        strangers = [socket.socket() for _ in range(8)]
        spare = socket.socket()
        least = spare.fileno() + 1
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
            for stranger in strangers:
                stranger.connect(address)
            assert receiving.next() is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "cannot let a worker in (Too many open files); waiting" in caplog.text
        assert let_in(receiving, address)
        for each in (*strangers, spare):
            each.close()


def test_one_that_sends_byte_by_byte_has_no_more_time_than_others(tls, monkeypatch):
    monkeypatch.setattr("livetalk_core.parallel.reception.HANDSHAKE_SECONDS", 1)
    with reception(tls) as (receiving, address), socket.create_connection(address) as slow:
        begin, opening = time.monotonic(), client_hello()
        with suppress(OSError):
            for position in range(len(opening)):
                slow.sendall(opening[position : position + 1])
                receiving.next()
        assert 1 < time.monotonic() - begin < 5 and position < len(opening) - 1


@pytest.mark.parametrize("introduced", [True, False], ids=["already in", "just come"])
def test_a_stop_of_this_process_turns_no_worker_away(tls, monkeypatch, introduced):
    with reception(tls) as (receiving, address), socket.create_connection(address) as connected:
        assert receiving.next() is None
        (guest,) = receiving._guests.values()
        if introduced:
            connection = introduce(connected, SECRET, True)
            connection.send(Message("hello", fields={"rank": 0}))
            guest.thread.join(30)
        later = time.monotonic() + 60
        monkeypatch.setattr("livetalk_core.parallel.reception.time.monotonic", lambda: later)
        member = receiving.next()
        if not introduced:
            connection = introduce(connected, SECRET, True)
            connection.send(Message("hello", fields={"rank": 0}))
            guest.thread.join(30)
            member = receiving.next()
        monkeypatch.undo()
        member.connection.send(Message("setup"))
        assert connection.receive().kind == "setup"
        member.connection.close()


def client_hello() -> bytes:
    """What TLS begins with."""
    sent = ssl.MemoryBIO()
    client = worker_context().wrap_bio(ssl.MemoryBIO(), sent)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()
