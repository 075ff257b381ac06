"""The controller's side of the workers: run a job on all of them, and say who is to blame when one fails.

A fleet starts its workers with the first job and keeps them warm. An error that all ranks raise alike (a bad input)
leaves them running. Anything else ends them, since ranks that no longer agree wait for each other for ever: a worker
that died, one that gives no sign of life, one that raised alone, no progress for far longer than its work takes.
The next job then starts new ones.
"""

import itertools
import logging
import queue
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .. import errors
from ..errors import LiveTalkError, WorkerError
from ..hardware.machine import give_back_memory
from .crew import Crew, Event
from .launch import LocalWorkers, RemoteWorkers, Source, gather_members, starting
from .meeting import unreachable
from .protocol import Message, pack
from .reception import POLL_SECONDS, Member

SETUP = "set-up"


@dataclass(frozen=True)
class Limits:
    """Seconds after which something is wrong.

    Between two reports of a job: `floor` plus `factor` times what the operations counted for it took at the slowest
    rate that these workers have shown with this verb. `patience` where nothing is measured yet, and where no rank waits
    for another one; `loading` for the set-up, which reads the weights. Each exchange between ranks begins it anew.
    """

    start: float = 300
    silence: float = 10
    meeting: float = 60
    """From when all ranks look for each other until they have exchanged something, in each group."""
    patience: float = 600
    loading: float = 3600
    floor: float = 20
    factor: float = 10
    grace: float = 2
    """How long the other ranks are listened to after one has failed: the cause may come after its effects."""


@dataclass
class Progress:
    """One job under way: which ranks still work, and when it was last heard of.

    `pace` names the kind of work at hand, and `work` are its operations from one report to the next; 1 where they are
    not counted.
    """

    job: int
    verb: str
    working: set[int]
    last: float
    pace: str
    work: float = 1.0
    slowest: dict[str, float] = field(default_factory=dict)
    """Seconds that an operation of each kind has taken at most."""
    meeting: set[int] = field(default_factory=set)
    """The ranks that look for others."""
    failures: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def heard(self, now: float) -> None:
        """Something came: note how long it took."""
        self.slowest[self.pace] = max(self.slowest.get(self.pace, 0.0), (now - self.last) / self.work)
        self.last = now


