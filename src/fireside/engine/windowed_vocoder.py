"""CosyVoice 1 and 2's vocoder in pieces that join to the one-shot audio: each waits for all that it depends on.

Their convolutions look to both sides. So a frame's f0 waits for the frames that the f0 predictor sees, its
excitation for the f0 of the next frame, and its audio for all the excitation and mel within the decoder's
reach: some 0.4 s in all, `HiFT.look_right` frames. The decoder runs over each chunk with its reach to both
sides; the phase of the sines is carried on, and noise depends on the sample's index only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fireside.errors import ConfigError
from fireside.models.hift import HiFT


@dataclass
class WindowedState:
    """Everything that is kept of one request; its size does not grow. Dropping it frees it.

    mel `[n_mels, frames]` and source `[samples]`: from frame `first` on; f0 `[frames]`: known up to frame
    `heard`, kept from the frame before the first one without a source; phase: where the sines stand before
    the first kept f0, in cycles, float64 `[1, harmonics]`; excited, spoken: frames that have a source, and
    audio.
    """

    seed: int | None
    mel: Tensor
    source: Tensor
    f0: Tensor
    phase: Tensor | None
    first: int = 0
    heard: int = 0
    excited: int = 0
    spoken: int = 0
    finished: bool = False

    @property
    def nbytes(self) -> int:
        """Memory held by this request, in bytes."""
        own = [self.mel, self.source, self.f0, *([] if self.phase is None else [self.phase])]
        return sum(tensor.nbytes for tensor in own)


class WindowedVocoder:
    """Runs one HiFT that is not causal for any number of requests, each with a state of its own."""

    def __init__(self, model: HiFT) -> None:
        if model.config.causal:
            raise ConfigError("A causal vocoder needs no windows; use IncrementalVocoder, which waits for less.")
        self.model = model

    def start(self, seed: int | None = 0) -> WindowedState:
        """State of a new request; the same seed gives the same audio, and None leaves the noise out."""
        weight = self.model.m_source.l_linear.weight
        return WindowedState(
            seed=seed,
            mel=weight.new_zeros(self.model.config.n_mels, 0),
            source=weight.new_zeros(0),
            f0=weight.new_zeros(0),
            phase=self.model.start_phase(seed, weight.device),
        )

    @torch.inference_mode()
    def append(self, states: Sequence[WindowedState], mels: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        """Continue each request by its mel `[n_mels, frames]`, or by 0 frames; returns waveforms `[samples]`.

        final: no more mel follows. Joined outputs of a request have `hop_length` samples per frame. Rows do
        not influence each other.
        """
        return [self._advance(*row) for row in zip(states, mels, final, strict=True)]

    def _advance(self, state: WindowedState, mel: Tensor, final: bool) -> Tensor:
        if state.finished:
            raise ValueError("this request's mel was already final")
        state.finished = final
        state.mel = torch.cat([state.mel, mel.to(state.mel)], dim=1)
        known = state.first + state.mel.shape[1]
        self._hear(state, known if final else known - self.model.f0_predictor.reach)
        self._excite(state, state.heard if final else state.heard - 1)
        return self._speak(state, state.excited if final else state.excited - self.model.reach)

    def _hear(self, state: WindowedState, stop: int) -> None:
        """Predict f0 up to the frame `stop`."""
        if stop <= state.heard:
            return
        start = max(state.first, state.heard - self.model.f0_predictor.reach)
        f0 = self.model.predict_f0(state.mel[None, :, start - state.first :])[0]
        state.f0 = torch.cat([state.f0, f0[state.heard - start : stop - start]])
        state.heard = stop

    def _excite(self, state: WindowedState, stop: int) -> None:
        """Make the source up to the frame `stop`, from the f0 of one more frame to each side."""
        if stop <= state.excited:
            return
        hop = self.model.config.hop_length
        start = state.heard - len(state.f0)
        noise = self.model.make_noise(state.seed, start * hop, len(state.f0) * hop, state.f0.device)
        source, _ = self.model.m_source(state.f0[None], noise, state.phase)
        state.source = torch.cat([state.source, source[0, (state.excited - start) * hop : (stop - start) * hop]])
        state.excited = stop
        passed = max(0, stop - 1 - start)
        if passed:
            _, ends = self.model.m_source.phases(state.f0[None, :passed], state.phase)
            state.phase, state.f0 = ends[:, -1] % 1.0, state.f0[passed:].clone()

    def _speak(self, state: WindowedState, stop: int) -> Tensor:
        """Audio up to the frame `stop`; forgets what no later frame depends on."""
        if stop <= state.spoken:
            return state.source.new_zeros(0)
        hop = self.model.config.hop_length
        frames = state.excited - state.first
        wave = self.model.decode(state.mel[None, :, :frames], state.source[None])[0]
        wave = wave[(state.spoken - state.first) * hop : (stop - state.first) * hop]
        state.spoken = stop
        passed = max(0, stop - self.model.reach - state.first)
        state.mel, state.source = state.mel[:, passed:].clone(), state.source[passed * hop :].clone()
        state.first += passed
        return wave
