"""The flow's start noise: a function of the frame, of any length, that leaves the global generator alone."""

import hashlib
import json

import numpy as np
import pytest
import torch

from fireside.engine.noise import OFFICIAL_FRAMES, lazy_noise, official_noise, start_noise
from fireside.models.config import FlowConfig


@pytest.mark.parametrize("make", [lazy_noise, official_noise])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (63, 65), (100, 400), (14990, 15070), (10**7, 10**7 + 3), (5, 5)])
def test_any_stretch_is_the_same_frames(make, start, stop):
    wide = make(max(0, start - 70), stop + 70, 80)
    assert torch.equal(make(start, stop, 80), wide[:, start - max(0, start - 70) :][:, : stop - start])


def test_it_is_standard_normal_and_does_not_repeat():
    noise = lazy_noise(0, 4096, 80)
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert noise.unique().numel() > 0.99 * noise.numel()


def test_official_noise_is_the_released_models(shared):
    summary = json.loads((shared / "manifests" / "SUMMARY.json").read_text())["v3_flow_rand_noise"]
    noise = official_noise(0, OFFICIAL_FRAMES, 80)
    assert [1, *noise.shape] == summary["shape"]
    digest = hashlib.sha256(np.ascontiguousarray(noise.numpy()).tobytes()).hexdigest()
    assert digest == summary["sha256_f32"]


def test_golden_noise(golden_case):
    stored = golden_case("v3_tts_pipeline").inputs["noise"][0]
    got = start_noise(FlowConfig(), 0, stored.shape[1])
    assert torch.equal(got, stored)


@pytest.mark.parametrize("kind", ["official", "lazy"])
def test_the_global_generator_is_left_alone(kind):
    before = torch.random.get_rng_state()
    start_noise(FlowConfig(start_noise=kind), 0, 2 * OFFICIAL_FRAMES)
    assert torch.equal(torch.random.get_rng_state(), before)
