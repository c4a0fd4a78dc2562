"""Many streams through the engine and its service, without a server: exactness, throughput, time to first audio.

    python benchmarks/serve_engine.py [--model FOLDER] [--threads 2] [--only exact throughput first cancel] [--runs 3]

exact: 32 concurrent streams against each one's solo run with the same seed: tokens, mel, and the wave of the crowd's
mel given the solo run's source. throughput: seconds of audio made in a second: 16 requests one after another, in one
offline batch, and as concurrent streams of the service. first: time to first audio of one stream at a time and of 2, 4
and 8, whose listeners play. cancel: from a cancel to a free place. Ratios of one run, medians where there are several.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hearth import SENTENCES, TEN_SECONDS, snr
from torch import Tensor

import fireside
from fireside.engine.engine import Engine
from fireside.engine.service import Limits, Service
from fireside.engine.vocoder import IncrementalVocoder
from fireside.request import AudioChunk, SpeechRequest
from fireside.tts import Fireside

CROWD, BATCH = 32, 16
Mels = dict[tuple[int, int], list[Tensor]]


class Watched:
    """A flow stage that keeps the mel of every piece, by its request's seed and its place in that request."""

    def __init__(self, engine: Engine) -> None:
        self.inner, self.engine = engine._streaming.flow, engine
        self.mels: Mels = defaultdict(list)
        self._pieces: dict[int, dict[int, int]] = defaultdict(dict)
        engine._streaming.flow = self

    @property
    def bytes_per_frame(self) -> int:
        return self.inner.bytes_per_frame

    def start(self, *prompt: Tensor) -> Any:
        return self.inner.start(*prompt)

    def append(self, states: Sequence[Any], tokens: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        mels = self.inner.append(states, tokens, final)
        for record in self.engine._requests.values():
            for piece in record.pieces:
                for state, mel in zip(states, mels, strict=True):
                    if piece.state.flow is state:
                        known = self._pieces[record.seed]
                        self.mels[record.seed, known.setdefault(id(piece), len(known))].append(mel)
        return mels


def requests(tts: Fireside, count: int) -> list[SpeechRequest]:
    """Different texts, each with a seed of its own."""
    texts = [f"{SENTENCES[i % 10]} {SENTENCES[(i * 3 + i // 10 + 1) % 10]}" for i in range(count)]
    return [tts.request(text, streaming=True, seed=seed) for seed, text in enumerate(texts)]


def engine_of(tts: Fireside, rows: int) -> Engine:
    """An engine of one's own over the same parts."""
    return Engine(tts.model, rows=rows)


async def listen(service: Service, request: SpeechRequest) -> list[AudioChunk]:
    """All chunks of a stream."""
    return [chunk async for chunk in service.stream(request)]


async def exact(tts: Fireside, options: argparse.Namespace) -> None:
    """What is said in a crowd is what is said alone."""
    asked = requests(tts, options.crowd)
    solo_engine = engine_of(tts, 1)
    solo_mels = Watched(solo_engine).mels
    solo = [[token for chunk in solo_engine.generate(each) for token in chunk.tokens] for each in asked]
    async with Service(engine_of(tts, options.crowd), Limits(max_streams=options.crowd)) as service:
        mels = Watched(service.engine).mels
        crowd = await asyncio.gather(*(listen(service, each) for each in asked))
        steps = service.statistics()
    same = sum(
        [token for chunk in chunks for token in chunk.tokens] == tokens
        for chunks, tokens in zip(crowd, solo, strict=True)
    )
    vocoder, mel_errors, waves = IncrementalVocoder(tts.model.vocoder), [], []
    hop = tts.model.config.vocoder.hop_length
    for key, pieces in solo_mels.items():
        whole, among = torch.cat(pieces, 1), torch.cat(mels[key], 1)
        if whole.shape != among.shape:
            continue  # counted above as other tokens
        mel_errors.append(float((whole - among).abs().max()))
        with torch.inference_mode():
            wave, _, source = tts.model.vocoder(whole[None])
        state, at, made = vocoder.start(), 0, []
        for index, mel in enumerate(mels[key]):
            given = source[0, at * hop : (at + mel.shape[1]) * hop]
            made += vocoder.append([state], [mel], [index == len(mels[key]) - 1], [given])
            at += mel.shape[1]
        waves.append(snr(wave[0], torch.cat(made)))
    print(
        f"exact: tokens of {same} of {options.crowd} equal to the solo run's; mel max error {max(mel_errors):.1e}, "
        f"wave at least {min(waves):.0f} dB given its source ({steps.rows / steps.steps:.1f} rows in a step)"
    )


def offline(engine: Engine, asked: Sequence[SpeechRequest]) -> float:
    """Seconds of audio in a second, in one batch."""
    started, seconds = time.perf_counter(), 0.0
    for each in asked:
        engine.submit(each)
    while engine.active:
        for _, chunk in engine.step():
            if isinstance(chunk, fireside.FiresideError):
                raise chunk
            seconds += chunk.seconds
    return seconds / (time.perf_counter() - started)


async def throughput(tts: Fireside, options: argparse.Namespace) -> None:
    """Together over one after another."""
    size = options.batch
    asked = requests(tts, size)
    figures = defaultdict(list)
    async with Service(engine_of(tts, size), Limits(max_streams=size)) as service:
        await listen(service, asked[0])
        for _ in range(options.runs):
            engine = engine_of(tts, size)
            started = time.perf_counter()
            chunks = [chunk for each in asked for chunk in engine.generate(each)]
            figures["one"].append(sum(chunk.seconds for chunk in chunks) / (time.perf_counter() - started))
            figures["batch"].append(offline(engine, asked))
            started = time.perf_counter()
            results = await asyncio.gather(*(listen(service, each) for each in asked))
            audio = sum(chunk.seconds for chunks in results for chunk in chunks)
            figures["service"].append(audio / (time.perf_counter() - started))
    one, batch, streams = (statistics.median(figures[name]) for name in ("one", "batch", "service"))
    print(
        f"throughput, audio s per s: one after another {one:.2f}, batch of {size} {batch:.2f} ({batch / one:.2f}x), "
        f"{size} streams of the service {streams:.2f} ({streams / one:.2f}x; {streams / batch:.2f} of the batch)"
    )


async def playing(service: Service, request: SpeechRequest) -> tuple[float, int]:
    """Listen at playback pace; the time to first audio, and how often it ran dry."""
    stream = service.stream(request)
    began = seconds = 0.0
    async for chunk in stream:
        began = began or time.perf_counter()
        seconds += chunk.seconds
        await asyncio.sleep(max(0.0, began + seconds - 1.0 - time.perf_counter()))
    return stream.report.timings.ttfa, stream.report.underruns


async def first(tts: Fireside, options: argparse.Namespace) -> None:
    """How long a listener waits for a first sound, and whether they hear gaps."""
    async with Service(engine_of(tts, 8), Limits(max_streams=8)) as service:
        await listen(service, tts.request(TEN_SECONDS, streaming=True, seed=0))
        alone = 0.0
        for crowd in (1, 2, 4, 8):
            results: list[tuple[float, int]] = []
            asked = iter(requests(tts, 10 * options.runs))

            async def keep_asking(asked=asked, results=results) -> None:
                for each in asked:
                    results.append(await playing(service, each))

            await asyncio.gather(*(keep_asking() for _ in range(crowd)))
            times = np.array([ttfa for ttfa, _ in results])
            alone = alone or float(np.median(times))
            print(
                f"first audio, {crowd} at once: p50 {1e3 * np.median(times):.0f} ms, p95 "
                f"{1e3 * np.percentile(times, 95):.0f} ms ({np.percentile(times, 95) / alone:.2f}x the p50 of one); "
                f"{sum(runs for _, runs in results)} underruns in {len(results)} requests"
            )


async def cancel(tts: Fireside, options: argparse.Namespace) -> None:
    """How soon a place is free again."""
    async with Service(engine_of(tts, 8), Limits(max_streams=8)) as service:
        asked = requests(tts, 8)
        others = [asyncio.create_task(listen(service, each)) for each in asked[:4]]
        times = []
        for each in asked[4:] * options.runs:
            async with service.stream(each) as stream:
                await stream.__anext__()
                key, started = stream.key, time.perf_counter()
            while key in service.engine._requests:
                await asyncio.sleep(0.001)
            times.append(time.perf_counter() - started)
        print(f"cancel: free after {1e3 * statistics.median(times):.0f} ms, at most {1e3 * max(times):.0f} ms")
        await asyncio.gather(*others)


PARTS = {"exact": exact, "throughput": throughput, "first": first, "cancel": cancel}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; hearth when absent")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--crowd", type=int, default=CROWD, help="concurrent streams of `exact`")
    parser.add_argument("--batch", type=int, default=BATCH, help="requests of `throughput`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tts = fireside.load(options.model)
    tts.say("Warm up, please.", seed=1)
    for part in options.only:
        asyncio.run(PARTS[part](tts, options))


if __name__ == "__main__":
    main()
