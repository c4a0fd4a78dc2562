"""Rendering in another process: the same sound, states that are freed there, and a process that may be lost."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_engine import alone, assert_nothing_left, assert_same, drain, joined, request

from fireside.engine import far_process
from fireside.engine.engine import Engine
from fireside.engine.far import FarRenderer
from fireside.engine.far_process import FarStates, portable
from fireside.engine.render import Renderer
from fireside.engine.service import Service
from fireside.errors import EngineError, UsageError
from fireside.models.checkpoint import ModelFolder
from fireside.models.config import FlowConfig


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ModelFolder:
    return ModelFolder(tiny_model)


@pytest.fixture(scope="module")
def engine(model: ModelFolder) -> Engine:
    engine = Engine(model)
    assert engine.part(2)
    return engine


def renderer_of(engine: Engine) -> FarRenderer:
    renderer = engine._streaming
    assert isinstance(renderer, FarRenderer)
    return renderer


def test_alone_and_in_a_crowd_requests_sound_as_they_do_here(
    model: ModelFolder, engine: Engine, two_threads: None
) -> None:
    requests = [request(index, streaming=True, speed=1.0 + index % 2 / 4) for index in range(8)]
    expected = [alone(model, each) for each in requests]
    assert_same(joined(list(engine.generate(requests[1]))), expected[1])
    keys = [engine.submit(each) for each in requests]
    got = drain(engine)
    for key, each in zip(keys, expected, strict=True):
        assert_same(joined(got[key]), each)
    assert_nothing_left(engine)
    assert engine.nbytes == 0


def test_it_knows_what_a_request_takes(model: ModelFolder, engine: Engine) -> None:
    assert engine.request_bytes == Engine(model).request_bytes
    key = engine.submit(request(1, streaming=True))
    while not engine.nbytes:
        engine.step()
    engine.cancel(key)
    assert engine.nbytes == 0


def test_voices_are_calibrated_there(model: ModelFolder, engine: Engine) -> None:
    voice = tiny.make_voice("anna", 0, tokens=60)
    here = Engine(model)._streaming.fitted(voice)
    there = renderer_of(engine).fitted(voice)
    assert here.calibration is not None
    np.testing.assert_allclose(there.calibration, here.calibration, atol=1e-4)


def test_voices_are_adapted_there_and_sound_as_they_do_here(tmp_path: Path) -> None:
    model = ModelFolder(tiny.write_model(tmp_path, tiny.fitting_config()))
    engine = Engine(model)
    engine.part()
    voice = tiny.make_voice("anna", 0, tokens=60)
    there, here = engine.fitted(voice), Engine(model).fitted(voice)
    assert here.adaptation is not None
    np.testing.assert_allclose(there.adaptation, here.adaptation, atol=1e-2)
    asked = replace(request(1, streaming=True), voice=there)
    assert_same(joined(list(engine.generate(asked))), alone(model, asked))


def test_a_calibrated_voice_sounds_as_it_does_here(model: ModelFolder, engine: Engine) -> None:
    voice = Engine(model)._streaming.fitted(tiny.make_voice("anna", 0, tokens=60))
    asked = replace(request(1, streaming=True), voice=voice)
    assert_same(joined(list(engine.generate(asked))), alone(model, asked))


def test_who_cannot_be_rendered_leaves_the_others(model: ModelFolder, engine: Engine) -> None:
    good, bad = request(1, streaming=True), replace(request(0, streaming=True), text="", tokens=((10**6,) * 30,))
    keys = [engine.submit(good), engine.submit(bad)]
    chunks, errors = [], []
    while engine.active:
        for key, item in engine.step():
            (errors if isinstance(item, Exception) else chunks).append((key, item))
    assert [key for key, _ in errors] == [keys[1]]
    assert isinstance(errors[0][1], EngineError)
    assert_same(joined([chunk for _, chunk in chunks]), alone(model, good))


def test_states_are_freed_there_when_they_are_dropped_here(engine: Engine) -> None:
    prompt = renderer_of(engine).prompt(tiny.make_voice("anna", 0))
    states = [renderer_of(engine).start(prompt) for _ in range(4)]
    assert [len(process.requests) for process in renderer_of(engine)._processes] == [2, 2]
    process, number = states[0].flow.process, states[0].flow.number
    process.ask("append", 1, [number], [[1] * 20], [True]).result()
    states.clear()
    gc.collect()
    assert not process.requests
    with pytest.raises(KeyError):
        process.ask("append", 1, [number], [[1] * 20], [True]).result()


def test_what_is_dropped_is_gone(model: ModelFolder) -> None:
    def load() -> Renderer[object, object]:
        return Engine(model)._streaming

    states = FarStates(load)
    states.prompt(1, tiny.make_voice("anna", 0))
    states.start(2, 1, 1.0, None, 0)
    assert states.append(1, [2], [[1] * 20], [True]).nbytes[0] > 0
    states.drop(1)
    states.drop(2)
    assert not states._prompts
    assert not states._states


def test_signals_are_for_who_called_it(engine: Engine) -> None:
    """Ctrl-C and a service manager's SIGTERM reach every process: what is being said is said to its end."""
    for process in renderer_of(engine)._processes:
        for number in (signal.SIGINT, signal.SIGTERM):
            process._process.send_signal(number)
    assert list(engine.generate(request(1, streaming=True)))[-1].final


