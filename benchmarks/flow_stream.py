"""What streaming costs, flow and vocoder: each hop for itself against recomputing the past, in the same run.

    PYTHONPATH=src python benchmarks/flow_stream.py v2 [--seconds 20] [--prompt 3] [--recompute-every 4] [--threads 2]

The model is hearth, v2 or v3 (random weights of the full size, or with --scale tiny of a small one), or a model
folder. The speech tokens are given. Measures, each with --only NAME:

stream   The tokens in hops of one chunk. Ours continues what it keeps; the other runs the flow over the prompt and
         all tokens so far at every hop, as the released code does, and the vocoder as that does: CosyVoice 3's over
         all mel so far, CosyVoice 2's over the new frames and a few cached ones. Both use our modules in float32.
         Compares the joined mel with that of one shot, too.
first    The first hop alone, when the voice is known: 25 tokens and those it looks ahead to.
offline  5 s in one shot under the full mask: bfloat16 against float32.

With --recompute-every N only every N-th recomputation is run, and those between are interpolated: their cost is a
smooth function of the length. Use --clock cpu and --threads 1 where other programs keep the machine busy.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fireside.engine.noise import start_noise
from fireside.engine.stages import flow_stage, vocoder_stage
from fireside.models.config import DiTConfig, EncoderConfig, FlowConfig, UNetConfig, UpsamplingFlowConfig, VocoderConfig
from fireside.models.flow import CausalFlow
from fireside.models.hift import HiFT
from fireside.models.official import open_folder
from fireside.models.official_vocoder import official_vocoder
from fireside.models.unet_flow import UpsamplingFlow
from fireside.train.flow import HEARTH as HEARTH_FLOW
from fireside.train.vocoder import HEARTH as HEARTH_VOCODER

Clock = Callable[[], float]
ChunkedFlow: TypeAlias = CausalFlow | UpsamplingFlow
CONFIGS = {
    "hearth": (HEARTH_FLOW, HEARTH_VOCODER),
    "v2": (UpsamplingFlowConfig(), official_vocoder({"sampling_rate": 24000}, 512, causal=False)),
    "v3": (FlowConfig(), VocoderConfig()),
}
TINY_ENCODER = EncoderConfig(input_dim=64, dim=64, heads=2, ff_dim=128, layers=1, chunk=25)
TINY_UNET = UNetConfig(channels=(32,), blocks=1, mid_blocks=2, heads=2, dim_head=16)
TINY_FLOWS = {
    "v2": UpsamplingFlowConfig(encoder=TINY_ENCODER, up_layers=1, unet=TINY_UNET),
    "v3": FlowConfig(lookahead_channels=32, dit=DiTConfig(dim=64, depth=2, heads=2, dim_head=32)),
}

OFFLINE_SECONDS = 5


@dataclass(frozen=True)
class Case:
    """A model and what it is to say: tokens [T], after a prompt of tokens [P] and mel [n_mels, frames]."""

    flow: ChunkedFlow
    vocoder: HiFT
    tokens: Tensor
    prompt_tokens: Tensor
    prompt_mel: Tensor
    embedding: Tensor
    token_rate: float
    storage: torch.dtype | None

    def one_shot(self, tokens: Tensor, *, finalize: bool = True, chunked: bool = True) -> Tensor:
        """The mel [n_mels, frames] of some of the tokens, computed from nothing."""
        config = self.flow.config
        frames = config.frames(len(self.prompt_tokens) + len(tokens))
        mel = self.flow.inference(
            tokens[None],
            self.prompt_tokens[None],
            self.prompt_mel[None],
            self.embedding[None],
            start_noise(config, 0, frames)[None],
            finalize=finalize,
            chunked=chunked,
        )
        return mel[0]


@dataclass(frozen=True)
class Hops:
    """Seconds of flow and vocoder in every hop, and the joined mel [n_mels, frames]."""

    flow: list[float]
    vocoder: list[float]
    mel: Tensor

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.flow) + sum(self.vocoder)


def randomise(module: nn.Module) -> None:
    """As initialised, but for what starts at zero, where an error would not show."""
    module.eval().requires_grad_(False)
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def make_case(options: argparse.Namespace) -> Case:
    """The model asked for, and random tokens."""
    torch.manual_seed(0)
    flow: ChunkedFlow
    if options.model in CONFIGS:
        flow_config, vocoder_config = CONFIGS[options.model]
        if options.scale == "tiny" and options.model in TINY_FLOWS:
            flow_config = TINY_FLOWS[options.model]
            vocoder_config = vocoder_config.model_copy(update={"base_channels": 32, "f0_channels": 32})
        flow = CausalFlow(flow_config) if isinstance(flow_config, FlowConfig) else UpsamplingFlow(flow_config)
        vocoder = HiFT(vocoder_config)
        randomise(flow)
        randomise(vocoder)
        vocoder.for_inference()
    else:
        folder = open_folder(Path(options.model))
        flow, vocoder = folder.flow, folder.vocoder
    config = flow.config
    rate = vocoder.config.sample_rate / vocoder.config.hop_length / config.token_mel_ratio
    prompt = int(options.prompt * rate)
    ids = torch.randint(0, config.speech_vocab_size, (prompt + int(options.seconds * rate),))
    mel = torch.randn(config.n_mels, config.frames(prompt))
    storage = torch.bfloat16 if options.storage == "bf16" else None
    return Case(flow, vocoder, ids[prompt:], ids[:prompt], mel, torch.randn(config.speaker_dim), rate, storage)


def cuts(case: Case) -> list[int]:
    """Up to which token every hop goes: chunks of the mask and the look-ahead, then the rest."""
    config = case.flow.config
    first = config.chunk_tokens - len(case.prompt_tokens) % config.chunk_tokens + config.pre_lookahead_len
    return [*range(first, len(case.tokens), config.chunk_tokens), len(case.tokens)]


def streamed(case: Case, ends: Sequence[int], clock: Clock) -> tuple[float, Hops]:
    """Our way: seconds of the prompt, which a voice costs once, and the hops."""
    stage, vocoder = flow_stage(case.flow, case.storage), vocoder_stage(case.vocoder)
    started = clock()
    voice = stage.start(case.prompt_tokens, case.prompt_mel, case.embedding)
    prompt = clock() - started
    state, speech = voice.fork(), vocoder.start()
    flows: list[float] = []
    vocoders: list[float] = []
    mels: list[Tensor] = []
    at = 0
    for end in ends:
        final = end == len(case.tokens)
        started = clock()
        mels += stage.append([state], [case.tokens[at:end]], [final])
        between = clock()
        vocoder.append([speech], mels[-1:], [final])
        flows.append(between - started)
        vocoders.append(clock() - between)
        at = end
    return prompt, Hops(flows, vocoders, torch.cat(mels, dim=1))


def recomputed(case: Case, ends: Sequence[int], every: int, clock: Clock) -> tuple[Hops, int]:
    """The released way, and how many of the hops were run; mel: the last hop's, of all tokens."""
    measured = sorted({*range(0, len(ends), every), len(ends) - 1})
    vocoder = vocoder_stage(case.vocoder)
    flows: list[float] = []
    vocoders: list[float] = []
    mel = torch.zeros(0)
    for hop in measured:
        final = ends[hop] == len(case.tokens)
        started = clock()
        mel = case.one_shot(case.tokens[: ends[hop]], finalize=final)
        between = clock()
        with torch.inference_mode():
            if case.vocoder.config.causal:
                case.vocoder(mel[None], final=final)
            else:  # the new frames and those cached
                frames = mel.shape[1] if hop == 0 else case.flow.config.chunk_frames + case.vocoder.config.fade_frames
                vocoder.append([vocoder.start()], [mel[:, -frames:]], [final])
        flows.append(between - started)
        vocoders.append(clock() - between)
    hops = range(len(ends))
    return Hops(np.interp(hops, measured, flows).tolist(), np.interp(hops, measured, vocoders).tolist(), mel), len(
        measured
    )


