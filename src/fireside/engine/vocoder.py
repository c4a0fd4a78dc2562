"""The causal vocoder in pieces: mel frames of many requests in, each request's next samples out.

One pass over a request's mel in chunks makes the waveform that `HiFT.forward` makes of the whole: every
causal convolution keeps the tail of its input, the source keeps its phase, its noise depends on the sample's
index only, and the STFT and its inverse keep what overlaps. A chunk costs a chunk. The last `look_right`
frames (4) wait for what follows them, and so does half an STFT window; `final` releases both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fireside.engine.fixed import Replayed
from fireside.errors import ConfigError
from fireside.models.causal import CausalConv1d, Tails
from fireside.models.hift import HiFT


@dataclass
class VocoderState:
    """Everything the vocoder keeps of one request; its size does not grow. Dropping it frees it."""

    seed: int | None
    mel: Tensor
    """Frames received before there were enough to begin, `[n_mels, frames]`."""
    source: Tensor
    """Samples of the source that later STFT frames need."""
    overlap: Tensor
    """Sum of windowed frames, and of squared windows, that later frames add to: `[2, n_fft - hop]`."""
    tails: Tails = field(default_factory=Tails)
    phase: Tensor | None = None
    """Of each harmonic after the last source frame, in cycles, float64 `[1, harmonics]`."""
    source_frames: int = 0
    began: bool = False
    finished: bool = False

    @property
    def nbytes(self) -> int:
        """Memory held by this request, in bytes."""
        own = [self.mel, self.source, self.overlap, *([] if self.phase is None else [self.phase])]
        return self.tails.nbytes + sum(t.numel() * t.element_size() for t in own)


class IncrementalVocoder:
    """Runs one causal HiFT for any number of requests, each with a state of its own.

    compile: the decoder is recorded on a GPU (see fixed.Replayed) for the sizes of chunks that come first; never at the
    beginning and the end of a request.
    """

    def __init__(self, model: HiFT, compile: bool = False) -> None:
        if not model.config.causal:
            raise ConfigError("This vocoder is not causal; use FadingVocoder or WindowedVocoder to make pieces.")
        if model.config.conv_pre_look_right <= model.f0_predictor.look_right:
            raise ConfigError(
                "vocoder.conv_pre_look_right must be larger than the f0 predictor's look-ahead "
                f"({model.f0_predictor.look_right} frames) to synthesise in pieces."
            )
        self.model = model
        predictor = set(model.f0_predictor.modules())
        self._convolutions = [
            module for module in model.modules() if isinstance(module, CausalConv1d) and module not in predictor
        ]
        weight = model.m_source.l_linear.weight
        self._replayed = Replayed(self._decode, weight.device) if compile else None

    def start(self, seed: int | None = 0) -> VocoderState:
        """State of a new request; the same seed gives the same audio, and None leaves the noise out."""
        stft, weight = self.model.stft, self.model.m_source.l_linear.weight
        return VocoderState(
            seed=seed,
            mel=weight.new_zeros(self.model.config.n_mels, 0),
            source=weight.new_zeros(0),
            overlap=weight.new_zeros(2, stft.n_fft - stft.hop),
            phase=self.model.start_phase(seed, weight.device),
        )

    @torch.inference_mode()
    def append(
        self,
        states: Sequence[VocoderState],
        mels: Sequence[Tensor],
        final: Sequence[bool],
        sources: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Continue each request by its mel `[n_mels, frames]`, or by 0 frames; returns waveforms `[samples]`.

        final: no more mel follows. sources: excitation of the same frames, `[frames * hop_length]`, in place
        of the one predicted; give it in every call of a request or in none. Joined outputs of a request have
        `hop_length` samples per frame. Rows do not influence each other.
        """
        given: Sequence[Tensor | None] = [None] * len(states) if sources is None else sources
        rows = zip(states, mels, final, given, strict=True)
        return [self._advance(state, mel, last, source) for state, mel, last, source in rows]

    def _advance(self, state: VocoderState, mel: Tensor, final: bool, source: Tensor | None) -> Tensor:
        if state.finished:
            raise ValueError("this request's mel was already final")
        config, stft = self.model.config, self.model.stft
        ahead = config.ahead
        if source is not None:
            state.source = torch.cat([state.source, source])
        mel = mel.to(state.overlap)
        first = not state.began
        if first:
            mel = torch.cat([state.mel, mel], dim=1)
            if mel.shape[1] <= (0 if final else ahead):
                state.mel, state.finished = mel, final
                return mel.new_zeros(0)
            state.mel, state.began = mel[:, :0], True
        elif mel.shape[1] == 0 and not final:
            return mel.new_zeros(0)
        state.finished = final
        mel = mel[None]
        if source is None:
            self._extend_source(state, mel, final)
        half = stft.n_fft // 2
        if first:  # reflect the edges: only here and at the true end
            state.source = torch.cat([state.source[1 : half + 1].flip(0), state.source])
        if final:
            state.source = torch.cat([state.source, state.source[-half - 1 : -1].flip(0)])
        padded = F.pad(mel, (0, ahead)) if final else mel
        frames = padded.shape[2] - (ahead if first else 0)
        hops = frames * (config.hop_length // stft.hop) + (1 if first else 0)
        excerpt = state.source[: (hops - 1) * stft.hop + stft.n_fft]
        state.source = state.source[hops * stft.hop :].clone()
        spectrum = self._spectrum(state, padded, stft.analyse(excerpt[None]), first, final)
        wave = self._overlap_add(state, spectrum, final)
        return wave[half:] if first else wave

    def _spectrum(self, state: VocoderState, mel: Tensor, source: Tensor, first: bool, final: bool) -> Tensor:
        """See HiFT.spectrum; continues the state's convolutions."""
        if self._replayed is None or first or final:
            return self.model.spectrum(mel, source, state.tails, first=first)
        spectrum, *tails = self._replayed(mel, source, *map(state.tails.at, self._convolutions))
        for module, tail in zip(self._convolutions, tails, strict=True):
            state.tails.put(module, tail)
        return spectrum

    def _decode(self, mel: Tensor, source: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """The spectrum of the middle of a request, and the tails after it; kept: those before it."""
        tails = Tails()
        for module, tail in zip(self._convolutions, kept, strict=True):
            tails.put(module, tail)
        spectrum = self.model.spectrum(mel, source, tails, first=False)
        return spectrum, *map(tails.at, self._convolutions)

    def _extend_source(self, state: VocoderState, mel: Tensor, final: bool) -> None:
        model, config = self.model, self.model.config
        context = F.pad(mel, (0, model.f0_predictor.look_right)) if final else mel
        f0 = model.f0_predictor(context, state.tails)
        start, samples = state.source_frames * config.hop_length, f0.shape[1] * config.hop_length
        noise = model.make_noise(state.seed, start, samples, f0.device)
        source, state.phase = model.m_source(f0, noise, state.phase)
        state.source = torch.cat([state.source, source[0]])
        state.source_frames += f0.shape[1]

    def _overlap_add(self, state: VocoderState, spectrum: Tensor, final: bool) -> Tensor:
        """Samples that no later frame changes; at the end also the rest, less half a window."""
        stft, limit = self.model.stft, self.model.config.audio_limit
        sums = torch.stack([stft.overlap(spectrum)[0], stft.envelope(spectrum.shape[-1])])
        kept = state.overlap.shape[1]
        sums[:, :kept] += state.overlap
        ready = sums.shape[1] - (stft.n_fft // 2 if final else kept)
        state.overlap = sums[:, sums.shape[1] - kept :].clone()
        # The very first sample of the window is 0: never divide there, the caller trims it.
        return (sums[0, :ready] / sums[1, :ready].clamp(min=1e-8)).clamp(-limit, limit)