def test_when_it_is_lost_requests_end_with_an_error_and_the_next_finds_another(model: ModelFolder) -> None:
    engine = Engine(model)
    engine.part()
    key = engine.submit(request(1, streaming=True))
    lost = renderer_of(engine)
    while not engine.nbytes:
        engine.step()
    begun = engine.submit(request(4, streaming=True))
    lost._processes[0]._process.kill()
    lost._processes[0].ended.wait(10)
    errors, others = [], []
    while engine.active:
        for each, item in engine.step():
            (errors if each == key else others).append(item)
    assert begun != key
    assert_same(joined(others), alone(model, request(4, streaming=True)))  # it had not begun to be rendered
    assert "renders speech has ended (exit code -9)" in str(errors[-1])
    asked = request(1, streaming=True)
    assert_same(joined(list(engine.generate(asked))), alone(model, asked))
    assert renderer_of(engine) is not lost


def test_a_voice_that_is_made_after_it_was_lost_finds_another_too(tmp_path: Path) -> None:
    assert isinstance(tiny.CONFIG.flow, FlowConfig)
    flow = tiny.CONFIG.flow.model_copy(update={"calibrate": True})
    engine = Engine(ModelFolder(tiny.write_model(tmp_path, tiny.CONFIG.model_copy(update={"flow": flow}))))
    engine.part()
    process = renderer_of(engine)._processes[0]
    process._process.kill()
    assert process.ended.wait(10)
    assert engine.fitted(tiny.make_voice("anna", 0, tokens=60)).calibration is not None


def test_it_ends_when_its_renderer_is_dropped(model: ModelFolder) -> None:
    renderer = FarRenderer(model)
    process = renderer._processes[0]._process
    del renderer
    gc.collect()
    assert process.wait(10) == 0


def test_a_model_that_cannot_be_read_is_told_of(model: ModelFolder, tmp_path: Path) -> None:
    other = ModelFolder(tiny.write_model(tmp_path / "model"))
    (tmp_path / "model" / "flow.safetensors").write_bytes(b"nothing")
    with pytest.raises(Exception, match=r"flow\.safetensors"):
        FarRenderer(other)


def test_memory_is_given_back_when_nothing_was_rendered_for_a_while(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr(far_process, "trim", trimmed.set)
    monkeypatch.setattr(far_process, "QUIET_SECONDS", 0.05)
    states = FarStates(lambda: Engine(model)._streaming)
    states.prompt(1, tiny.make_voice("anna", 0))
    for number in (2, 3):
        states.start(number, 1, 1.0, None, 0)
    states.drop(2)
    assert not trimmed.wait(0.3), "one is still rendered"
    states.drop(3)
    states.start(4, 1, 1.0, None, 0)
    assert not trimmed.wait(0.3), "another came in time"
    states.drop(4)
    assert trimmed.wait(10)


def test_an_error_that_cannot_travel_says_what_it_was() -> None:
    class Local(Exception):
        pass

    assert str(portable(Local("no"))) == "Local: no"
    kept = portable(ValueError("no"))
    assert type(kept) is ValueError


def test_nothing_moves_while_something_is_spoken(model: ModelFolder) -> None:
    engine = Engine(model)
    engine.submit(request(1))
    engine.step()
    with pytest.raises(UsageError, match="only while nothing is being spoken"):
        engine.part()


def test_a_service_renders_there(model: ModelFolder, two_threads: None) -> None:
    async def main() -> None:
        async with Service(Engine(model), threads=2, apart=True) as service:
            assert isinstance(service.engine._streaming, FarRenderer)
            asked = [request(index, streaming=True) for index in range(6)]
            streams = [service.stream(each) for each in asked]

            async def read(index: int) -> None:
                got = joined([chunk async for chunk in streams[index]])
                assert_same(got, alone(model, asked[index]))

            await asyncio.gather(*map(read, range(6)))

    asyncio.run(main())