def warm_up(case: Case) -> None:
    """Once through everything, shortly: first calls pay for threads, kernels and memory."""
    streamed(case, cuts(case)[:1], time.perf_counter)
    case.one_shot(case.tokens[:5])


def report_stream(case: Case, options: argparse.Namespace, clock: Clock) -> None:
    """The whole of the tokens."""
    ends = cuts(case)
    prompt, ours = streamed(case, ends, clock)
    theirs, run = recomputed(case, ends, options.recompute_every, clock)
    seconds = ours.mel.shape[1] * case.vocoder.config.hop_length / case.vocoder.config.sample_rate
    part = "" if run == len(ends) else f", {run} of them run, the others interpolated"
    print(f"stream: {seconds:.0f} s of speech in {len(ends)} hops")
    print(f"  prompt, once for each voice  {prompt:8.2f} s")
    print(f"  hop by hop                   {ours.total:8.2f} s   flow {sum(ours.flow):.2f}, "
          f"vocoder {sum(ours.vocoder):.2f}; RTF {ours.total / seconds:.3f}")  # fmt: skip
    print(f"  recomputed at every hop      {theirs.total:8.2f} s   flow {sum(theirs.flow):.2f}, "
          f"vocoder {sum(theirs.vocoder):.2f}{part}")  # fmt: skip
    print(f"  times less                   {theirs.total / ours.total:8.1f}     with the prompt "
          f"{theirs.total / (ours.total + prompt):.1f}")  # fmt: skip
    print(f"  flow of a hop: median {statistics.median(ours.flow) * 1e3:.0f} ms, first {ours.flow[0] * 1e3:.0f} ms, "
          f"last full {ours.flow[-2] * 1e3:.0f} ms")  # fmt: skip
    error = (ours.mel - theirs.mel).abs().max()
    print(f"  joined mel and one shot's under the same mask: largest difference {error:.1e}")


