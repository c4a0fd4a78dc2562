"""gRPC: `grpcio` clients of the original's proto and of ours against the running server."""

from __future__ import annotations

import io
import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

import grpc
import soundfile
import tiny
from all_servers import FAILS, Live, TalkingService, live, real_service, talking_service
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fireside import Fireside, load
from fireside.errors import UsageError
from fireside.serve.grpc import cosyvoice_pb2, fireside_pb2, fireside_pb2_grpc
from fireside.serve.grpc.server import SERVICES, serve_grpc

RATE = 24000
KEY = "correct-horse-battery-staple"
OURS = Path(fireside_pb2.__file__).parent
ORIGINAL = """
syntax = "proto3";
package cosyvoice;
service CosyVoice { rpc Inference(Request) returns (stream Response) {} }
message Request {
  oneof RequestPayload {
    sftRequest sft_request = 1;
    zeroshotRequest zero_shot_request = 2;
    crosslingualRequest cross_lingual_request = 3;
    instructRequest instruct_request = 4;
  }
}
message sftRequest { string spk_id = 1; string tts_text = 2; }
message zeroshotRequest { string tts_text = 1; string prompt_text = 2; bytes prompt_audio = 3; }
message crosslingualRequest { string tts_text = 1; bytes prompt_audio = 2; }
message instructRequest { string tts_text = 1; string spk_id = 2; string instruct_text = 3; }
message Response { bytes tts_audio = 1; }
"""
"""What a client of the original was compiled from."""


def compiled(folder: Path, *files: str) -> descriptor_pb2.FileDescriptorSet:
    """The descriptors of proto files in a folder."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools to compile protos")
    made = folder / "made.bin"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={made}", *files]) == 0
    found = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes())
    for field in [field for file in found.file for message in file.message_type for field in message.field]:
        field.ClearField("json_name")  # which the generated code leaves out
    return found


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Message classes of the original's proto, knowing nothing of ours."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "cosyvoice.proto").write_text(ORIGINAL)
    pool = descriptor_pool.DescriptorPool()
    for file in compiled(folder, "cosyvoice.proto").file:
        pool.Add(file)
    names = ("Request", "Response", "sftRequest", "zeroshotRequest", "crosslingualRequest", "instructRequest")
    found = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"cosyvoice.{name}")) for name in names}
    return SimpleNamespace(**found)


@pytest.fixture(scope="module")
def tts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fireside]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRESIDE_HOME", str(tmp_path_factory.mktemp("home")))
        yield load(tiny_model)


@pytest.fixture(scope="module")
def place(tts: Fireside) -> Iterator[Live]:
    with live(tts, talking_service, max_text=500) as running:
        yield running


@pytest.fixture
def channel(place: Live) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{place.grpc_port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def prompt() -> bytes:
    """A recording as a file."""
    file = io.BytesIO()
    soundfile.write(file, tiny.recording(2), RATE, format="FLAC")
    return file.getvalue()


def inference(channel: grpc.Channel, original: SimpleNamespace, **request: Any) -> bytes:
    """What a client of the original does."""
    call = channel.unary_stream(
        "/cosyvoice.CosyVoice/Inference",
        request_serializer=original.Request.SerializeToString,
        response_deserializer=original.Response.FromString,
    )
    return b"".join(response.tts_audio for response in call(original.Request(**request), timeout=30))


def parts(*texts: str, **start: Any) -> list[fireside_pb2.SpeakRequest]:
    """The messages of an utterance."""
    first = fireside_pb2.SpeakRequest(start=fireside_pb2.Start(**start))
    return [first, *(fireside_pb2.SpeakRequest(text=text) for text in texts)]


def speak(channel: grpc.Channel, *texts: str, **start: Any) -> tuple[list[fireside_pb2.SpeakResponse], bytes]:
    """An utterance: all answers, and the audio in them."""
    answers = list(fireside_pb2_grpc.SpeechStub(channel).Speak(iter(parts(*texts, **start)), timeout=30))
    return answers, b"".join(answer.audio.data for answer in answers)


def error_of(caught: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, str, str]:
    """An error's status, sentence and code."""
    error: Any = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata()).get("fireside-error-code", "")


