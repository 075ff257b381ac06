"""Workers that torchrun starts, as on several hosts: here two nodes with a loopback address each."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest
import torch
from faulty_fleets import LIMITS, PROGRAM, Button, count, processes_of, wait_until_gone

from livetalk_core import __version__
from livetalk_core.commands.worker import NEVER, stay
from livetalk_core.errors import Cancelled, InputError, WorkerError
from livetalk_core.parallel.fleet import Limits, remote_fleet
from livetalk_core.parallel.meeting import open_port
from livetalk_core.parallel.protocol import HANDSHAKE_SECONDS, Connection, Disconnected, Message, introduce, welcome
from livetalk_core.parallel.release import CODE
from livetalk_core.parallel.secure import listener_tls
from livetalk_core.parallel.worker import Place, Worker, connect

SECRET = b"what only these hosts know"
ADDRESSES = ("127.0.0.1", "127.0.0.2")


def free_port() -> int:
    with socket.create_server((ADDRESSES[0], 0)) as server:
        return server.getsockname()[1]


def torchrun(node: int, meeting: int, controller: int, secret: bytes) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1",
        "--max-restarts", "9", "--monitor-interval", "0.2",
        "--master-addr", ADDRESSES[0], "--master-port", str(meeting), "--local-addr", ADDRESSES[node],
        PROGRAM[1], "--connect", f"{ADDRESSES[0]}:{controller}",
    ]  # fmt: skip
    environment = {**os.environ, "LIVETALK_SECRET": secret.decode(), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, env=environment)


def test_two_nodes_are_one_fleet_after_each_failure_and_end_in_peace():
    meeting, controller = free_port(), free_port()
    nodes = [torchrun(node, meeting, controller, SECRET) for node in (0, 1)]
    try:
        with remote_fleet((ADDRESSES[0], controller), 2, SECRET, "faulty", limits=LIMITS) as fleet:
            assert count(fleet) == [0, 1, 2]
            for rank in (1, 0, 1):
                # Not before they count: who ends between two jobs is replaced in silence.
                kill = partial(os.kill, processes_of(fleet)[rank], signal.SIGKILL)
                with pytest.raises(WorkerError, match=rf"worker {rank} .*during count"):
                    count(fleet, steps=1000, begun=kill, seconds=0.1)
                assert count(fleet) == [0, 1, 2]
        assert [node.wait(300) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def test_workers_that_stay_serve_again_and_come_back_after_a_failure():
    """Two renders on the same processes, which are given their ranks each time; new ones after a worker is killed."""
    controller = free_port()
    environment = {**os.environ, "LIVETALK_SECRET": SECRET.decode(), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, PROGRAM[1], "--connect", f"{ADDRESSES[0]}:{controller}", "--device", "cpu", "--stay"]
    hosts = [subprocess.Popen(command, env=environment) for _ in range(2)]
    processes = []
    try:
        for _ in range(3):
            with remote_fleet((ADDRESSES[0], controller), 2, SECRET, "faulty", limits=LIMITS) as fleet:
                assert count(fleet) == [0, 1, 2]
                processes += processes_of(fleet)
        assert len(set(processes)) == 2
        with remote_fleet((ADDRESSES[0], controller), 2, SECRET, "faulty", limits=LIMITS) as fleet:
            kill = partial(os.kill, processes[0], signal.SIGKILL)
            with pytest.raises(WorkerError, match="closed its connection"):
                count(fleet, steps=1000, begun=kill, seconds=0.1)
            assert count(fleet) == [0, 1, 2]
            assert processes[0] not in processes_of(fleet)
            processes += processes_of(fleet)
    finally:
        for host in hosts:
            host.send_signal(signal.SIGINT)
        assert [host.wait(60) for host in hosts] == [0, 0]
    assert wait_until_gone(processes) == []


def hello(**changes):
    about = {
        "rank": 0, "ranks": 1, "device": "cpu", "memory": 1, "host": "elsewhere", "process": 7,
        "release": __version__, "code": CODE, "torch": torch.__version__,
    }  # fmt: skip
    return Message("hello", fields={**about, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"release": "0.0.1"}, r"worker 0 \(cpu on elsewhere, process 7\) runs LiveTalk 0.0.1 with torch .* is needed"),
        ({"torch": "1.0"}, "install the same on all hosts"),
        ({"code": "0123"}, rf"another LiveTalk {__version__} than this process: .* if it was updated while it ran"),
        ({"ranks": 3}, "is one of 3 workers; 1 are needed"),
    ],
)
def test_a_worker_that_does_not_fit_is_refused(changes, message):
    port, told = free_port(), queue.SimpleQueue()

    def come():
        with socket.create_connection((ADDRESSES[0], port)) as connected:
            connection = introduce(connected, SECRET, secure=True)
            connection.send(hello(**changes))
            told.put(connection.receive())

    fleet = remote_fleet((ADDRESSES[0], port), 1, SECRET, "faulty", limits=LIMITS, poll=start_once(come))
    with pytest.raises(WorkerError, match=message) as found:
        fleet.start()
    assert told.get(timeout=30).fields["fault"] in str(found.value)


def test_gpus_beside_cpus_are_refused():
    """They would wait for each other: one kind exchanges by NCCL, and in more pieces."""
    port, told = free_port(), queue.SimpleQueue()

    def come():
        with ExitStack() as stack:
            for rank, device in enumerate(("cpu", "cuda:0")):
                connection = introduce(
                    stack.enter_context(socket.create_connection((ADDRESSES[0], port))), SECRET, True
                )
                connection.send(hello(rank=rank, ranks=2, device=device))
            told.put(connection.receive())

    fleet = remote_fleet((ADDRESSES[0], port), 2, SECRET, "faulty", limits=LIMITS, poll=start_once(come))
    with pytest.raises(WorkerError, match=r"worker 1 \(cuda:0 .* another kind than worker 0 \(cpu .* all GPUs or all"):
        fleet.start()
    assert "all GPUs or all CPUs" in told.get(timeout=30).fields["fault"]


def test_a_worker_that_is_refused_says_why():
    with socket.create_server((ADDRESSES[0], 0)) as server:
        connected = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with connected, theirs:
        place = Place(("", 0), SECRET, 0, 1, torch.device("cpu"))
        worker = Worker(place, Connection(connected), {})
        controller = Connection(theirs)
        controller.send(Message("goodbye", fields={"fault": "runs LiveTalk 0.0.1"}))
        with pytest.raises(WorkerError, match=r"refused this worker, which runs LiveTalk 0\.0\.1"):
            worker.serve()
        assert controller.receive().kind == "hello"


def start_once(work):
    """A poll that starts `work` in a thread when it is first called: the port is open then."""
    started = []

    def poll():
        if not started:
            started.append(threading.Thread(target=work, daemon=True))
            started[0].start()

    return poll


def test_a_wrong_secret_is_told_to_the_worker_and_logged(caplog):
    port, told = free_port(), []

    def come():
        with socket.create_connection((ADDRESSES[0], port)) as connected:
            try:
                introduce(connected, b"something else altogether", secure=True)
            except WorkerError as error:
                told.append(str(error))

    limits = Limits(start=8)
    fleet = remote_fleet((ADDRESSES[0], port), 1, SECRET, "faulty", limits=limits, poll=start_once(come))
    with pytest.raises(WorkerError, match=r"1 of 1 workers \(0\) have not connected in 8 s"):
        fleet.start()
    assert "the controller has another secret" in told[0]
    assert "was refused: a worker with another secret" in caplog.text


def test_one_that_says_nothing_holds_up_neither_the_others_nor_a_cancel():
    """A stranger, and one that knows the secret and stops there; then a worker, which is heard at once."""
    port, button, silent = free_port(), Button(), []

    def come():
        silent.append(socket.create_connection((ADDRESSES[0], port)))
        silent.append(introduce(socket.create_connection((ADDRESSES[0], port)), SECRET, secure=True))
        with socket.create_connection((ADDRESSES[0], port)) as connected:
            introduce(connected, SECRET, secure=True).send(hello(ranks=2))
            button.pressed = True
            connected.recv(1)

    start_and_press = start_once(come)

    def poll():
        start_and_press()
        button()

    begin = time.monotonic()
    with pytest.raises(Cancelled):
        remote_fleet((ADDRESSES[0], port), 2, SECRET, "faulty", limits=LIMITS, poll=poll).start()
    assert time.monotonic() - begin < HANDSHAKE_SECONDS
    assert not silent[0].recv(100), "it is turned away"
    with pytest.raises(Disconnected):
        silent[1].receive()
    for each in silent:
        each.close()


def test_a_port_in_use_is_refused():
    with socket.create_server((ADDRESSES[0], 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen at 127.0.0.1:{port}: .*choose another"):
            remote_fleet((ADDRESSES[0], port), 1, SECRET, "faulty").start()


def has_ipv6() -> bool:
    try:
        open_port("::1", 0).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_addresses_may_be_of_ipv6():
    controller = free_port()
    environment = {**os.environ, "LIVETALK_SECRET": SECRET.decode(), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, PROGRAM[1], "--connect", f"[::1]:{controller}", "--device", "cpu"]
    worker = subprocess.Popen(command, env=environment)
    try:
        with remote_fleet(("::1", controller), 1, SECRET, "faulty", limits=LIMITS) as fleet:
            assert count(fleet) == [0, 1, 2]
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.parametrize("secure", [True, False])
def test_a_controller_that_is_stopped_is_looked_for_until_it_goes_on(monkeypatch, secure):
    monkeypatch.setattr("livetalk_core.parallel.protocol.HANDSHAKE_SECONDS", 1)
    tls = listener_tls() if secure else None
    with socket.create_server((ADDRESSES[0], 0)) as server, ExitStack() as stack:

        def go_on():
            """Who has come meanwhile is gone; the next one is heard."""
            stack.enter_context(server.accept()[0])
            stack.callback(welcome(server.accept()[0], SECRET, tls).close)

        controller = threading.Thread(target=go_on, daemon=True)
        controller.start()
        connect(server.getsockname(), SECRET, secure).close()
        controller.join(30)
        assert not controller.is_alive()


def test_a_name_that_no_host_has_is_said_at_once_and_not_tried_for_ever(monkeypatch):
    def unknown(_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(
        InputError, match=r"^no host is called nowhere \(Name or .* needs the name or address of the host"
    ):
        connect(("nowhere", 29700), SECRET, True)
    ends = [sys.executable, "-c", f"raise SystemExit({NEVER})"]
    assert stay(["worker", "--connect", "nowhere:29700", "--stay"], ends) == NEVER
