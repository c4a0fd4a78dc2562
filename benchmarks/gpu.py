"""Everything that a GPU is asked to do, in one call: how fast, and how near to the same on the CPU in float32.

    PYTHONPATH=src python benchmarks/gpu.py [--device cuda] [--size full|tiny] [--versions v2 v3] [--json FILE]

Random weights of CosyVoice 2's and 3's full size (or tiny ones, to try the tool where there is no GPU). For each of
float32, float16 and bfloat16, as it comes (eager) and with `compile=True`:

LM      Tokens a second of all requests by the clock, for each of --batches, against `transformers` (eager attention,
        no text head) in the same run; and the scores after the CPU's own tokens: largest error, and how often the
        likeliest id is the same.
flow    Flow and vocoder of a stream in hops of one chunk, the prompt's state known: seconds to the first sound once
        its tokens are there, and of all hops for a second of audio; and the mel's and the audio's distance from the
        CPU's, in dB.

A first run of each, which compiles and records, is timed by itself. Needs `pip install transformers` for that line.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from flow_stream import Case, cuts, make_case
from lm_decode import PROMPT, TEXT, V2, ours, prompt, theirs
from torch import Tensor, nn

from fireside.engine.lm import LMDecoder
from fireside.engine.stages import flow_stage, vocoder_stage
from fireside.models.config import LMConfig
from fireside.models.device import CPU, find_device
from fireside.models.lm import LM
from fireside.models.turns import PlainMachine
from fireside.train.lm import initialise

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LMS = {"v2": V2, "v3": LMConfig(num_control=200, text_vocab_size=V2.text_vocab_size)}
TINY_LM = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 128}
TEACHER_TOKENS = 50
COMPARED_HOPS = 3
PROMPT_SECONDS = 3.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """A precision, and whether the networks are compiled and recorded."""

    precision: str
    compile: bool

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return DTYPES[self.precision]

    def __str__(self) -> str:
        return f"{self.precision}{' compiled' if self.compile else ''}"


def seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """How long some work takes until the device has done it."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Until the device has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def emptied(device: torch.device) -> Iterator[None]:
    """What was made within is let go of afterwards, recordings and all."""
    yield
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def on(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """A copy on a device, as a model folder's part is loaded: weights in a type, tables in float32."""
    moved = copy.deepcopy(module).to(device)
    for parameter in moved.parameters():
        parameter.data = parameter.data.to(dtype)
    return moved


def decibels(got: Tensor, expected: Tensor) -> float:
    """Signal over the difference."""
    got, expected = got.double().cpu(), expected.double().cpu()
    return float(20 * torch.log10(expected.norm() / (got - expected).norm().clamp_min(1e-12)))


def teacher_scores(decoder: LMDecoder, tokens: Sequence[int] | None) -> tuple[Tensor, list[int]]:
    """Scores [tokens, ids] after each of the tokens, or after the likeliest ones; and the tokens."""
    seen: list[Tensor] = []

    def sample(scores: Tensor, history: Sequence[int]) -> int:
        seen.append(scores)
        return int(scores.argmax()) if tokens is None else tokens[len(history)]

    machine = PlainMachine(decoder.control, TEXT, (), PROMPT, TEACHER_TOKENS, TEACHER_TOKENS)
    handle = decoder.admit(machine, sample)
    while not machine.done:
        for _, outcome in decoder.step():
            if isinstance(outcome, Exception):
                raise outcome
    decoder.release(handle)
    said = [int(scores.argmax()) for scores in seen] if tokens is None else list(tokens)
    return torch.stack(seen), said


def lm_rows(version: str, options: argparse.Namespace, device: torch.device, forms: Sequence[Form]) -> Iterator[Row]:
    """The LM's lines."""
    config = LMS[version]
    torch.manual_seed(0)
    lm = LM(config.model_copy(update=TINY_LM) if options.size == "tiny" else config).eval().requires_grad_(False)
    initialise(lm)
    length = len(prompt(lm)) + max(options.tokens, TEACHER_TOKENS) + 8
    expected, tokens = teacher_scores(LMDecoder(lm, slots=1, max_len=length), None)
    for form in forms:
        with emptied(device):
            placed = on(lm, device, form.dtype)
            if importlib.util.find_spec("transformers") and not form.compile:
                decode = theirs(placed)
                per_second, _ = tokens_per_second(decode, 1, options, device)
                yield {"part": f"{version} LM", "form": f"transformers {form}", "batch": 1, "tokens/s": per_second}
            for batch in options.batches:
                decoder = LMDecoder(placed, slots=batch, max_len=length, dtype=form.dtype, compile=form.compile)
                per_second, first = tokens_per_second(ours(decoder, batch), batch, options, device)
                scores, _ = teacher_scores(decoder, tokens)
                yield {
                    "part": f"{version} LM",
                    "form": str(form),
                    "batch": batch,
                    "tokens/s": per_second,
                    "first run s": first,
                    "score error": float((scores - expected)[expected.isfinite()].abs().max()),
                    "same likeliest": float((scores.argmax(-1) == expected.argmax(-1)).double().mean()),
                }


def tokens_per_second(
    decode: Callable[[int], Iterator[None]], batch: int, options: argparse.Namespace, device: torch.device
) -> tuple[float, float]:
    """Tokens a second behind the prompt in the best round, and the seconds of a round before."""
    first = seconds(device, lambda: list(decode(options.tokens + 1)))
    best = float("inf")
    for _ in range(options.rounds):
        steps = decode(options.tokens + 1)
        next(steps)  # the prompt
        best = min(best, seconds(device, lambda steps=steps: list(steps)))  # type: ignore[misc]
    return batch * options.tokens / best, first


@dataclass
class Streamed:
    """A stream: seconds of each hop, and what came out."""

    hops: list[float]
    mel: Tensor
    wave: Tensor


def streamed(case: Case, form: Form, device: torch.device, hops: int | None) -> Callable[[], Streamed]:
    """A function that streams the case's tokens, or the first hops of them, with the prompt's state known."""
    stage, vocoder = flow_stage(case.flow, compile=form.compile), vocoder_stage(case.vocoder, compile=form.compile)
    voice = stage.start(case.prompt_tokens, case.prompt_mel, case.embedding)
    ends = cuts(case)[:hops]

    def run() -> Streamed:
        state, voiced = voice.fork(), vocoder.start(0)
        times: list[float] = []
        mels: list[Tensor] = []
        waves: list[Tensor] = []

        def hop(start: int, end: int) -> None:
            final = end == len(case.tokens)
            mels.extend(stage.append([state], [case.tokens[start:end]], [final]))
            waves.extend(wave.cpu() for wave in vocoder.append([voiced], mels[-1:], [final]))

        for start, end in zip([0, *ends], ends, strict=False):
            times.append(seconds(device, lambda start=start, end=end: hop(start, end)))  # type: ignore[misc]
        return Streamed(times, torch.cat(mels, dim=1), torch.cat(waves))

    return run


def flow_rows(version: str, options: argparse.Namespace, device: torch.device, forms: Sequence[Form]) -> Iterator[Row]:
    """The lines of flow and vocoder."""
    scale = argparse.Namespace(
        model=version, scale=options.size, prompt=PROMPT_SECONDS, seconds=options.seconds, storage=None
    )
    case = make_case(scale)
    expected = streamed(case, Form("fp32", False), CPU, COMPARED_HOPS)()
    for form in forms:
        with emptied(device):
            placed = replace(case, flow=on(case.flow, device, form.dtype), vocoder=on_device(case.vocoder, device))
            run = streamed(placed, form, device, None)
            began = seconds(device, run)
            rounds = [run() for _ in range(options.rounds)]
            got = rounds[-1]
            audio = len(got.wave) / case.vocoder.config.sample_rate
            mel, wave = expected.mel, expected.wave
            yield {
                "part": f"{version} flow, vocoder",
                "form": str(form),
                "first sound ms": 1000 * min(each.hops[0] for each in rounds),
                "hop ms": 1000 * statistics.median(min(each.hops[i] for each in rounds) for i in range(len(got.hops))),
                "s / s of audio": min(sum(each.hops) for each in rounds) / audio,
                "first run s": began,
                "mel dB": decibels(got.mel[:, : mel.shape[1]], mel),
                "audio dB": decibels(got.wave[: len(wave)], wave),
            }


def on_device(vocoder: nn.Module, device: torch.device) -> Any:
    """The vocoder where a model folder has it: in its own precision, on the CPU where the device has no float64."""
    return copy.deepcopy(vocoder).to(CPU if device.type == "mps" else device)


def show(row: Row) -> None:
    """One line."""
    figures = [(name, value) for name, value in row.items() if name not in ("part", "form")]
    cells = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures]
    print(f"{row['part']:18s} {row['form']:20s}", "  ".join(cells), flush=True)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--versions", nargs="+", choices=["v2", "v3"], default=["v2", "v3"])
    parser.add_argument("--parts", nargs="+", choices=["lm", "flow"], default=["lm", "flow"])
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--modes", nargs="+", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=200, help="tokens a request and round")
    parser.add_argument("--seconds", type=float, default=10.0, help="speech of a stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the lines there, too")
    options = parser.parse_args()
    device = find_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.size}", flush=True)
    forms = [Form(precision, mode == "compiled") for precision in options.precisions for mode in options.modes]
    rows: list[Row] = []
    for part, lines in (("lm", lm_rows), ("flow", flow_rows)):
        for version in options.versions if part in options.parts else ():
            for row in lines(version, options, device, forms):
                show(row)
                rows.append(row)
    if options.json:
        facts = {"device": name, "torch": torch.__version__, "size": options.size, "rows": rows}
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
