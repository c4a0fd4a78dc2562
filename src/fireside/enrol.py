"""From a recording to what the models are conditioned on:

a voice from a prompt, speech tokens from a source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fireside.audio.features import WHISPER_RATE, MelSpectrogram, kaldi_fbank, whisper_log_mel
from fireside.audio.io import read_audio
from fireside.audio.prompt import MAX_SECONDS, from_samples, load_prompt
from fireside.audio.resample import resample
from fireside.errors import AudioError
from fireside.models.config import OnnxTokenizerConfig, RegulatedFlowConfig
from fireside.models.speech_tokenizer import SpeechTokenizer
from fireside.text.phones import is_spoken
from fireside.voices import Voice, VoiceCard

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder

Source = str | Path | bytes | tuple[np.ndarray, int]
"""A recording: a file, the bytes of one, or (samples, sample rate)."""

Note = Callable[[str], None]

_PIECE_SECONDS = (8.0, 16.0)  # a long source is cut between these, at its quietest moment
_SHORTEST = 0.5  # of the longest piece that a released tokenizer takes, which is cut no more than it must be
_LONG_PROMPT = 60.0
"""Seconds of a prompt that a released model is given: their tokenizer takes 30 at a time, their LM takes more."""
_QUIET_SECONDS = 0.2
_SILENT_DB = -60.0


def recording_key(source: Source, words: Sequence[Sequence[int]]) -> str | None:
    """The same for recordings with the same content, in which the same words are said; None for an unreadable one."""
    digest = hashlib.sha256(json.dumps([list(word) for word in words]).encode())
    if isinstance(source, tuple):
        samples, rate = source
        array = np.ascontiguousarray(samples)
        digest.update(f"{rate}{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    elif isinstance(source, bytes):
        digest.update(source)
    else:
        try:
            with Path(source).open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        except OSError:
            return None
    return digest.hexdigest()


def make_voice(
    model: ModelFolder, source: Source, words: Sequence[Sequence[int]], card: VoiceCard, on_note: Note
) -> Voice:
    """The voice of a recording.

    words: text-token ids of each word that is spoken in it, or none (then the LM will not hear the prompt). Released
    models get the recording as it is, as in their original; for hearth it is trimmed and levelled.
    on_note is told what the user should know. Raises AudioError when the recording cannot be used.
    """
    released = isinstance(model.config.tokenizer, OnnxTokenizerConfig)
    prompt = load_prompt(source, _LONG_PROMPT if released else MAX_SECONDS, as_recorded=released)
    for remark in prompt.notes:
        on_note(remark)
    if prompt.cut and words:
        on_note("The prompt's text is left out, since the recording was cut: give a shorter one with its text.")
        words, card = [], replace(card, prompt_text="")
    config = model.config
    low = resample(prompt.samples, prompt.sample_rate, WHISPER_RATE)
    full = resample(prompt.samples, prompt.sample_rate, config.mel.sample_rate)
    with torch.inference_mode():
        tokens = model.tokenizer.encode(whisper_log_mel(low)[None].to(model.device))[0].cpu()
        mel = MelSpectrogram.from_config(config.mel)(full[None])[0]
        embedding = model.speaker(kaldi_fbank(low, subtract_mean=True)[None].to(model.device))[0].cpu()
    if not isinstance(config.flow, RegulatedFlowConfig):  # which stretches the tokens to whatever the mel has
        length = min(len(tokens), mel.shape[1] // config.flow.token_mel_ratio)
        tokens, mel = tokens[:length], mel[:, : config.flow.frames(length)]
    groups, ends = _heard(model, tokens, words)
    return Voice(
        replace(card, words=tuple(map(tuple, groups)), word_ends=tuple(ends), model=config.name),
        embedding=torch.nn.functional.normalize(embedding, dim=0).numpy(),
        prompt_tokens=tokens.numpy(),
        prompt_mel=np.ascontiguousarray(mel.T.numpy()),
    )


def _heard(
    model: ModelFolder, tokens: torch.Tensor, words: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[int]]:
    """What is said in a prompt, in groups, and at which of its speech tokens each group ends."""
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, SpeechTokenizer):  # released models read the words as one, from the prompt's start
        text = [token for word in words for token in word]
        return ([text], [len(tokens)]) if text else ([], [])
    groups = _spoken_groups(words)
    if not groups:
        return [], []
    return groups, tokenizer.align(tokens, [[t for t in group if is_spoken(t)] for group in groups])


def _spoken_groups(words: Sequence[Sequence[int]]) -> list[list[int]]:
    """Words with at least one sound each: a lone pause or mark joins its neighbour."""
    groups: list[list[int]] = []
    waiting: list[int] = []
    for word in words:
        if any(is_spoken(token) for token in word):
            groups.append([*waiting, *word])
            waiting = []
        elif groups:
            groups[-1] += word
        else:
            waiting += word
    return groups


def source_tokens(model: ModelFolder, source: Source, streaming: bool = False) -> list[tuple[int, ...]]:
    """The speech tokens of a recording to convert, in pieces cut at pauses.

    Pieces are short where the flow keeps the past of each: in hearth, and when streaming. Raises AudioError for no
    sound.
    """
    recording = from_samples(*source) if isinstance(source, tuple) else read_audio(source)
    low = resample(recording.samples, recording.sample_rate, WHISPER_RATE)
    if low.numel() == 0 or 20 * float(torch.log10(low.abs().max() + 1e-9)) < _SILENT_DB:
        raise AudioError("The recording to convert is silent: give one with speech in it.")
    # One look at the whole recording, so that every piece is judged by the same loudest moment.
    features = whisper_log_mel(low).to(model.device)
    step = WHISPER_RATE // 100
    tokenizer = model.config.tokenizer
    between = _PIECE_SECONDS
    if isinstance(tokenizer, OnnxTokenizerConfig) and not streaming:
        between = (_SHORTEST * tokenizer.max_seconds, tokenizer.max_seconds)
    cuts = [cut // step // 4 * 4 for cut in _cuts(low.numpy(), WHISPER_RATE, between)]
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, features.shape[1]], strict=True):
        if end - start >= 4:
            pieces.append(tuple(model.tokenizer.encode(features[None, :, start:end])[0].tolist()))
    if not pieces:
        raise AudioError("The recording to convert is too short: give at least a word.")
    return pieces


def _cuts(samples: np.ndarray, rate: int, between: tuple[float, float]) -> list[int]:
    """Where to cut a long recording: sample indices, each in the quietest moment of its stretch.

    between: the shortest and the longest a piece may be, in seconds.
    """
    shortest, longest = (int(seconds * rate) for seconds in between)
    width = int(_QUIET_SECONDS * rate)
    cuts: list[int] = []
    start = 0
    while len(samples) - start > longest:
        stretch = samples[start + shortest : start + longest].astype(np.float64) ** 2
        sums = np.cumsum(stretch)
        quiet = np.argmin(sums[width:] - sums[:-width])
        start += shortest + int(quiet) + width // 2
        cuts.append(start)
    return cuts
