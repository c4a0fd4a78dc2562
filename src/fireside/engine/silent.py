"""Shortens silence: within a run of silent or breath ids only the first few go to the vocoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class SilentTokenFilter:
    """Passes at most `most` consecutive ids of the set `silent`; the LM itself still sees all of them."""

    silent: frozenset[int]
    most: int = 5
    _run: int = field(default=0, init=False)

    def keep(self, token: int) -> bool:
        """Whether the next id of the stream is passed on."""
        self._run = self._run + 1 if token in self.silent else 0
        return self._run <= self.most

    def kept(self, tokens: Iterable[int]) -> list[int]:
        """The ids of the next part of the stream that are passed on."""
        return [token for token in tokens if self.keep(token)]
