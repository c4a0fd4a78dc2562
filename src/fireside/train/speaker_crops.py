"""Excerpts of speech with the teacher's embedding of each: what the speaker encoder is distilled from.

A folder of crops holds `crops.jsonl` (a row per crop), `fbank.f16` (Kaldi fbank frames, mean not subtracted)
and `teacher.f32` (the teacher's embeddings, unit length). Real people are few: their recordings are also
resampled, which moves pitch and formants together and so makes new voices, and the teacher hears those too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fireside.audio.features import WHISPER_RATE, kaldi_fbank
from fireside.audio.resample import resample
from fireside.models.config import Config
from fireside.train.data import utterances

N_BINS, EMBEDDING = 80, 192
_RATE_STEP = 200  # Hz: resampled rates are multiples of it, so that the resampler's tables stay small


class CropConfig(Config):
    """How excerpts are drawn: lengths in seconds; variants are passes over a recording, some at another
    rate; every: only each `every`th recording is read.
    """

    shortest: float = 2.0
    longest: float = 6.0
    seconds_per_crop: float = 5.0
    corpus_variants: int = 1
    corpus_perturbed: float = 0.25
    real_variants: int = 12
    real_perturbed: float = 0.75
    rate_range: tuple[float, float] = (0.8, 1.25)
    every: int = 1
    seed: int = 0


class Teacher:
    """The ONNX network that is distilled, on one thread."""

    def __init__(self, file: str | Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(file), options)

    def __call__(self, fbank: Tensor) -> np.ndarray:
        """Fbank [frames, 80] to the embedding [192], unit length."""
        features = (fbank - fbank.mean(dim=0)).unsqueeze(0).float().numpy()
        embedding = self._session.run(None, {"input": features})[0].ravel()
        return embedding / np.linalg.norm(embedding)


class CropStore:
    """Reads a folder of crops."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        with (folder / "crops.jsonl").open(encoding="utf-8") as lines:
            self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._fbank = np.memmap(folder / "fbank.f16", dtype="<f2", mode="r").reshape(-1, N_BINS)
        self._teacher = np.memmap(folder / "teacher.f32", dtype="<f4", mode="r").reshape(-1, EMBEDDING)

    def select(self, split: str, corpus: str | None = None, whole: bool = False) -> list[dict[str, Any]]:
        """The crops of a split, or its whole utterances (kept for 'val' only)."""
        return [
            row
            for row in self.rows
            if row["split"] == split and row["whole"] == whole and corpus in (None, row["corpus"])
        ]

    def fbank(self, row: dict[str, Any]) -> Tensor:
        """Log fbank [frames, 80], float32."""
        first = row["first"]
        return torch.from_numpy(self._fbank[first : first + row["frames"]].astype(np.float32))

    def target(self, row: dict[str, Any]) -> Tensor:
        """The teacher's embedding [192]."""
        return torch.from_numpy(np.array(self._teacher[row["number"]]))


def prepare_crops(
    corpus: Path,
    speakers: Path | None,
    teacher: Callable[[Tensor], np.ndarray],
    out: Path,
    config: CropConfig,
) -> int:
    """Write the folder of crops; returns their number. Does nothing when the folder is already complete."""
    from tqdm import tqdm

    index = out / "crops.jsonl"
    if index.exists():
        return sum(1 for _ in index.open(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(config.seed)
    number = first = 0
    temporary = out / "crops.tmp"
    with (
        temporary.open("w", encoding="utf-8") as rows,
        (out / "fbank.f16").open("wb") as frames,
        (out / "teacher.f32").open("wb") as embeddings,
    ):
        recordings = utterances(corpus, speakers, every=config.every)
        for row, encoded in tqdm(recordings, desc="crops", unit="utt", mininterval=10):
            about = {key: row[key] for key in ("utt", "spk", "corpus", "split")}
            for piece, facts in _crops(_read(encoded), about, config, rng):
                fbank = kaldi_fbank(piece)
                frames.write(fbank.numpy().astype("<f2").tobytes())
                embeddings.write(teacher(fbank).astype("<f4").tobytes())
                facts.update(number=number, first=first, frames=len(fbank))
                rows.write(json.dumps(facts) + "\n")
                number, first = number + 1, first + len(fbank)
    temporary.replace(index)
    return number


def _read(encoded: bytes) -> Tensor:
    import soundfile

    audio, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
    return resample(torch.from_numpy(audio), rate, WHISPER_RATE)


def _crops(
    audio: Tensor, about: dict[str, Any], config: CropConfig, rng: np.random.Generator
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Excerpts of one recording [samples] at 16 kHz. Held-out recordings are not perturbed, and also come
    whole.
    """
    real = about["corpus"] != "kokoro"
    train = about["split"] == "train"
    perturbed = (config.real_perturbed if real else config.corpus_perturbed) if train else 0.0
    variants = (config.real_variants if real else config.corpus_variants) if train else 1
    if not train:
        yield audio, {**about, "whole": True, "factor": 1.0}
    for _ in range(variants):
        factor = 1.0
        source = audio
        if rng.random() < perturbed:
            low, high = np.log(config.rate_range)
            new = round(WHISPER_RATE / float(np.exp(rng.uniform(low, high))) / _RATE_STEP) * _RATE_STEP
            factor = WHISPER_RATE / new
            source = resample(audio, WHISPER_RATE, new)
        for _ in range(max(1, round(len(source) / WHISPER_RATE / config.seconds_per_crop))):
            length = round(rng.uniform(config.shortest, config.longest) * WHISPER_RATE)
            start = int(rng.integers(0, max(1, len(source) - length)))
            yield source[start : start + length], {**about, "whole": False, "factor": round(factor, 4)}
