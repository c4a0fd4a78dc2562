"""Clients and listeners against a server that says what it is told to."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from fake_speech import FakeSpeech, serving, tone

from fireside.errors import UsageError
from fireside.evaluate.latency import websocket
from fireside.evaluate.latency.client import Broken
from fireside.evaluate.latency.listen import Heard, Manners, listen
from fireside.evaluate.latency.load import closed_loop, open_loop
from fireside.evaluate.latency.target import Target
from fireside.evaluate.latency.wav import WavBody

FAST = Manners(buffer=None)


def hear(
    fake: FakeSpeech, manners: Manners = FAST, text: str = "Hello.", times: int = 1, **target: object
) -> list[Heard]:
    """So many requests one after another by one client."""

    async def run() -> list[Heard]:
        async with serving(fake) as url:
            client = Target(url, **target).client()  # type: ignore[arg-type]
            try:
                return [await listen(client, text, manners) for _ in range(times)]
            finally:
                await client.close()

    return asyncio.run(run())


WAYS = [{}, {"response_format": "wav"}, {"sse": True}, {"protocol": "ws"}]


@pytest.mark.parametrize("way", WAYS, ids=["pcm", "wav", "sse", "ws"])
def test_every_moment_of_a_request(way: dict[str, object]):
    fake = FakeSpeech([(0.1, tone(0.3, silent=0.2)), (0.15, tone(0.2)), (0.05, tone(0.1))])
    (heard,) = hear(fake, **way)
    assert heard.outcome == "ok"
    assert heard.seconds == pytest.approx(0.6)
    assert heard.chunks == 3
    assert len(heard.gaps) == 2
    assert heard.first_byte is not None
    assert heard.ttfa is not None
    assert heard.audible is not None
    assert heard.second_chunk is not None
    assert heard.end is not None
    assert 0.1 <= heard.ttfa < heard.second_chunk < heard.end
    assert heard.audible == pytest.approx(heard.ttfa + 0.2)
    assert heard.second_chunk - heard.ttfa == pytest.approx(heard.gaps[0])
    assert heard.gaps[0] >= 0.14
    if way.get("response_format") == "wav":
        assert heard.first_byte < heard.ttfa - 0.05  # the header comes before the audio
    else:
        assert heard.first_byte == heard.ttfa
    assert heard.rtf == pytest.approx((heard.end - heard.asked) / 0.6)


def test_what_is_asked():
    fake = FakeSpeech()
    hear(fake, text="你好", model="tts-1", voice="alloy", key="secret", sse=True)
    assert fake.bodies == [
        {"model": "tts-1", "voice": "alloy", "input": "你好", "response_format": "pcm", "stream_format": "sse"}
    ]
    assert fake.authorization == ["Bearer secret"]
    assert "secret" not in repr(Target(key="secret"))


@pytest.mark.parametrize("way", WAYS, ids=["pcm", "wav", "sse", "ws"])
def test_connections_are_used_again(way: dict[str, object]):
    fake = FakeSpeech([(0, tone(0.1))])
    heard = hear(fake, times=3, **way)
    assert [one.outcome for one in heard] == ["ok"] * 3
    assert len(fake.connections) == 1


def test_servers_own_account():
    assert hear(FakeSpeech(), sse=True)[0].server == {"queue": 0.5, "lm_decode": 1.0}
    assert hear(FakeSpeech(), protocol="ws")[0].server == {"queue": 0.5}
    fake = FakeSpeech(headers={"Server-Timing": "queue;dur=1.5, lm_decode;dur=120"})
    assert hear(fake)[0].server == {"queue": 0.0015, "lm_decode": 0.12}


def test_underruns_and_first_sound_by_the_loudspeaker():
    silent = np.zeros(2400, "<i2").tobytes()
    (heard,) = hear(FakeSpeech([(0, silent), (0.25, tone(0.1))]))
    assert heard.ttfa is not None
    assert len(heard.underruns) == 1
    assert 0.1 < heard.underruns[0] < 1
    assert heard.slacks == pytest.approx([-heard.underruns[0]])
    assert heard.audible == pytest.approx(heard.ttfa + 0.1 + heard.underruns[0])


def test_a_listener_reads_at_its_own_pace():
    fake = FakeSpeech([(0, tone(0.6))] * 3)
    (paced,) = hear(fake, Manners(buffer=0.3))
    (fast,) = hear(fake)
    assert paced.end is not None
    assert fast.end is not None
    assert fast.end < 0.8 <= paced.end  # 1.2 s came, all but 0.3 of them were played when the last third was read
    assert paced.underruns == []
    assert paced.seconds == fast.seconds == pytest.approx(1.8)


@pytest.mark.parametrize("way", WAYS, ids=["pcm", "wav", "sse", "ws"])
def test_a_listener_leaves(way: dict[str, object]):
    fake = FakeSpeech([(0, tone(0.2)), (0.05, tone(0.2)), (5, tone(0.2))])
    start = time.perf_counter()
    (heard,) = hear(fake, Manners(leave_after=0.3), **way)
    assert time.perf_counter() - start < 4
    assert heard.outcome == "left"
    assert heard.seconds == pytest.approx(0.4)
    assert heard.left is not None
    assert heard.end is None
    if way.get("protocol") != "ws":
        assert fake.gone == 1


@pytest.mark.parametrize("way", WAYS, ids=["pcm", "wav", "sse", "ws"])
def test_a_stream_that_is_cut_is_not_taken_for_an_end(way: dict[str, object]):
    (heard,) = hear(FakeSpeech(ending="cut"), **way)
    assert heard.outcome == "broken"
    assert heard.message
    assert heard.end is None
    assert heard.ttfa is not None


@pytest.mark.parametrize("way", [{}, {"protocol": "ws"}], ids=["openai", "ws"])
def test_a_full_server(way: dict[str, object]):
    (heard,) = hear(FakeSpeech(status=429, headers={"Retry-After": "3"}), **way)
    assert (heard.outcome, heard.message, heard.retry_after, heard.ttfa) == ("busy", "It is full.", 3, None)


def test_other_ends():
    assert hear(FakeSpeech(status=400))[0].outcome == "refused"
    assert hear(FakeSpeech(status=400))[0].status == 400
    assert hear(FakeSpeech([]))[0].outcome == "empty"
    failed = hear(FakeSpeech(ending="error"), sse=True)[0]
    assert failed.outcome == "broken"
    assert "The model failed." in failed.message
    hung = hear(FakeSpeech([(0, tone(0.1)), (5, tone(0.1))]), Manners(patience=0.2))[0]
    assert hung.outcome == "hung"
    assert hung.seconds == pytest.approx(0.1)


@pytest.mark.parametrize("protocol", ["openai", "ws"])
def test_nobody_there(protocol: str):
    async def run() -> Heard:
        client = Target("http://127.0.0.1:9", protocol=protocol).client()  # type: ignore[arg-type]
        try:
            return await listen(client, "Hello.", FAST)
        finally:
            await client.close()

    heard = asyncio.run(run())
    assert heard.outcome == "refused"
    assert heard.message


@pytest.mark.parametrize(("fresh", "connections"), [(60.0, 1), (0.0, 3)])
def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch, fresh, connections):
    """Nobody answers a server's pings while it is idle: the server may be about to close it."""
    monkeypatch.setattr(websocket, "_FRESH", fresh)
    fake = FakeSpeech([(0, tone(0.1))])
    assert [heard.outcome for heard in hear(fake, protocol="ws", times=3)] == ["ok"] * 3
    assert len(fake.connections) == connections


