"""A live stream under a clock that runs faster: hours of it, its engine replaced by its timing."""

import itertools
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livetalk_core.live.reel import Moment
from livetalk_core.live.stage import Stage, Stale

FRAME, SAMPLES = 0.04, 640
NEW, QUICK, PAST = 28, 12, 5
GROUP, STEPS = 4, 5


@dataclass
class Simulation:
    """As `LiveSession` drives a stage: an engine that takes `chunk` seconds, half of it before its first frames."""

    chunk: float = 0.7
    stage: Stage = field(default_factory=lambda: Stage(NEW, QUICK, PAST, GROUP))
    now: float = 0.0
    shown: list = field(default_factory=list)
    keep: bool = True
    work: object = None
    due: float = 0.0
    began: float = 0.0
    done: int = 0
    steps: int = 0
    waits: bool = False
    most_lead: int = 0
    lengths: list = field(default_factory=list)

    def run(self, until, events=()):
        """Up to time `until`; `events` are (time, call), in order."""
        events = list(events)
        while self.now < until:
            times = [until, *(time for time, _ in events[:1])]
            if self.stage.clock.due is not None and self.stage.reel.lead:
                times.append(max(self.now, self.stage.clock.due))
            if self.work:
                times.append(max(self.now, self.due))
            elif not self.stage.reel.lead:
                times.append(self.now + 0.01)
            self.now = min(times)
            while events and events[0][0] <= self.now:
                events.pop(0)[1](self)
            self.engine()
            moment = self.stage.next_moment(self.now)
            if moment is not None:
                self.sent(moment)
            self.most_lead = max(self.most_lead, self.stage.reel.lead)

    def sent(self, moment):
        if self.keep:
            self.shown.append((self.now, moment))

    def engine(self):
        if self.work is None and (work := self.stage.next_work(self.now)) is not None:
            self.work, self.began, self.done = work, self.now, 0
            self.lengths.append(work.order.frames)
            self.steps, self.due = STEPS, self.now + self.seconds / 2 / STEPS
        if self.work is not None and self.waits and self.work.generation != self.stage.reel.generation:
            self.finish(None)  # told at once
            self.engine()
        elif self.work is not None and self.now >= self.due:
            self.advance()

    @property
    def seconds(self):
        return self.chunk * (self.work.order.frames + PAST) / (NEW + PAST)

    def advance(self):
        """Another step; after them another group, if there is room."""
        order = self.work.order
        self.waits = False
        try:
            self.stage.check(self.work)
            self.steps -= 1
            if self.steps > 0:
                self.due = self.now + self.seconds / 2 / STEPS
                return
            for _ in range(min(GROUP, order.frames - self.done)):
                if not self.stage.put(self.work, self.moment(self.done)):
                    self.due, self.waits = self.now + FRAME / 8, True
                    return
                self.done += 1
        except Stale:
            self.finish(None)
            return
        if self.done == order.frames:
            self.finish(self.seconds / 2)
        else:
            self.due = self.now + self.seconds / 2 / (order.frames // GROUP - 1)

    def finish(self, first):
        self.stage.worked(first, self.seconds)
        self.work = None

    def moment(self, index):
        sound = self.work.taken.sound[index * SAMPLES : (index + 1) * SAMPLES]
        arrived = [time for sample, time in self.work.taken.begins if sample // SAMPLES == index]
        spoken = index * SAMPLES < self.work.taken.spoken
        mark = (self.work.generation, self.work.order.begin + index)  # in the place of a frame
        return Moment(mark, None, sound, spoken, arrived[0] if arrived else None)


def say(seconds, value=1.0):
    """Speech that arrives at once."""

    def call(simulation):
        simulation.stage.begin(simulation.now)
        simulation.stage.add(np.full(int(seconds * 16_000), value, np.float32), simulation.now)
        simulation.stage.end()

    return call


def interrupt(simulation):
    simulation.stage.interrupt()


def sounds(simulation):
    return np.concatenate([moment.sound for _, moment in simulation.shown])


def test_silence_is_a_stream():
    simulation = Simulation()
    simulation.run(20)
    clock = simulation.stage.clock
    assert clock.frames == pytest.approx((20 - 0.35) * 25, abs=2)
    assert clock.late == 0
    assert simulation.most_lead <= NEW


def test_speech_that_arrives_at_once_is_seen_after_a_first_group_and_two_frames():
    simulation = Simulation()
    simulation.run(60, [(10 + 5.123 * index, say(2)) for index in range(9)])
    first_group, step = 0.35, 0.07
    latencies = sorted(simulation.stage.figures.first_pictures)
    assert len(latencies) == 9
    assert latencies[4] <= first_group + 2 * FRAME + 1e-6
    assert latencies[-1] <= first_group + 2 * FRAME + step + 1e-6  # the step at work on silence is ended first
    assert simulation.stage.clock.late == 0
    assert (sounds(simulation) == 1).sum() == 9 * 2 * 16_000


def test_speech_at_the_pace_of_speaking_is_not_torn():
    """Pieces of 20 ms, in time with the clock: nothing is silent between the first sample and the last."""
    simulation = Simulation()

    def piece(number):
        def call(simulation):
            if number == 0:
                simulation.stage.begin(simulation.now)
            simulation.stage.add(np.ones(320, np.float32), simulation.now)
            if number == 499:
                simulation.stage.end()

        return call

    simulation.run(20, [(5 + 0.02 * number, piece(number)) for number in range(500)])
    heard = np.flatnonzero(sounds(simulation))
    assert len(heard) == 500 * 320 == heard[-1] - heard[0] + 1
    assert max(simulation.stage.figures.first_pictures) <= NEW * FRAME + 0.35 + 2 * FRAME + 0.02
    assert simulation.stage.clock.late <= 1  # the clock once makes way for the sound


def test_a_microphone_that_falls_silent_does_not_stop_the_stream():
    simulation = Simulation()

    def stops_short(simulation):
        simulation.stage.begin(simulation.now)
        simulation.stage.add(np.ones(40_000, np.float32), simulation.now)

    simulation.run(20, [(5, stops_short)])
    assert (sounds(simulation) == 1).sum() == 40_000
    assert simulation.stage.clock.frames > 25 * 18


def test_an_interruption_is_silent_from_the_next_frame_and_goes_on_from_what_was_shown():
    simulation = Simulation()
    simulation.run(20, [(5, say(8)), (8, interrupt)])
    after = [(time, moment) for time, moment in simulation.shown if time >= 8]
    assert sum(np.count_nonzero(moment.sound) for _, moment in after) < 80  # 5 ms, dying away
    last_spoken = [moment.frame[1] for _, moment in simulation.shown if moment.sound.all()][-1]
    held = [moment for _, moment in after if moment.frame[1] == last_spoken]
    fresh = next(moment for _, moment in after if moment.frame[1] != last_spoken)
    assert fresh.frame[1] == last_spoken + 1
    assert 0 < len(held) <= 11
    assert simulation.stage.clock.late == 0


@pytest.mark.parametrize(("chunk", "helps"), [(0.5, True), (1.0, False)])
def test_quick_chunks_follow_an_interruption_where_they_shorten_the_stop(chunk, helps):
    """Of 12 frames, which are shown in 0.48 s: made in 0.26 s, and in 0.52 s."""
    simulation = Simulation(chunk=chunk)
    cuts = [event for at in range(10, 90, 10) for event in ((at, say(6)), (at + 4, interrupt))]
    simulation.run(50, cuts[:8])  # the first two quick chunks are no measure, or the first one
    measured = len(simulation.lengths)
    simulation.run(90, cuts[8:])
    assert (QUICK in simulation.lengths[measured:]) == helps


def test_an_engine_of_06_times_real_time_stops_and_loses_nothing():
    simulation = Simulation(chunk=NEW * FRAME / 0.6)
    simulation.run(60, [(10, say(20))])
    clock = simulation.stage.clock
    assert (sounds(simulation) == 1).sum() == 20 * 16_000
    assert clock.late > 10
    elapsed = simulation.shown[-1][0] - simulation.shown[0][0]
    assert (clock.frames - 1) * FRAME + clock.stopped == pytest.approx(elapsed, abs=FRAME / 2)
    assert clock.frames == pytest.approx(0.6 * 60 * 25, rel=0.05)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_generations_are_right_under_random_interruptions(seed):
    """500 interruptions each, 10,000 in all: nothing computed before one is shown after it."""
    chance = random.Random(seed)
    simulation = Simulation(chunk=chance.uniform(0.3, 1.5))
    generations, now, events = [], 0.0, []

    def noted(simulation):
        before = simulation.stage.reel.generation
        interrupt(simulation)
        generations.append((simulation.now, before, simulation.stage.reel.generation))

    for _ in range(500):
        now += chance.uniform(0, 0.8)
        events.append((now, say(chance.uniform(0.01, 3))))
        now += chance.uniform(0, 1.5)
        events.append((now, noted))
    simulation.run(now + 5, events)
    assert len(generations) == 500
    places = [moment.frame[1] for _, moment in simulation.shown]
    assert all(here - before in (0, 1) for before, here in itertools.pairwise(places))
    marks = [moment.frame[0] for _, moment in simulation.shown]
    assert marks == sorted(marks)
    shown = iter(simulation.shown)
    for time, before, after in generations:
        if before == after:
            continue
        moment = next(moment for at, moment in shown if at > time)
        assert np.count_nonzero(moment.sound) < 80 or moment.frame[0] >= after


@pytest.mark.slow
def test_eight_hours_neither_grow_nor_drift():
    """With speech every 20 s and now and then an interruption."""
    simulation = Simulation(keep=False)
    chance, now, events = random.Random(1), 5.0, []
    while now < 8 * 3600:
        events.append((now, say(chance.uniform(0.5, 15))))
        if chance.random() < 0.3:
            events.append((now + chance.uniform(0, 10), interrupt))
        now += 20
    simulation.run(8 * 3600, events)
    stage = simulation.stage
    clock, held = stage.clock, stage.figures.held
    assert clock.frames * FRAME + clock.stopped == pytest.approx(8 * 3600 - 0.36, abs=FRAME)
    assert clock.late < 0.001 * clock.frames
    assert clock.frames == stage.reel.shown + held
    assert stage.reel.lead <= NEW
    assert not stage.speech.samples and not stage._ends
