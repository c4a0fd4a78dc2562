"""What every LM decoder shares: the slots of its cache, a step of all its requests, scores and what is banned.

A request takes a slot of the cache when it is admitted and gives it back when it is released; requests join
and leave at every step. What a request says is bitwise the same alone and among others: a row's own text is
fed in products of its own, its attention reads its own keys, and the products that rows share always have
the same number of rows, because a matrix product may round differently for another number of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fireside.engine.sampling import Sampler
from fireside.errors import FiresideError, TextError
from fireside.models.layout import ControlIds
from fireside.models.turns import Event, Machine, Ranges, Step

SMALL = 64 * 2**20
"""Below so many bytes of weights (they stay in the processor's cache), rows are fastest one by one."""


@dataclass(eq=False)
class Handle:
    """A request in the decoder: its slot, how much of it is filled, who decides what comes next, and in which voice.

    speaker: embedding [speaker_dim] that takes a position of the sequence, in models that have one.
    """

    slot: int
    machine: Machine
    sampler: Sampler
    speaker: Tensor | None = None
    length: int = 0


Decoded = int | tuple[int, ...] | Event | FiresideError


class Weighted(Protocol):
    """Weights of a layer."""

    @property
    def nbytes(self) -> int:
        """What a step reads of them, in bytes."""


class Decoder(ABC):
    """Decodes up to `slots` requests of up to `max_len` positions each (text, control ids and speech together).

    head: hidden state to scores; layers: the joined weights of each; heads, head_dim: of keys and values; rows: how
    many rows a shared matrix product has, None for 1 in small models and more where reading the weights is what costs;
    dtype: what products and the cache are computed and kept in.
    """

    def __init__(
        self,
        control: ControlIds,
        head: nn.Linear,
        layers: Sequence[Weighted],
        heads: int,
        head_dim: int,
        slots: int,
        max_len: int,
        rows: int | None,
        dtype: torch.dtype,
    ) -> None:
        self.control = control
        # In float32 whatever the rest is in: likely ids lie close together, and it is small.
        self.head = head.weight.detach().float()
        self.head_bias = None if head.bias is None else head.bias.detach().float()
        self.max_len = max_len
        self.rows = rows or shared_rows(sum(layer.nbytes for layer in layers), slots)
        self.device = head.weight.device
        self.dtype = dtype
        # Not zeroed: what no request reaches never becomes resident memory.
        shape = (len(layers), 2, slots, heads, max_len, head_dim)
        self.cache = torch.empty(shape, dtype=dtype, device=self.device)
        self._free = list(range(slots))
        self._handles: dict[Handle, None] = {}
        self._masks: dict[Ranges, Tensor] = {}

    @abstractmethod
    def _extend(self, handle: Handle, ids: Sequence[int]) -> Tensor:
        """Feed several ids of one request; the hidden state [hidden] after the last. For text and prompts."""

    @abstractmethod
    def _advance(self, handles: Sequence[Handle], ids: Sequence[int]) -> Tensor:
        """Feed one id to each of at most `rows` requests; hidden states [self.rows, hidden], the requests' first."""

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted now."""
        return len(self._free)

    def admit(self, machine: Machine, sampler: Sampler, speaker: Tensor | None = None) -> Handle:
        """Take a request in; it is decoded from the next step on. The caller checks `free_slots` first."""
        handle = Handle(self._free.pop(), machine, sampler, speaker)
        self._handles[handle] = None
        return handle

    def release(self, handle: Handle) -> None:
        """Free the request's slot, at whatever point it is; releasing twice does nothing."""
        if handle in self._handles:
            del self._handles[handle]
            self._free.append(handle.slot)

    @torch.inference_mode()
    def step(self) -> list[tuple[Handle, Decoded]]:
        """One id for every request that is not done and not waiting for text.

        A request that outgrows its slot yields a TextError in place of an id; it must be released.
        """
        decoded: list[tuple[Handle, Decoded]] = []
        single: list[tuple[Handle, Step]] = []
        hidden: list[tuple[Handle, Step, Tensor]] = []
        for handle in self._handles:
            step = handle.machine.next()
            if step is None:
                continue
            handle.length -= step.rewind
            if handle.length + self.positions(handle, step) > self.max_len:
                decoded.append((handle, self._too_long()))
            elif len(step.feed) == 1 and handle.length:
                single.append((handle, step))
            else:
                hidden.append((handle, step, self._extend(handle, step.feed)))
        for start in range(0, len(single), self.rows):
            group = single[start : start + self.rows]
            states = self._advance([handle for handle, _ in group], [step.feed[0] for _, step in group])
            hidden += [(handle, step, states[i]) for i, (handle, step) in enumerate(group)]
        for handle, step, state in hidden:
            token = step.forced
            if token is None:
                token = handle.sampler(self.scores(state, step.banned), handle.machine.history)
            decoded.append((handle, handle.machine.accept(token)))
        return decoded

    def positions(self, handle: Handle, step: Step) -> int:
        """How many positions a step takes."""
        return len(step.feed)

    def _too_long(self) -> TextError:
        return TextError(
            f"The text and its speech need more than the {self.max_len} positions this model is loaded with; "
            "split the text into shorter parts, or use a shorter prompt."
        )

    def scores(self, state: Tensor, banned: Ranges) -> Tensor:
        """Log-probabilities [ids], float32 on the CPU, after a hidden state [hidden]; banned ids are -inf."""
        logits = torch.mv(self.head, state)
        logits = logits if self.head_bias is None else logits + self.head_bias
        scores = logits.cpu().log_softmax(0)
        return scores + self._mask(banned) if banned else scores

    def _mask(self, banned: Ranges) -> Tensor:
        if banned not in self._masks:
            mask = torch.zeros(self.control.end)
            for first, end in banned:
                mask[first:end] = -torch.inf
            self._masks[banned] = mask
        return self._masks[banned]


def shared_rows(weight_bytes: int, slots: int) -> int:
    """How many rows a product has best: four where reading the weights is what costs, and several can come."""
    return 1 if weight_bytes < SMALL or slots == 1 else 4
