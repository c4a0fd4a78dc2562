"""How fast the LM says several requests at once, against the same requests one after another in the same run.

    PYTHONPATH=src python benchmarks/lm_rows.py [--model FOLDER] [--threads 2] [--rows 1 4 16] [--rounds 3]

Sixteen sentences with their voice's prompt, as the engine plans them, read back as the model wants it and not read
back. Ids that were drawn and not kept count, too: they cost the same. The best round counts. The limit is what cannot
be saved: reading the weights once a step and each request's keys and values once an id, at the speed at which the
threads read memory; whether the ids of each request are the same in every company is checked.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field

import torch
from lm_decode import reading_speed

import fireside
from fireside.engine.decoder import Decoder, Handle
from fireside.engine.decoders import make_decoder
from fireside.engine.plan import make_machine, make_sampler, plan_text
from fireside.engine.proofread import Judge, judge_of
from fireside.tts import Fireside

SENTENCES = (
    "Good evening. The fire is lit, and there is tea.",
    "The kettle sings a little before it boils.",
    "Nobody had told her that the last train left at nine.",
    "He counted the stairs twice and found one more each time.",
    "If it rains tomorrow, we will read by the window.",
    "She wrote the letter slowly, and never sent it.",
    "The old clock in the hall has been wrong for years.",
    "When the door opened, everybody looked up at once.",
)


@dataclass
class Run:
    """What a run did: ids drawn, seconds, LM steps, positions whose keys and values were read, ids by request."""

    ids: int = 0
    seconds: float = 0.0
    steps: int = 0
    read: int = 0
    said: dict[int, list[int]] = field(default_factory=dict)


def speak(tts: Fireside, decoder: Decoder, judge: Judge | None, rows: int, count: int) -> Run:
    """Say `count` sentences, at most `rows` at once."""
    run, waiting, running = Run(), list(range(count)), dict[Handle, int]()
    plans = [plan_text(SENTENCES[i % len(SENTENCES)], 1.0, tts.engine.frontend)[0] for i in range(count)]
    requests = [tts.request(SENTENCES[i % len(SENTENCES)], seed=i) for i in range(count)]
    config = tts.model.config.lm
    started = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < rows:
            i = waiting.pop(0)
            machine = make_machine(config, requests[i], plans[i], judge)
            running[decoder.admit(machine, make_sampler(config.sampling, i, 0))] = i
            run.said[i] = []
        outcomes = decoder.step()
        run.steps += 1
        for handle, outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            run.ids += 1
            run.read += handle.length
            if isinstance(outcome, int | tuple):
                run.said[running[handle]] += [outcome] if isinstance(outcome, int) else outcome
            if handle.machine.done:
                decoder.release(handle)
                del running[handle]
    run.seconds = time.perf_counter() - started
    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; hearth when absent")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tts = fireside.load(options.model)
    judge = judge_of(tts.model)
    decoder = make_decoder(tts.model.lm, max(options.rows), 1024, tts.model.dtype)
    weights = sum(layer.nbytes for layer in decoder.layers) + decoder.head.nbytes
    speak(tts, decoder, judge, 1, 2)
    best: dict[tuple[bool, int], Run] = {}
    speeds, ways = [], Counter[str]()
    for _ in range(options.rounds):
        speeds.append(reading_speed())
        for read_back in (False, True) if judge else (False,):
            for rows in options.rows:
                run = speak(tts, decoder, judge if read_back else None, rows, options.requests)
                first = best.setdefault((read_back, rows), run)
                ways["same" if run.said == best[read_back, options.rows[0]].said else "OTHER"] += 1
                if run.seconds < first.seconds:
                    best[read_back, rows] = run
    print(f"{options.requests} requests, {options.threads} threads; memory is read at {max(speeds) / 1e9:.1f} GB/s; "
          f"weights {weights / 1e6:.1f} MB a step, {decoder.position_bytes / 1024:.1f} KiB a position")  # fmt: skip
    for (read_back, rows), run in best.items():
        alone = best[read_back, options.rows[0]]
        limit = (run.steps * weights + run.read * decoder.position_bytes) / max(speeds)
        how = "read back" if read_back else "not read back"
        print(f"{how:14s} {rows:3d} at once: {run.ids / run.seconds:7.0f} ids/s, {1e3 * run.seconds / run.ids:5.2f} ms "
              f"an id, {alone.seconds / run.seconds:5.2f} x {options.rows[0]} at once; reading memory would take "
              f"{100 * limit / run.seconds:3.0f} % of it", flush=True)  # fmt: skip
    print(f"ids in every company: {dict(ways)}")


if __name__ == "__main__":
    main()
