"""The flow in one go, under the full mask: what the released models do when a request is not streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class OneShotFlow(Protocol):
    """A flow module; see CausalFlow.inference."""

    def inference(
        self,
        tokens: Tensor,
        prompt_tokens: Tensor,
        prompt_mel: Tensor,
        embedding: Tensor,
        noise: Tensor,
        *,
        chunked: bool | None = None,
    ) -> Tensor:
        """Mel [1, n_mels, frames of the tokens]."""


class Noise(Protocol):
    """The flow's start noise: a function of the number of the prompt's frames and of the tokens."""

    def __call__(self, prompt_frames: int, tokens: int) -> Tensor:
        """[n_mels, all frames], from the first frame of the prompt on."""


@dataclass
class WholeState:
    """A request's prompt, and the tokens that were given so far."""

    prompt_tokens: Tensor
    prompt_mel: Tensor
    embedding: Tensor
    tokens: tuple[Tensor, ...] = ()

    def fork(self) -> WholeState:
        """A second continuation of the same past."""
        return replace(self)

    @property
    def nbytes(self) -> int:
        """Bytes held beside the prompt, which is the voice's."""
        return sum(tokens.nbytes for tokens in self.tokens)


class WholeFlow:
    """A flow stage that answers when the last token is there. Requests are computed one after another."""

    bytes_per_frame = 0

    def __init__(self, flow: OneShotFlow, noise: Noise, device: torch.device) -> None:
        self.flow = flow
        self.noise = noise
        self.device = device

    def start(
        self, prompt_tokens: Tensor, prompt_mel: Tensor, embedding: Tensor, adaptation: Tensor | None = None
    ) -> WholeState:
        """See FlowStage. No voice of such a flow has an adaptation."""
        return WholeState(
            prompt_tokens.to(self.device, torch.long), prompt_mel.to(self.device), embedding.to(self.device)
        )

    @torch.inference_mode()
    def append(self, states: Sequence[WholeState], tokens: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        """See FlowStage: no frames before the end of speech, then all of them."""
        for state, new in zip(states, tokens, strict=True):
            state.tokens += (new.to(self.device, torch.long),)
        return [
            self._mel(state) if last else state.prompt_mel[:, :0] for state, last in zip(states, final, strict=True)
        ]

    def _mel(self, state: WholeState) -> Tensor:
        tokens = torch.cat(state.tokens)
        if not len(tokens):
            return state.prompt_mel[:, :0]
        noise = self.noise(state.prompt_mel.shape[1], len(tokens)).to(self.device)
        return self.flow.inference(
            tokens[None],
            state.prompt_tokens[None],
            state.prompt_mel[None],
            state.embedding[None],
            noise[None],
            chunked=False,
        )[0]
