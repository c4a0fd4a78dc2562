"""Discriminators: official names and sizes, and small ones for a CPU."""

from __future__ import annotations

import json

import torch

from fireside.models.config import DiscriminatorConfig
from fireside.models.discriminators import Discriminators

SMALL = DiscriminatorConfig(
    periods=(2, 3),
    period_channels=(4, 6, 8),
    n_ffts=(256,),
    hops=(64,),
    win_lengths=(200,),
    spectrum_channels=4,
)


def test_official_names_and_sizes(shared):
    """The full-size discriminators have exactly the tensors of the official GAN checkpoint."""
    manifest = json.loads((shared / "manifests" / "v3_hifigan.json").read_text(encoding="utf-8"))
    prefix = "discriminator."
    official = {e["name"][len(prefix) :]: e["shape"] for e in manifest if e["name"].startswith(prefix)}
    with torch.device("meta"):
        ours = {k: list(v.shape) for k, v in Discriminators(DiscriminatorConfig()).state_dict().items()}
    parametrised = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): shape
        for name, shape in official.items()
    }
    assert ours == parametrised


def test_one_judgement_per_discriminator():
    torch.manual_seed(0)
    critics = Discriminators(SMALL)
    wave = torch.randn(2, 1001)  # no multiple of any period
    scores, features = critics(wave)
    assert [len(s) for s in scores] == [2, 2, 2]
    assert [len(maps) for maps in features] == [4, 4, 6]
    alone, _ = critics(wave[1:])
    for both, one in zip(scores, alone, strict=True):
        torch.testing.assert_close(both[1:], one)


def test_gradients_reach_the_waveform_through_every_discriminator():
    critics = Discriminators(SMALL)
    for i in range(3):
        wave = torch.randn(1, 1000, requires_grad=True)
        critics(wave)[0][i].square().mean().backward()
        assert wave.grad is not None
        assert wave.grad.abs().sum() > 0
