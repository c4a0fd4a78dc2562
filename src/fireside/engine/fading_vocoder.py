"""The released streaming schedule of CosyVoice 1 and 2's vocoder: cached frames, and cross-fades of the audio.

Their convolutions look to both sides, so a chunk's audio is not final until the mel behind it is known. The
released code makes it nevertheless: each chunk is vocoded together with the last few frames before it and
the very excitation they had, and the doubled stretch is cross-faded. A chunk costs a chunk; the joined audio
comes near the one-shot audio, but does not equal it: the sines' phase starts anew behind the cached stretch,
and every chunk's end was made as if nothing followed. See `windowed_vocoder.py` for one that is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fireside.engine.fade import Overlap
from fireside.engine.fixed import Replayed
from fireside.errors import ConfigError
from fireside.models.hift import HiFT


@dataclass
class FadingState:
    """Everything that is kept of one request; its size does not grow. Dropping it frees it.

    mel `[n_mels, frames]` and source `[1, samples]`: of the last frames, at most `fade_frames`; speech: their
    audio, held back; frames: how many were vocoded so far.
    """

    seed: int | None
    mel: Tensor
    source: Tensor
    speech: Overlap
    frames: int = 0
    finished: bool = False

    @property
    def nbytes(self) -> int:
        """Memory held by this request, in bytes."""
        held = () if self.speech.held is None else (self.speech.held,)
        return sum(tensor.nbytes for tensor in (self.mel, self.source, *held))


class FadingVocoder:
    """Runs one HiFT that is not causal for any number of requests, each with a state of its own.

    Audio may exceed 1 by some percent where two pieces are cross-faded, since the window's halves sum to about
    1.08. compile: pieces are recorded on a GPU (see fixed.Replayed), for the sizes that come first.
    """

    def __init__(self, model: HiFT, compile: bool = False) -> None:
        self.model = model
        self.cached = model.config.fade_frames
        if self.cached < 1:
            raise ConfigError("vocoder.fade_frames must be at least 1 to cross-fade pieces; CosyVoice 2 has 8.")
        device = model.m_source.l_linear.weight.device
        self._decode = Replayed(self._piece, device) if compile else self._piece

    def start(self, seed: int | None = 0) -> FadingState:
        """State of a new request; the same seed gives the same audio, and None leaves the noise out."""
        config, weight = self.model.config, self.model.m_source.l_linear.weight
        return FadingState(
            seed=seed,
            mel=weight.new_zeros(config.n_mels, 0),
            source=weight.new_zeros(1, 0),
            speech=Overlap(self.cached * config.hop_length),
        )

    @torch.inference_mode()
    def append(self, states: Sequence[FadingState], mels: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        """Continue each request by its mel `[n_mels, frames]`, or by 0 frames; returns waveforms `[samples]`.

        final: no more mel follows, and nothing is held back. Joined outputs of a request have `hop_length`
        samples per frame. Rows do not influence each other.
        """
        return [self._advance(*row) for row in zip(states, mels, final, strict=True)]

    def _advance(self, state: FadingState, mel: Tensor, final: bool) -> Tensor:
        if state.finished:
            raise ValueError("this request's mel was already final")
        state.finished = final
        if mel.shape[1] == 0:
            held = state.speech.held
            return held if final and held is not None else state.source.new_zeros(0)
        hop = self.model.config.hop_length
        first = state.frames - state.mel.shape[1]
        window = torch.cat([state.mel, mel.to(state.mel)], dim=1)
        noise = self.model.make_noise(state.seed, first * hop, window.shape[1] * hop, window.device)
        phase = self.model.start_phase(state.seed, window.device)
        given = (window[None], noise, state.source) if phase is None else (window[None], noise, state.source, phase)
        wave, source = self._decode(*given)
        state.frames += mel.shape[1]
        state.mel = window[:, -self.cached :].clone()
        state.source = source[:, -self.cached * hop :].clone()
        return state.speech.join(wave[0], final)

    def _piece(self, mel: Tensor, noise: Tensor, kept: Tensor, phase: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveform and source of one piece; kept: the source of its first frames. See HiFT.forward."""
        wave, _, source = self.model(mel, seed=None, noise=noise, phase=phase, cache_source=kept)
        return wave, source
