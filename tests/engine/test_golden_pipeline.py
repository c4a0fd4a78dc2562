"""Speech tokens to waveform against the original's token2wav loops (cases v1, v2 and v3_tts_pipeline).

The original's last streamed call of CosyVoice 2 and 3 sees the full mask, unlike the calls before it; ours keeps the
chunk mask to the end. So the stored last chunk is reached by a flow stage of this test that does as the original
did, and `test_the_end_of_a_stream_keeps_the_chunk_mask` says what ours does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GoldenCase
from flow_cases import load_flow
from hift_case import vocoder_config
from torch import Tensor
from unet_cases import load_regulated, load_upsampling

from fireside.engine.render import ChunkHops, FlowStage, OverlapHops, Renderer, VocoderStage, Whole
from fireside.engine.stages import flow_stage, vocoder_stage, whole_flow
from fireside.engine.windowed_flow import WindowedFlow
from fireside.models.hift import HiFT
from fireside.models.unet_flow import RegulatedFlow
from fireside.voices import Voice, VoiceCard

RELEASED_HOPS = (1, 2, 4)


def part(case: GoldenCase, name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in case.weights.items() if key.startswith(f"{name}.")}


@dataclass
class Ended:
    """A flow state, and all that was given to it."""

    streamed: Any
    whole: Any
    frames: int = 0

    def fork(self) -> Ended:
        return replace(self, streamed=self.streamed.fork(), whole=self.whole.fork())


class EndsWithFullMask:
    """The original's stream: the last call computes everything again under the full mask and cuts off its end."""

    def __init__(self, streamed: FlowStage[Any], whole: FlowStage[Any]) -> None:
        self.streamed, self.whole = streamed, whole

    def start(
        self, prompt_tokens: Tensor, prompt_mel: Tensor, embedding: Tensor, adaptation: Tensor | None = None
    ) -> Ended:
        given = prompt_tokens, prompt_mel, embedding
        return Ended(self.streamed.start(*given), self.whole.start(*given))

    def append(self, states: Sequence[Ended], tokens: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        mels = []
        for state, ids, last in zip(states, tokens, final, strict=True):
            (all_of_it,) = self.whole.append([state.whole], [ids], [last])
            mel = all_of_it[:, state.frames :]
            if not last:
                (mel,) = self.streamed.append([state.streamed], [ids], [False])
                state.frames += mel.shape[1]
            mels.append(mel)
        return mels


@dataclass
class Listening:
    """A vocoder stage that writes down the mels it is given."""

    inner: VocoderStage[Any]
    mels: list[Tensor] = field(default_factory=list)

    def start(self, seed: int | None = 0) -> Any:
        self.mels.clear()
        return self.inner.start(seed)

    def append(self, states: Sequence[Any], mels: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        self.mels += mels
        return self.inner.append(states, mels, final)


class Pipeline:
    """A case's modules under the renderers that an official model gets, without noise."""

    def __init__(self, case: GoldenCase, flow: Any) -> None:
        hift = HiFT(vocoder_config(case.config["ctor_hift"]))
        hift.load_state_dict(part(case, "hift"), strict=True)
        self.vocoder = Listening(vocoder_stage(hift.for_inference()))
        self.fade_frames = hift.config.fade_frames
        self.flow = flow_stage(flow)
        self.whole: Any = whole_flow(flow)
        if isinstance(flow, RegulatedFlow):  # whose noise is drawn anew for each call: the case's
            self.flow = WindowedFlow(flow, noise=lambda window, frames, n_mels: case.inputs["noise"][0, :, :frames])
            self.whole.noise = lambda prompt, tokens: case.inputs["noise"][0]
        self.tokens = case.inputs["source_speech_token"][0].tolist()
        inputs = (case.inputs[key][0] for key in ("flow_embedding", "flow_prompt_speech_token", "prompt_speech_feat"))
        self.voice = Voice(VoiceCard("golden"), *(tensor.numpy() for tensor in inputs))

    def run(self, renderer: Renderer[Any, Any], tokens: list[int], **start: Any) -> tuple[list[np.ndarray], list[dict]]:
        """Every hop's samples, and the hops as the traces have them."""
        state = renderer.start(renderer.prompt(self.voice), seed=None, **start)
        waves, trace = [], []
        while not (trace and trace[-1]["finalize"]):
            hop = renderer.wants(state, len(tokens) - state.taken, True, len(trace))
            assert hop is not None
            fresh = tokens[state.taken : state.taken + hop.tokens]
            waves += renderer.append([state], [fresh], [hop.final]).waves
            trace.append({"tokens": state.taken, "finalize": hop.final, "samples": len(waves[-1])})
        return waves, trace

    def released(self) -> Renderer[Any, Any]:
        """The stream with the released code's schedule to the letter."""
        if isinstance(self.flow, WindowedFlow):
            return Renderer(self.flow, self.vocoder, OverlapHops())
        return Renderer(EndsWithFullMask(self.flow, self.whole), self.vocoder, self.schedule())

    def schedule(self) -> ChunkHops:
        """The released hops at the case's sizes."""
        config = self.whole.flow.config
        return ChunkHops(config.chunk_tokens, config.pre_lookahead_len, RELEASED_HOPS, as_released=True)


def snr(got: Tensor, expected: Tensor) -> float:
    error = (got.double() - expected.double()).square().sum()
    return float(10 * torch.log10(expected.double().square().sum() / error))


def compare(case: GoldenCase, got: dict[str, Tensor]) -> None:
    """Every output within its tolerance; waveforms as wholes too, since that of single samples is loose."""
    speeds = {key: value for key, value in got.items() if key.startswith("speed")}
    case.compare(
        {key: value for key, value in got.items() if key not in speeds},
        {key: "no tolerance is stored; compared as a whole below" for key in speeds},
    )
    tolerances = case.config["tolerances"]
    for key, value in got.items():
        assert value.shape == case.outputs[key].shape, key
        if "mel" not in key:
            stored = tolerances.get(key, tolerances["nonstream"])["f32_vs_f64_snr_db"]
            assert snr(value, case.outputs[key]) > stored - 6, key


def nonstream(case: GoldenCase, pipeline: Pipeline) -> dict[str, Tensor]:
    """What the case has of requests that are not streamed."""
    renderer = Renderer(pipeline.whole, pipeline.vocoder, Whole())
    (wave,), trace = pipeline.run(renderer, pipeline.tokens)
    (recorded,) = case.config["nonstream_trace"]
    assert [trace[0]["tokens"], trace[0]["samples"]] == [recorded["tokens"], recorded["samples_out"]]
    got = {"nonstream": torch.from_numpy(wave)[None], "nonstream_mel": pipeline.vocoder.mels[0][None]}
    for key in case.outputs:
        match = re.fullmatch(r"speed([\d.]+)_first(\d+)", key)
        if match:
            (wave,), _ = pipeline.run(renderer, pipeline.tokens[: int(match[2])], speed=float(match[1]))
            got[key] = torch.from_numpy(wave)[None]
    return got


def hops(pipeline: Pipeline, trace: list[dict]) -> list[dict]:
    """Our hops as the original's calls have them: tokens passed, first token that is new, mask and end."""
    windows = isinstance(pipeline.flow, WindowedFlow)
    calls = []
    for i, call in enumerate(trace):
        dropped, offset = OverlapHops().hop * i if windows else 0, None
        if not windows:  # whose calls get all tokens again, and an offset into them
            offset = trace[i - 1]["tokens"] - pipeline.schedule().lookahead if i else 0
        streamed = not windows and not call["finalize"]
        calls.append(
            {
                "tokens": call["tokens"] - dropped,
                "token_offset": offset,
                "stream": streamed,
                "finalize": call["finalize"],
            }
        )
    return calls


def recorded_hops(trace: list[dict]) -> list[dict]:
    return [{name: value for name, value in call.items() if name != "samples_out"} for call in trace]


def check_traces(case: GoldenCase, pipeline: Pipeline) -> None:
    """The recorded calls of the streamed requests that came after the first one."""
    # The released hops grow and never shrink again, so later requests start where the first one's ended.
    grown = RELEASED_HOPS[min(len(case.config["stream_trace"]), len(RELEASED_HOPS)) - 1 :]
    for name, recorded in case.config.items():
        match = re.fullmatch(r"(\w+)_first(\d+)_trace", name)
        if not match:
            continue
        tokens = pipeline.tokens[: int(match[2])]
        _, trace = pipeline.run(pipeline.released(), tokens, hops=grown)
        assert hops(pipeline, trace) == recorded_hops(recorded), name
        assert sum(call["samples"] for call in trace) == sum(call["samples_out"] for call in recorded), name


def stream(case: GoldenCase, pipeline: Pipeline) -> list[Tensor]:
    """Every hop's samples [1, n] of the recorded stream, whose hops are compared here."""
    waves, trace = pipeline.run(pipeline.released(), pipeline.tokens)
    assert hops(pipeline, trace) == recorded_hops(case.config["stream_trace"])
    return [torch.from_numpy(wave)[None] for wave in waves]


def test_v3(golden_case) -> None:
    case = golden_case("v3_tts_pipeline")
    pipeline = Pipeline(case, load_flow(case.config["ctor_flow"], part(case, "flow")))
    # The original keeps 8 frames back and ours 4, so the calls' shares of the audio differ, never the audio.
    shares = [call["samples_out"] for call in case.config["stream_trace"]]
    waves = torch.cat(stream(case, pipeline), dim=1).split(shares, dim=1)
    got = {f"stream_chunk{i}": wave for i, wave in enumerate(waves)}
    for i in range(len(shares)):  # it vocodes everything again, each time
        got[f"stream_vocoder_mel{i}"] = torch.cat(pipeline.vocoder.mels[: i + 1], dim=1)[None]
    compare(case, got | nonstream(case, pipeline))
    check_traces(case, pipeline)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_fading(golden_case, version: str) -> None:
    case = golden_case(f"{version}_tts_pipeline")
    load = load_regulated if version == "v1" else load_upsampling
    pipeline = Pipeline(case, load(case.config["ctor_flow"], part(case, "flow")))
    waves = stream(case, pipeline)
    got = {f"stream_chunk{i}": wave for i, wave in enumerate(waves)}
    cached = pipeline.vocoder.mels[0][:, :0]
    for i, mel in enumerate(pipeline.vocoder.mels):  # a few frames are vocoded again
        window = torch.cat([cached, mel], dim=1)
        got[f"stream_vocoder_mel{i}"] = window[None]
        cached = window[:, -pipeline.fade_frames :]
    compare(case, got | nonstream(case, pipeline))
    check_traces(case, pipeline)


def test_the_end_of_a_stream_keeps_the_chunk_mask(golden_case) -> None:
    case = golden_case("v2_tts_pipeline")
    flow = load_upsampling(case.config["ctor_flow"], part(case, "flow"))
    pipeline = Pipeline(case, flow)
    pipeline.run(Renderer(pipeline.flow, pipeline.vocoder, pipeline.schedule()), pipeline.tokens)
    inputs = case.inputs
    one_shot = flow.inference(
        inputs["source_speech_token"].long(),
        inputs["flow_prompt_speech_token"].long(),
        inputs["prompt_speech_feat"].mT,
        inputs["flow_embedding"],
        inputs["noise"],
        chunked=True,
    )
    last = len(case.config["stream_trace"]) - 1
    torch.testing.assert_close(
        torch.cat(pipeline.vocoder.mels, dim=1), one_shot[0], atol=case.atol(f"stream_vocoder_mel{last}"), rtol=0
    )


def test_the_hops_of_a_request_are_its_own(golden_case) -> None:
    case = golden_case("v3_tts_pipeline")
    pipeline = Pipeline(case, load_flow(case.config["ctor_flow"], part(case, "flow")))
    renderer, tokens = pipeline.released(), pipeline.tokens[:60]
    traces = [pipeline.run(renderer, tokens)[1] for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(traces[0]) > 1
