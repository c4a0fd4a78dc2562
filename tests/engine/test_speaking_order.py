"""Where and with how many cores the engine renders what is due: case by case, with nothing rendered in truth."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fireside.engine import engine as engine_module
from fireside.engine.engine import NEARLY, Engine
from fireside.engine.render import Hop
from fireside.engine.scheduler import NEAR, SLICE, Listener, Scheduler, Turn

THREADS = 4


@dataclass
class FakeBeside:
    """The thread beside: whose hops it has, and whether they are done."""

    log: list[Any]
    work: list[str] = field(default_factory=list)
    done: bool = True

    @property
    def busy(self) -> bool:
        return bool(self.work)

    def give(self, batch: list[str], threads: int) -> None:
        self.log.append(("beside", batch, threads))
        self.work, self.done = batch, False

    def take(self) -> list[str]:
        work, self.work, self.done = self.work, [], True
        return work


class Rendering(Scheduler):
    """Shares what is due in the order in which it is given."""

    def rendering(self, turns: Any, awaited: bool, slice: float, now: float, workers: int = 1) -> list[list[Any]]:
        """See Scheduler."""
        chosen = [turn.what for turn in turns if turn.listener.awaits or not awaited]
        return [share for share in (chosen[index::workers] for index in range(workers)) if share]


class Case:
    """An engine with requests that are due or wait for the LM; `speak` is one turn of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, apart: bool = False) -> None:
        self.log: list[Any] = []
        self.engine = Engine(SimpleNamespace())  # type: ignore[arg-type]
        self.beside = FakeBeside(self.log)
        self.turns: list[Turn[Any]] = []
        self.in_hand: dict[str, float] = {}
        self.engine._apart = apart
        self.engine._beside = self.beside  # type: ignore[assignment]
        parts = {"_decoder": SimpleNamespace(small=True), "_scheduler": Rendering(15, 25.0)}
        self.engine.__dict__.update(parts)
        monkeypatch.setattr(self.engine, "_due", lambda: (self.turns, SLICE))
        monkeypatch.setattr(self.engine, "_in_hand", lambda state: self.in_hand.get(state.id, 0.0))
        monkeypatch.setattr(self.engine, "_take", self._take)
        monkeypatch.setattr(engine_module, "batches_of", lambda hops: [record.id for record, _ in hops])
        monkeypatch.setattr(engine_module, "render", self._render)
        monkeypatch.setattr(torch, "get_num_threads", lambda: THREADS)

    def _take(self, done: list[str], started: float) -> bool:
        if done:
            self.log.append(("handed out", done))
        return bool(done)

    def _render(self, batch: list[str], threads: int) -> list[str]:
        self.log.append(("here", batch, threads))
        return []

    def request(self, name: str, awaits: bool = False, due: bool = True) -> None:
        """A request of that name."""
        listener = Listener(0.0, eager=True, began=None if awaits else 0.0)
        record: Any = SimpleNamespace(id=name, listener=listener)
        self.engine._requests[name] = record  # type: ignore[index]
        if due:
            self.turns.append(Turn((record, Hop(15, False)), listener))

    def speak(self, awaited: bool = False, decoding: bool = True) -> bool:
        """One turn."""
        return self.engine._speak(awaited, decoding, 0.0)


@pytest.fixture(params=[False, True], ids=["here", "apart"])
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(monkeypatch, apart=request.param)


def test_who_is_alone_has_all_cores(case: Case) -> None:
    case.request("a")
    assert case.speak()
    assert case.log == [("here", ["a"], THREADS)]


def test_in_a_crowd_the_lm_goes_on_meanwhile(case: Case) -> None:
    case.request("a")
    case.request("b")
    assert case.speak()
    assert case.log == [("beside", ["a", "b"], THREADS - 1)]
    assert not case.speak(), "one call at a time"


def test_when_the_lm_has_nothing_to_do_its_thread_renders_too(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.request("a")
    case.request("b")
    assert case.speak(decoding=False)
    assert case.log == [("beside", ["a"], THREADS // 2), ("here", ["b"], THREADS // 2)]


def test_a_process_apart_then_has_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, apart=True)
    case.request("a")
    case.request("b")
    assert case.speak(decoding=False)
    assert case.log == [("here", ["a", "b"], THREADS)]


def test_a_first_sound_has_all_cores_and_goes_before_others(case: Case) -> None:
    case.request("first", awaits=True)
    case.request("other")
    assert case.speak()
    assert case.log == [("here", ["first"], THREADS)]


def test_several_first_sounds_too(case: Case) -> None:
    case.request("first", awaits=True)
    case.request("second", awaits=True)
    case.request("later", awaits=True, due=False)
    case.speak()
    where, batch, threads = case.log[-1]
    assert (where, threads) == ("here", THREADS if case.engine._apart else THREADS // 2)
    assert batch == (["first", "second"] if case.engine._apart else ["second"])


def test_where_another_waits_for_the_lm_a_first_sound_is_rendered_meanwhile(case: Case) -> None:
    case.request("first", awaits=True)
    case.request("later", awaits=True, due=False)
    assert case.speak()
    assert case.log == [("beside", ["first"], THREADS - 1)]


def test_unless_the_lm_is_nearly_done_with_that_one(case: Case) -> None:
    case.request("first", awaits=True)
    case.request("later", awaits=True, due=False)
    case.in_hand["later"] = NEARLY + 0.1
    assert case.speak()
    assert case.log == [("here", ["first"], THREADS)]


def test_or_somebody_who_hears_needs_the_lm(case: Case) -> None:
    case.request("first", awaits=True)
    case.request("short", due=False)
    record = case.engine._requests["short"]  # type: ignore[index]
    now = time.perf_counter()
    record.listener.began, record.listener.given = now, NEAR / 2
    case.engine._speaking["handle"] = record, None  # type: ignore[index,assignment]
    assert case.speak()
    assert case.log == [("beside", ["first"], THREADS - 1)]
    case.beside.take()
    case.log.clear()
    record.listener.given = 2 * NEAR
    assert case.speak()
    assert case.log == [("here", ["first"], THREADS)]


def test_what_is_done_goes_to_its_listener_before_anything_else_keeps_it_waiting(case: Case) -> None:
    case.request("first", awaits=True)
    case.request("done")
    case.beside.work, case.beside.done = ["done"], True
    assert case.speak()
    if case.engine._apart:
        assert case.log == [("handed out", ["done"])]
    assert case.log[0] == ("handed out", ["done"])
    case.log.clear()
    case.speak()
    assert case.log == [("here", ["first"], THREADS)]


def test_what_is_in_work_is_waited_for_when_there_is_nothing_else(case: Case) -> None:
    case.request("a")
    case.request("b", due=False)
    case.beside.work, case.beside.done = ["a"], False
    case.turns.clear()
    assert not case.speak(decoding=True)
    assert case.speak(decoding=False)
    assert case.log == [("handed out", ["a"])]
