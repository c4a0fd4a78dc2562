"""How often a model's LM in bfloat16 or int8 says what it says in float32, teacher-forced.

    PYTHONPATH=src python benchmarks/lm_agreement.py [--model FOLDER] [--seeds 2]

Sentences are decoded in float32; then the same ids are fed to the LM in less precision, and every id is drawn again
from its scores with the same random numbers. Prints the share of ids for which the draw, and the likeliest id, are
the same, and the mean KL divergence from float32's distribution.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

import fireside
from fireside.engine.decoders import make_decoder
from fireside.engine.plan import make_machine, plan_text
from fireside.engine.sampling import RepetitionAware
from fireside.models.config import SamplingConfig

SENTENCES = (
    "Good evening. The fire is lit, and there is tea.",
    "Nobody had told her that the last train left at nine.",
    "He counted the stairs twice and found one more each time.",
    "今天天气很好，我们去公园走走吧。",
    "请把窗户关上，外面风很大。",
)
FORMS = {"bfloat16": {"dtype": torch.bfloat16}, "int8": {"weights": "int8"}}


class Draws:
    """A sampler that draws each id with random numbers of its own, and says `said` instead where that is given."""

    def __init__(self, config: SamplingConfig, seed: int, said: Sequence[int] = ()) -> None:
        self.config, self.seed, self.said = config, seed, said
        self.scores: list[Tensor] = []
        self.drawn: list[int] = []

    def __call__(self, scores: Tensor, history: Sequence[int]) -> int:
        step = len(self.drawn)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        self.scores.append(scores)
        self.drawn.append(RepetitionAware(self.config, generator)(scores, history))
        return self.said[step] if self.said else self.drawn[step]


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder; the bundled model by default")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    tts = fireside.load(args.model)
    model, config = tts.engine.model, tts.engine.model.config.lm

    def decode(decoder, text: str, seed: int, said: Sequence[int] = ()) -> Draws:
        request = tts.request(text)
        (piece, *_) = plan_text(text, 1.0, tts.engine.frontend)
        machine, draws = make_machine(config, request, piece), Draws(config.sampling, seed, said)
        handle = decoder.admit(machine, draws)
        while not machine.done:
            decoder.step()
        decoder.release(handle)
        return draws

    exact = make_decoder(model.lm, slots=1)
    rough = {name: make_decoder(model.lm, slots=1, **options) for name, options in FORMS.items()}
    same = {name: [0, 0, 0.0] for name in rough}
    count = 0
    for text in SENTENCES:
        for seed in range(args.seeds):
            reference = decode(exact, text, seed)
            count += len(reference.drawn)
            for name, decoder in rough.items():
                other = decode(decoder, text, seed, reference.drawn)
                for a, b, x, y in zip(reference.drawn, other.drawn, reference.scores, other.scores, strict=True):
                    same[name][0] += a == b
                    same[name][1] += int(x.argmax()) == int(y.argmax())
                    seen = x.isfinite()
                    p = x[seen].log_softmax(0)
                    same[name][2] += float((p.exp() * (p - y[seen].log_softmax(0))).sum())
    for name, (drawn, likeliest, divergence) in same.items():
        print(
            f"{name:10s}{100 * drawn / count:7.2f} % of {count} draws, {100 * likeliest / count:.2f} % of the likeliest"
            f" ids, KL {divergence / count:.5f} nats"
        )


if __name__ == "__main__":
    main()
