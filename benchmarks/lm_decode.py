"""How fast the LM decodes, against `transformers` (eager attention, float32, no text head) with the same weights.

    PYTHONPATH=src python benchmarks/lm_decode.py [--size v2] [--threads 2] [--tokens 60] [--rounds 3] [--batches 1]

Random weights of hearth's or CosyVoice 2's size (with a small text table: a lookup costs the same in any). Every
contestant decodes in every round, so that they share what else the machine does; the best round counts. Prints
tokens a second by the clock, the ratio to `transformers`, processor milliseconds a token, and how much of the
machine's reading speed the weights take. Needs `pip install transformers` for the comparison.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fireside.engine.lm import LMDecoder
from fireside.engine.sampling import RepetitionAware
from fireside.models.config import LMConfig, SamplingConfig
from fireside.models.lm import LM
from fireside.models.turns import PlainMachine
from fireside.train.lm import hearth, initialise

TEXT = list(range(30, 90))
PROMPT = list(range(120))
V2 = LMConfig(control="separate", head_bias=True, num_control=3, text_vocab_size=2048)

BASELINE = "transformers, eager, float32"
Decode = Callable[[int], Iterator[None]]
"""Decodes so many tokens a request, a step at a time; the first step feeds the prompt."""


class Contestant:
    """One way to decode: requests at once, bytes of weights that a step reads, and its best times, seconds a token."""

    def __init__(self, decode: Decode, batch: int, read: int) -> None:
        self.decode, self.batch, self.read = decode, batch, read
        self.wall = self.processor = float("inf")

    def run(self, tokens: int) -> None:
        """Time the tokens after the first, which waits for the prompt."""
        steps = self.decode(tokens + 1)
        next(steps)
        wall, used = time.perf_counter(), time.process_time()
        for _ in steps:
            pass
        self.wall = min(self.wall, (time.perf_counter() - wall) / tokens / self.batch)
        self.processor = min(self.processor, (time.process_time() - used) / tokens / self.batch)


def prompt(lm: LM) -> list[int]:
    """What every contestant is fed first."""
    return [lm.control.sos, *(~i for i in TEXT), lm.control.task, *PROMPT]


def sampler(seed: int) -> RepetitionAware:
    """A request's draws."""
    return RepetitionAware(SamplingConfig(), torch.Generator().manual_seed(seed))


def theirs(lm: LM) -> Decode:
    """`transformers`' Qwen2 and our speech head, as the original has them, with its text head left out."""
    import transformers

    config = lm.config
    model = transformers.Qwen2Model(
        transformers.Qwen2Config(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            intermediate_size=config.intermediate_size,
            vocab_size=config.text_vocab_size,
            rope_theta=config.rope_theta,
            rms_norm_eps=config.rms_norm_eps,
            attn_implementation="eager",
        )
    )
    model.load_state_dict(lm.decoder.state_dict(), assign=True)
    device = lm.llm_decoder.weight.device
    model.eval().to(device)

    @torch.inference_mode()
    def decode(tokens: int) -> Iterator[None]:
        draw, ids = sampler(0), prompt(lm)
        history: list[int] = []
        cache = transformers.DynamicCache()
        for _ in range(tokens):
            x = lm.embed(torch.tensor([ids], device=device))
            hidden = model(inputs_embeds=x, past_key_values=cache, use_cache=True).last_hidden_state
            scores = lm.llm_decoder(hidden[0, -1]).float().cpu().log_softmax(0)
            scores[lm.control.first :] = -torch.inf
            history.append(draw(scores, history))
            ids = [history[-1]]
            yield

    return decode


def ours(decoder: LMDecoder, batch: int) -> Decode:
    """The engine's decoder with `batch` requests."""

    def decode(tokens: int) -> Iterator[None]:
        machines = [
            PlainMachine(decoder.control, TEXT, (), PROMPT, min_tokens=tokens, max_tokens=tokens) for _ in range(batch)
        ]
        handles = [decoder.admit(machine, sampler(i)) for i, machine in enumerate(machines)]
        for _ in range(tokens):
            decoder.step()
            yield
        for handle in handles:
            decoder.release(handle)

    return decode


def reading_speed() -> float:
    """Bytes a second that the threads read from memory, the best of some tries."""
    block = torch.ones(64 * 2**20)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        block.sum()
        best = min(best, time.perf_counter() - began)
    return block.nbytes / best


def read_bytes(decoder: LMDecoder) -> int:
    """What a step of one product's rows reads: the weights of every layer and of the head."""
    return sum(layer.nbytes for layer in decoder.layers) + decoder.head.nbytes


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["hearth", "v2"], default="v2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=60, help="tokens a request and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    lm = LM(hearth() if args.size == "hearth" else V2).eval().requires_grad_(False)
    initialise(lm)
    length = len(prompt(lm)) + args.tokens + 8
    contestants: dict[str, Contestant] = {}
    forms: list[tuple[str, dict[str, Any]]] = [
        ("float32", {}),
        ("bfloat16", {"dtype": torch.bfloat16}),
        ("int8", {"weights": "int8"}),
    ]
    for name, options in forms:
        for batch in args.batches:
            decoder = LMDecoder(lm, slots=batch, max_len=length, **options)
            contestants[f"fireside, {name}, batch {batch}"] = Contestant(
                ours(decoder, batch), batch, read_bytes(decoder)
            )
    if importlib.util.find_spec("transformers"):
        # Last, so that its weights are the views that the decoders have made of the module's.
        contestants[BASELINE] = Contestant(theirs(lm), 1, 0)
    speeds = []
    for _ in range(args.rounds):
        speeds.append(reading_speed())
        for contestant in contestants.values():
            contestant.run(args.tokens)
    print(f"{args.size}, {args.threads} threads; memory is read at {max(speeds) / 1e9:.1f} GB/s")
    baseline = contestants.get(BASELINE)
    for name, contestant in contestants.items():
        line = f"{name:32s}{1 / contestant.wall:8.1f} tokens/s {1000 * contestant.processor:8.2f} processor ms a token"
        if baseline:
            line += f"  {baseline.wall / contestant.wall:5.2f} x by the clock"
            line += f" {baseline.processor / contestant.processor:5.2f} x by processor time"
        if contestant.read and contestant.batch == 1:
            line += f"  {100 * contestant.read / contestant.wall / max(speeds):3.0f} % of the reading speed"
        print(line, flush=True)


if __name__ == "__main__":
    main()