def test_the_generated_code_is_that_of_the_protos(tmp_path: Path) -> None:
    names = ("cosyvoice", "fireside")
    for name in names:
        (tmp_path / f"{name}.proto").write_text((OURS / f"{name}.proto").read_text())
    now = compiled(tmp_path, *(f"{name}.proto" for name in names))
    for file, module in zip(now.file, (cosyvoice_pb2, fireside_pb2), strict=True):
        committed = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        committed.name = file.name
        assert committed == file


def test_the_original_is_unchanged_on_the_wire(tmp_path: Path) -> None:
    (tmp_path / "original.proto").write_text(ORIGINAL)
    theirs = compiled(tmp_path, "original.proto").file[0]
    ours = descriptor_pb2.FileDescriptorProto.FromString(cosyvoice_pb2.DESCRIPTOR.serialized_pb)
    theirs.name = ours.name
    theirs.service[0].method[0].ClearField("options")
    assert ours == theirs


def test_the_originals_four_ways(channel: grpc.Channel, original: SimpleNamespace) -> None:
    recorded = (32767 * tiny.recording(2, 16000)).astype("<i2").tobytes()
    for request in (
        {"sft_request": original.sftRequest(spk_id="bo", tts_text="Good evening.")},
        {
            "zero_shot_request": original.zeroshotRequest(
                tts_text="Good evening.", prompt_text="Hello there.", prompt_audio=recorded
            )
        },
        {"cross_lingual_request": original.crosslingualRequest(tts_text="Good evening.", prompt_audio=recorded)},
        {
            "instruct_request": original.instructRequest(
                tts_text="Good evening.", spk_id="anna", instruct_text="speak slowly"
            )
        },
    ):
        samples = np.frombuffer(inference(channel, original, **request), "<i2")
        assert len(samples) == round(0.13 * RATE)
        assert np.abs(samples).max() == pytest.approx(0.5 * 32767, rel=0.01)


def test_the_originals_mistakes(channel: grpc.Channel, original: SimpleNamespace) -> None:
    def fails(**request: Any) -> tuple[grpc.StatusCode, str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            inference(channel, original, **request)
        return error_of(caught)

    status, sentence, code = fails()
    assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "usage")
    assert "sft_request" in sentence
    status, sentence, code = fails(sft_request=original.sftRequest(spk_id="nobody", tts_text="Hello."))
    assert (status, code) == (grpc.StatusCode.NOT_FOUND, "unknown_voice")
    status, _, code = fails(sft_request=original.sftRequest(spk_id="anna", tts_text=" "))
    assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "text")
    for audio in (b"", b"odd", bytes(32000)):
        status, _, code = fails(
            cross_lingual_request=original.crosslingualRequest(tts_text="Hello.", prompt_audio=audio)
        )
        assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "audio")


def test_audio_comes_while_the_text_still_does(channel: grpc.Channel) -> None:
    sent: queue.Queue[fireside_pb2.SpeakRequest | None] = queue.Queue()
    for message in parts("Good", " eve", "ning.", " The fi", seed=7):
        sent.put(message)
    answers = fireside_pb2_grpc.SpeechStub(channel).Speak(iter(sent.get, None), timeout=30)
    started = next(answers).started
    assert started.request_id
    assert (started.voice, started.seed, started.sample_rate, started.format) == ("anna", 7, RATE, "pcm")
    first = next(answers).audio  # the text has not ended
    assert (first.index, first.start, len(first.data)) == (0, 0.0, 2 * round(0.13 * RATE))
    sent.put(fireside_pb2.SpeakRequest(flush=fireside_pb2.Flush()))
    second = next(answers).audio  # nor has its sentence
    assert second.start == pytest.approx(first.seconds) == pytest.approx(0.13)
    assert second.seconds == pytest.approx(0.07)
    sent.put(fireside_pb2.SpeakRequest(text="re."))
    sent.put(None)
    last = list(answers)[-1]
    assert last.WhichOneof("message") == "done"
    assert last.done.audio_seconds == pytest.approx(0.23)
    assert last.done.timings.rtf > 0
    assert last.done.timings.ttfa > 0