class Fleet:
    """Workers that run `runner` (made from `fields` and `tensors`), started when needed; a context that ends them.

    `poll` is called several times a second while a job or the start is waited for; it may raise to cancel.
    """

    def __init__(
        self,
        name: str,
        source: Callable[[], Source],
        runner: str,
        fields: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        limits: Limits | None = None,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self._source, self._limits, self.poll = name, source, limits or Limits(), poll
        self._setup = {"runner": runner, **(fields or {})}, tensors or {}
        self._crew: Crew | None = None
        self._jobs = itertools.count(1)
        self.busy = False
        """Whether a job is under way."""
        self.stage: str | None = None
        """The kind of work at hand, such as `decode`; None between two jobs."""
        self.sent: dict[str, Any] = {}
        """What the running workers have been given to keep, by name; whoever sends it notes it here."""

    def __str__(self) -> str:
        return self.name

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def set_up(self, **fields: Any) -> None:
        """Set these fields of what workers are made from; those that are running are not."""
        before, tensors = self._setup
        self._setup = {**before, **fields}, tensors

    @property
    def members(self) -> Sequence[Member]:
        """The workers that are running."""
        return self._crew.members if self._crew else ()

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes that the running workers were sent, and that came from them."""
        connections = [member.connection for member in self.members]
        return sum(each.sent for each in connections), sum(each.received for each in connections)

    def start(self) -> None:
        """Start and set up the workers, unless they are running."""
        if self._crew is not None:
            gone = self._crew.gone(self._limits.silence)
            if not gone:
                return
            names = ", ".join(str(member) for member in gone)
            logging.warning("%s ended or stopped between two jobs; starting new workers", names)
            self._end(politely=False)
        give_back_memory()
        with starting():
            source = self._source()
        try:
            with starting():
                members = gather_members(source, self._limits.start, self.poll)
        except BaseException:
            source.close()
            raise
        self._crew = Crew(source, members)
        self.sent = {}
        try:
            fields, tensors = self._setup
            with starting():
                meeting = source.meet()
            crew = [[member.about["host"], member.about["process"]] for member in members]
            for _ in self._run("setup", SETUP, {**fields, **meeting, "crew": crew}, tensors):
                pass
        except BaseException:
            self._end(politely=False)
            raise

    def run(
        self, verb: str, fields: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> Generator[Message, None, None]:
        """`start`, then `run_on`."""
        self.start()
        yield from self.run_on(verb, fields, tensors)

    def run_on(
        self, verb: str, fields: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> Generator[Message, None, None]:
        """Run a verb on all workers that are running; gives what the first one reports, as it comes.

        Closing the iterator, or whatever `poll` raises, cancels the job at all ranks' next report.
        """
        yield from self._run("call", verb, {"verb": verb, **(fields or {})}, tensors or {})

    def close(self) -> None:
        """End the workers. A later job starts new ones."""
        self._end(politely=True)

    def _end(self, politely: bool) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close(politely)

    def _run(self, kind: str, verb: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[Message]:
        crew = self._crew
        assert crew is not None, "started before"
        job = next(self._jobs)
        data = pack(Message(kind, job, fields, tensors))  # what cannot be packed is no job that could be stopped
        progress = Progress(job, verb, set(range(len(crew.members))), crew.clock.now(), verb)
        self.busy, self.stage = True, verb
        try:
            crew.post(data)
            yield from self._follow(crew, progress, self.poll)
        except LiveTalkError:
            raise  # the workers' own, and dealt with
        except BaseException:
            self._cancel(crew, progress)
            raise
        finally:
            self.busy, self.stage = False, None
        for pace, slowest in progress.slowest.items():
            crew.rates[pace] = max(crew.rates.get(pace, 0.0), slowest)

    def _follow(self, crew: Crew, progress: Progress, poll: Callable[[], None]) -> Iterator[Message]:
        """What the job reports, until all ranks have done with it."""
        while progress.working:
            poll()
            event = self._next(crew, progress)
            if event is None or (event.message is not None and event.message.job != progress.job):
                continue
            if event.message is None or event.message.kind == "failed":
                raise self._failure(crew, progress, event)
            progress.heard(crew.clock.now())
            if event.message.kind == "item":
                yield event.message
                progress.last = crew.clock.now()  # the consumer's time is not the workers'
            elif event.message.kind == "expects":
                progress.pace, progress.work = event.message.fields["work"], event.message.fields["operations"]
                self.stage = progress.pace
            elif event.message.kind == "meets":
                (progress.meeting.add if event.message.fields["begins"] else progress.meeting.discard)(event.rank)
            else:
                progress.working.discard(event.rank)

    def _next(self, crew: Crew, progress: Progress) -> Event | None:
        try:
            return crew.events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            self._check_life(crew, progress)
            return None

    def _check_life(self, crew: Crew, progress: Progress) -> None:
        """Raise `WorkerError`, and end the workers, where one is silent or none gets on."""
        if silent := crew.silent(self._limits.silence):
            names = ", ".join(str(member) for member in silent)
            raise self._loss(
                f"{names} gave no sign of life for {self._limits.silence:.0f} s: stopped, or its host is gone"
            )
        waited = crew.clock.now() - progress.last
        if progress.meeting >= progress.working and waited > self._limits.meeting:
            raise self._loss(f"workers have not reached each other in {waited:.0f} s: {unreachable(crew.members)}")
        limit = self._limit(crew, progress)
        if crew.clock.now() - max(progress.last, crew.moved) > limit:
            raise self._loss(f"no progress for {limit:.0f} s: {_blame(crew, progress)}")

    def _limit(self, crew: Crew, progress: Progress) -> float:
        limits, rate = self._limits, crew.rates.get(progress.pace)
        if progress.verb == SETUP:
            return limits.loading
        if rate is None or not any(crew.links[rank].place.get("waits") for rank in progress.working):
            return max(limits.patience, limits.factor * (rate or 0) * progress.work)
        return limits.floor + limits.factor * rate * progress.work

    def _loss(self, what: str) -> WorkerError:
        """End the workers; the error to raise."""
        self._end(politely=False)
        return WorkerError(f"{what}; the workers were ended, the next job starts new ones")

    def _failure(self, crew: Crew, progress: Progress, event: Event) -> LiveTalkError:
        """What the workers failed with: their common error, or the one that came first in cause."""
        lost = self._hear_out(crew, progress, event)
        failures = list(progress.failures.values())
        if not lost and len(failures) == len(crew.members) and _is_common(failures):
            return getattr(errors, failures[0]["error"], LiveTalkError)(failures[0]["text"])
        if lost:
            crew.source.wait(lost[0])
            fate = crew.source.fate(lost[0]) or "closed its connection"
            return self._loss(f"{crew.members[lost[0]]} {fate}, during {progress.pace}")
        rank, failure = min(progress.failures.items(), key=lambda item: (item[1]["secondary"], item[0]))
        text = f"{failure['error']}: {failure['text']}" if not failure["expected"] else failure["text"]
        advice = "; it ran out of memory: a smaller size or sharded weights need less" * failure["out of memory"]
        return self._loss(f"{crew.members[rank]} failed during {progress.pace}: {text}{advice}")

    def _hear_out(self, crew: Crew, progress: Progress, event: Event) -> list[int]:
        """Note all failures that come within the grace time; the ranks whose connection is lost."""
        lost: list[int] = []
        until = time.monotonic() + self._limits.grace
        while True:
            if event.message is None:
                lost += [event.rank] * (event.rank not in lost)
            elif event.message.kind == "failed" and event.message.job == progress.job:
                progress.failures[event.rank] = event.message.fields
            if len(lost) + len(progress.failures) >= len(crew.members):
                return lost
            try:
                event = crew.events.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return lost

    def _cancel(self, crew: Crew, progress: Progress) -> None:
        """Stop a job at its next report, and wait for that; workers that cannot stop are ended."""
        if self._crew is not crew:
            return
        if progress.verb == SETUP:
            return  # no job to stop at: `start` ends the workers
        try:
            crew.send(Message("cancel", progress.job))
            for _ in self._follow(crew, progress, lambda: None):
                pass
        except LiveTalkError as error:
            logging.warning("while stopping: %s", error)
        except BaseException:
            self._end(politely=False)
            raise


def _is_common(failures: Sequence[Mapping[str, Any]]) -> bool:
    return all(failure["expected"] and failure["text"] == failures[0]["text"] for failure in failures)


def _blame(crew: Crew, progress: Progress) -> str:
    """Who holds up the others: a rank that works on, or is somewhere else than in waiting for other ranks."""
    places = {rank: crew.links[rank].place for rank in progress.working}
    busy = [rank for rank, place in places.items() if not place.get("waits")]
    done = [str(member) for member in crew.members if member.rank not in places]
    if not busy and done:
        return f"{', '.join(done)} ended its part before the others, which wait for it"
    culprits = busy or list(places)
    where = [f"{crew.members[rank]} is at {places[rank].get('at', 'its start')}" for rank in culprits]
    return ", ".join(where) + (", and others wait for it" if len(culprits) < len(crew.members) else "")


def local_fleet(devices: Sequence[str], runner: str, **options: Any) -> Fleet:
    """A fleet of this machine's devices; see `Fleet` for the options."""
    return Fleet(", ".join(devices), lambda: LocalWorkers(devices), runner, **options)


def remote_fleet(address: tuple[str, int], ranks: int, secret: bytes, runner: str, **options: Any) -> Fleet:
    """A fleet of workers that connect to `address`; see `Fleet` for the options."""
    return Fleet(f"{ranks} workers", lambda: RemoteWorkers(address, ranks, secret), runner, **options)
