"""Train the fallback for unknown English words: an aligner, then a letter tagger (see `fireside.text.g2p`).

    python -m fireside.train.g2p [--minutes 3] [--hidden 112]

One core and some five minutes of its time. The words come from the package's lexicon, without those that
follow from another by rule; one in fifty is held out and the phone and word error rates on those are
printed and stored beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from fireside.text.g2p import LAYERS, LETTERS, LetterToSound
from fireside.text.inflect import inflected
from fireside.text.lexicon import Phones, english_lexicon

MAX_GROUP = 2
HELD_OUT = 50
BAND = 4
"""Letters and phones keep this much in step; words that do not are left out."""
Table = dict[tuple[str, Phones], float]


def words_and_phones() -> list[tuple[str, Phones]]:
    """Plain words of the lexicon with their first pronunciation, without regular forms of other words."""
    lexicon = english_lexicon()
    out = []
    for word in lexicon.words():
        phones = lexicon.get(word)
        plain = word.islower() and len(word) > 1 and all(c in LETTERS for c in word)
        if phones and plain and inflected(word, lexicon.get) != phones and len(phones) <= MAX_GROUP * len(word):
            out.append((word, phones))
    return out


def align(word: str, phones: Phones, cost: Table, unseen: float) -> list[Phones] | None:
    """The cheapest way to give each letter at most `MAX_GROUP` phones, in order; None if there is none."""
    n, m = len(word), len(phones)
    best = [[math.inf] * (m + 1) for _ in range(n + 1)]
    back = [[0] * (m + 1) for _ in range(n + 1)]
    best[0][0] = 0.0
    for i, letter in enumerate(word):
        left = n - i - 1
        middle = i * m // n
        for j in range(max(0, middle - BAND), min(m, middle + BAND) + 1):
            here = best[i][j]
            if here == math.inf:
                continue
            for size in range(min(MAX_GROUP, m - j) + 1):
                if m - j - size > left * MAX_GROUP:
                    continue
                total = here + cost.get((letter, phones[j : j + size]), unseen + 2 * size)
                if total < best[i + 1][j + size]:
                    best[i + 1][j + size], back[i + 1][j + size] = total, size
    if best[n][m] == math.inf:
        return None
    groups: list[Phones] = []
    j = m
    for i in range(n, 0, -1):
        size = back[i][j]
        groups.append(phones[j - size : j])
        j -= size
    return groups[::-1]


def seed_costs(pairs: list[tuple[str, Phones]]) -> Table:
    """Costs from co-occurrence: how much likelier a phone is in words with a letter than otherwise."""
    together: dict[tuple[str, str], int] = defaultdict(int)
    letters: dict[str, int] = defaultdict(int)
    sounds: dict[str, int] = defaultdict(int)
    for word, phones in pairs:
        for letter in set(word):
            letters[letter] += 1
            for phone in set(phones):
                together[letter, phone] += 1
        for phone in set(phones):
            sounds[phone] += 1
    table: Table = {(letter, ()): 1.5 for letter in LETTERS}
    for (letter, phone), count in together.items():
        lift = count * len(pairs) / (letters[letter] * sounds[phone])
        table[letter, (phone,)] = 3.0 - 2.0 * math.log(lift)
    return table


def learn_alignment(pairs: list[tuple[str, Phones]], rounds: int = 5) -> Table:
    """Viterbi EM over letter and phone-group pairs; costs are negative log probabilities."""
    cost = seed_costs(pairs)
    for _ in range(rounds):
        counts: dict[tuple[str, Phones], float] = defaultdict(float)
        totals: dict[str, float] = defaultdict(float)
        for word, phones in pairs:
            for letter, group in zip(word, align(word, phones, cost, 12.0) or [], strict=False):
                counts[letter, group] += 1
                totals[letter] += 1
        cost = {key: -math.log(count / totals[key[0]]) for key, count in counts.items()}
    return cost


class Tagger(nn.Module):
    """The trained twin of `LetterToSound`: letters `[batch, n]` (0 = padding) to group scores `[batch, n,
    groups]`."""

    def __init__(self, groups: int, hidden: int, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS) + 1, width, padding_idx=0)
        self.gru = nn.GRU(width, hidden, LAYERS, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(2 * hidden, groups)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Score every letter."""
        out: torch.Tensor = self.head(self.gru(self.embedding(letters))[0])
        return out


