"""The caches of whole results; the one in Redis against a real Redis where one is installed."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from fireside.engine.results import MemoryResults, RedisResults, Result, Results, model_key, replayed, result_key
from fireside.errors import UsageError
from fireside.models.checkpoint import ModelFolder
from fireside.models.config import SamplingConfig
from fireside.request import AudioChunk, SpeechRequest, Timings


def result(seconds: float = 0.1, chunks: int = 3) -> Result:
    noise = np.random.default_rng(0).standard_normal((chunks, int(24000 * seconds))).astype(np.float32)
    return tuple(
        AudioChunk(
            noise[index],
            24000,
            index,
            final=index == chunks - 1,
            timings=Timings(lm_decode=1.5, ttfa=0.2, audio_seconds=seconds * (index + 1), lm_tokens=7),
            progress=(index + 1) / chunks,
            tokens=(index, 5),
        )
        for index in range(chunks)
    )


def assert_equal(got: Result | None, expected: Result) -> None:
    assert got is not None
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
        assert replace(one, samples=other.samples) == other


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of the tests' own."""
    pytest.importorskip("redis", reason="needs the package redis (extra serve)")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path_factory.mktemp("redis"))]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def with_results(results: Results, use: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await use()
        finally:
            await results.close()

    asyncio.run(main())


def keeps(results: Results) -> Callable[[], Awaitable[None]]:
    async def use() -> None:
        assert await results.get("a") is None
        await results.put("a", result())
        assert_equal(await results.get("a"), result())
        assert await results.get("b") is None
        assert (results.use.hits, results.use.misses) == (1, 2)

    return use


def test_in_memory() -> None:
    results = MemoryResults(max_bytes=100_000)
    with_results(results, keeps(results))
    assert results.use.nbytes == 3 * 2400 * 4

    async def overflow() -> None:
        for name in "bcde":
            await results.put(name, result())
        assert results.use.nbytes <= 100_000
        assert await results.get("a") is None

    asyncio.run(overflow())


def test_in_redis(redis_url: str) -> None:
    results = RedisResults(redis_url, max_bytes=50_000)
    with_results(results, keeps(results))

    async def elsewhere() -> None:
        other = RedisResults(redis_url, seconds=1, max_bytes=50_000)
        assert_equal(await other.get("a"), result())  # another server's
        await other.put("long", result(seconds=1.0))
        assert await other.get("long") is None
        await other.put("brief", result())
        assert await other.get("brief") is not None
        await asyncio.sleep(1.2)
        assert await other.get("brief") is None
        await other.close()

    asyncio.run(elsewhere())


def test_what_lies_in_redis_is_not_trusted(redis_url: str) -> None:
    import redis

    client = redis.from_url(redis_url)
    whole = None
    with_results(first := RedisResults(redis_url), lambda: first.put("whole", result()))
    whole = client.get("fireside:result:whole")
    damaged = {
        "empty": b"",
        "short": whole[:2],
        "cut": whole[:-5],
        "odd": whole[:-4],
        "other": whole.replace(b'"version": 1', b'"version": 9'),
        "noise": bytes(range(256)) * 10,
        "lies": whole.replace(b'"samples": 2400', b'"samples": 9999'),
    }
    for name, stored in damaged.items():
        client.set(f"fireside:result:{name}", stored)
    results = RedisResults(redis_url)

    async def use() -> None:
        for name in damaged:
            assert await results.get(name) is None, name
        assert_equal(await results.get("whole"), result())

    with_results(results, use)


def test_a_redis_that_is_gone_fails_nobody() -> None:
    pytest.importorskip("redis", reason="needs the package redis (extra serve)")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        results = RedisResults(f"redis://127.0.0.1:{closed.getsockname()[1]}/0")

        async def use() -> None:
            await results.put("a", result())
            assert await results.get("a") is None

        with_results(results, use)


def test_a_url_that_is_none() -> None:
    pytest.importorskip("redis", reason="needs the package redis (extra serve)")
    with pytest.raises(UsageError, match="redis://"):
        RedisResults("nowhere")


def test_replayed_chunks_took_no_time() -> None:
    again = replayed(result())
    assert [chunk.timings.audio_seconds for chunk in again] == pytest.approx([0.1, 0.2, 0.3])
    assert again[-1].timings == Timings(audio_seconds=again[-1].timings.audio_seconds, lm_tokens=7)
    assert again[-1].final


def test_keys(tiny_model: Path) -> None:
    """Two requests have the same key only if they give the same audio."""
    model = ModelFolder(tiny_model)
    asked = SpeechRequest(tiny.make_voice("anna", 0), text="Yes!", seed=1)

    def key(request: SpeechRequest, of: str = "model") -> str | None:
        return result_key(of, model.config, request)

    same = [asked, replace(asked, voice=tiny.make_voice("bo", 0)), replace(asked, sampling=model.config.lm.sampling)]
    assert len({key(each) for each in same}) == 1, "a voice's name is not heard"
    others = [
        replace(asked, **change)  # type: ignore[arg-type]
        for change in (
            {"text": "No!"},
            {"seed": 2},
            {"speed": 1.1},
            {"voice": tiny.make_voice("anna", 1)},
            {"control": (3,)},
            {"use_prompt_text": False},
            {"use_speaker": False},
            {"streaming": True},
            {"tokens": ((1, 2),)},
            {"normalise": False},
            {"sampling": SamplingConfig(top_k=3)},
        )
    ]
    keys = [key(each) for each in [asked, *others]]
    assert len({*keys, key(asked, of="another")}) == len(keys) + 1
    assert None not in keys
    for change in ({"seed": None}, {"text": None}, {"text": iter(["Yes!"])}):
        assert key(replace(asked, **change)) is None  # type: ignore[arg-type]


def test_a_model_that_changed_has_another_key(tmp_path: Path) -> None:
    first = tiny.write_model(tmp_path / "a")
    before = model_key(ModelFolder(first))
    assert model_key(ModelFolder(first)) == before
    (first / "lm.safetensors").touch()
    assert model_key(ModelFolder(first)) != before
