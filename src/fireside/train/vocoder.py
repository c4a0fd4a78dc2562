"""Training of the vocoder from nothing: spectral distances and textures, then an energy distance, then discriminators.

    python -m fireside.train.vocoder --features DIR --out DIR [--minutes N] [--threads N] [--set key=value
    ...]

The source is fed the f0 track at first, so that harmonics stand in the right place from the first step; later
part of the batches use the predicted f0, as synthesis does. Mels are perturbed in part of the rows, because at
synthesis they come from the flow. The energy distance teaches which parts are noise, at the cost of the plain
distances; the discriminators refine what is left, and cost more than the generator.
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from fireside.errors import UsageError
from fireside.models.config import Config, DiscriminatorConfig, VocoderConfig, read_config
from fireside.models.discriminators import Discriminators
from fireside.models.hift import HiFT
from fireside.train.data import FeatureStore, Row
from fireside.train.loop import Average, Run, RunConfig
from fireside.train.vocoder_losses import (
    SpectralDistance,
    discriminator_loss,
    feature_loss,
    generator_loss,
    relativistic_loss,
)

HEARTH = VocoderConfig(
    base_channels=256,
    nb_harmonics=47,
    f0_channels=128,
    upsample_rates=(6, 5),
    upsample_kernel_sizes=(12, 11),
    istft_n_fft=64,
    istft_hop=16,
    resblock_kernel_sizes=(3, 7),
    resblock_dilation_sizes=((1, 3, 5), (1, 3, 5)),
    source_resblock_kernel_sizes=(3, 3),
    source_resblock_dilation_sizes=((1, 3), (1, 3)),
    source_phase="sample",
    source_noise="shared",
    istft_phase="angle",
    source_gains=True,
)
"""Two stages and a longer ISTFT than the official one: wide layers at low rates are fast on a CPU.

