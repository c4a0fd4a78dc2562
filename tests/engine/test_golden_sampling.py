"""Nucleus and repetition-aware sampling against the original (case sampling)."""

from __future__ import annotations

import pytest
import torch

from fireside.engine.sampling import RepetitionAware, draw, nucleus
from fireside.models.config import SamplingConfig

COMPARED = {
    *("history", "candidates", "candidate_probs", "torch_seed", "nucleus_id", "ras_id"),
    *("exact_ras_distribution", "empirical_counts_400", "resample_if_candidate_drawn"),
}


@pytest.fixture
def case(golden_case):
    return golden_case("sampling")


@pytest.fixture
def config(case) -> SamplingConfig:
    params = case.config["params"]
    return SamplingConfig(top_p=params["top_p"], top_k=params["top_k"], window=params["win_size"], tau=params["tau_r"])


def test_candidate_sets(case, config):
    assert len(case.config["records"]) == len(case.inputs["logp"])
    for record, logp in zip(case.config["records"], case.inputs["logp"], strict=True):
        assert set(record) == COMPARED
        ids, probabilities = nucleus(logp.softmax(0), config.top_p, config.top_k)
        assert ids.tolist() == record["candidates"]
        torch.testing.assert_close(
            probabilities.double(),
            torch.tensor(record["candidate_probs"], dtype=torch.float64),
            atol=1e-7,
            rtol=0,
        )


def test_seeded_draws(case, config):
    for record, logp in zip(case.config["records"], case.inputs["logp"], strict=True):
        generator = torch.Generator().manual_seed(record["torch_seed"])
        ids, probabilities = nucleus(logp.softmax(0), config.top_p, config.top_k)
        assert int(ids[draw(probabilities, generator)]) == record["nucleus_id"]
        generator.manual_seed(record["torch_seed"])
        assert RepetitionAware(config, generator)(logp, record["history"]) == record["ras_id"]


def test_when_it_draws_again(case, config):
    for record, logp in zip(case.config["records"], case.inputs["logp"], strict=True):
        ids, _ = nucleus(logp.softmax(0), config.top_p, config.top_k)
        for token, again in zip(ids.tolist(), record["resample_if_candidate_drawn"], strict=True):
            lately = record["history"][-config.window :].count(token)
            assert (lately >= config.window * config.tau) == again


def test_distribution(case, config):
    """Our draws and the original's 400 both follow the exact distribution (its mass, and its zeros)."""
    for record, logp in zip(case.config["records"][:6], case.inputs["logp"], strict=False):
        exact = torch.tensor(record["exact_ras_distribution"], dtype=torch.float64)
        exact = exact / exact.sum()
        sampler = RepetitionAware(config, torch.Generator().manual_seed(record["torch_seed"]))
        ours = torch.zeros_like(exact)
        for _ in range(400):
            ours[sampler(logp, record["history"])] += 1
        theirs = torch.tensor(record["empirical_counts_400"], dtype=torch.float64)
        for counts in (ours, theirs):
            assert not counts[exact == 0].any()
            # Total variation of n draws over k kinds is about sqrt(k / 2 pi n) at most.
            bound = 2 * (len(exact) / (2 * torch.pi * counts.sum())) ** 0.5
            assert 0.5 * (counts / counts.sum() - exact).abs().sum() < bound
