"""Speech over a WebSocket, with the `websockets` client against the running server."""

from __future__ import annotations

import gc
import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

from all_servers import FAILS, Live, TalkingService, live, real_service, talking_service
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fireside import Fireside, load

RATE = 24000
KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def tts(tiny_model: Path) -> Fireside:
    return load(tiny_model)


@pytest.fixture(scope="module")
def place(tts: Fireside) -> Iterator[Live]:
    with live(tts, talking_service, max_text=500) as running:
        yield running


class Client:
    """What a client of the protocol does: sends messages, and keeps the audio of what it is told."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def next(self, timeout: float = 10.0) -> dict[str, Any]:
        """The next message; an `audio` one with its samples."""
        message = json.loads(self.socket.recv(timeout))
        if message["type"] == "audio":
            data = self.socket.recv(timeout)
            assert isinstance(data, bytes)
            message["data"] = data
        return message

    def until(self, *kinds: str) -> tuple[dict[str, Any], bytes]:
        """The next message of one of these kinds, and the audio that came before it."""
        audio = b""
        while True:
            message = self.next()
            audio += message.get("data", b"")
            if message["type"] in kinds:
                return message, audio

    def say(self, text: str, **start: Any) -> tuple[dict[str, Any], bytes]:
        """A whole utterance: how it ended, and its audio."""
        self.send("start", **start)
        self.send("text", text=text)
        self.send("end")
        return self.until("done", "error")

    def closed(self) -> tuple[int, str]:
        """The code and the reason that the server closes with."""
        with pytest.raises(ConnectionClosed) as caught:
            deque(iter(lambda: self.socket.recv(10), None))
        assert caught.value.rcvd is not None
        return caught.value.rcvd.code, caught.value.rcvd.reason


@contextmanager
def talking(place: Live, **options: Any) -> Iterator[Client]:
    with connect(f"ws://127.0.0.1:{place.port}/v1/audio/stream", compression=None, max_size=None, **options) as socket:
        client = Client(socket)
        assert client.next() == {"type": "ready", "protocol": "fireside.v1", "model": "tiny", "sample_rate": RATE}
        yield client


def soon(condition: Callable[[], bool], seconds: float = 0.5) -> bool:
    """Whether it becomes true within so many seconds."""
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.005)
    return condition()


def test_audio_comes_while_the_text_still_does(place: Live) -> None:
    with talking(place) as client:
        client.send("start", id="u1", seed=7)
        for token in ("Good", " eve", "ning.", " The fi"):
            client.send("text", text=token)
        started = client.next()
        assert started.pop("request_id")
        assert started == {
            "type": "started",
            "id": "u1",
            "voice": "anna",
            "format": "pcm",
            "sample_rate": RATE,
            "seed": 7,
        }
        first = client.next()  # the text has not ended
        assert (first["type"], first["id"], first["index"], first["start"]) == ("audio", "u1", 0, 0.0)
        assert first["seconds"] == pytest.approx(0.13)
        assert len(first["data"]) == 2 * round(0.13 * RATE)
        client.send("text", text="re.")
        client.send("end")
        second = client.next()
        assert (second["index"], second["start"]) == (1, pytest.approx(0.13))
        done, _ = client.until("done")
        assert done["id"] == "u1"
        assert done["audio_seconds"] == pytest.approx(0.23)
        assert {"queue", "lm_prefill", "flow", "write", "ttfa", "audible_ttfa", "rtf"} <= set(done["timings"])


def test_with_the_engine(tts: Fireside) -> None:
    text = "Good evening, everybody. The fire is lit, and there is tea for all of us. Sit down"
    tokens = re.findall(r"\s*\S{1,4}", text)
    with live(tts, real_service) as place, talking(place) as client:
        client.send("start", voice="bo", seed=7)
        for token in tokens:
            client.send("text", text=token)
        client.until("started")
        first = client.next(30)  # the text has not ended
        assert first["index"] == 0
        client.send("end")
        done, rest = client.until("done")
        client.send("start")
        client.send("flush")  # of nothing
        client.send("text", text="Hold on")
        client.send("flush")
        client.until("started")
        assert client.next(30)["type"] == "audio"  # neither the text nor its sentence has ended
        client.send("text", text=" a moment, please.")
        client.send("end")
        assert client.until("done", "error")[0]["type"] == "done"
        stalling = place.server.service
        client.send("start")
        client.send("text", text="Once upon a ti")
        error, _ = client.until("error")
        assert error["error"]["code"] == "stalled"
        assert client.closed()[0] == 4408
        assert soon(lambda: stalling.statistics().active == 0)
    said = np.concatenate([chunk.samples for chunk in tts.stream(tokens, "bo", seed=7)])
    heard = np.frombuffer(first["data"] + rest, "<i2") / 32768
    assert len(heard) == len(said) == round(RATE * done["audio_seconds"])
    assert np.abs(heard - said).max() < 1e-3
    assert done["timings"]["lm_decode"] > 0


def test_a_crowd_with_the_engine(tts: Fireside) -> None:
    text = "The fire is lit, and there is tea."
    solo = tts.say(text, "bo", seed=3).samples

    def visit(place: Live, number: int) -> bytes | None:
        """Speak a whole utterance, or leave in the midst of one, in one way or another."""
        with talking(place) as client:
            if number % 4 == 0:
                return client.say(text, voice="bo", seed=3)[1]
            client.send("start", voice="bo")
            client.send("text", text=text * 3)
            client.until("started")
            if number % 4 == 1:
                client.send("cancel")
                assert client.until("cancelled")[0]["id"] == ""
            elif number % 4 == 2:
                client.socket.send(b"nonsense")
                assert client.closed()[0] == 1003
            else:
                client.socket.socket.close()
            return None

    with live(tts, real_service) as place, ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(lambda number: visit(place, number), range(16)))
        assert soon(lambda: place.server.service.statistics().active == 0)
        assert place.server.limits.streams == 0
    for audio in heard[::4]:
        assert audio is not None
        samples = np.frombuffer(audio, "<i2") / 32768
        assert len(samples) == len(solo)
        assert np.abs(samples - solo).max() < 1e-3


def test_flush_speaks_what_has_come(place: Live) -> None:
    with talking(place) as client:
        client.send("start")
        client.send("text", text="Hold on")
        client.send("flush")
        client.next()
        assert client.next()["seconds"] == pytest.approx(0.07)
        client.send("text", text=" a moment.")
        client.send("end")
        done, _ = client.until("done")
        assert done["audio_seconds"] == pytest.approx(0.17)


def test_utterances_follow_each_other(place: Live) -> None:
    with talking(place) as client:
        for name in map(str, range(30)):  # at once: quicker than the server has cleared the last one away
            done, audio = client.say("Once more.", id=name)
            assert (done["type"], done["id"]) == ("done", name)
            assert len(audio) == 2 * round(0.1 * RATE)


def test_cancel_frees_and_another_begins_at_once(place: Live) -> None:
    service = place.server.service
    with talking(place) as client:
        client.send("start", id="a")
        client.send("text", text="Never mind. This is not")
        client.until("audio")
        assert service.statistics().active == 1
        client.send("cancel")
        client.send("start", id="b")
        cancelled, _ = client.until("cancelled")
        assert cancelled == {"type": "cancelled", "id": "a", "audio_seconds": pytest.approx(0.11)}
        assert client.next()["id"] == "b"
        assert service.statistics().active == 1
        client.send("cancel")
        client.until("cancelled")
        assert service.statistics().active == 0
        client.send("cancel")  # nothing is being spoken: no answer
        assert client.say("Still here.")[0]["type"] == "done"


def test_an_utterance_cancelled_before_it_began_leaves_nothing(place: Live, recwarn: pytest.WarningsRecorder) -> None:
    with talking(place) as client:
        for name in map(str, range(20)):
            client.send("start", id=name)
            client.send("cancel")
            client.until("cancelled")
        assert client.say("Still here.")[0]["type"] == "done"
    gc.collect()
    assert not [str(each.message) for each in recwarn if "never awaited" in str(each.message)]


def test_text_that_crossed_the_end_is_ignored(place: Live) -> None:
    with talking(place) as client:
        client.say("One.")
        client.send("text", text="too late")
        client.send("flush")
        client.send("end")
        assert client.say("Two.", id="next")[0]["id"] == "next"


def test_close_lets_the_utterance_finish(place: Live) -> None:
    with talking(place) as client:
        client.send("start")
        client.send("text", text="Good bye.")
        client.send("close")
        _, audio = client.until("done")
        assert len(audio) == 2 * round(0.09 * RATE)
        assert client.closed() == (1000, "")
    with talking(place) as client:
        client.send("close")
        assert client.closed() == (1000, "")


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
def test_formats(place: Live, name: str) -> None:
    import io

    import soundfile

    with talking(place) as client:
        done, audio = client.say("A sentence of some length, and another. " * 3, format=name)
    assert done["type"] == "done"
    samples, rate = soundfile.read(io.BytesIO(audio), dtype="float32")
    assert rate == RATE
    assert len(samples) / rate == pytest.approx(done["audio_seconds"], abs=0.1)
    assert np.abs(samples[RATE // 2 : RATE]).max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("sent", "code", "sentence"),
    [
        ("{oops", 1007, "not JSON"),
        ('"text"', 1008, "not one of the protocol"),
        ("{}", 1008, "type: start, text, flush, end, cancel or close"),
        ('{"type":"sing"}', 1008, "sing"),
        ('{"type":"text"}', 1008, "text"),
        ('{"type":"text","text":7}', 1008, "text"),
        ('{"type":"start","tempo":2}', 1008, "tempo: unknown key"),
        (b"\x00\x01", 1003, "Binary"),
    ],
)
def test_what_is_no_message_closes(place: Live, sent: str | bytes, code: int, sentence: str) -> None:
    with talking(place) as client:
        client.send("start", id="open")
        client.until("started")
        client.socket.send(sent)
        error, _ = client.until("error")
        assert "id" not in error
        assert sentence in error["error"]["message"]
        assert client.closed()[0] == code
    assert soon(lambda: place.server.service.statistics().active == 0)


def test_a_huge_message_closes(place: Live) -> None:
    with talking(place) as client:
        client.send("text", text="a" * 2**16)
        assert client.closed()[0] == 1009


def test_messages_out_of_turn_change_nothing(place: Live) -> None:
    with talking(place) as client:
        client.send("text", text="Hello.")
        error = client.next()
        assert (error.get("id"), error["error"]["code"]) == (None, "no_utterance")
        client.send("start", id="a")
        client.until("started")
        client.send("start", id="b")
        error = client.next()
        assert (error.get("id"), error["error"]["code"]) == (None, "utterance_open")
        client.send("text", text="Still a.")
        client.send("end")
        assert client.until("done")[0]["id"] == "a"


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ({"voice": "nobody"}, "unknown_voice"),
        ({"model": "gpt"}, "unknown_model"),
        ({"format": "aac"}, "usage"),
        ({"speed": 9}, "usage"),
        ({"instruction": "sing it"}, "usage"),
    ],
)
def test_an_utterance_that_cannot_be_keeps_the_connection(place: Live, start: dict[str, Any], code: str) -> None:
    with talking(place) as client:
        error, audio = client.say("Hello.", id="x", **start)
        assert (error["type"], error["id"], audio) == ("error", "x", b"")
        assert error["error"]["code"] == code
        assert error["error"]["message"].endswith((".", "?"))
        assert client.say("Hello.")[0]["type"] == "done"


def test_a_text_without_end(place: Live) -> None:
    with talking(place) as client:
        client.send("start", id="long")
        for _ in range(12):
            client.send("text", text="and so on " * 5)
        error, _ = client.until("error")
        assert (error["id"], error["error"]["code"]) == ("long", "text")
        assert "500" in error["error"]["message"]
        assert client.say("Short.")[0]["type"] == "done"


def test_busy_says_when_to_come_again(tts: Fireside) -> None:
    with live(tts, talking_service) as place, talking(place) as client:
        place.server.service.max_streams = 0
        error, _ = client.say("Hello.")
        assert (error["error"]["code"], error["error"]["retry_after"]) == ("busy", 3.0)
        place.server.service.max_streams = 8
        assert client.say("Hello.")[0]["type"] == "done"


def test_a_model_error_ends_its_utterance_only(place: Live) -> None:
    with talking(place) as one, talking(place) as other:
        other.send("start")
        other.send("text", text="I am not")
        error, audio = one.say(f"So far so good. {FAILS}!", id="bad")
        assert len(audio) == 2 * round(0.15 * RATE)
        assert (error["id"], error["error"]["type"], error["error"]["code"]) == ("bad", "server_error", "engine")
        assert one.say("Again.")[0]["type"] == "done"
        other.send("text", text=" disturbed.")
        other.send("end")
        assert other.until("done", "error")[0]["type"] == "done"


def test_a_client_that_vanishes_mid_word_is_freed(place: Live) -> None:
    service = place.server.service
    with talking(place) as client:
        client.send("start")
        client.send("text", text="Once upon a ti")
        client.until("started")
        assert service.statistics().active == 1
        client.socket.socket.close()  # no close frame
    assert soon(lambda: service.statistics().active == 0)


def test_a_slow_reader_is_let_go_and_nobody_waits_for_it(tts: Fireside) -> None:
    async def long_winded(tts: Fireside) -> TalkingService:
        return TalkingService(character_seconds=10.0)

    with live(tts, long_winded, write_timeout=1.0) as place:
        service = place.server.service
        with talking(place, max_queue=1) as slow:
            slow.send("start")
            slow.send("text", text="Read this. " * 50)
            slow.until("started")
            time.sleep(0.3)
            with talking(place) as other:
                assert other.say("Hi.")[0]["type"] == "done"  # while the slow one's buffers are full
            assert soon(lambda: service.statistics().active == 0, 3.0)
            assert slow.closed()[0] == 1008  # once it reads on


def test_keys(tts: Fireside) -> None:
    def said(place: Live, **options: Any) -> str:
        with talking(place, **options) as client:
            return client.say("Hello.")[0]["type"]

    with live(tts, talking_service, {"me": KEY}) as place:
        for options in ({}, {"additional_headers": {"Authorization": "Bearer wrong"}}, {"subprotocols": ["bearer.no"]}):
            with pytest.raises(InvalidStatus) as caught:
                said(place, **options)
            answer = caught.value.response
            assert answer.status_code == 401
            assert json.loads(answer.body)["error"]["code"] == "auth"
        assert said(place, additional_headers={"Authorization": f"Bearer {KEY}"}) == "done"
        assert said(place, subprotocols=["fireside.v1", f"bearer.{KEY}"]) == "done"


def test_pages_of_other_origins(tts: Fireside) -> None:
    with live(tts, talking_service, cors=("https://friend.example",)) as place:
        for origin in ("https://friend.example", f"http://127.0.0.1:{place.port}"):
            with talking(place, origin=origin) as client:
                assert client.say("Hello.")[0]["type"] == "done"
        with pytest.raises(InvalidStatus) as caught, talking(place, origin="https://evil.example"):
            pass
        assert caught.value.response.status_code == 403


def test_shutting_down_lets_an_utterance_finish(tts: Fireside) -> None:
    with live(tts, talking_service) as place, talking(place) as idle, talking(place) as client:
        client.send("start")
        client.send("text", text="Before I go. And")
        client.until("audio")
        place.stop()
        assert soon(lambda: place.server.draining)
        with pytest.raises(InvalidStatus) as caught, talking(place):
            pass
        assert caught.value.response.status_code == 503
        refused, _ = idle.say("Me too.")
        assert refused["error"]["code"] == "stopping"
        assert idle.closed()[0] == 1001
        client.send("text", text=" the rest.")
        client.send("end")
        _, audio = client.until("done")
        assert len(audio) == 2 * round(0.14 * RATE)
        place.thread.join(10)
        assert not place.thread.is_alive()
