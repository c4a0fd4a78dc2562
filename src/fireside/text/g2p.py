"""Pronunciations of English words that no lexicon has: a small recurrent tagger, in numpy.

Every letter is given zero, one or two phones; two bidirectional GRU layers (Cho et al., 2014, arXiv
1406.1078) read the word, a linear layer scores the phone groups per letter. `fireside.train.g2p` trains it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

import numpy as np
from safetensors.numpy import load as load_tensors

from fireside.text.lexicon import Phones

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
LAYERS = 2
MAX_LETTERS = 40


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _gru(inputs: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray, b_hh: np.ndarray) -> np.ndarray:
    """`[letters, in]` to `[letters, hidden]`, gates in the order reset, update, new (as in PyTorch)."""
    hidden = w_hh.shape[1]
    gates = inputs @ w_ih.T + b_ih
    state = np.zeros(hidden, dtype=np.float32)
    out = np.empty((len(inputs), hidden), dtype=np.float32)
    for t, gate in enumerate(gates):
        recurrent = w_hh @ state + b_hh
        reset = _sigmoid(gate[:hidden] + recurrent[:hidden])
        update = _sigmoid(gate[hidden : 2 * hidden] + recurrent[hidden : 2 * hidden])
        new = np.tanh(gate[2 * hidden :] + reset * recurrent[2 * hidden :])
        state = (1 - update) * new + update * state
        out[t] = state
    return out


class LetterToSound:
    """The network with its weights (float32 from the stored float16); read-only."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        groups = json.loads(bytes(weights["groups"]).decode())
        self._groups: list[Phones] = [tuple(group.split()) for group in groups]
        self._weights = {k: v.astype(np.float32) for k, v in weights.items() if k != "groups"}

    def scores(self, word: str) -> np.ndarray:
        """Scores of the phone groups, `[letters, groups]`, of a word of known letters."""
        w = self._weights
        x = w["embedding.weight"][[LETTERS.index(c) + 1 for c in word]]
        for layer in range(LAYERS):
            both = []
            for suffix, step in (("", 1), ("_reverse", -1)):
                names = (f"gru.{kind}_l{layer}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
                both.append(_gru(x[::step], *(w[name] for name in names))[::step])
            x = np.concatenate(both, axis=1)
        return x @ w["head.weight"].T + w["head.bias"]

    def __call__(self, word: str) -> Phones:
        """Phones of a word; letters it does not know are skipped, so the result may be empty."""
        letters = "".join(c for c in word.lower() if c in LETTERS)[:MAX_LETTERS]
        if not letters:
            return ()
        best = self.scores(letters).argmax(axis=1)
        phones = [phone for i in best for phone in self._groups[i]]
        # Doubled letters are one sound.
        single = [p for p, before in zip(phones, [None, *phones], strict=False) if p != before]
        return settle_stress(tuple(single))


def settle_stress(phones: Phones) -> Phones:
    """Exactly one main stress: the last of several stays, others become secondary; without any the first
    vowel."""
    mains = [i for i, phone in enumerate(phones) if phone.endswith("1")]
    out = list(phones)
    if not mains:
        vowels = [i for i, phone in enumerate(phones) if phone[-1].isdigit()]
        second = [i for i in vowels if phones[i].endswith("2")] or vowels
        for i in second[:1]:
            out[i] = out[i][:-1] + "1"
    for i in mains[:-1]:
        out[i] = out[i][:-1] + "2"
    return tuple(out)


@lru_cache(maxsize=1)
def letter_to_sound() -> LetterToSound:
    """The package's network, read once; it is never changed."""
    data = resources.files("fireside.text").joinpath("data/g2p.safetensors").read_bytes()
    return LetterToSound(load_tensors(data))
