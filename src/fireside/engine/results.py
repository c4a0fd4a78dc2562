"""A cache of whole results: the same words in the same voice with the same seed are computed once."""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fireside.cache import Bounded, CacheUse
from fireside.errors import UsageError
from fireside.request import AudioChunk, SpeechRequest, Timings

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder
    from fireside.models.config import ModelConfig

_log = logging.getLogger(__name__)

_VERSION = 1  # of what is written; another one is not read
_HEAD = struct.Struct("<I")  # length of the description in front of the samples

Result = tuple[AudioChunk, ...]
"""All chunks of a request."""


class Results(Protocol):
    """Keeps results by key. Never fails a request: what cannot be kept or read is not there."""

    async def get(self, key: str) -> Result | None:
        """What was kept under that key, if it still is."""

    async def put(self, key: str, result: Result) -> None:
        """Keep a result."""

    async def close(self) -> None:
        """Let go of connections."""

    @property
    def use(self) -> CacheUse:
        """How it did so far."""


def model_key(model: ModelFolder) -> str:
    """The same as long as a model folder stays what it is."""
    files = sorted(file for file in model.path.iterdir() if file.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return json.dumps([str(model.path.resolve()), str(model.dtype), facts])


def result_key(model: str, config: ModelConfig, request: SpeechRequest) -> str | None:
    """The same for two requests that give the same audio; None for what is not to be kept.

    Kept is a request whose text is there as a whole and whose seed is given. model: see `model_key`.
    """
    if request.seed is None or not (request.tokens or isinstance(request.text, str)):
        return None
    voice = request.voice
    facts = [
        _VERSION,
        model,
        voice.fingerprint,
        voice.card.words,
        voice.card.word_ends,
        request.text,
        request.tokens,
        request.speed,
        request.seed,
        request.control,
        request.use_prompt_text,
        request.use_speaker,
        request.streaming,
        request.hops,
        (request.sampling or config.lm.sampling).model_dump_json(),
        request.normalise,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def replayed(result: Result) -> Result:
    """The chunks without the times that they once took."""
    seconds = 0.0
    chunks = []
    for chunk in result:
        seconds += chunk.seconds
        timings = Timings(audio_seconds=seconds, lm_tokens=chunk.timings.lm_tokens)
        chunks.append(AudioChunk(**{**vars(chunk), "timings": timings}))
    return tuple(chunks)


class MemoryResults:
    """Results in this process' memory, at most so many bytes of them."""

    def __init__(self, max_bytes: int) -> None:
        self._kept: Bounded[str, Result] = Bounded(max_bytes)

    async def get(self, key: str) -> Result | None:
        """See Results."""
        return self._kept.get(key)

    async def put(self, key: str, result: Result) -> None:
        """See Results."""
        self._kept.put(key, result, sum(chunk.samples.nbytes for chunk in result))

    async def close(self) -> None:
        """See Results."""

    @property
    def use(self) -> CacheUse:
        """See Results."""
        return self._kept.use


class RedisResults:
    """Results in Redis, shared by servers, which forgets them by its own rules (`maxmemory-policy`) or in time.

    url: as redis://host:6379/0. seconds: after which a result is forgotten. max_bytes: of one result; longer ones are
    not kept. Raises UsageError for a URL that is none, or without the package `redis`.
    """

    def __init__(self, url: str, seconds: int = 24 * 3600, max_bytes: int = 32 * 2**20) -> None:
        try:
            import redis.asyncio as redis
            from redis.exceptions import RedisError
        except ImportError:
            raise UsageError("Keeping results in Redis needs its package: pip install 'fireside[serve]'.") from None
        try:
            self._client = redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)
        except ValueError as error:
            raise UsageError(f"'{url}' is no address of a Redis ({error}): write redis://host:6379/0.") from None
        self._failure = (RedisError, OSError)
        self._seconds, self._max_bytes = seconds, max_bytes
        self._hits = self._misses = 0

    async def get(self, key: str) -> Result | None:
        """See Results."""
        try:
            stored = await self._client.get(_name(key))
        except self._failure as error:
            _log.warning("a result could not be read from Redis: %s", error)
            stored = None
        result = _read(stored) if isinstance(stored, bytes) else None
        self._hits += result is not None
        self._misses += result is None
        return result

    async def put(self, key: str, result: Result) -> None:
        """See Results."""
        stored = _written(result)
        if len(stored) > self._max_bytes:
            return
        try:
            await self._client.set(_name(key), stored, ex=self._seconds)
        except self._failure as error:
            _log.warning("a result could not be kept in Redis: %s", error)

    async def close(self) -> None:
        """See Results."""
        await self._client.aclose()

    @property
    def use(self) -> CacheUse:
        """See Results; what Redis holds is not known here."""
        return CacheUse(self._hits, self._misses)


def _name(key: str) -> str:
    return f"fireside:result:{key}"


def _written(result: Sequence[AudioChunk]) -> bytes:
    """A description in JSON behind its length, then the samples of all chunks in float32, little-endian."""
    description = {
        "version": _VERSION,
        "sample_rate": result[0].sample_rate,
        "chunks": [
            {
                "samples": len(chunk.samples),
                "final": chunk.final,
                "progress": chunk.progress,
                "tokens": chunk.tokens,
                "timings": asdict(chunk.timings),
            }
            for chunk in result
        ],
    }
    head = json.dumps(description).encode()
    samples = np.concatenate([chunk.samples for chunk in result]).astype("<f4")
    return _HEAD.pack(len(head)) + head + samples.tobytes()


def _read(stored: bytes) -> Result | None:
    """What was written; None for anything else."""
    try:
        (length,) = _HEAD.unpack_from(stored)
        description = json.loads(stored[_HEAD.size : _HEAD.size + length])
        if description["version"] != _VERSION:
            return None
        samples = np.frombuffer(stored, "<f4", offset=_HEAD.size + length).astype(np.float32)
        if len(samples) != sum(chunk["samples"] for chunk in description["chunks"]):
            raise ValueError("it has not the samples that it tells of")
        chunks, at = [], 0
        for index, chunk in enumerate(description["chunks"]):
            part = samples[at : at + chunk["samples"]]
            at += len(part)
            timings = Timings(**chunk["timings"])
            tokens = tuple(chunk["tokens"])
            rate = description["sample_rate"]
            chunks.append(AudioChunk(part, rate, index, chunk["final"], timings, chunk["progress"], tokens))
    except (ValueError, KeyError, TypeError, struct.error) as error:
        _log.warning("a result in Redis is damaged: %s", error)
        return None
    return tuple(chunks) or None
