"""One GAN training step of the vocoder against the original's: both turns, their losses and gradients."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch
from hift_case import vocoder_config
from torch import Tensor

from fireside.audio.features import MelSpectrogram
from fireside.models.config import DiscriminatorConfig
from fireside.models.discriminators import Discriminators
from fireside.models.hift import HiFT
from fireside.train.vocoder_losses import (
    discriminator_loss,
    feature_loss,
    generator_loss,
    relativistic_loss,
)

FM_WEIGHT, MEL_WEIGHT, TAU = 2.0, 45.0, 0.04  # the official recipe: FACTS section 8


def recipe_weights(names_shapes: dict[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """The case's discriminator weights, by the recipe in its NOTE.md."""
    weights = {}
    for name, shape in names_shapes.items():
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        a = rng.standard_normal(tuple(shape)).astype(np.float32)
        if name.endswith(("weight_g", "original0")):
            a = 0.7 + 0.3 * np.abs(a)
        elif a.ndim == 1:
            a = 0.1 * a
        else:
            a = (a / np.sqrt(np.float64(np.prod(shape[1:])))).astype(np.float32)
        weights[name] = torch.from_numpy(np.asarray(a, dtype=np.float32))
    return weights


def official_name(ours: str) -> str:
    """The period discriminators' files use the old weight-norm names."""
    if ours.startswith("mpd."):
        ours = ours.replace("parametrizations.weight.original0", "weight_g")
        ours = ours.replace("parametrizations.weight.original1", "weight_v")
    return ours


def grad_norms(module: torch.nn.Module, names: list[str]) -> Tensor:
    norms = {official_name(k): p.grad.double().norm() for k, p in module.named_parameters() if p.grad is not None}
    return torch.stack([norms.get(name, torch.zeros((), dtype=torch.float64)) for name in names])


def draws(inputs: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """The generator's noise and start phase, in our layout and units."""
    noise = inputs["draw1_randn_like"]
    if "draw0_uniform_sample" not in inputs:  # the start phase of CosyVoice 2 and 3 has no effect
        return {"noise": noise, "phase": None}
    phase = inputs["draw0_uniform_sample"][..., 0].double() / (2 * math.pi)
    phase[:, 0] = 0
    return {"noise": noise.transpose(1, 2), "phase": phase}


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_gan_step(golden_case, version):
    case = golden_case(f"{version}_hifigan_losses")
    generator = HiFT(vocoder_config(case.config["generator_ctor"]))
    generator.load_state_dict(case.weights, strict=True)
    critics = Discriminators(DiscriminatorConfig())
    shapes = {official_name(k): v.shape for k, v in critics.state_dict().items()}
    assert set(shapes) == set(case.config["discriminator_grad_names"])
    critics.load_state_dict(recipe_weights(shapes, case.config["disc_seed"]), strict=True)
    p = case.config["mel_params"]
    mel = MelSpectrogram(
        p["sampling_rate"], p["n_fft"], p["hop_size"], p["win_size"], p["num_mels"], p["fmin"], p["fmax"]
    )
    real, pitch = case.inputs["speech"], case.inputs["pitch_feat"]
    drawn = draws(case.inputs)
    got: dict[str, Tensor] = {}

    ours, f0, _ = generator(case.inputs["speech_feat"].transpose(1, 2), **drawn)
    got["generated_speech"], got["generated_f0"] = ours, f0
    # The sines' phase adds up rounding errors. So the critics judge the stored waveform, with our gradient.
    fake = ours + (case.outputs["generated_speech"] - ours).detach()

    real_scores, real_maps = critics(real)
    fake_scores, _ = critics(fake.detach())
    got["discriminator_loss_disc"] = discriminator_loss(real_scores, fake_scores)
    got["discriminator_loss_tpr"] = relativistic_loss(real_scores, fake_scores, TAU)
    got["discriminator_loss"] = got["discriminator_loss_disc"] + got["discriminator_loss_tpr"]
    got["discriminator_loss"].backward()
    got["discriminator_grad_norms"] = grad_norms(critics, case.config["discriminator_grad_names"])

    critics.requires_grad_(False)
    real_scores, real_maps = [s.detach() for s in real_scores], [[m.detach() for m in maps] for maps in real_maps]
    fake_scores, fake_maps = critics(fake)
    got["generator_loss_gen"] = generator_loss(fake_scores)
    got["generator_loss_fm"] = feature_loss(real_maps, fake_maps)
    got["generator_loss_mel"] = (mel(real) - mel(fake)).abs().mean()
    got["generator_loss_tpr"] = relativistic_loss(fake_scores, real_scores, TAU)
    got["generator_loss_f0"] = (f0 - pitch).abs().mean()
    got["generator_loss"] = (
        got["generator_loss_gen"]
        + FM_WEIGHT * got["generator_loss_fm"]
        + MEL_WEIGHT * got["generator_loss_mel"]
        + got["generator_loss_tpr"]
        + got["generator_loss_f0"]
    )
    got["generator_loss"].backward()
    got["generator_grad_norms"] = grad_norms(generator, case.config["generator_grad_names"])
    for i, (r, g) in enumerate(zip(real_scores, fake_scores, strict=True)):
        got[f"d{i}_real"], got[f"d{i}_gen"] = r, g
    got["fmap_abs_mean_real"] = torch.stack([m.abs().mean() for maps in real_maps for m in maps])
    got["fmap_abs_mean_gen"] = torch.stack([m.abs().mean() for maps in fake_maps for m in maps])
    got["fmap_numel"] = torch.tensor([m.numel() for maps in fake_maps for m in maps])

    with torch.no_grad():
        fixed = 0.7 * torch.roll(real, 37, dims=-1)
        fixed_scores, fixed_maps = critics(fixed)
        got["fixed_gen"] = generator_loss(fixed_scores)
        got["fixed_fm"] = feature_loss(real_maps, fixed_maps)
        got["fixed_mel"] = (mel(real) - mel(fixed)).abs().mean()
        got["fixed_disc"] = discriminator_loss(real_scores, fixed_scores)
        got["fixed_tpr_gen"] = relativistic_loss(fixed_scores, real_scores, TAU)
        got["fixed_tpr_disc"] = relativistic_loss(real_scores, fixed_scores, TAU)
    case.compare({key: value.detach() for key, value in got.items()})
