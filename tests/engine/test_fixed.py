"""Work at fixed sizes, which is what a GPU records: the same numbers as the work of any size."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from flow_cases import small_flow
from hift_case import official_small
from lm_cases import Recorder, tiny_lm
from test_device import tiny_transformer_lm
from test_flow import request as case_of
from test_official_models import brief, make_voice
from test_vocoder import build, mel_of
from torch._dynamo.utils import counters
from unet_cases import small_upsampling_flow

from fireside import load
from fireside.engine import decoder as decoder_module
from fireside.engine import fixed_flow
from fireside.engine.decoder import Decoder
from fireside.engine.decoders import make_decoder
from fireside.engine.fixed import Replayed, bucket
from fireside.engine.flow import IncrementalFlow
from fireside.engine.sampling import RepetitionAware
from fireside.engine.stages import vocoder_stage
from fireside.engine.unet_flow import IncrementalUNetFlow
from fireside.models.config import SamplingConfig
from fireside.models.turns import PlainMachine

TOLERANCE = 1e-4


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler, so that what is seen is the work of fixed sizes alone."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.fixture
def compiler() -> Iterator[None]:
    """A C++ compiler, which torch.compile needs on a CPU, and nothing that was compiled before."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("needs a C++ compiler: g++ or clang++")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("size", "room"), [(1, 8), (8, 8), (9, 16), (33, 64), (65, 100), (100, 100)])
def test_buckets_double_up_to_the_most(size: int, room: int) -> None:
    assert bucket(size, 8, 100) == room


def speak(decoder: Decoder, requests: int, tokens: int = 30) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Tokens and scores of requests of different lengths that are decoded together."""
    recorders, handles = [], []
    for i in range(requests):
        draws = RepetitionAware(SamplingConfig(), torch.Generator().manual_seed(i))
        recorders.append(Recorder(draws))
        speaker = torch.full((6,), 0.3) if i == 1 else None
        machine = PlainMachine(decoder.control, range(3 + 5 * i), [], [7, 8, 9][:i], tokens, tokens)
        handles.append(decoder.admit(machine, recorders[-1], speaker))
    said: dict[Any, list[int]] = {handle: [] for handle in handles}
    while not all(handle.machine.done for handle in handles):
        for handle, token in decoder.step():
            assert isinstance(token, int), token
            said[handle].append(token)
    for handle in handles:
        decoder.release(handle)
    return list(said.values()), [torch.stack(recorder.scores) for recorder in recorders]


LMS: list[Any] = [
    pytest.param(tiny_lm, id="qwen2"),
    pytest.param(lambda: tiny_lm(control="separate", head_bias=True, num_control=3), id="qwen2-v2"),
    pytest.param(lambda: filled(tiny_transformer_lm()), id="transformer"),
]


def filled(module: torch.nn.Module) -> Any:
    """With weights that make every position matter."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
    return module.eval()


