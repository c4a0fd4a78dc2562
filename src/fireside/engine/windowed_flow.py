"""The flow of CosyVoice 1 in windows, as the original streams it.

Its U-Net normalises over time and every frame sees all others, so that pieces cannot equal the whole. The original
computes overlapping windows instead, each with the prompt: a window takes the start noise and the features of the
prompt and of the overlap from the one before, and the overlapping mels are cross-faded. The joined mel is close to the
one-shot mel and not equal to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fireside.engine.fade import Overlap
from fireside.engine.noise import lazy_noise
from fireside.models.length_regulator import EDGE_TOKENS
from fireside.models.unet_flow import OVERLAP_FRAMES, RegulatedFlow, WindowPast

WindowNoise = Callable[[int, int, int], Tensor]
"""Start noise by a window's number in its stream, its frames with the prompt's, and mel bins: [n_mels, frames]."""

WINDOW_STRIDE = 1 << 16  # noise frames between windows: more than a window has


def window_noise(window: int, frames: int, n_mels: int) -> Tensor:
    """Standard normal noise, for every window another; see WindowNoise."""
    first = window * WINDOW_STRIDE
    return lazy_noise(first, first + frames, n_mels)


@dataclass
class WindowState:
    """One request's stream. Made by WindowedFlow.start; advanced by WindowedFlow.append.

    prompt_tokens [1, P], prompt_mel [1, n_mels, frames] (natural log) and embedding [1, speaker_dim]; tokens: the
    overlap with the next window, and what came too short for a window; windows: how many were computed; past: what the
    last one left; overlap: the mel that the next one is cross-faded with.
    """

    prompt_tokens: Tensor
    prompt_mel: Tensor
    embedding: Tensor
    tokens: Tensor
    windows: int = 0
    past: WindowPast | None = None
    overlap: Overlap = field(default_factory=lambda: Overlap(OVERLAP_FRAMES))
    finished: bool = False

    def fork(self) -> WindowState:
        """A second continuation of the same past, at no cost; neither notices what the other appends."""
        return replace(self, overlap=replace(self.overlap))

    @property
    def nbytes(self) -> int:
        """Bytes held beside the prompt."""
        past = 0 if self.past is None else self.past.noise.nbytes + self.past.mu.nbytes
        return past + (0 if self.overlap.held is None else self.overlap.held.nbytes)


class WindowedFlow:
    """Runs a RegulatedFlow window by window; `append` is one call of the original's flow. Holds nothing of a request.

    noise: for tests that need certain draws.
    """

    bytes_per_frame = 0

    def __init__(
        self,
        flow: RegulatedFlow,
        steps: int | None = None,
        cfg_rate: float | None = None,
        noise: WindowNoise = window_noise,
    ) -> None:
        self.flow = flow
        self.config = flow.config
        self.steps, self.cfg_rate = steps, cfg_rate
        self.noise = noise
        self.device = flow.spk_embed_affine_layer.weight.device

    def start(
        self, prompt_tokens: Tensor, prompt_mel: Tensor, embedding: Tensor, adaptation: Tensor | None = None
    ) -> WindowState:
        """A request's state. prompt_tokens [P]; prompt_mel [n_mels, frames], natural log; embedding [speaker_dim]. No
        voice of such a flow has an adaptation."""
        return WindowState(
            prompt_tokens.to(self.device, torch.long)[None],
            prompt_mel.to(self.device, torch.float32)[None],
            embedding.to(self.device)[None],
            tokens=torch.zeros(0, dtype=torch.long, device=self.device),
        )

    def append(self, states: Sequence[WindowState], tokens: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        """Give every state its new tokens [T] and return the next frames of its mel [n_mels, frames], natural log.

        All but the last OVERLAP_FRAMES of the window; `final` ends a request and returns those too. Requests are
        computed one after another: their windows differ in length, and every frame sees its whole window.
        """
        return [self._append(*turn) for turn in zip(states, tokens, final, strict=True)]

    def _append(self, state: WindowState, new: Tensor, final: bool) -> Tensor:
        if state.finished:
            raise ValueError("this flow state has ended; start another one")
        tokens = torch.cat([state.tokens, new.to(self.device, torch.long)])
        if len(tokens) > EDGE_TOKENS or (final and len(tokens)):
            mel = self._window(state, tokens)
            ready = state.overlap.join(mel, final)
            tokens = tokens[-EDGE_TOKENS:]
        else:  # nothing that the overlap would leave
            ready = torch.zeros(self.config.n_mels, 0, device=self.device)
        state.tokens = tokens
        if final:
            state.finished, state.past, state.tokens = True, None, tokens[:0]
        return ready

    def _window(self, state: WindowState, tokens: Tensor) -> Tensor:
        """The mel [n_mels, frames] of one window's tokens."""
        frames = state.prompt_mel.shape[2] + self.config.frames(len(tokens))
        noise = self.noise(state.windows, frames, self.config.n_mels).to(self.device)
        mel, state.past = self.flow.window(
            tokens[None],
            state.prompt_tokens,
            state.prompt_mel,
            state.embedding,
            noise[None],
            state.past,
            steps=self.steps,
            cfg_rate=self.cfg_rate,
        )
        state.windows += 1
        return mel[0]