def test_with_the_engine(tts: Fireside, original: SimpleNamespace) -> None:
    text = "Good evening, everybody. The fire is lit, and there is tea for all of us."
    recorded = (32767 * tiny.recording(2, 16000)).astype("<i2")
    with live(tts, real_service) as place, grpc.insecure_channel(f"127.0.0.1:{place.grpc_port}") as channel:
        answers, audio = speak(channel, text[:30], text[30:], voice="bo", seed=7)
        zero_shot = original.zeroshotRequest(tts_text=text, prompt_text="Hello there.", prompt_audio=recorded.tobytes())
        copied = inference(channel, original, zero_shot_request=zero_shot)
    said = np.concatenate([chunk.samples for chunk in tts.stream([text[:30], text[30:]], "bo", seed=7)])
    heard = np.frombuffer(audio, "<i2") / 32768
    assert len(heard) == len(said)
    assert np.abs(heard - said).max() < 1e-3
    assert answers[-1].done.timings.lm_decode > 0
    assert len(copied) > RATE


def test_a_prompt_and_a_format(channel: grpc.Channel, prompt: bytes) -> None:
    answers, audio = speak(
        channel, "Good evening. ", prompt=fireside_pb2.Prompt(audio=prompt, text="Hello there."), format="mp3"
    )
    assert answers[0].started.format == "mp3"
    samples, rate = soundfile.read(io.BytesIO(audio))
    assert len(samples) / rate == pytest.approx(0.14, abs=0.1)


@pytest.mark.parametrize(
    ("messages", "status", "code"),
    [
        ([], "INVALID_ARGUMENT", "usage"),
        ([fireside_pb2.SpeakRequest(text="Hello.")], "INVALID_ARGUMENT", "usage"),
        (parts("Hello.") + parts("Hello."), "INVALID_ARGUMENT", "usage"),
        ([*parts("Hello."), fireside_pb2.SpeakRequest()], "INVALID_ARGUMENT", "usage"),
        (parts("Hello.", voice="nobody"), "NOT_FOUND", "unknown_voice"),
        (parts("Hello.", voice="nobody" * 10_000), "NOT_FOUND", "unknown_voice"),
        (parts("Hello.", model="gpt"), "NOT_FOUND", "unknown_model"),
        (parts("Hello.", format="aac"), "INVALID_ARGUMENT", "usage"),
        (parts("Hello.", speed=9), "INVALID_ARGUMENT", "usage"),
        (parts("Hello.", prompt=fireside_pb2.Prompt(audio=b"no sound")), "INVALID_ARGUMENT", "audio"),
        (parts("Hello.", voice="bo", prompt=fireside_pb2.Prompt(audio=b"-")), "INVALID_ARGUMENT", "usage"),
        (parts("x" * 501), "INVALID_ARGUMENT", "text"),
        (parts(f"{FAILS}."), "INTERNAL", "engine"),
    ],
)
def test_mistakes(
    place: Live, channel: grpc.Channel, messages: list[fireside_pb2.SpeakRequest], status: str, code: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(fireside_pb2_grpc.SpeechStub(channel).Speak(iter(messages), timeout=30))
    found, sentence, found_code = error_of(caught)
    assert (found.name, found_code) == (status, code)
    assert sentence.endswith((".", "?", "…"))
    assert place.server.service.statistics().active == 0


@pytest.mark.parametrize("before", [0, 2])
def test_bytes_that_are_no_message(channel: grpc.Channel, before: int) -> None:
    call = channel.stream_stream(
        "/fireside.v1.Speech/Speak",
        request_serializer=bytes,
        response_deserializer=fireside_pb2.SpeakResponse.FromString,
    )
    sent = [message.SerializeToString() for message in parts("Hello")[:before]]
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([*sent, b"\xff\xff"]), timeout=30))
    status, sentence, _ = error_of(caught)
    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert "SpeakRequest" in sentence


