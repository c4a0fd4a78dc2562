"""What every LM decoder shares: the slots of its cache, a step of all its requests, scores and what is banned.

A request takes a slot of the cache when it is admitted and gives it back when it is released; requests join
and leave at every step. What a request says is bitwise the same alone and among others: a row's own text is
fed in products of its own, its attention reads its own keys, and what is computed of several rows at once is
computed so that no row can tell how many there are. A matrix product may round differently for another number
of rows; where it may, the products that rows share always have the same number of them (see `Decoder.rows`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from fireside.cache import Bounded
from fireside.engine.fixed import Recorder, bucket
from fireside.engine.products import Product, halves
from fireside.engine.sampling import Sampler
from fireside.errors import TextError
from fireside.models.layout import ControlIds
from fireside.models.turns import Event, Machine, Ranges, Step

SMALL = 64 * 2**20
"""Below so many bytes of weights (they stay in the processor's cache), rows are fastest one by one, unless any
number of them can share a product."""

MANY = 16
"""Most rows of a product that any number can share: more gain little, and operations on more elements may be split
among threads in the midst of a row."""

PREFIX_BYTES = 2**26
"""Most bytes of beginnings that are kept."""

LEAST_PAST = 512
"""Positions that a step of a fixed size looks back at least."""

LEAST_PREFIX = 16
"""Shorter beginnings are not worth a pass of their own."""


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


Decoded = int | tuple[int, ...] | Event | Exception


class Weighted(Protocol):
    """Weights of a layer."""

    @property
    def nbytes(self) -> int:
        """What a step reads of them, in bytes."""


class Decoder(ABC):
    """Decodes up to `slots` requests of up to `max_len` positions each (text, control ids and speech together).

    head: hidden state to scores; layers: the joined weights of each; heads, head_dim: of keys and values; rows: how
    many rows a shared matrix product has (at most, with any_rows), None for what is best; dtype: what products and the
    cache are computed and kept in; any_rows: products give a row the same whatever their number of rows.

    compile: steps of one id a request run at fixed sizes, compiled and recorded (see fixed.py): always `rows` rows,
    over a past that is rounded up to 512, 1024, 2048 ... positions (at most max_len). Requests whose pasts are rounded
    up to different lengths do not share a step, so that none can tell who is beside it.

    small: on a CPU, where a step takes as long with one thread as with several; position_bytes: what the cache keeps
    of a position; prefixes: its part of what requests begin with (the voice's prompt), by the ids of that.
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
        any_rows: bool = False,
        compile: bool = False,
    ) -> None:
        self.control = control
        # In float32 whatever the rest is in: likely ids lie close together, and it is small.
        weight, bias = head.weight.float(), None if head.bias is None else head.bias.float()
        self.head = Product([weight], [bias], torch.float32, "half" if any_rows and halves([weight]) else "float")
        self.max_len = max_len
        self.any_rows = any_rows
        weight_bytes = sum(layer.nbytes for layer in layers)
        self.small = weight_bytes < SMALL and head.weight.device.type == "cpu"
        self.device = head.weight.device
        self.rows = rows or (MANY if any_rows else shared_rows(weight_bytes, slots, self.device))
        self.dtype = dtype
        self._recorder = Recorder(self.device) if compile else None
        self._spare_slot = slots  # where rows that are nobody's write, in steps of a fixed size
        room = (len(layers), slots + compile, 2, heads, max_len, head_dim)
        # Not zeroed: what no request reaches never becomes resident memory.
        self.cache = torch.empty(room, dtype=dtype, device=self.device)
        if compile:
            self.cache[:, slots:].zero_()
            # Of every row the id, the position and the slot.
            self._given = torch.zeros(3, self.rows, dtype=torch.long, device=self.device)
        self.position_bytes = len(layers) * 2 * heads * head_dim * dtype.itemsize
        self.prefixes: Bounded[tuple[int, ...], Tensor] = Bounded(PREFIX_BYTES)
        self._free = list(range(slots))
        self._handles: dict[Handle, None] = {}
        self._masks: dict[Ranges, Tensor] = {}

    @abstractmethod
    def _extend(self, handle: Handle, ids: Sequence[int]) -> Tensor:
        """Feed several ids of one request; the hidden state [hidden] after the last. For text and prompts."""

    @abstractmethod
    def _advance(self, handles: Sequence[Handle], ids: Sequence[int]) -> Tensor:
        """Feed one id to each of at most `rows` requests; hidden states [at least as many, hidden], theirs first."""

    @abstractmethod
    def _fixed_step(self, ids: Tensor, at: Tensor, slots: Tensor, length: int) -> Tensor:
        """As `_advance`, of tensors alone: ids, positions and slots int64 [rows]; of the past the first `length`
        positions are looked at. Hidden states [rows, hidden]."""

    def _advance_fixed(self, recorder: Recorder, handles: Sequence[Handle], ids: Sequence[int]) -> list[Tensor]:
        """As `_advance`, by `_fixed_step`: a state [hidden] for each."""
        alike: dict[int, list[int]] = {}
        for row, handle in enumerate(handles):
            alike.setdefault(bucket(handle.length + 1, LEAST_PAST, self.max_len), []).append(row)
        states: dict[int, Tensor] = {}
        fed, at, slots = self._given.unbind()
        with recorder.lock:
            for length, rows in alike.items():
                given = [(ids[row], handles[row].length, handles[row].slot) for row in rows]
                given += [(0, 0, self._spare_slot)] * (self.rows - len(rows))
                self._given.copy_(torch.tensor(given).T)
                hidden = recorder.run(length, partial(self._fixed_step, fed, at, slots, length))
                states |= zip(rows, hidden.clone().unbind(), strict=False)
        for handle in handles:
            handle.length += 1
        return [states[row] for row in range(len(handles))]

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted now."""
        return len(self._free)

    def admit(self, machine: Machine, sampler: Sampler, speaker: Tensor | None = None) -> Handle:
        """Take a request in; it is decoded from the next step on. The caller checks `free_slots` first."""
        handle = Handle(self._free.pop(), machine, sampler, speaker)
        if self._recorder is not None:
            # Steps of a fixed size multiply what lies behind a request's last position by 0: it must be a number.
            self.cache[:, handle.slot].zero_()
        self._handles[handle] = None
        return handle

    def release(self, handle: Handle) -> None:
        """Free the request's slot, at whatever point it is; releasing twice does nothing."""
        if handle in self._handles:
            del self._handles[handle]
            self._free.append(handle.slot)

    @torch.inference_mode()
    def step(self, handles: Collection[Handle] | None = None) -> list[tuple[Handle, Decoded]]:
        """One id for every request (of `handles`, where these are given) that is not done and not waiting for text.

        A request that fails yields its error in place of an id, the others never notice; it must be released.
        """
        decoded: dict[Handle, Decoded] = {}
        single: list[tuple[Handle, Step]] = []
        fed: list[tuple[Handle, Step, Tensor]] = []
        for handle in self._handles:
            if handles is not None and handle not in handles:
                continue
            try:
                step = handle.machine.next()
                if step is None:
                    continue
                handle.length -= step.rewind
                if handle.length + self.positions(handle, step) > self.max_len:
                    decoded[handle] = self._too_long()
                elif len(step.feed) == 1 and handle.length:
                    single.append((handle, step))
                else:
                    fed.append((handle, step, self._feed(handle, step)))
            except Exception as error:
                decoded[handle] = error
        for start in range(0, len(single), self.rows):
            fed += self._together(single[start : start + self.rows], decoded)
        for (handle, step, _), scores in zip(fed, self.scores([state for *_, state in fed]), strict=True):
            try:
                token = step.forced
                if token is None:
                    allowed = scores + self._mask(step.banned) if step.banned else scores
                    token = handle.sampler(allowed, handle.machine.history)
                decoded[handle] = handle.machine.accept(token)
            except Exception as error:
                decoded[handle] = error
        return [(handle, decoded[handle]) for handle in self._handles if handle in decoded]

    def _feed(self, handle: Handle, step: Step) -> Tensor:
        """The hidden state after a step of several ids; what other requests begin with too is computed once."""
        shared = step.shared
        if handle.length or shared < LEAST_PREFIX:
            return self._extend(handle, step.feed)
        key = tuple(step.feed[:shared])
        prefix = self.prefixes.get(key)
        if prefix is None:
            # Fed on its own, as if it had been there: the products that follow are the same ones.
            self._extend(handle, key)
            prefix = self.cache[:, handle.slot, :, :, :shared].clone()
            self.prefixes.put(key, prefix, prefix.nbytes)
        else:
            self.cache[:, handle.slot, :, :, :shared] = prefix
            handle.length = shared
        return self._extend(handle, step.feed[shared:])

    def _together(
        self, group: Sequence[tuple[Handle, Step]], decoded: dict[Handle, Decoded]
    ) -> list[tuple[Handle, Step, Tensor]]:
        """Advance requests in products that they share; when that fails, one by one to see whose fault it is."""
        handles, ids = [handle for handle, _ in group], [step.feed[0] for _, step in group]
        try:
            states: Iterable[Tensor] = (
                self._advance(handles, ids)
                if self._recorder is None
                else self._advance_fixed(self._recorder, handles, ids)
            )
        except Exception as error:
            if len(group) == 1:
                decoded[group[0][0]] = error
                return []
            return [fed for row in group for fed in self._together([row], decoded)]
        return [(handle, step, state) for (handle, step), state in zip(group, states, strict=False)]

    def positions(self, handle: Handle, step: Step) -> int:
        """How many positions a step takes."""
        return len(step.feed)

    def _too_long(self) -> TextError:
        return TextError(
            f"The text and its speech need more than the {self.max_len} positions this model is loaded with; "
            "split the text into shorter parts, or use a shorter prompt."
        )

    def scores(self, states: Sequence[Tensor]) -> Tensor:
        """Log-probabilities [rows, ids], float32 on the CPU, after hidden states [hidden] of several rows."""
        most = MANY if self.head.packed is not None else 1
        parts = [self.head(torch.stack([*states[i : i + most]])) for i in range(0, len(states), most)]
        return torch.cat(parts).cpu().log_softmax(-1) if parts else torch.empty(0, self.control.end)

    def _mask(self, banned: Ranges) -> Tensor:
        if banned not in self._masks:
            mask = torch.zeros(self.control.end)
            for first, end in banned:
                mask[first:end] = -torch.inf
            self._masks[banned] = mask
        return self._masks[banned]


def shared_rows(weight_bytes: int, slots: int, device: torch.device) -> int:
    """How many rows a product has best: four where reading the weights is what costs, and several can come; on a GPU,
    which has time to spare while it reads them, as many as can come."""
    if device.type != "cpu":
        return min(slots, MANY)
    return 1 if weight_bytes < SMALL or slots == 1 else 4
