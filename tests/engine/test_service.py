"""The service on a tiny model: many streams, none of which notices another."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from fireside.engine import service as service_module
from fireside.engine.engine import Engine
from fireside.engine.results import MemoryResults
from fireside.engine.service import Limits, Service
from fireside.engine.stream import FLUSH, Flush, Stream
from fireside.errors import (
    BusyError,
    EngineError,
    FiresideError,
    StalledError,
    StoppingError,
    TextError,
    TimeLimitError,
    UsageError,
)
from fireside.models.checkpoint import ModelFolder
from fireside.request import AudioChunk, SpeechRequest

TEXTS = ["Good evening.", "The fire is lit, and there is tea.", "你好，欢迎。", "One two three.", "Who is there?"]
LONG = "The fire is lit, and there is tea. It rained all day, and the river rose. " * 10
Result = tuple[np.ndarray, list[int]]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ModelFolder:
    return ModelFolder(tiny_model)


def request(index: int = 0, **changes: object) -> SpeechRequest:
    voice = tiny.make_voice("anna", seed=index % 3, tokens=(12, 10, 0)[index % 3])
    asked = SpeechRequest(voice, text=TEXTS[index % len(TEXTS)], seed=index, streaming=True)
    return replace(asked, **changes)  # type: ignore[arg-type]


def joined(chunks: list[AudioChunk]) -> Result:
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return np.concatenate([chunk.samples for chunk in chunks]), [t for chunk in chunks for t in chunk.tokens]


def alone(model: ModelFolder, what: SpeechRequest) -> Result:
    return joined(list(Engine(model).generate(what)))


def assert_same(got: Result, expected: Result) -> None:
    assert got[1] == expected[1], "the tokens are exact"
    np.testing.assert_allclose(got[0], expected[0], atol=1e-3)


async def read(stream: Stream) -> Result:
    return joined([chunk async for chunk in stream])


async def exhaust(stream: Stream) -> None:
    async for _ in stream:
        pass


async def until(true: Callable[[], bool], seconds: float = 10.0) -> float:
    """Wait for something; how long it took."""
    started = time.perf_counter()
    while not true():
        assert time.perf_counter() - started < seconds, "it never came"
        await asyncio.sleep(0.002)
    return time.perf_counter() - started


def assert_nothing_left(service: Service) -> None:
    engine = service.engine
    assert service.statistics().active == 0
    assert engine.active == 0
    assert engine._decoder.free_slots == engine.rows
    assert engine.nbytes == 0


def with_service(
    model: ModelFolder, use: Callable[[Service], Awaitable[None]], limits: Limits | None = None, **options: Any
) -> None:
    async def main() -> None:
        async with Service(Engine(model), limits, **options) as service:
            await use(service)

    asyncio.run(main())


def test_thirty_two_at_once_say_what_each_says_alone(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        streams = [service.stream(request(index % 8)) for index in range(32)]
        results = await asyncio.gather(*map(read, streams))
        solo = [alone(model, request(index)) for index in range(8)]
        for index, result in enumerate(results):
            assert_same(result, solo[index % 8])
        statistics = service.statistics()
        assert (statistics.admitted, statistics.done) == (32, 32)
        assert statistics.rows > 2 * statistics.steps, "they are decoded together"
        assert_nothing_left(service)

    with_service(model, use, Limits(max_streams=32))


def test_more_than_there_are_places_wait_in_turn(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        tasks = [asyncio.create_task(read(service.stream(request(index)))) for index in range(6)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, service.engine.active)
            await asyncio.sleep(0.001)
        assert most == 2
        for index, task in enumerate(tasks):
            assert_same(task.result(), alone(model, request(index)))

    with_service(model, use, Limits(max_streams=2))


def test_busy(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        async with service.stream(request(text=LONG)):
            refused = service.stream(request())
            with pytest.raises(BusyError) as busy:
                await refused.__aenter__()
            assert busy.value.retry_after >= 1
            assert refused.report.outcome == "refused"
            assert refused.report.error == "BusyError"
        await until(lambda: service.statistics().active == 0)
        await read(service.stream(request()))
        statistics = service.statistics()
        assert (statistics.refused, statistics.cancelled, statistics.done) == (1, 1, 1)
        assert statistics.errors == {"BusyError": 1}

    with_service(model, use, Limits(max_streams=1, max_queue=0))


def test_what_cannot_be_spoken_is_refused_before_any_audio(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        for text in ("", "...", "?!"):
            stream = service.stream(request(text=text))
            with pytest.raises(TextError):
                await stream.__aenter__()
            assert stream.report.outcome == "refused"
        with pytest.raises(UsageError):
            await service.stream(request(text=iter(["Yes!"]))).__aenter__()
        assert_nothing_left(service)

    with_service(model, use)


def test_a_stream_is_read_once(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        stream = service.stream(request())
        await read(stream)
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        with pytest.raises(UsageError):
            await stream.__aenter__()

    with_service(model, use)


def test_cancel_frees_everything_at_once(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        other = asyncio.create_task(read(service.stream(request(1))))
        for chunks in (0, 1, 3):
            stream = service.stream(request(text=LONG))
            async with stream:
                for _ in range(chunks):
                    await stream.__anext__()
                key = stream.key
            assert await until(lambda key=key: key not in service.engine._requests) < 0.2
            assert stream.report.outcome == "cancelled"
            await stream.aclose()
        assert_same(await other, alone(model, request(1)))
        assert_nothing_left(service)

    with_service(model, use)


def test_a_reader_who_is_gone(model: ModelFolder) -> None:
    """Cancelled while it waits for a place, for its text to be read, and for audio; dropped without a word."""

    async def use(service: Service) -> None:
        running = asyncio.create_task(read(service.stream(request(text=LONG))))
        await until(lambda: service.engine.active == 1)
        waiting = asyncio.create_task(read(service.stream(request())))
        await until(lambda: service.statistics().queued == 1)
        for task in (waiting, running):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del running, waiting, task
        gc.collect()
        await until(lambda: service.statistics().active == 0)
        beginning = asyncio.create_task(service.stream(request()).__aenter__())
        await asyncio.sleep(0)
        beginning.cancel()
        await asyncio.wait([beginning])
        del beginning
        dropped = service.stream(request(text=LONG))
        await dropped.__anext__()
        del dropped
        gc.collect()
        await until(lambda: service.engine.active == 0 and service.statistics().active == 0)
        assert_nothing_left(service)
        assert_same(await read(service.stream(request(2))), alone(model, request(2)))

    with_service(model, use, Limits(max_streams=1))


def test_closing_wakes_a_reader_in_another_task(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        stream = service.stream(request(text=None))
        reading = asyncio.create_task(exhaust(stream))
        await until(lambda: service.engine.active == 1)
        await stream.aclose()
        await asyncio.wait_for(reading, 5)

    with_service(model, use)


async def parts(text: str, size: int = 7) -> AsyncIterator[str | Flush]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
        await asyncio.sleep(0)


SENTENCES = "The fire is lit, and there is tea. It rained all day, and the river rose. "


def test_text_in_parts(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        stream = service.stream(request(1, text=None), text=parts(SENTENCES))
        assert_same(await read(stream), alone(model, request(1, text=SENTENCES)))
        assert_nothing_left(service)

    with_service(model, use)


def test_audio_comes_while_the_text_does_and_flush_does_not_wait(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        async with service.stream(request(1, text=None)) as stream:
            await stream.feed("The fire is lit, and there ")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.2)
            await stream.flush()
            chunks = [await asyncio.wait_for(stream.__anext__(), 10)]
            await stream.feed("is tea.")
            await stream.end()
            chunks += [chunk async for chunk in stream]
        said = joined(chunks)[1]
        first = alone(model, request(1, text="The fire is lit, and there "))[1]
        assert said[: len(first)] == first

    with_service(model, use)


def test_a_text_that_breaks_off(model: ModelFolder) -> None:
    async def broken() -> AsyncIterator[str | Flush]:
        yield "The fire is lit, and there is tea. It "
        yield FLUSH
        raise OSError("the line is dead")

    async def use(service: Service) -> None:
        with pytest.raises(UsageError, match="the line is dead"):
            await read(service.stream(request(text=None), text=broken()))
        await until(lambda: service.statistics().active == 0)
        assert_nothing_left(service)

    with_service(model, use)


def failing_sampler(stream: Stream, patch: pytest.MonkeyPatch) -> None:
    def fail(scores: object, history: object) -> int:
        raise IndexError("no such id")

    assert stream._record is not None
    handle = stream._record.pieces[-1].handle
    assert handle is not None
    patch.setattr(handle, "sampler", fail)


def failing_stage(name: str) -> Callable[[Stream, pytest.MonkeyPatch], None]:
    def arrange(stream: Stream, patch: pytest.MonkeyPatch) -> None:
        record, engine = stream._record, stream._service.engine
        stage = engine._vocoder if name == "vocoder" else engine._streaming.flow
        append = stage.append

        def fail(states: list[Any], *inputs: Any) -> Any:
            assert record is not None
            made = append(states, *inputs)  # the others' states have moved on when it fails
            if any(getattr(piece.state, name) is state for piece in record.pieces for state in states):
                raise RuntimeError("out of memory")
            return made

        patch.setattr(stage, "append", fail)

    return arrange


@pytest.mark.parametrize("arrange", [failing_sampler, failing_stage("flow"), failing_stage("vocoder")])
def test_a_model_error_in_one_stream_ends_that_stream_only(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch, arrange: Callable[[Stream, pytest.MonkeyPatch], None]
) -> None:
    async def use(service: Service) -> None:
        others = [asyncio.create_task(read(service.stream(request(index)))) for index in range(1, 4)]
        victim = service.stream(request(0, text=LONG))
        await victim.__anext__()
        await until(lambda: victim._record is not None and victim._record.pieces[-1].handle is not None)
        with monkeypatch.context() as patch:
            arrange(victim, patch)
            with pytest.raises(EngineError) as failed:
                await exhaust(victim)
            assert failed.value.__cause__ is not None
            assert victim.report.outcome == "failed"
            assert victim.report.error == "EngineError"
            for index, other in enumerate(others, start=1):
                assert_same(await other, alone(model, request(index)))
        assert_nothing_left(service)

    with_service(model, use)


def test_an_engine_that_fails_altogether_works_again(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(service: Service) -> None:
        stream = service.stream(request(text=LONG))
        await stream.__anext__()

        def fail(*args: object) -> list[object]:
            raise RuntimeError("no more")

        with monkeypatch.context() as patch:
            patch.setattr(service.engine._scheduler, "decoding", fail)
            with pytest.raises(FiresideError):
                await exhaust(stream)
        assert_nothing_left(service)
        assert_same(await read(service.stream(request(1))), alone(model, request(1)))

    with_service(model, use)


def test_a_slow_reader_rests_and_nobody_else_notices(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        slow = service.stream(request(text=SENTENCES * 2))
        chunks = [await slow.__anext__()]
        await until(lambda: service.statistics().held == 1)
        made = slow._record
        assert made is not None
        samples = made.samples
        assert_same(await read(service.stream(request(1))), alone(model, request(1)))
        assert made.samples == samples, "nothing more is made of it meanwhile"
        assert service.engine.nbytes > 0
        chunks += [chunk async for chunk in slow]
        assert_same(joined(chunks), alone(model, request(text=SENTENCES * 2)))
        assert_nothing_left(service)

    with_service(model, use, Limits(unread_seconds=1.0))


def test_who_never_reads_and_who_never_writes_are_sent_away(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_LOOK_ROUND", 0.02)

    async def use(service: Service) -> None:
        reader = service.stream(request(text=LONG))
        await reader.__anext__()
        writer = service.stream(request(text=None))
        await writer.feed("The fire is ")
        await until(lambda: service.engine.active == 0)
        assert_nothing_left(service)
        for stream, why in ((reader, "audio"), (writer, "text")):
            with pytest.raises(StalledError, match=why):
                await exhaust(stream)

    with_service(model, use, Limits(unread_seconds=0.5, stall_seconds=0.3))


def test_a_request_may_take_so_long_and_no_longer(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "_LOOK_ROUND", 0.02)

    async def use(service: Service) -> None:
        with pytest.raises(TimeLimitError):
            await read(service.stream(request(text=LONG * 5)))
        assert_nothing_left(service)

    with_service(model, use, Limits(request_seconds=0.2))


def test_draining_lets_everybody_finish(model: ModelFolder) -> None:
    async def main() -> None:
        service = Service(Engine(model), Limits(max_streams=2))
        await service.start()
        assert service.ready
        tasks = [asyncio.create_task(read(service.stream(request(index)))) for index in range(4)]
        await until(lambda: service.statistics().queued == 2)
        draining = asyncio.create_task(service.drain())
        await until(lambda: service.statistics().draining)
        assert not service.ready
        with pytest.raises(StoppingError):
            await read(service.stream(request()))
        for index, task in enumerate(tasks):
            assert_same(await task, alone(model, request(index)))
        await asyncio.wait_for(draining, 10)
        assert not service._worker.is_alive()

    asyncio.run(main())


def test_closing_cuts_off(model: ModelFolder) -> None:
    async def main() -> None:
        service = Service(Engine(model), Limits(max_streams=1))
        await service.start()
        running, waiting = (asyncio.create_task(read(service.stream(request(text=LONG)))) for _ in range(2))
        await until(lambda: service.statistics().queued == 1)
        await service.drain(0.05)
        for task in (running, waiting):
            with pytest.raises(StoppingError):
                await task
        assert_nothing_left(service)
        await service.close()

    asyncio.run(main())


def test_where_the_time_went(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        blocking, stream = service.stream(request(text=LONG)), service.stream(request(1))
        async with blocking:
            await blocking.__anext__()
            reading = asyncio.create_task(read(stream))
            await until(lambda: service.statistics().queued == 1)
            await asyncio.sleep(0.1)
        await reading
        report = stream.report
        assert report.outcome == "done"
        assert report.first is not None
        assert report.first.queue >= 0.1
        for timings in (report.first, report.timings):
            assert sum(timings.split.values()) == pytest.approx(timings.elapsed, rel=1e-3)
        assert report.first.ttfa == report.first.elapsed == report.timings.ttfa
        assert report.timings.audible_ttfa >= report.timings.ttfa
        assert report.chunks == len(report.slacks) + 1
        assert report.underruns == sum(slack < 0 for slack in report.slacks)

    with_service(model, use, Limits(max_streams=1))


def test_results_are_kept(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        first = service.stream(request(1))
        again, other = service.stream(request(1)), service.stream(request(1, seed=99))
        made = await read(first)
        steps = service.engine.work.steps
        replay = await read(again)
        np.testing.assert_array_equal(replay[0], made[0])
        assert replay[1] == made[1]
        assert service.engine.work.steps == steps, "nothing was computed"
        assert again.report.cached
        assert again.report.timings.lm_decode == 0
        await read(other)
        assert not other.report.cached
        await read(service.stream(request(1, seed=None)))
        use = service.statistics().caches["results"]
        assert (use.hits, use.misses, use.entries) == (1, 2, 2)

    with_service(model, use, results=MemoryResults(2**20))


def test_a_result_that_was_broken_off_is_not_kept(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        async with service.stream(request(text=LONG)) as stream:
            await stream.__anext__()
        assert service.statistics().caches["results"].entries == 0

    with_service(model, use, results=MemoryResults(2**20))


def test_as_many_streams_as_the_machine_bears(model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured decides where no number is given, and memory in any case."""

    def started(limits: Limits, rtf: float) -> Service:
        measured = iter([9.0, rtf, rtf / 2, rtf * 2])

        async def measure(self: Service, request: SpeechRequest) -> float:
            return next(measured)

        async def main() -> Service:
            with monkeypatch.context() as patch:
                patch.setattr(Service, "_measure", measure)
                service = Service(Engine(model), limits)
                await service.start(request())
            await service.close()
            return service

        return asyncio.run(main())

    assert started(Limits(), 0.25).max_streams == 3, "at least 0.7 / RTF, by the median without the first"
    assert started(Limits(), 0.01).max_streams == 32
    assert started(Limits(), 2.0).max_streams == 1
    assert started(Limits(max_streams=32), 2.0).max_streams == 32
    size = started(Limits(max_streams=1), 1.0).statistics().stream_bytes
    assert started(Limits(max_streams=8, memory_bytes=3 * size), 0.1).max_streams == 3
    assert started(Limits(max_streams=8, memory_bytes=1), 0.1).max_streams == 1


def test_measuring(model: ModelFolder) -> None:
    async def main() -> None:
        service = Service(Engine(model))
        await service.start(request(1))
        statistics = service.statistics()
        assert statistics.measured_rtf > 0
        assert 1 <= service.max_streams <= 32
        assert (statistics.admitted, statistics.done) == (0, 0), "warming up does not count"
        assert_nothing_left(service)
        await service.close()

    asyncio.run(main())


def test_a_stream_takes_no_more_memory_than_admission_counts(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        most = 0
        stream = service.stream(request(text=SENTENCES * 3))
        async for _ in stream:
            most = max(most, service.engine.nbytes)
        assert 0 < most <= service.statistics().stream_bytes

    with_service(model, use)


def test_other_work_goes_on_beside_the_streams(model: ModelFolder) -> None:
    async def use(service: Service) -> None:
        assert await service.run(lambda a, b: a + b, 1, 2) == 3
        with pytest.raises(ZeroDivisionError):
            await service.run(lambda: 1 // 0)

    with_service(model, use)