def test_busy_says_when_to_come_again(tts: Fireside, original: SimpleNamespace) -> None:
    with live(tts, talking_service) as place, grpc.insecure_channel(f"127.0.0.1:{place.grpc_port}") as channel:
        place.server.service.max_streams = 0
        with pytest.raises(grpc.RpcError) as caught:
            inference(channel, original, sft_request=original.sftRequest(spk_id="bo", tts_text="Hello."))
        assert error_of(caught)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata())["retry-after"] == "3.0"


def test_cancel_and_a_lost_client_free_everything(place: Live) -> None:
    def waits(channel: grpc.Channel) -> tuple[Any, threading.Event]:
        ended = threading.Event()

        def messages() -> Iterator[fireside_pb2.SpeakRequest]:
            yield from parts("Once upon a time. Then")
            ended.wait(10)

        answers = fireside_pb2_grpc.SpeechStub(channel).Speak(messages(), timeout=30)
        assert [next(answers).WhichOneof("message") for _ in range(2)] == ["started", "audio"]
        assert place.server.service.active == 1
        return answers, ended

    def freed() -> bool:
        ends = time.monotonic() + 0.5
        while place.server.service.active and time.monotonic() < ends:
            time.sleep(0.005)
        return place.server.service.active == 0

    with grpc.insecure_channel(f"127.0.0.1:{place.grpc_port}") as channel:
        answers, ended = waits(channel)
        answers.cancel()
        assert freed()
        ended.set()
        _, ended = waits(channel)
    assert freed()  # the channel is closed
    ended.set()


def test_a_slow_reader_is_let_go_and_nobody_waits_for_it(tts: Fireside) -> None:
    async def long_winded(tts: Fireside) -> TalkingService:
        return TalkingService(character_seconds=10.0)

    with live(tts, long_winded, write_timeout=1.0) as place:
        service = place.server.service
        address, any_size = f"127.0.0.1:{place.grpc_port}", (("grpc.max_receive_message_length", -1),)
        with grpc.insecure_channel(address, any_size) as channel, grpc.insecure_channel(address) as another:
            slow = fireside_pb2_grpc.SpeechStub(channel).Speak(iter(parts("Read this. " * 50)), timeout=30)
            next(slow)
            time.sleep(0.3)
            assert service.active == 1
            assert speak(another, "Hi.")[0][-1].HasField("done")
            ends = time.monotonic() + 3
            while service.active and time.monotonic() < ends:
                time.sleep(0.02)
            assert service.active == 0
            with pytest.raises(grpc.RpcError) as caught:
                list(slow)  # it reads on, and learns why
            status, sentence, _ = error_of(caught)
            assert status == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "was not read" in sentence


