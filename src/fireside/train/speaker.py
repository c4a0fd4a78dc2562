"""Trains the speaker encoder: a small CAM++ that learns to hear what a large one hears.

The student's embedding of an excerpt, heard through noise or a narrow band, is drawn to the teacher's
embedding of the clean excerpt; and the similarities between the voices of a batch are drawn to the teacher's.

    python -m fireside.train.speaker --corpus DIR --speakers FILE --teacher campplus.onnx --out DIR
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from fireside.audio.features import kaldi_fbank
from fireside.audio.resample import resample
from fireside.errors import AudioError
from fireside.models.config import Config, SpeakerConfig
from fireside.models.speaker import SpeakerEncoder
from fireside.train.data import SAMPLE_RATE, FeatureStore
from fireside.train.loop import Average, Run, RunConfig
from fireside.train.speaker_crops import N_BINS, CropConfig, CropStore, Teacher, prepare_crops

_FLOOR = 1.1920928955078125e-07  # of the fbank's energies


class HearingConfig(Config):
    """What stands between the voice and the student's ear: SNR in dB, tilt in dB/octave, cut-off in Hz."""

    noise: float = 0.35
    snr: tuple[float, float] = (8.0, 30.0)
    tilt: tuple[float, float] = (0.0, 9.0)
    narrow: float = 0.15
    cutoff: tuple[float, float] = (3400.0, 7600.0)
    window: tuple[float, float] = Field(default=(1.5, 3.0), description="seconds of a crop that are heard")


class SpeakerTraining(Config):
    """One run: the student's sizes, the excerpts, the hearing, the schedule."""

    speaker: SpeakerConfig = SpeakerConfig(
        head_channels=16, growth_rate=64, bn_size=2, block_layers=(4, 6, 4), block_dilations=(1, 2, 2)
    )
    crops: CropConfig = CropConfig()
    hearing: HearingConfig = HearingConfig()
    run: RunConfig = RunConfig(minutes=40, clock="cpu", peak_rate=2e-3, warmup_steps=100, ema_decay=0.997)
    batch: int = 32
    weight_decay: float = 0.02
    similarity_weight: float = 4.0
    validate_every: int = 300


class Hearing:
    """Adds noise to, and narrows the band of, log fbanks [batch, frames, 80]: energies add, so no waves are
    needed.

    Gain and colour of a microphone need no augmentation: subtracting the mean over time removes them.
    """

    def __init__(self, config: HearingConfig, seed: int) -> None:
        self._config = config
        self._rng = np.random.default_rng(seed)
        mel = np.linspace(np.log1p(20 / 700), np.log1p(8000 / 700), N_BINS + 2)
        edges = 700 * np.expm1(mel)
        self._centres = torch.tensor(edges[1:-1], dtype=torch.float32)
        widths = (edges[2:] - edges[:-2]) / 2
        self._widths = torch.tensor(widths, dtype=torch.float32)
        # A band's energy is a sum of about this many independent bins of the spectrum.
        self._freedom = np.maximum(1.0, widths / (16000 / 512))

    def __call__(self, fbank: Tensor) -> Tensor:
        """The same excerpts [batch, frames, 80] as the student hears them."""
        energy = fbank.exp()
        for row in range(len(energy)):
            if self._rng.random() < self._config.narrow:
                energy[row] *= self._low_pass()
            if self._rng.random() < self._config.noise:
                energy[row] += self._noise(energy[row])
        return energy.clamp_min(_FLOOR).log()

    def _low_pass(self) -> Tensor:
        """Energy gain per band: 1 below the cut-off, -60 dB well above it."""
        cutoff = self._rng.uniform(*self._config.cutoff)
        return torch.sigmoid((cutoff - self._centres) / 60.0) * (1 - 1e-6) + 1e-6

    def _noise(self, energy: Tensor) -> Tensor:
        """Steady noise [frames, 80] whose spectrum falls by `tilt` dB per octave above 100 Hz."""
        tilt = self._rng.uniform(*self._config.tilt)
        octaves = torch.log2(self._centres.clamp_min(100.0) / 100.0)
        shape = self._widths * 10 ** (-tilt * octaves / 10)
        grain = self._rng.standard_gamma(self._freedom, size=tuple(energy.shape)) / self._freedom
        snr = self._rng.uniform(*self._config.snr)
        level = energy.sum(dim=-1).mean() / shape.sum() * 10 ** (-snr / 10)
        return level * shape * torch.from_numpy(grain).float()