def test_text_is_typed_word_by_word():
    fake = FakeSpeech([(0, tone(0.1))])
    hear(fake, text="Good evening, 你好。", protocol="ws", words_per_second=20)
    moments, words = zip(*fake.typed, strict=True)
    assert words == ("Good ", "evening, ", "你", "好", "。")
    assert "".join(words) == "Good evening, 你好。"
    assert moments[-1] - moments[0] >= 4 / 20 - 0.01


def test_closed_loop_has_so_many_at_once():
    fake, running, most = FakeSpeech([(0.1, tone(0.1))]), [0], [0]

    async def run() -> None:
        async with serving(fake) as url:
            client = Target(url).client()
            speak = client.speak

            async def counted(text: str):
                running[0] += 1
                most[0] = max(most[0], running[0])
                async for arrival in speak(text):
                    yield arrival
                running[0] -= 1

            client.speak = counted  # type: ignore[method-assign, assignment]
            told: list[Heard] = []
            level = await closed_loop(client, ["a", "b", "c", "d", "e", "f", "g"], 3, FAST, told.append)
            await client.close()
            assert sorted(heard.text for heard in level.heard) == ["a", "b", "c", "d", "e", "f", "g"]
            assert list(level.heard) == told
            assert level.seconds >= 0.3
            assert level.late >= 0

    asyncio.run(run())
    assert most[0] == 3


def test_open_loop_does_not_wait_for_who_is_served():
    """Requests that the client itself starts late are counted from when they were due."""

    async def run(texts: int) -> tuple[Heard, ...]:
        async with serving(FakeSpeech([(0.3, tone(0.1))])) as url:
            client = Target(url).client()
            level = await open_loop(client, ["Hello."] * texts, 100, FAST)
            await client.close()
            assert level.seconds < 0.3 * texts
            return level.heard

    heard = asyncio.run(run(6))
    assert len({one.due for one in heard}) == 6
    assert all(one.asked >= 0 and one.ttfa is not None and one.ttfa >= 0.3 + one.asked for one in heard)
    again = asyncio.run(run(6))
    moments = [sorted(one.due - min(other.due for other in every) for one in every) for every in (heard, again)]
    assert moments[0] == pytest.approx(moments[1], abs=1e-6)


def test_wav_in_pieces():
    header = b"RIFF\xff\xff\xff\xffWAVELIST\x04\x00\x00\x00abcdfmt \x10\x00\x00\x00\x01\x00\x01\x00"
    header += (24000).to_bytes(4, "little") + (48000).to_bytes(4, "little") + b"\x02\x00\x10\x00data\xff\xff\xff\xff"
    body, data = WavBody(24000), header + tone(0.01)
    got = [body.samples(data[at : at + 3]) for at in range(0, len(data), 3)]
    assert np.concatenate(got).tobytes() == tone(0.01)
    for wrong in (b"ID3\x04", b"RIFF\xff\xff\xff\xffAVI ", header.replace((24000).to_bytes(4, "little"), b"\0\0\0\0")):
        with pytest.raises(Broken):
            WavBody(24000).samples(wrong)


def test_urls():
    with pytest.raises(UsageError, match="http://"):
        Target("127.0.0.1:8000").client()