def test_voices(channel: grpc.Channel, prompt: bytes) -> None:
    voices = fireside_pb2_grpc.VoicesStub(channel)

    def names() -> list[str]:
        return [voice.name for voice in voices.ListVoices(fireside_pb2.ListVoicesRequest(), timeout=30).voices]

    def add(**fields: Any) -> fireside_pb2.AddVoiceResponse:
        recording = fireside_pb2.Prompt(audio=prompt, text="Hello there.")
        return voices.AddVoice(fireside_pb2.AddVoiceRequest(prompt=recording, **fields), timeout=30)

    assert names() == ["anna", "bo"]
    anna = voices.GetVoice(fireside_pb2.GetVoiceRequest(name="anna"), timeout=30)
    assert (anna.bundled, anna.default, anna.description) == (True, True, "a random voice")

    with pytest.raises(grpc.RpcError) as caught:
        add(name="me")
    assert error_of(caught)[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert "consent" in error_of(caught)[1]
    added = add(name="me", consent="I am me", language="en").voice
    assert (added.name, added.consent, added.prompt_text, added.bundled) == ("me", "I am me", "Hello there.", False)
    assert names() == ["anna", "bo", "me"]
    assert speak(channel, "Hello.", voice="me")[0][0].started.voice == "me"
    for name, status in (("me", "ALREADY_EXISTS"), ("anna", "ALREADY_EXISTS"), ("../me", "INVALID_ARGUMENT")):
        with pytest.raises(grpc.RpcError) as caught:
            add(name=name, consent="I am me")
        assert error_of(caught)[0].name == status
    voices.DeleteVoice(fireside_pb2.DeleteVoiceRequest(name="me"), timeout=30)
    assert names() == ["anna", "bo"]
    for call in (
        lambda: voices.DeleteVoice(fireside_pb2.DeleteVoiceRequest(name="me"), timeout=30),
        lambda: voices.GetVoice(fireside_pb2.GetVoiceRequest(name="me"), timeout=30),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert error_of(caught)[0] == grpc.StatusCode.NOT_FOUND


def test_an_upload_that_is_too_large(tts: Fireside) -> None:
    with (
        live(tts, talking_service, max_upload_bytes=100_000) as place,
        grpc.insecure_channel(f"127.0.0.1:{place.grpc_port}") as channel,
    ):
        for size, status in ((120_000, "INVALID_ARGUMENT"), (300_000, "RESOURCE_EXHAUSTED")):
            with pytest.raises(grpc.RpcError) as caught:
                speak(channel, "Hello.", prompt=fireside_pb2.Prompt(audio=bytes(size)))
            assert error_of(caught)[0].name == status


def test_keys(tts: Fireside, original: SimpleNamespace) -> None:
    with (
        live(tts, talking_service, {"me": KEY}) as place,
        grpc.insecure_channel(f"127.0.0.1:{place.grpc_port}") as channel,
    ):
        stub = fireside_pb2_grpc.SpeechStub(channel)
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.Speak(iter(parts("Hello.")), timeout=30, metadata=metadata))
            assert error_of(caught)[0] == grpc.StatusCode.UNAUTHENTICATED
        answers = list(stub.Speak(iter(parts("Hello.")), timeout=30, metadata=(("authorization", f"Bearer {KEY}"),)))
        assert answers[-1].HasField("done")
        with pytest.raises(grpc.RpcError) as caught:
            inference(channel, original, sft_request=original.sftRequest(spk_id="bo", tts_text="Hello."))
        assert error_of(caught)[0] == grpc.StatusCode.UNAUTHENTICATED
        health = health_pb2_grpc.HealthStub(channel)
        assert (
            health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == health_pb2.HealthCheckResponse.SERVING
        )
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=30)
        for answers in (health.Watch(health_pb2.HealthCheckRequest(), timeout=30), reflected):
            with pytest.raises(grpc.RpcError) as caught:
                list(answers)
            assert error_of(caught)[0] == grpc.StatusCode.UNAUTHENTICATED


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", *SERVICES):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=30)
    assert error_of(caught)[0] == grpc.StatusCode.NOT_FOUND

    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=30)
    listed = {service.name for answer in answers for service in answer.list_services_response.service}
    assert {"cosyvoice.CosyVoice", "fireside.v1.Speech", "fireside.v1.Voices", "grpc.health.v1.Health"} <= listed


def test_shutting_down_lets_a_call_finish(tts: Fireside) -> None:
    with live(tts, talking_service) as place, grpc.insecure_channel(f"127.0.0.1:{place.grpc_port}") as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        sent: queue.Queue[fireside_pb2.SpeakRequest | None] = queue.Queue()
        for message in parts("Before I go. And"):
            sent.put(message)
        stub = fireside_pb2_grpc.SpeechStub(channel)
        answers = stub.Speak(iter(sent.get, None), timeout=30)
        assert [next(answers).WhichOneof("message") for _ in range(2)] == ["started", "audio"]
        place.stop()
        assert [answer.status for answer in watched] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Speak(iter(parts("Me too.")), timeout=30))
        assert error_of(caught)[0] == grpc.StatusCode.UNAVAILABLE
        sent.put(fireside_pb2.SpeakRequest(text=" the rest."))
        sent.put(None)
        rest = list(answers)
        assert [answer.WhichOneof("message") for answer in rest] == ["audio", "done"]
        place.thread.join(10)
        assert not place.thread.is_alive()


def test_a_port_in_use(place: Live) -> None:
    import asyncio

    async def bind() -> None:
        async with serve_grpc(place.server, "127.0.0.1", place.grpc_port):
            pass

    with pytest.raises(UsageError, match=re.escape("choose another with --grpc-port")):
        asyncio.run(bind())