@pytest.mark.parametrize("make", LMS)
def test_lm_steps_of_a_fixed_size(make: Callable[[], Any], plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "LEAST_PAST", 8)
    lm = make()
    expected, scores = speak(make_decoder(lm, 3, 64), 3)
    fixed = make_decoder(lm, 3, 64, compile=True)
    got, fixed_scores = speak(fixed, 3)
    assert got == expected
    for ours, theirs in zip(fixed_scores, scores, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
    # Once more, in slots that others have used.
    assert speak(fixed, 3)[0] == expected


@pytest.mark.parametrize("make", LMS)
def test_a_request_of_fixed_steps_is_blind_to_its_neighbours(
    make: Callable[[], Any], plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "LEAST_PAST", 8)
    decoder = make_decoder(make(), 3, 64, compile=True)
    decoder.rows = 3
    decoder._given = torch.zeros(3, 3, dtype=torch.long)
    alone, scores = speak(decoder, 1)
    crowd, crowd_scores = speak(decoder, 3)
    assert crowd[0] == alone[0]
    assert torch.equal(crowd_scores[0], scores[0])


@pytest.mark.parametrize("make", LMS[1:])
def test_compiled_lm_steps(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, compiler: None) -> None:
    """The same tokens over four lengths of the past; compiled for one length, for any, and for all of the cache."""
    monkeypatch.setattr(decoder_module, "LEAST_PAST", 8)
    lm = make()
    expected, scores = speak(make_decoder(lm, 3, 64), 3)
    got, compiled_scores = speak(make_decoder(lm, 3, 64, compile=True), 3)
    assert got == expected
    for ours, theirs in zip(compiled_scores, scores, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
    assert 1 <= counters["stats"]["unique_graphs"] <= 3


STREAMS: list[Any] = [
    pytest.param(IncrementalFlow, small_flow, id="v3"),
    pytest.param(IncrementalUNetFlow, small_upsampling_flow, id="v2"),
]


def streamed(stage: Any, flow: Any, hops: list[int], prompt: int) -> torch.Tensor:
    """The mel of a request whose tokens come in hops, beside another one's."""
    case, other = case_of(flow, 1, prompt, hops[-1]), case_of(flow, 2, 6, hops[-1])
    states = [stage.start(*case[:3]), stage.start(*other[:3])]
    mels = []
    for start, stop in zip([0, *hops], hops, strict=False):
        tokens = [case[3][start:stop], other[3][start:stop]]
        mels.append(stage.append(states, tokens, [stop == hops[-1]] * 2)[0])
    return torch.cat(mels, dim=1)


@pytest.mark.parametrize(("kind", "make"), STREAMS)
@pytest.mark.parametrize(("prompt", "hops"), [(0, [8, 13, 33]), (7, [4, 30, 95, 117]), (21, [120])], ids=str)
def test_flow_passes_of_a_fixed_size(kind: Any, make: Any, prompt: int, hops: list[int], plain: None) -> None:
    """Passes and pasts of several buckets, ends within a chunk, and a past in several segments."""
    flow = make()
    fixed = kind(flow, compile=True)
    with mock.patch.object(fixed._fixed, "solve", wraps=fixed._fixed.solve) as solve:
        got = streamed(fixed, flow, hops, prompt)
    assert solve.call_count > len(hops)
    torch.testing.assert_close(got, streamed(kind(flow), flow, hops, prompt), atol=TOLERANCE, rtol=0)
    assert len(fixed._fixed._passes) <= 24


@pytest.mark.parametrize(("kind", "make"), STREAMS)
def test_a_past_too_long_to_record_is_computed_as_ever(
    kind: Any, make: Any, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make()
    monkeypatch.setattr(fixed_flow, "MOST_CHUNKS", 8)
    fixed = kind(flow, compile=True)
    with mock.patch.object(fixed, "integrate", wraps=fixed.integrate) as integrate:
        got = streamed(fixed, flow, [60, 117], 7)
    assert {type(call.args[2]).__name__ for call in integrate.call_args_list} == {"Joined", "_Pass"}
    torch.testing.assert_close(got, streamed(kind(flow), flow, [60, 117], 7), atol=TOLERANCE, rtol=0)


def test_recorded_memory_is_bounded(plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = small_flow()
    monkeypatch.setattr(fixed_flow, "FIXED_BYTES", 100 * IncrementalFlow(flow).bytes_per_frame)
    fixed = IncrementalFlow(flow, compile=True)
    streamed(fixed, flow, [33], 7)
    assert fixed._fixed is not None
    assert fixed._fixed._memory is not None
    assert fixed._fixed._memory.nbytes <= fixed_flow.FIXED_BYTES


@pytest.mark.parametrize(("config", "sizes"), [(3, [30, 20, 20, 20, 7, 20, 3]), (2, [20, 20, 20, 7, 20, 20])], ids=str)
def test_vocoder_chunks_of_a_fixed_size(config: int, sizes: list[int]) -> None:
    """The same samples, from no more recordings than there are sizes to record."""
    model = build(official_small(config))
    mel = mel_of(sum(sizes), model)
    fixed, plain = vocoder_stage(model, compile=True), vocoder_stage(model)
    replayed = fixed._replayed if config == 3 else fixed._decode
    replayed._most = 2
    states = [stage.start(5) for stage in (fixed, plain)]
    at = 0
    for size in sizes:
        final = at + size == mel.shape[1]
        (got,), (expected,) = (
            stage.append([state], [mel[:, at : at + size]], [final])
            for stage, state in zip((fixed, plain), states, strict=True)
        )
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
        at += size
    assert len(replayed._rooms) == 2


def test_what_was_replayed_is_the_callers() -> None:
    """A recording reads and writes the same memory each time."""
    same = Replayed(lambda x: (x,), torch.device("cpu"))
    given = torch.ones(3)
    (kept,) = same(given)
    same(torch.full((3,), 5.0))
    assert kept.tolist() == given.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("kind", "make"), STREAMS)
def test_compiled_flow(kind: Any, make: Any, compiler: None) -> None:
    """Passes of several sizes over several lengths of the past share what is compiled: for one size, and for any."""
    flow = make()
    got = streamed(kind(flow, compile=True), flow, [4, 30, 63], 7)
    torch.testing.assert_close(got, streamed(kind(flow), flow, [4, 30, 63], 7), atol=TOLERANCE, rtol=0)
    assert 1 <= counters["stats"]["unique_graphs"] <= 2


def spoken(folder: Path, compile: bool, normaliser: str | None) -> tuple[np.ndarray, list[int]]:
    """Samples and tokens of a streamed request."""
    tts = load(folder, normaliser=normaliser, device="cpu", compile=compile)
    voice = tts.voice("anna") if normaliser is None else make_voice(brief(tts, 20.0))
    chunks = list(tts.stream("Hello there, good evening.", voice, seed=3))
    return np.concatenate([chunk.samples for chunk in chunks]), [token for chunk in chunks for token in chunk.tokens]


def speaks_the_same(folder: Path, normaliser: str | None = None) -> None:
    samples, tokens = spoken(folder, True, normaliser)
    expected, expected_tokens = spoken(folder, False, normaliser)
    assert tokens == expected_tokens
    assert len(tokens) > 20
    np.testing.assert_allclose(samples, expected, atol=1e-3)


def test_hearth_speaks_the_same(tiny_model: Path, home: Path, plain: None) -> None:
    """Every stage at once, as `--compile` puts them together."""
    speaks_the_same(tiny_model)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_released_models_speak_the_same(
    version: int, official_model: Callable[[int], Path], home: Path, plain: None
) -> None:
    speaks_the_same(official_model(version), "none")
