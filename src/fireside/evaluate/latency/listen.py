"""One request as a listener meets it: asked, first byte, first sample, first sound, gaps, underruns, end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np

from fireside.evaluate.latency.client import Arrival, Broken, Client, Refused
from fireside.evaluate.latency.player import Player

AUDIBLE = round(10 ** (-40 / 20) * 32768)
"""Smallest int16 amplitude that counts as sound: -40 dBFS, as in the engine's own figure."""

Outcome = Literal["ok", "left", "busy", "refused", "broken", "hung", "empty"]


@dataclass(frozen=True)
class Manners:
    """How a listener behaves.

    buffer: seconds of audio ahead of the loudspeaker from which it stops reading the network; None reads as fast as
    can be. prebuffer: seconds that must be there before the loudspeaker starts. patience: seconds without a byte
    after which it gives up. leave_after: it goes away once so many seconds of audio came.
    """

    buffer: float | None = 2.0
    prebuffer: float = 0.0
    patience: float = 60.0
    leave_after: float | None = None


@dataclass
class Heard:
    """A request, by the client's clock; times are seconds from `due`, None for what never happened.

    due: when it was to be asked, on the clock's own scale; in an open loop that may be before `asked`. first_byte: the
    first byte of the body; ttfa: the first decoded sample; audible: when the loudspeaker plays the first sample above
    -40 dBFS; second_chunk: the first sample of the second piece that the server sent in one go; gaps: seconds between
    the first samples of such pieces, the listener's own pauses of reading included; left: when a listener who goes
    away did; end: the last byte; server: the server's own account of its time.
    """

    text: str
    due: float
    outcome: Outcome = "ok"
    status: int | str | None = None
    message: str = ""
    retry_after: float | None = None
    asked: float = 0.0
    first_byte: float | None = None
    ttfa: float | None = None
    audible: float | None = None
    second_chunk: float | None = None
    left: float | None = None
    end: float | None = None
    seconds: float = 0.0
    chunks: int = 0
    gaps: list[float] = field(default_factory=list)
    slacks: list[float] = field(default_factory=list)
    underruns: list[float] = field(default_factory=list)
    server: dict[str, float] = field(default_factory=dict)

    @property
    def rtf(self) -> float | None:
        """From asking to the last byte over the audio's length: what a listener who reads fast waits per second."""
        return (self.end - self.asked) / self.seconds if self.end is not None and self.seconds else None


async def listen(client: Client, text: str, manners: Manners, due: float | None = None) -> Heard:
    """Ask for a text and listen to it to the end; what goes wrong is part of what is returned.

    due: the moment of `time.perf_counter` that times count from, now when not given.
    """
    heard = Heard(text, time.perf_counter() if due is None else due)
    heard.asked = time.perf_counter() - heard.due
    ear = _Ear(heard, client.sample_rate, manners)
    try:
        await ear.hear(client)
    except Refused as refusal:
        heard.outcome = "busy" if refusal.busy else "refused"
        heard.status, heard.message, heard.retry_after = refusal.status, refusal.message, refusal.retry_after
    except Broken as problem:
        heard.outcome, heard.message = "broken", str(problem)
    except asyncio.TimeoutError:
        heard.outcome, heard.message = "hung", f"nothing came for {manners.patience:g} s"
    ear.settle()
    return heard


class _Ear:
    """Writes down what is heard of one request while it comes."""

    def __init__(self, heard: Heard, sample_rate: int, manners: Manners) -> None:
        self.heard, self.sample_rate, self.manners = heard, sample_rate, manners
        self.player = Player(manners.prebuffer)
        self.sound: float | None = None  # where the first audible sample is, in seconds of audio
        self.chunk_open = False
        self.chunk_began = 0.0

    async def hear(self, client: Client) -> None:
        """Ask, and read at this listener's pace until the end or until it leaves."""
        heard, manners = self.heard, self.manners
        async with aclosing(cast("AsyncGenerator[Arrival, None]", client.speak(heard.text))) as arrivals:
            while True:
                ahead = self.player.ahead(time.perf_counter())
                if manners.buffer is not None and ahead > manners.buffer:
                    await asyncio.sleep(ahead - manners.buffer)
                try:
                    arrival = await asyncio.wait_for(anext(arrivals), manners.patience)
                except StopAsyncIteration:
                    break
                now = time.perf_counter() - heard.due
                self.take(arrival, now)
                if manners.leave_after is not None and self.player.received >= manners.leave_after:
                    heard.outcome, heard.left = "left", now
                    return
        heard.end = time.perf_counter() - heard.due
        if not self.player.received:
            heard.outcome, heard.message = "empty", "the stream ended without a sample"

    def take(self, arrival: Arrival, now: float) -> None:
        """Something came, `now` seconds after the request was due."""
        heard = self.heard
        if arrival.report is not None:
            heard.server = dict(arrival.report)
            return
        if heard.first_byte is None:
            heard.first_byte = now
        self.chunk_open |= arrival.opens_chunk
        if not len(arrival.samples):
            return
        if heard.ttfa is None:
            heard.ttfa = now
        if self.chunk_open:
            self._open_chunk(now)
        if self.sound is None:
            loud = np.flatnonzero(np.abs(arrival.samples.astype(np.int32)) >= AUDIBLE)
            if len(loud):
                self.sound = self.player.received + float(loud[0]) / self.sample_rate
        self.player.receive(heard.due + now, len(arrival.samples) / self.sample_rate)

    def _open_chunk(self, now: float) -> None:
        heard = self.heard
        heard.chunks += 1
        if heard.chunks > 1:
            heard.gaps.append(now - self.chunk_began)
        if heard.chunks == 2:
            heard.second_chunk = now
        self.chunk_began, self.chunk_open = now, False

    def settle(self) -> None:
        """Nothing more will come: note what the loudspeaker did."""
        heard, player = self.heard, self.player
        player.end(time.perf_counter())
        heard.seconds, heard.slacks, heard.underruns = player.received, player.slacks, player.underruns
        if self.sound is not None:
            at = player.heard_at(self.sound)
            heard.audible = None if at is None else at - heard.due
