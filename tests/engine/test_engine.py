"""The engine on a tiny model: what a request says does not depend on who else is there or how it is cut."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from fireside.engine.engine import Engine
from fireside.engine.flow import IncrementalFlow
from fireside.engine.noise import start_noise
from fireside.engine.render import ChunkHops, Hop
from fireside.errors import EngineError, FiresideError, TextError, UsageError
from fireside.models.checkpoint import ModelFolder
from fireside.request import AudioChunk, SpeechRequest

TEXTS = [
    "Good evening.",
    "The fire is lit, and there is tea.",
    "你好，欢迎。",
    "One two three.",
    "Who is there?",
    "我们去 London 喝茶。",
    "Yes!",
    "It rained all day, and the river rose.",
]
HOP = 480
Result = tuple[np.ndarray, list[int]]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ModelFolder:
    return ModelFolder(tiny_model)


@pytest.fixture
def engine(model: ModelFolder) -> Engine:
    return Engine(model)


def request(index: int = 0, **changes: object) -> SpeechRequest:
    voice = tiny.make_voice("anna", seed=index % 3, tokens=(12, 10, 0)[index % 3])
    return replace(SpeechRequest(voice, text=TEXTS[index % 8], seed=index), **changes)  # type: ignore[arg-type]


def joined(chunks: list[AudioChunk]) -> Result:
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return np.concatenate([chunk.samples for chunk in chunks]), [t for chunk in chunks for t in chunk.tokens]


def alone(model: ModelFolder, what: SpeechRequest) -> Result:
    return joined(list(Engine(model).generate(what)))


def drain(engine: Engine, at_step: Callable[[int], None] = lambda step: None) -> dict[int, list[AudioChunk]]:
    """Step until every submitted request is over."""
    got: dict[int, list[AudioChunk]] = {}
    for step in range(100_000):
        at_step(step)
        for key, chunk in engine.step():
            assert isinstance(chunk, AudioChunk)
            got.setdefault(key, []).append(chunk)
        if not engine.active:
            return got
    raise AssertionError("the engine does not come to an end")


def iter_steps(engine: Engine, until: int = 0) -> Iterator[tuple[int, AudioChunk | FiresideError]]:
    """What comes out until no more than so many requests are left."""
    while engine.active > until:
        yield from engine.step()


def assert_same(got: Result, expected: Result) -> None:
    assert got[1] == expected[1], "the tokens are exact"
    np.testing.assert_allclose(got[0], expected[0], atol=1e-3)


def assert_nothing_left(engine: Engine) -> None:
    assert engine.active == 0
    assert engine._decoder.free_slots == engine._rows
    assert not engine._speaking


def test_alone_and_among_seven_others(model: ModelFolder, engine: Engine) -> None:
    requests = [request(index) for index in range(8)]
    keys = [engine.submit(each) for each in requests]
    got = drain(engine)
    for key, each in zip(keys, requests, strict=True):
        assert_same(joined(got[key]), alone(model, each))
    assert_nothing_left(engine)


def test_the_lm_goes_on_while_others_are_rendered(
    model: ModelFolder, engine: Engine, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    requests = [request(index, streaming=True) for index in (1, 4)]
    keys = [engine.submit(each) for each in requests]
    render, step = engine._vocoder.append, engine._decoder.step
    here, begun, decoded = threading.current_thread(), threading.Event(), threading.Event()
    waited: list[bool] = []

    def slow(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not here and not begun.is_set():
            begun.set()
            waited.append(decoded.wait(timeout=20))
        return render(*args, **kwargs)

    def noted(*args: Any) -> Any:
        made = step(*args)
        if begun.is_set():
            decoded.set()
        return made

    monkeypatch.setattr(engine._vocoder, "append", slow)
    monkeypatch.setattr(engine._decoder, "step", noted)
    got = drain(engine)
    assert waited == [True], "a step of the LM came to its end in the midst of rendering"
    for key, each in zip(keys, requests, strict=True):
        assert_same(joined(got[key]), alone(model, each))


def test_a_request_that_is_alone_is_the_same_to_the_last_bit(model: ModelFolder, two_threads: None) -> None:
    first, second = alone(model, request(7)), alone(model, request(7))
    assert first[1] == second[1]
    np.testing.assert_array_equal(first[0], second[0])


def test_requests_come_and_go(model: ModelFolder) -> None:
    engine = Engine(model, rows=2)  # fewer rows than requests: some wait
    requests = [request(index) for index in range(5)]
    keys: dict[int, SpeechRequest] = {}

    def come(step: int) -> None:
        if step % 7 == 0 and len(keys) < len(requests):
            each = requests[len(keys)]
            keys[engine.submit(each)] = each

    got = drain(engine, come)
    for key, each in keys.items():
        assert_same(joined(got[key]), alone(model, each))
    assert_nothing_left(engine)


@pytest.mark.parametrize("hops", [(1,), (3,), (1, 2, 4), (1000,)])
def test_the_cut_into_chunks_changes_nothing(model: ModelFolder, hops: tuple[int, ...]) -> None:
    assert_same(alone(model, request(1, hops=hops)), alone(model, request(1)))


def test_seeds(model: ModelFolder) -> None:
    first, again = alone(model, request(1, seed=7)), alone(model, request(1, seed=7))
    assert first[1] == again[1]
    np.testing.assert_array_equal(first[0], again[0])
    assert alone(model, request(1, seed=8))[1] != first[1]


def test_given_tokens_are_what_the_pure_modules_make_of_them(model: ModelFolder) -> None:
    what = request(0, text="", tokens=(tuple(np.random.default_rng(0).integers(0, tiny.CODES, 23).tolist()),))
    samples, tokens = alone(model, what)
    assert tokens == list(what.tokens[0])
    voice = what.voice
    prompt, prompt_mel = Engine(model)._streaming.heard(voice)
    mel = model.flow.inference(
        torch.tensor([tokens]),
        prompt[None],
        prompt_mel[None],
        torch.from_numpy(voice.embedding)[None],
        start_noise(model.config.flow, 0, 200)[None],
        chunked=True,
    )
    wave = model.vocoder(mel)[0][0].numpy()
    assert wave.shape == samples.shape == (len(tokens) * 2 * HOP,)
    error = np.linalg.norm(samples[120:-120] - wave[120:-120]) / np.linalg.norm(wave[120:-120])
    assert -20 * np.log10(error) >= 60


@pytest.mark.parametrize("speed", [0.5, 1.25, 2.0])
def test_speed(model: ModelFolder, speed: float) -> None:
    tokens = (tuple(range(20)),)
    samples, _ = alone(model, request(0, text="", tokens=tokens, speed=speed))
    assert len(samples) == int(20 * 2 / speed) * HOP


def test_pieces_of_tokens_follow_each_other(model: ModelFolder) -> None:
    first, second = tuple(range(12)), tuple(range(5, 20))
    both, tokens = alone(model, request(0, text="", tokens=(first, second)))
    assert tokens == [*first, *second]
    np.testing.assert_allclose(both[: 12 * 960], alone(model, request(0, text="", tokens=(first,)))[0], atol=1e-4)
    np.testing.assert_allclose(both[12 * 960 :], alone(model, request(0, text="", tokens=(second,)))[0], atol=1e-4)


def test_a_long_text_keeps_two_pieces_at_most(engine: Engine) -> None:
    text = "The fire is lit, and there is tea. It rained all day, and the river rose. " * 12
    key = engine.submit(request(0, text=text))
    assert len(engine._requests[key].plans) > 3

    def few(step: int) -> None:
        assert all(len(state.pieces) <= 2 for state in engine._requests.values())

    chunks = drain(engine, few)[key]
    shares = [chunk.progress for chunk in chunks]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert max(np.diff(shares)) < 0.3
    assert_nothing_left(engine)


def test_prompts_change_what_is_said(model: ModelFolder) -> None:
    with_prompt, without = request(0), request(0, use_prompt_text=False)
    assert alone(model, with_prompt)[1] != alone(model, without)[1]


def test_a_voice_is_prepared_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = IncrementalFlow.start
    monkeypatch.setattr(IncrementalFlow, "start", lambda self, *args: started.append(1) or start(self, *args))
    for index in (0, 3, 0):  # one voice, different texts
        list(engine.generate(request(index)))
    assert len(started) == 1
    list(engine.generate(request(1)))
    assert len(started) == 2


def test_voices_are_not_hoarded(model: ModelFolder) -> None:
    engine = Engine(model, voices=2)
    for index in range(3):
        list(engine.generate(request(index)))
    assert engine.caches["prompt_flow"].entries == 2


def test_timings(engine: Engine) -> None:
    timings = list(engine.generate(request(1)))[-1].timings
    parts = timings.front_end + timings.lm_prefill + timings.lm_decode + timings.flow + timings.vocoder
    assert 0.5 * timings.total < parts <= timings.total
    assert 0 < timings.ttfa <= timings.audible_ttfa
    assert timings.lm_tokens > 0
    assert timings.rtf == pytest.approx(timings.total / timings.audio_seconds)


@pytest.mark.parametrize("steps", [0, 1, 5, 30])
def test_cancel_frees_everything(model: ModelFolder, engine: Engine, steps: int) -> None:
    long = request(1, text="The fire is lit, and there is tea. " * 20)
    key, other = engine.submit(long), engine.submit(request(2))
    kept: list[AudioChunk] = []
    for _ in range(steps):
        kept += [chunk for owner, chunk in engine.step() if owner == other and isinstance(chunk, AudioChunk)]
    state = weakref.ref(engine._requests[key])
    pieces = [weakref.ref(piece) for piece in engine._requests[key].pieces]
    engine.cancel(key)
    engine.cancel(key)
    gc.collect()
    assert state() is None
    assert all(piece() is None for piece in pieces)
    kept += drain(engine).get(other, [])
    assert_same(joined(kept), alone(model, request(2)))
    assert_nothing_left(engine)


def test_a_dropped_stream_is_cancelled(engine: Engine) -> None:
    long = request(1, text="The fire is lit, and there is tea. " * 20)
    stream = engine.generate(long)
    next(stream)
    unstarted = engine.generate(long)
    assert engine.active == 2
    del stream, unstarted
    gc.collect()
    assert_nothing_left(engine)


def test_streams_taken_in_turns(model: ModelFolder, engine: Engine) -> None:
    streams = [engine.generate(request(index)) for index in range(3)]
    got: list[list[AudioChunk]] = [[] for _ in streams]
    while not all(chunks and chunks[-1].final for chunks in got):
        for stream, chunks in zip(streams, got, strict=True):
            chunks += [chunk for chunk in [next(stream, None)] if chunk]
    for index, chunks in enumerate(got):
        assert_same(joined(chunks), alone(model, request(index)))


def test_threads(model: ModelFolder, engine: Engine) -> None:
    got: dict[int, Result] = {}

    def work(index: int) -> None:
        got[index] = joined(list(engine.generate(request(index))))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for index in range(4):
        assert_same(got[index], alone(model, request(index)))
    assert_nothing_left(engine)


def test_one_request_that_fails_leaves_the_others(model: ModelFolder) -> None:
    engine = Engine(model, max_len=60)
    bad = engine.submit(request(1, text="It rained all day and the river rose and nobody came to see " * 3))
    good = engine.submit(request(6))
    kept: list[AudioChunk] = []
    errors: list[FiresideError] = []
    while engine.active:
        for key, item in engine.step():
            if isinstance(item, FiresideError):
                assert key == bad
                errors.append(item)
            elif key == good:
                kept.append(item)
    assert len(errors) == 1
    assert_same(joined(kept), alone(model, request(6)))
    assert_nothing_left(engine)
    with pytest.raises(TextError):
        list(engine.generate(request(1, text="It rained all day and the river rose and nobody came " * 3)))
    assert_nothing_left(engine)


def test_a_failure_of_a_stage_frees_everybody(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = engine.generate(request(1))
    engine.submit(request(2))
    next(stream)

    def broken(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine._vocoder, "append", broken)
        with pytest.raises(KeyboardInterrupt):
            drain(engine)
    with pytest.raises(EngineError):
        list(stream)  # after what was rendered before
    assert_nothing_left(engine)
    assert list(engine.generate(request(1))), "it works again"


@pytest.mark.parametrize("text", ["", "  \n", "...", "?!"])
def test_nothing_to_say(engine: Engine, text: str) -> None:
    with pytest.raises(TextError):
        engine.submit(request(0, text=text))
    assert engine.active == 0


SENTENCES = "The fire is lit, and there is tea. It rained all day, and the river rose. "


def test_text_in_parts(model: ModelFolder, engine: Engine) -> None:
    whole = alone(model, request(1, text=SENTENCES))
    parts = [SENTENCES[i : i + 7] for i in range(0, len(SENTENCES), 7)]
    assert_same(joined(list(engine.generate(request(1, text=iter(parts))))), whole)
    key, other = engine.submit(request(1, text=None)), engine.submit(request(2))
    got: dict[int, list[AudioChunk]] = {key: [], other: []}
    waiting = deque(parts)
    while engine.active:
        if waiting:
            engine.feed(key, waiting.popleft())
        else:
            engine.end(key)
        for owner, chunk in engine.step():
            assert isinstance(chunk, AudioChunk)
            got[owner].append(chunk)
    assert_same(joined(got[key]), whole)
    assert_same(joined(got[other]), alone(model, request(2)))
    assert_nothing_left(engine)


def test_text_is_asked_for_when_it_is_needed(engine: Engine) -> None:
    taken: list[str] = []

    def parts() -> Iterator[str]:
        for part in (SENTENCES * 3).split(" "):
            taken.append(part)
            yield f"{part} "

    stream = engine.generate(request(1, text=parts()))
    next(stream)
    assert len(taken) < 2 * len(SENTENCES.split(" ")), "the first sentence sounds before the last is asked for"
    stream.close()  # type: ignore[attr-defined]
    assert_nothing_left(engine)


def test_text_in_parts_that_says_nothing(engine: Engine) -> None:
    with pytest.raises(TextError):
        list(engine.generate(request(1, text=iter([" ", "..."]))))
    assert_nothing_left(engine)
    with pytest.raises(UsageError, match="feed"):
        engine.submit(request(1, text=iter(["Yes!"])))


def test_text_that_ends_after_all_was_said(engine: Engine) -> None:
    """The last chunk is final also when the end of the text comes late."""
    key = engine.submit(request(1, text=None))
    engine.feed(key, SENTENCES)
    chunks: list[AudioChunk] = []
    for _ in range(10_000):
        chunks += [chunk for _, chunk in engine.step() if isinstance(chunk, AudioChunk)]
        if engine._requests[key].starved:
            break
    engine.end(key)
    while engine.active:
        chunks += [chunk for _, chunk in engine.step() if isinstance(chunk, AudioChunk)]
    assert [chunk.final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].progress == 1.0


def test_a_listener_who_waits_for_more_text_is_not_short_of_audio(engine: Engine) -> None:
    key = engine.submit(request(1, text=None, streaming=True))
    engine.feed(key, SENTENCES)
    listener = engine._requests[key].listener
    while not engine.starved(key):
        engine.step()
    assert listener.began is not None
    listener.began -= 1000.0  # they have heard everything long ago
    engine.feed(key, SENTENCES)
    assert listener.began is None
    engine.cancel(key)
    assert_nothing_left(engine)


def test_flush(model: ModelFolder, engine: Engine) -> None:
    key = engine.submit(request(1, text=None))
    engine.feed(key, "The fire is lit, and there ")
    engine.step()
    assert engine.starved(key)
    engine.flush(key)
    assert not engine.starved(key)
    engine.end(key)
    chunks = [chunk for _, chunk in iter_steps(engine) if isinstance(chunk, AudioChunk)]
    assert_same(joined(chunks), alone(model, request(1, text="The fire is lit, and there ")))


def test_a_held_request_rests(model: ModelFolder, engine: Engine) -> None:
    key, other = engine.submit(request(1)), engine.submit(request(2))
    engine.hold(key, True)
    got = [chunk for _, chunk in iter_steps(engine, until=1)]
    assert_same(joined(got), alone(model, request(2)))  # type: ignore[arg-type]
    assert not engine.advance()
    engine.hold(key, False)
    assert_same(joined([chunk for _, chunk in iter_steps(engine)]), alone(model, request(1)))  # type: ignore[misc]
    assert other != key


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8, 9, 15, 16])
def test_a_prompt_ends_in_what_its_last_chunk_looks_ahead_to(model: ModelFolder, length: int) -> None:
    flow = model.config.flow
    voice = tiny.make_voice("anna", seed=0, tokens=length)
    renderer = Engine(model)._streaming
    tokens, mel = renderer.heard(voice)
    assert tokens.tolist()[len(tokens) - length :] == voice.prompt_tokens.tolist()
    assert mel.shape == (flow.n_mels, len(tokens) * flow.token_mel_ratio)
    lead = len(tokens) - length
    if not length:
        assert lead == 0
        return
    assert len(tokens) % flow.chunk_tokens == flow.pre_lookahead_len
    frames = mel.T.unflatten(0, (-1, flow.token_mel_ratio))
    for place in range(lead):
        origin = (place - lead) % length
        assert tokens[place] == voice.prompt_tokens[origin]
        assert torch.equal(frames[place], frames[lead + origin])
    hop = renderer.wants(renderer.start(renderer.prompt(voice)), 100, False, 0)
    assert hop is not None
    assert (hop.tokens % flow.chunk_tokens, hop.opening) == (0, False), "no hop is left to complete the prompt"


def test_a_prompt_of_whole_chunks_is_completed_at_once(model: ModelFolder) -> None:
    """Its last chunk waits for the tokens it looks ahead to and no longer; nothing else changes."""
    flow = model.config.flow
    chunk, ahead = flow.chunk_tokens, flow.pre_lookahead_len
    schedule, whole = ChunkHops(chunk, ahead), 2 * chunk
    assert schedule.wants(whole, 0, ahead - 1, False, 0) is None
    assert schedule.wants(whole, 0, ahead, False, 0) == Hop(ahead, False, opening=True)
    assert schedule.wants(whole, ahead, chunk, False, 0) == Hop(chunk, False)
    assert schedule.wants(whole, 0, chunk + ahead + 1, True, 0) == Hop(chunk + ahead, False), "all tokens are there"
    voice = tiny.make_voice("anna", seed=0, tokens=whole)
    early = alone(model, request(1, voice=voice))
    given = alone(model, request(1, voice=voice, text="", tokens=(tuple(early[1]),)))
    assert given[1] == early[1]
