"""Cost of streaming the flow: 750 tokens in hops of one chunk against the same tokens in one shot.

    python benchmarks/flow_stream.py [--model FOLDER] [--tokens 750] [--prompt 100] [--threads 2] [--clock wall]

Without a model folder the weights are random, which costs the same. Prints the ratio of total computing time,
the time of one chunk, and the memory a second of audio takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from fireside.engine.flow import IncrementalFlow
from fireside.models.checkpoint import ModelFolder
from fireside.models.flow import CausalFlow
from fireside.train.flow import HEARTH


def load(folder: Path | None) -> CausalFlow:
    """The flow of a model folder, or one of hearth's size with random weights."""
    if folder is not None:
        return ModelFolder(folder).flow
    torch.manual_seed(0)
    flow = CausalFlow(HEARTH).eval().requires_grad_(False)
    for parameter in flow.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)
    return flow


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=750)
    parser.add_argument("--prompt", type=int, default=100)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a busy machine, with --threads 1"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    flow = load(options.model)
    config = flow.config
    engine = IncrementalFlow(flow, steps=options.steps)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.speech_vocab_size, (options.prompt + options.tokens,), generator=generator)
    prompt_mel = torch.randn(config.n_mels, options.prompt * config.token_mel_ratio, generator=generator)
    embedding = torch.randn(config.speaker_dim, generator=generator)
    clock = time.perf_counter if options.clock == "wall" else time.process_time

    start = clock()
    voice = engine.start(ids[: options.prompt], prompt_mel, embedding)
    prompt_time = clock() - start
    tokens = ids[options.prompt :]
    warm = voice.fork()
    engine.append([warm], [tokens[: 2 * config.chunk_tokens]], [True])

    hops = []
    state = voice.fork()
    for at in range(0, len(tokens), config.chunk_tokens):
        piece = tokens[at : at + config.chunk_tokens]
        start = clock()
        engine.append([state], [piece], [at + config.chunk_tokens >= len(tokens)])
        hops.append(clock() - start)
    start = clock()
    engine.append([voice.fork()], [tokens], [True])
    at_once = clock() - start

    noise = torch.randn(1, config.n_mels, len(ids) * config.token_mel_ratio, generator=generator)
    start = clock()
    flow.inference(
        tokens[None],
        ids[None, : options.prompt],
        prompt_mel[None],
        embedding[None],
        noise,
        chunked=True,
        steps=options.steps,
    )
    pure = clock() - start
    seconds = len(tokens) / 25
    streamed = sum(hops)
    print(f"{len(tokens)} tokens ({seconds:.0f} s), prompt {options.prompt} tokens, {engine.steps} steps")
    print(f"prompt              {prompt_time * 1e3:8.0f} ms, once for each voice")
    print(f"streamed            {streamed * 1e3:8.0f} ms, RTF {streamed / seconds:.3f}")
    print(f"at once, same code  {at_once * 1e3:8.0f} ms, RTF {at_once / seconds:.3f}")
    print(f"pure module         {pure * 1e3:8.0f} ms, prompt included")
    print(f"streamed / at once  {streamed / at_once:8.2f}")
    print(f"streamed + prompt / pure module  {(streamed + prompt_time) / pure:.2f}")
    print(f"chunk: median {statistics.median(hops) * 1e3:.0f} ms, first {hops[0] * 1e3:.0f} ms, last full "
          f"{hops[-2] * 1e3:.0f} ms")  # fmt: skip
    print(f"state: {engine.bytes_per_frame * 50 / 1e6:.1f} MB for a second of audio")


if __name__ == "__main__":
    main()