def edit_distance(a: Phones, b: Phones) -> int:
    """Levenshtein distance of two phone strings."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def error_rates(network: LetterToSound, pairs: list[tuple[str, Phones]]) -> dict[str, float]:
    """Phone error rate with and without stress, and word error rate without stress, in percent."""
    errors = plain_errors = wrong = total = 0
    for word, phones in pairs:
        got = network(word)
        plain_got, plain = tuple(p.rstrip("012") for p in got), tuple(p.rstrip("012") for p in phones)
        distance = edit_distance(plain_got, plain)
        errors += edit_distance(got, phones)
        plain_errors += distance
        wrong += distance > 0
        total += len(phones)
    return {
        "per": 100 * errors / total,
        "per_without_stress": 100 * plain_errors / total,
        "wer_without_stress": 100 * wrong / len(pairs),
        "words": len(pairs),
    }


def train(
    pairs: list[tuple[str, list[Phones]]], hidden: int, minutes: float, seed: int, steps: int = 0
) -> dict[str, np.ndarray]:
    """Fit the tagger to aligned words within the time, or in so many steps if `steps` is given.

    Returns its weights as float16, with the names of the phone groups.
    """
    torch.manual_seed(seed)
    counts: dict[Phones, int] = defaultdict(int)
    for _, groups in pairs:
        for group in groups:
            counts[group] += 1
    kept = sorted(group for group, count in counts.items() if count >= 3)
    index = {group: i for i, group in enumerate(kept)}
    # Equal lengths share a batch, so that nothing is padded.
    by_length: dict[int, list[tuple[list[int], list[int]]]] = defaultdict(list)
    for word, groups in pairs:
        if all(group in index for group in groups):
            row = ([LETTERS.index(c) + 1 for c in word], [index[group] for group in groups])
            by_length[len(word)].append(row)
    batches = []
    order = random.Random(seed)
    for rows in by_length.values():
        order.shuffle(rows)
        for i in range(0, len(rows), 256):
            spelled, sounds = zip(*rows[i : i + 256], strict=True)
            batches.append((torch.tensor(spelled), torch.tensor(sounds)))
    model = Tagger(len(kept), hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-4)
    # Time of this process, not of the clock: a busy machine gives the same network.
    start, spent, step, epoch = time.process_time(), 0.0, 0, 0
    while spent < 1:
        order.shuffle(batches)
        losses = []
        for letters, targets in batches:
            spent = step / steps if steps else (time.process_time() - start) / (60 * minutes)
            if spent >= 1:
                break
            rate = 4e-3 * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * spent)) + 2e-5
            for options in optimizer.param_groups:
                options["lr"] = rate
            loss = nn.functional.cross_entropy(model(letters).flatten(0, 1), targets.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        epoch += 1
        if losses:
            print(f"epoch {epoch}, step {step}: loss {np.mean(losses):.4f}", flush=True)
    weights = {k: v.detach().numpy().astype(np.float16) for k, v in model.state_dict().items()}
    names = json.dumps([" ".join(group) for group in kept]).encode()
    weights["groups"] = np.frombuffer(names, dtype=np.uint8).copy()
    return weights


def main(argv: list[str] | None = None) -> None:
    """Align, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="processor time for the tagger")
    parser.add_argument("--hidden", type=int, default=112)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    default = Path(__file__).resolve().parents[1] / "text" / "data" / "g2p.safetensors"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    pairs = words_and_phones()
    held = [pair for pair in pairs if zlib.crc32(pair[0].encode()) % HELD_OUT == 0]
    rest = [pair for pair in pairs if zlib.crc32(pair[0].encode()) % HELD_OUT]
    sample = random.Random(args.seed).sample(rest, min(8000, len(rest)))
    cost = learn_alignment(sample)
    aligned = [(word, groups) for word, phones in rest if (groups := align(word, phones, cost, 12.0))]
    print(f"{len(aligned)} words aligned, {len(held)} held out", flush=True)
    weights = train(aligned, args.hidden, args.minutes, args.seed)
    rates = error_rates(LetterToSound(weights), held[:2000])
    print(json.dumps(rates))
    metadata = {key: f"{value:.2f}" for key, value in rates.items()}
    save_file(weights, args.out, metadata=metadata)
    args.out.chmod(0o644)  # safetensors writes for the owner only
    print(f"{args.out.stat().st_size / 1e6:.2f} MB: {args.out}")


if __name__ == "__main__":
    main()
