"""Training the vocoder: both phases run, the loss falls, a run resumes, the weights load strictly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hift_case import official_small
from safetensors.torch import load_file

from fireside.errors import UsageError
from fireside.models.config import DiscriminatorConfig, VocoderConfig
from fireside.models.hift import HiFT
from fireside.train.data import KINDS, FeatureStore
from fireside.train.loop import Run, RunConfig
from fireside.train.vocoder import HEARTH, Crops, VocoderTrainer, VocoderTraining, main, perturb, synthesise, train

TINY = HEARTH.model_copy(update={"base_channels": 32, "f0_channels": 16})
TRAINING = VocoderTraining(
    batch=2,
    crop=8,
    f0_batch=2,
    f0_crop=12,
    energy_start=0.0,
    gan_start=0.0,
    gan_rows=1,
    texture_weight=5.0,
    validate_every=2,
    windows=(256, 128),
    mels=(20, 10),
    windows_per_step=2,
    critics=DiscriminatorConfig(
        periods=(2,),
        period_channels=(4, 4),
        n_ffts=(128,),
        hops=(64,),
        win_lengths=(128,),
        spectrum_channels=4,
    ),
)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A feature folder of four tones of 30 tokens, one per split and corpus."""
    folder = tmp_path_factory.mktemp("features")
    tokens, rows = 30, []
    kinds = [(split, corpus) for split in ("train", "val") for corpus in ("kokoro", "librispeech")]
    data: dict[str, list[np.ndarray]] = {kind: [] for kind in ("wav", "mel", "f0")}
    for number, (split, corpus) in enumerate(kinds):
        time = np.arange(tokens * 960) / 24000
        data["wav"].append(8000 * np.sin(2 * np.pi * 150 * (1 + number) * time))
        data["mel"].append(np.random.default_rng(number).normal(-5, 1, (tokens * 2, 80)))
        data["f0"].append(np.full(tokens * 2, 150.0 * (1 + number)))
        rows.append(
            {
                "utt": str(number),
                "number": number,
                "first_token": number * tokens,
                "tokens": tokens,
                "split": split,
                "corpus": corpus,
            }
        )
    for kind, values in data.items():
        np.concatenate(values).astype(KINDS[kind][1]).tofile(folder / KINDS[kind][0])
    (folder / "index.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


def test_crops_are_aligned(features):
    crops = Crops(FeatureStore(features), "train", TINY, 0)
    mel, f0, wave = crops.draw(3, 8, 0.0)
    assert mel.shape == (3, 80, 8 + TINY.conv_pre_look_right)
    assert f0.shape == (3, 8)
    assert wave.shape == (3, 8 * TINY.hop_length)
    assert (f0 == 150).all()
    _, f0, _ = crops.draw(3, 8, 1.0)
    assert (f0 == 300).all()
    whole = torch.from_numpy(FeatureStore(features).mel(crops.store.rows[0]))
    windows = whole.unfold(0, 8 + TINY.conv_pre_look_right, 1)
    assert (windows == mel[0]).all(dim=(1, 2)).any()


def test_a_crop_longer_than_every_utterance_is_refused(features):
    with pytest.raises(UsageError, match="smaller crop"):
        Crops(FeatureStore(features), "train", TINY, 0).draw(1, 600, 0.0)


def test_perturbation_touches_a_share_of_the_rows():
    torch.manual_seed(0)
    mel = torch.randn(400, 4, 10)
    assert torch.equal(perturb(mel, 0.0, 0.1), mel)
    changed = (perturb(mel, 0.3, 0.1) != mel).flatten(1).any(1).float().mean()
    assert 0.4 < changed < 0.62  # noise or blur: 1 - 0.7 * 0.7


def test_one_step_trains_generator_and_critics(features, tmp_path):
    run = Run(tmp_path, RunConfig(minutes=1, warmup_steps=0))
    torch.manual_seed(0)
    trainer = VocoderTrainer(TINY, TRAINING, run)
    crops = Crops(FeatureStore(features), "train", TINY, 0)
    before = {
        name: [p.detach().clone() for p in module.parameters()]
        for name, module in (("model", trainer.model), ("critics", trainer.critics))
    }
    first = trainer.step(crops)
    assert set(first) == {"f0", "mel", "log", "linear", "texture", "gen", "features", "rel", "norm", "critic"}
    assert all(torch.isfinite(v) for v in first.values())
    for name, module in (("model", trainer.model), ("critics", trainer.critics)):
        moved = [not torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True)]
        assert sum(moved) > 0.95 * len(moved), name
    for _ in range(80):
        last = trainer.step(crops)
    assert last["mel"] < 0.8 * first["mel"]


def test_a_centred_vocoder_trains_too(features, tmp_path):
    """CosyVoice 2's: no look-ahead to cut the excerpts for, and Gaussian noise in the source."""
    config = official_small(2, n_mels=80)
    crops = Crops(FeatureStore(features), "train", config, 0)
    assert crops.draw(1, 8, 0.0)[0].shape == (1, 80, 8)
    trainer = VocoderTrainer(config, TRAINING, Run(tmp_path, RunConfig(minutes=1, warmup_steps=0)))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    assert all(torch.isfinite(v) for v in trainer.step(crops).values())
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert sum(moved) > 0.95 * len(moved)
    (first,), (second,) = (synthesise(trainer.model, torch.zeros(1, 80, 4), torch.zeros(1, 4)) for _ in range(2))
    assert not torch.equal(first, second)


def test_a_run_writes_weights_and_resumes(features, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "go_on", lambda self: self.step < 2)
    train(features, tmp_path, TINY, TRAINING, RunConfig(log_every=1))
    config = VocoderConfig.model_validate_json((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config == TINY
    HiFT(config).load_state_dict(load_file(tmp_path / "vocoder.safetensors"), strict=True)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    monkeypatch.setattr(Run, "go_on", lambda self: self.step < 3)
    train(features, tmp_path, TINY, TRAINING, RunConfig(log_every=1))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    steps = [line.split("step ")[1].split()[0] for line in lines if " train:" in line]
    assert steps == ["1", "2", "3"]  # the second run went on where the first had stopped
    assert any(" val:" in line for line in lines)


def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(UsageError, match="sped"):
        main(["--features", str(tmp_path), "--out", str(tmp_path), "--set", "sped=3"])