def losses(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """Distillation of embeddings [batch, dim]: 1 - cosine, and the squared error of the pairwise
    similarities.
    """
    student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.float(), dim=-1)
    cosine = 1 - (student * teacher).sum(dim=-1).mean()
    difference = student @ student.T - teacher @ teacher.T
    pairs = max(1, len(student) * (len(student) - 1))
    return {"cosine": cosine, "similarity": difference.square().sum() / pairs}


def batches(store: CropStore, config: SpeakerTraining, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end: fbanks [batch, frames, 80] of windows of crops, and the teacher's embeddings of the crops.

    The windows of a batch are of one length. A teacher that hears more than the student says better whose
    voice it is, and short windows are cheap. Raises AudioError when there are no crops to train on.
    """
    rows = store.select("train")
    if not rows:
        raise AudioError("There is no speech to train on: all of it is held out. Give a larger corpus.")
    size = min(config.batch, len(rows))
    while True:
        order = rng.permutation(len(rows))
        for start in range(0, len(order) - size + 1, size):
            chosen = [rows[i] for i in order[start : start + size]]
            shortest = min(row["frames"] for row in chosen)
            frames = min(shortest, round(100 * rng.uniform(*config.hearing.window)))
            yield (
                torch.stack([_window(store.fbank(row), frames, rng) for row in chosen]),
                torch.stack([store.target(row) for row in chosen]),
            )


def _window(fbank: Tensor, frames: int, rng: np.random.Generator) -> Tensor:
    start = int(rng.integers(0, len(fbank) - frames + 1))
    return fbank[start : start + frames]


@torch.no_grad()
def embed(model: SpeakerEncoder, fbank: Tensor) -> Tensor:
    """Log fbank [frames, 80] to an embedding [192] of unit length."""
    return F.normalize(model((fbank - fbank.mean(dim=0)).unsqueeze(0))[0], dim=-1)


def validate(model: SpeakerEncoder, store: CropStore, limit: int | None = None) -> dict[str, float]:
    """Mean cosine to the teacher on held-out crops, for each corpus."""
    model.eval()
    means = {}
    for corpus in sorted({row["corpus"] for row in store.rows}):
        rows = store.select("val", corpus)[:limit]
        scores = [float(embed(model, store.fbank(row)) @ store.target(row)) for row in rows]
        means[f"cosine_{corpus}"] = float(np.mean(scores)) if scores else float("nan")
    return means


def separation(embedder: Any, store: CropStore, corpus: str = "librispeech") -> dict[str, float]:
    """Mean similarity of the two halves of held-out people's recordings: to themselves, and to each other's.

    embedder: log fbank [frames, 80] to a unit vector. `error` is the equal error rate of telling the two
    apart. All are nan where fewer than two people are held out.
    """
    people = store.select("val", corpus, whole=True)
    if len(people) < 2:
        return dict.fromkeys(("same", "different", "error"), float("nan"))
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for row in people:
        fbank = store.fbank(row)
        middle = len(fbank) // 2
        halves[0].append(np.asarray(embedder(fbank[:middle])))
        halves[1].append(np.asarray(embedder(fbank[middle:])))
    table = np.stack(halves[0]) @ np.stack(halves[1]).T
    same = np.diag(table)
    other = table[~np.eye(len(table), dtype=bool)]
    thresholds = np.sort(table.ravel())
    misses = (same[None] < thresholds[:, None]).mean(axis=1)
    accepts = (other[None] >= thresholds[:, None]).mean(axis=1)
    error = float(np.min(np.maximum(misses, accepts)))
    return {"same": float(same.mean()), "different": float(other.mean()), "error": error}


def train(corpus: Path, speakers: Path | None, teacher: Path, out: Path, config: SpeakerTraining) -> None:
    """Prepare the crops if need be, then train; writes OUT/speaker.safetensors, config.json and
    report.json.
    """
    torch.set_num_threads(config.run.threads)
    network = Teacher(teacher)
    prepare_crops(corpus, speakers, network, out / "crops", config.crops)
    store = CropStore(out / "crops")
    torch.manual_seed(config.run.seed)
    model = SpeakerEncoder(config.speaker)
    average = Average(model, config.run.ema_decay)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay, betas=(0.9, 0.98))
    run = Run(out, config.run)
    run.restore(model=model, optimizer=optimizer, average=average)
    (out / "config.json").write_text(config.speaker.model_dump_json(indent=2) + "\n", encoding="utf-8")
    hearing = Hearing(config.hearing, seed=run.step)
    rng = np.random.default_rng([config.run.seed, run.step])
    averaged = SpeakerEncoder(config.speaker)
    for fbank, target in batches(store, config, rng):
        if not run.go_on():
            break
        model.train()
        run.set_rate(optimizer)
        heard = hearing(fbank)
        with torch.autocast("cpu", torch.bfloat16):
            student = model(heard - heard.mean(dim=1, keepdim=True))
        parts = losses(student, target)
        optimizer.zero_grad()
        (parts["cosine"] + config.similarity_weight * parts["similarity"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.run.grad_clip)
        optimizer.step()
        average.update(model)
        run.log({name: value.detach() for name, value in parts.items()})
        if run.step % config.validate_every == 0:
            averaged.load_state_dict(average.weights())
            run.scalars("val", validate(averaged, store, limit=80))
        exports = {"speaker.safetensors": average.weights}
        run.save_if_due(exports, model=model, optimizer=optimizer, average=average)
    averaged.load_state_dict(average.weights())
    report = {
        "parameters": sum(value.numel() for value in averaged.parameters()),
        "steps": run.step,
        "minutes": run.seconds / 60,
        **validate(averaged, store),
        "student": separation(lambda fbank: embed(averaged, fbank), store),
        "teacher": separation(network, store),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


@torch.inference_mode()
def write_embeddings(features: Path, out: Path) -> None:
    """Write the embedding of every utterance of a feature folder: what the flow is trained on and prompted with."""
    store = FeatureStore(features)
    config = SpeakerConfig.model_validate_json((out / "config.json").read_text(encoding="utf-8"))
    encoder = SpeakerEncoder(config).eval()
    encoder.load_state_dict(load_file(out / "speaker.safetensors"))

    def heard(wave16: Tensor) -> np.ndarray:
        return F.normalize(encoder(kaldi_fbank(wave16, subtract_mean=True)[None])[0], dim=0).numpy()

    embeddings, halves = [], []
    for row in tqdm(store.rows, desc="embeddings", unit="utt"):
        wave16 = resample(torch.from_numpy(store.wav(row)), SAMPLE_RATE, 16000)
        embeddings.append(heard(wave16))
        # A named voice has other utterances, which say more of how far its embeddings differ.
        alone = row["corpus"] == "librispeech"
        halves.append([heard(half) for half in wave16.chunk(2)] if alone else [embeddings[-1]] * 2)
    store.write_embeddings(np.stack(embeddings), np.array(halves))


def main() -> None:
    """Command line of the module; see its docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of parquet shards")
    parser.add_argument("--speakers", type=Path, help="parquet of real people")
    parser.add_argument("--teacher", type=Path, required=True, help="campplus.onnx")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, help="YAML with the keys of SpeakerTraining")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--every", type=int, metavar="N", help="only each Nth recording, to try things out")
    parser.add_argument("--features", type=Path, help="feature folder to write the embeddings of, when trained")
    options = parser.parse_args()
    values = yaml.safe_load(options.config.read_text(encoding="utf-8")) if options.config else {}
    config = SpeakerTraining.model_validate(values)
    given = {key: getattr(options, key) for key in ("minutes", "threads") if getattr(options, key) is not None}
    crops = {"every": options.every} if options.every is not None else {}
    config = config.model_copy(
        update={"run": config.run.model_copy(update=given), "crops": config.crops.model_copy(update=crops)}
    )
    train(options.corpus, options.speakers, options.teacher, options.out, config)
    if options.features is not None:
        write_embeddings(options.features, options.out)


if __name__ == "__main__":
    main()