Harmonics reach 5 kHz at a low voice's 100 Hz: a short training never learns to add what the source lacks, and
speech without harmonics at 2 to 5 kHz makes all speakers alike (speaker similarity 0.5 across speakers, not 0.25).
"""


class VocoderTraining(Config):
    """Batches, weights of the losses, and when each phase begins.

    batch rows of `crop` mel frames for the decoder, the first `gan_rows` of them for the critics; the f0
    predictor has longer excerpts of its own, because it is cheap. Shares and starts are fractions of 1: at 1 the
    critics never come. On a CPU they cost as much as the generator and judge by chance for thousands of steps.
    """

    batch: int = 8
    crop: int = 32
    f0_batch: int = 8
    f0_crop: int = 96
    real_share: float = 0.3
    perturbed_share: float = 0.3
    perturbation: float = 0.1
    energy_start: float = 0.3
    gan_start: float = 1.0
    gan_rows: int = 5
    predicted_f0_start: float = 0.25
    predicted_f0_share: float = 0.1
    mel_weight: float = 45.0
    log_weight: float = 15.0
    linear_weight: float = 10.0
    texture_weight: float = 90.0
    gan_spectral_share: float = 0.4
    feature_weight: float = 2.0
    relativistic_weight: float = 1.0
    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    mels: tuple[int, ...] = (128, 80, 48, 24, 12)
    windows_per_step: int = 3
    critic_rate: float = 5.0
    f0_rate: float = 2.0
    bf16: bool = True
    validate_every: int = 400
    critics: DiscriminatorConfig = DiscriminatorConfig(
        period_channels=(8, 32, 64, 128, 128),
        hops=(512, 1024, 256),
        win_lengths=(1024, 2048, 512),
        spectrum_channels=8,
        log_magnitude=True,
    )


class Crops:
    """Random excerpts of a feature folder; longer utterances are drawn more often.

    Where the folder has no real people, all are of the corpus.
    """

    def __init__(self, store: FeatureStore, split: str, config: VocoderConfig, seed: int) -> None:
        self.store = store
        self.hop = config.hop_length
        self.ahead = config.ahead
        self.random = random.Random(seed)
        self._long_enough: dict[tuple[int, int], tuple[list[Row], list[int]]] = {}
        self.rows = {name: store.select(split, name) for name in ("kokoro", "librispeech")}

    def draw(self, count: int, frames: int, real_share: float) -> tuple[Tensor, Tensor, Tensor]:
        """mel `[count, n_mels, frames + ahead]`, f0 `[count, frames]`, waveform `[count, frames * hop]`."""
        mels: list[np.ndarray] = []
        f0s: list[np.ndarray] = []
        wavs: list[np.ndarray] = []
        for _ in range(count):
            real = self.random.random() < real_share and bool(self.rows["librispeech"])
            row = self._draw_row(self.rows["librispeech" if real else "kokoro"], frames + self.ahead)
            mel = self.store.mel(row)
            start = self.random.randint(0, len(mel) - frames - self.ahead)
            mels.append(mel[start : start + frames + self.ahead].T)
            f0s.append(self.store.f0(row)[start : start + frames])
            wavs.append(self.store.wav(row)[start * self.hop : (start + frames) * self.hop])
        mel_batch, f0_batch, wav_batch = (torch.from_numpy(np.stack(x)).float() for x in (mels, f0s, wavs))
        return mel_batch, f0_batch, wav_batch

    def _draw_row(self, rows: list[Row], frames: int) -> Row:
        key = (id(rows), frames)
        if key not in self._long_enough:
            fit = [row for row in rows if 2 * row["tokens"] >= frames]
            if not fit:
                raise UsageError(f"no utterance has {frames} mel frames; use more audio or a smaller crop.")
            self._long_enough[key] = (fit, list(itertools.accumulate(row["tokens"] for row in fit)))
        fit, cumulated = self._long_enough[key]
        return self.random.choices(fit, cum_weights=cumulated)[0]


def perturb(mel: Tensor, share: float, strength: float) -> Tensor:
    """Add noise of up to `strength` and blur over time, each in about `share` of the rows."""
    rows = mel.shape[0]
    noise = torch.randn_like(mel) * (strength * torch.rand(rows, 1, 1)) * (torch.rand(rows, 1, 1) < share)
    blurred = F.avg_pool1d(F.pad(mel, (1, 1), mode="replicate"), 3, 1)
    amount = 0.5 * torch.rand(rows, 1, 1) * (torch.rand(rows, 1, 1) < share)
    return torch.lerp(mel, blurred, amount) + noise


def synthesise(model: HiFT, mel: Tensor, f0: Tensor) -> Tensor:
    """Waveform of `frames` frames from a mel with its look-ahead, and a given f0 `[batch, frames]`."""
    samples = f0.shape[1] * model.config.hop_length
    with torch.autocast("cpu", enabled=False):
        shape = (f0.shape[0], samples, model.m_source.noise_channels)
        noise = torch.rand(shape) if model.config.source_noise == "uniform" else torch.randn(shape)
        source, _ = model.m_source(f0, noise)
    return model.waveform(model.spectrum(mel, model.source_spectrum(source)))


class VocoderTrainer:
    """The networks, their optimisers, and one step of each phase."""

    def __init__(self, config: VocoderConfig, training: VocoderTraining, run: Run) -> None:
        self.training, self.run = training, run
        self.model = HiFT(config)
        self.critics = Discriminators(training.critics)
        self.average = Average(self.model, run.config.ema_decay)
        self.distance = SpectralDistance(config.sample_rate, training.windows, training.mels)
        self.f0_parameters = list(self.model.f0_predictor.parameters())
        ours = {id(p) for p in self.f0_parameters}
        self.decoder_parameters = [p for p in self.model.parameters() if id(p) not in ours]
        groups: list[dict[str, Any]] = [
            {"params": self.decoder_parameters},
            {"params": self.f0_parameters, "rate_scale": training.f0_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.99), weight_decay=0.0)
        self.critic_optimizer = torch.optim.AdamW(self.critics.parameters(), betas=(0.8, 0.99), weight_decay=0.0)
        self.parts: dict[str, Any] = {
            "model": self.model,
            "critics": self.critics,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
            "average": self.average,
        }

    def step(self, crops: Crops) -> dict[str, Tensor]:
        """One update of everything; returns the losses."""
        training, run = self.training, self.run
        adversarial = run.progress >= training.gan_start
        mel, f0, wave = crops.draw(training.batch, training.crop, training.real_share)
        mel = perturb(mel, training.perturbed_share, training.perturbation)
        in_pairs = run.progress >= training.energy_start
        if in_pairs:  # each excerpt twice, with the same mel and other noise in the source
            mel, f0, wave = (torch.cat([x[: training.batch // 2]] * 2) for x in (mel, f0, wave))
        losses = self._f0_loss(crops)
        given = f0
        if run.progress >= training.predicted_f0_start and random.random() < training.predicted_f0_share:
            with torch.no_grad():
                given = self.model.predict_f0(mel[..., : f0.shape[1] + self.model.f0_predictor.look_right], final=False)
        windows = [
            training.windows[0],
            *random.sample(training.windows[1:], min(training.windows_per_step, len(training.windows)) - 1),
        ]
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bf16):
            fake = synthesise(self.model, mel, given)
            losses |= self._spectral_losses(fake, wave, windows, (f0 > 0).float() if in_pairs else None)
            total = (
                training.mel_weight * losses["mel"]
                + training.log_weight * losses["log"]
                + training.linear_weight * losses["linear"]
                + training.texture_weight * losses["texture"]
            )
            if adversarial:
                total = total * training.gan_spectral_share
                rows = training.gan_rows  # the critics cost more than the generator
                real_scores, real_maps = self.critics(wave[:rows])
                kept = [[m.detach() for m in maps] for maps in real_maps]
                self.critics.requires_grad_(False)
                scores, maps = self.critics(fake[:rows])
                self.critics.requires_grad_(True)
                losses["gen"] = generator_loss(scores)
                losses["features"] = feature_loss(kept, maps)
                losses["rel"] = relativistic_loss(scores, [s.detach() for s in real_scores])
                total = (
                    total
                    + losses["gen"]
                    + training.feature_weight * losses["features"]
                    + training.relativistic_weight * losses["rel"]
                )
        self.optimizer.zero_grad(set_to_none=True)
        (total + losses["f0"]).backward()
        run.set_rate(self.optimizer)
        losses["norm"] = torch.nn.utils.clip_grad_norm_(self.decoder_parameters, 50.0 * run.config.grad_clip)
        torch.nn.utils.clip_grad_norm_(self.f0_parameters, 50.0 * run.config.grad_clip)
        if not bool(torch.isfinite(losses["norm"])):
            return {"skipped": torch.ones(())}  # a step that overflowed; the clip keeps this rare
        self.optimizer.step()
        self.average.update(self.model)
        if adversarial:
            with torch.autocast("cpu", torch.bfloat16, enabled=training.bf16):
                fake_scores, _ = self.critics(fake[:rows].detach())
                losses["critic"] = discriminator_loss(real_scores, fake_scores)
                critic_total = losses["critic"] + training.relativistic_weight * relativistic_loss(
                    real_scores, fake_scores
                )
            self.critic_optimizer.zero_grad(set_to_none=True)
            critic_total.backward()
            run.set_rate(self.critic_optimizer, training.critic_rate)
            torch.nn.utils.clip_grad_norm_(self.critics.parameters(), 10.0 * run.config.grad_clip)
            self.critic_optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _spectral_losses(
        self, fake: Tensor, wave: Tensor, windows: list[int], voiced: Tensor | None
    ) -> dict[str, Tensor]:
        if voiced is None:
            return self.distance(fake, wave, windows)
        first, second = fake.chunk(2)
        rows = len(first)
        return self.distance(first, wave[:rows], windows, second, voiced[:rows])

    def _f0_loss(self, crops: Crops) -> dict[str, Tensor]:
        training = self.training
        mel, f0, _ = crops.draw(training.f0_batch, training.f0_crop, training.real_share)
        mel = perturb(mel, training.perturbed_share, training.perturbation)
        predicted = self.model.predict_f0(mel[..., : f0.shape[1] + self.model.f0_predictor.look_right], final=False)
        return {"f0": (predicted - f0).abs().mean()}

    @torch.no_grad()
    def validate(self, crops: Crops, batches: int = 4) -> dict[str, float]:
        """Losses of the averaged weights on held-out excerpts, with predicted f0."""
        averaged = HiFT(self.model.config)
        averaged.load_state_dict(self.average.weights())
        totals: dict[str, float] = {}
        for _ in range(batches):
            mel, f0, wave = crops.draw(8, 2 * self.training.crop, 0.0)
            predicted = averaged.predict_f0(mel[..., : f0.shape[1] + averaged.f0_predictor.look_right], final=False)
            distance = self.distance(synthesise(averaged, mel, predicted), wave, self.training.windows)
            distance["f0"] = (predicted - f0).abs().mean()
            for name, value in distance.items():
                totals[name] = totals.get(name, 0.0) + float(value) / batches
        return totals


def train(features: Path, out: Path, config: VocoderConfig, training: VocoderTraining, run_config: RunConfig) -> None:
    """Train until the budget ends, resuming from `out/checkpoint.pt`; writes `out/vocoder.safetensors`."""
    run = Run(out, run_config)
    torch.manual_seed(run_config.seed)
    trainer = VocoderTrainer(config, training, run)
    run.restore(**trainer.parts)
    random.seed(run_config.seed + run.step)
    torch.manual_seed(run_config.seed + run.step)
    store = FeatureStore(features)
    crops = Crops(store, "train", config, run_config.seed + run.step)
    exports = {"vocoder.safetensors": trainer.average.weights}
    (out / "config.json").write_text(config.model_dump_json(indent=1), encoding="utf-8")
    while run.go_on():
        losses = trainer.step(crops)
        run.log(losses)
        if run.step % training.validate_every == 0:
            run.scalars("val", trainer.validate(Crops(store, "val", config, 1)))
        run.save_if_due(exports, **trainer.parts)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, help="fireside.yaml; its vocoder section sets the sizes")
    parser.add_argument("--minutes", type=float, default=80.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="settings")
    options = parser.parse_args(arguments)
    settings: dict[str, dict[str, Any]] = {"training": {}, "run": {}}
    for setting in options.settings:
        key, separator, value = setting.partition("=")
        part = "run" if key in RunConfig.model_fields else "training"
        if not separator or (part == "training" and key not in VocoderTraining.model_fields):
            raise UsageError(f"--set {setting}: no such setting; use key=value with a key of VocoderTraining.")
        settings[part][key] = yaml.safe_load(value)
    run_config = {
        "minutes": options.minutes,
        "threads": options.threads,
        "peak_rate": 5e-4,
        **settings["run"],
    }
    train(
        options.features,
        options.out,
        read_config(options.config).vocoder if options.config else HEARTH,
        VocoderTraining(**settings["training"]),
        RunConfig(**run_config),
    )


if __name__ == "__main__":
    main()
