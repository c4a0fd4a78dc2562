"""How fast the LM decodes, against a plain decoder that grows its cache by concatenation, in the same run.

    PYTHONPATH=src python benchmarks/lm_decode.py [--threads 2] [--tokens 200] [--batches 1 8]

Random weights of hearth's size. Prints tokens a second by the clock, and processor milliseconds a token,
which hold better on a machine that has other work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fireside.engine.lm import LMDecoder
from fireside.engine.sampling import RepetitionAware
from fireside.models.config import SamplingConfig
from fireside.models.lm import LM
from fireside.models.qwen2 import rotary_table, rotate
from fireside.models.turns import PlainMachine
from fireside.train.lm import hearth, initialise

TEXT = list(range(30, 90))
PROMPT = list(range(120))


@torch.inference_mode()
def plain(lm: LM, tokens: int, sampler: RepetitionAware) -> None:
    """The modules as they are, one request, keys and values concatenated at every step."""
    control, history = lm.control, []
    ids = torch.tensor([[control.sos, *(~t for t in TEXT), control.task, *PROMPT]])
    cache: list[tuple[Tensor, Tensor] | None] = [None] * len(lm.decoder.layers)
    start = 0
    for _ in range(tokens):
        x = lm.embed(ids)
        cos, sin = rotary_table(x.shape[1], lm.decoder.head_dim, lm.config.rope_theta, start)
        for i, layer in enumerate(lm.decoder.layers):
            attention, y = layer.self_attn, layer.input_layernorm(x)
            shape = (1, x.shape[1], -1, attention.head_dim)
            q = rotate(attention.q_proj(y).view(shape).transpose(1, 2), cos, sin)
            k = rotate(attention.k_proj(y).view(shape).transpose(1, 2), cos, sin)
            v = attention.v_proj(y).view(shape).transpose(1, 2)
            past = cache[i]
            if past is not None:
                k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            cache[i] = k, v
            group = attention.heads // attention.kv_heads
            wide = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            y = F.scaled_dot_product_attention(q, *wide, is_causal=past is None)
            x = x + attention.o_proj(y.transpose(1, 2).reshape(1, x.shape[1], -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        scores = lm.llm_decoder(lm.decoder.norm(x[:, -1]))[0].log_softmax(-1)
        scores[control.first :] = -torch.inf
        start += ids.shape[1]
        history.append(sampler(scores, history))
        ids = torch.tensor([[history[-1]]])


def ours(lm: LM, tokens: int, batch: int, rows: int | None) -> Callable[[], None]:
    """The engine's decoder with `batch` requests."""
    decoder = LMDecoder(lm, slots=batch, max_len=len(TEXT) + len(PROMPT) + tokens + 8, rows=rows)

    def decode() -> None:
        machines = [
            PlainMachine(lm.control, TEXT, (), PROMPT, min_tokens=tokens, max_tokens=tokens) for _ in range(batch)
        ]
        handles = [decoder.admit(machine, sampler(i)) for i, machine in enumerate(machines)]
        while not machines[0].done:
            decoder.step()
        for handle in handles:
            decoder.release(handle)

    return decode


def sampler(seed: int) -> RepetitionAware:
    """A request's draws."""
    return RepetitionAware(SamplingConfig(), torch.Generator().manual_seed(seed))


def measure(name: str, decode: Callable[[], None], tokens: int) -> None:
    """Print one line: the better of two runs after one to warm up."""
    wall, used = [], []
    for _ in range(3):
        began, processor = time.perf_counter(), time.process_time()
        decode()
        wall.append(time.perf_counter() - began)
        used.append(time.process_time() - processor)
    speed, cost = tokens / min(wall[1:]), 1000 * min(used[1:]) / tokens
    print(f"{name:42s}{speed:9.0f} tokens/s   {cost:7.3f} processor ms a token", flush=True)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=200, help="tokens a request")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    lm = LM(hearth()).eval()
    initialise(lm)
    measure("plain, concatenated cache, batch 1", lambda: plain(lm, args.tokens, sampler(0)), args.tokens)
    for batch in args.batches:
        for rows in (1, 4, 8):
            name = f"fireside, batch {batch}, {rows} rows a product"
            measure(name, ours(lm, args.tokens, batch, rows), batch * args.tokens)


if __name__ == "__main__":
    main()