def report_first(case: Case, options: argparse.Namespace, clock: Clock) -> None:
    """The first hop, the best of some rounds in which both take part.

    Where the prompt fills its last chunk, the engine renders that chunk as soon as the tokens it looks ahead to are
    there (`ChunkHops`), long before the last token of the hop: the wait counts from the last one, both are printed.
    """
    config, ends = case.flow.config, cuts(case)[:1]
    whole = len(case.prompt_tokens) % config.chunk_tokens == 0
    opening = [config.pre_lookahead_len] if whole and config.pre_lookahead_len < ends[0] else []
    ours, early, theirs = math.inf, 0.0, math.inf
    for _ in range(options.rounds):
        hops = streamed(case, [*opening, *ends], clock)[1]
        last = hops.flow[-1] + hops.vocoder[-1]
        if last < ours:
            ours, early = last, hops.total - last
        theirs = min(theirs, recomputed(case, ends, 1, clock)[0].total)
    print(f"first chunk, {ends[0]} tokens, the voice known: {ours * 1e3:.0f} ms after its last, {early * 1e3:.0f} ms "
          f"before it; all computed again {theirs * 1e3:.0f} ms: {theirs / ours:.1f} times sooner")  # fmt: skip


def report_offline(case: Case, options: argparse.Namespace, clock: Clock) -> None:
    """One shot in two precisions, the best of some rounds in which both take part."""
    tokens = case.tokens[: int(OFFLINE_SECONDS * case.token_rate)]
    half = replace(case, flow=copy.deepcopy(case.flow).to(torch.bfloat16))
    best = [math.inf, math.inf]
    mels: list[Tensor] = [torch.zeros(0), torch.zeros(0)]
    for _ in range(options.rounds):
        for i, which in enumerate((case, half)):
            started = clock()
            mels[i] = which.one_shot(tokens, chunked=False).double()
            best[i] = min(best[i], clock() - started)
    snr = 10 * torch.log10(mels[0].square().sum() / (mels[1] - mels[0]).square().sum())
    print(f"offline, {len(tokens)} tokens under the full mask: float32 {best[0]:.2f} s, bfloat16 {best[1]:.2f} s: "
          f"{best[0] / best[1]:.2f} times faster, mel {snr:.1f} dB")  # fmt: skip


REPORTS = {"stream": report_stream, "first": report_first, "offline": report_offline}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="hearth, v2, v3, or a model folder")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full", help="tiny: to try the benchmark itself")
    parser.add_argument("--seconds", type=float, default=20.0, help="of speech")
    parser.add_argument("--prompt", type=float, default=3.0, help="seconds of the prompt")
    parser.add_argument("--only", choices=tuple(REPORTS), action="append")
    parser.add_argument("--recompute-every", type=int, default=1, metavar="N")
    parser.add_argument("--storage", choices=("fp32", "bf16"), default="fp32", help="of the kept keys and values")
    parser.add_argument("--rounds", type=int, default=3, help="of `first` and `offline`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    case = make_case(options)
    warm_up(case)
    size = sum(parameter.numel() for parameter in case.flow.parameters()) / 1e6
    print(f"{options.model}: flow of {size:.1f} M parameters, {options.threads} threads, {options.clock} clock")
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    for name in options.only or REPORTS:
        REPORTS[name](case, options, clock)


if __name__ == "__main__":
    main()
