"""Adaptation: biases that are a voice's own, alone and beside others; and how they are learnt from its recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from fireside.engine import adaptation
from fireside.engine.adaptation import Adapting, adaptation_of, adapted_norms
from fireside.engine.engine import Engine
from fireside.engine.flow import IncrementalFlow
from fireside.engine.noise import start_noise
from fireside.models.checkpoint import ModelFolder
from fireside.models.config import FlowConfig
from fireside.models.flow import CausalFlow
from fireside.request import SpeechRequest
from fireside.voices import Voice

CONFIG = tiny.fitting_config()
FLOW = CONFIG.flow
assert isinstance(FLOW, FlowConfig)
SHAPE = (FLOW.dit.modulations, FLOW.dit.dim)
EVERY_BIN = np.ones(FLOW.n_mels, bool)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return ModelFolder(tiny.write_model(tmp_path_factory.mktemp("adapting"), CONFIG))


@pytest.fixture(scope="module")
def flow(model: ModelFolder) -> CausalFlow:
    assert isinstance(model.flow, CausalFlow)
    return model.flow


def added(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) / 2


def twin(flow: CausalFlow) -> CausalFlow:
    """A second flow with the same weights."""
    other = CausalFlow(flow.config)
    other.load_state_dict(flow.state_dict())
    return other.eval().requires_grad_(False)


def with_biases(flow: CausalFlow, change: Tensor) -> CausalFlow:
    """The flow whose biases differ by that, by the definition of an adaptation."""
    other = twin(flow)
    rows = iter(change)
    for norm in adapted_norms(other.estimator):
        norm.linear.bias.data += torch.cat([next(rows) for _ in range(norm.parts)])
    assert next(rows, None) is None
    return other


def said(voice: Voice, flow: CausalFlow, tokens: Tensor) -> Tensor:
    """The one-shot mel of tokens."""
    noise = start_noise(flow.config, 0, 2 * (len(voice.prompt_tokens) + len(tokens)))
    prompt = torch.from_numpy(voice.prompt_tokens), torch.from_numpy(voice.prompt_mel).T
    return flow.inference(
        tokens[None], *(part[None] for part in prompt), torch.from_numpy(voice.embedding)[None], noise[None],
        chunked=True,
    )[0]  # fmt: skip


@pytest.mark.parametrize("cfg_rate", [0.0, 0.7])
def test_it_is_a_flow_with_other_biases_alone_and_beside_others(flow: CausalFlow, cfg_rate: float) -> None:
    stage = IncrementalFlow(flow, cfg_rate=cfg_rate)
    tokens = torch.arange(23) % tiny.CODES
    voices = [tiny.make_voice("anna", seed) for seed in range(3)]
    changes = [added(1), None, added(2)]
    expected = []
    for voice, change in zip(voices, changes, strict=True):
        other = with_biases(flow, torch.zeros(SHAPE) if change is None else change)
        other.config = other.config.model_copy(update={"cfg_rate": cfg_rate})
        expected.append(said(voice, other, tokens))
    assert (expected[0] - said(voices[0], flow, tokens)).abs().max() > 0.1

    def states() -> list:
        return [
            stage.start(*(torch.from_numpy(part) for part in (v.prompt_tokens, v.prompt_mel.T, v.embedding)), change)
            for v, change in zip(voices, changes, strict=True)
        ]

    for state, mel in zip(states(), expected, strict=True):
        torch.testing.assert_close(stage.append([state], [tokens], [True])[0], mel, atol=1e-4, rtol=0)
    together = states()
    first = stage.append(together, [tokens[:15], tokens[:9], tokens[:20]], [False] * 3)
    rest = stage.append(together, [tokens[15:], tokens[9:], tokens[20:]], [True] * 3)
    for pieces, mel in zip(zip(first, rest, strict=True), expected, strict=True):
        torch.testing.assert_close(torch.cat(pieces, dim=1), mel, atol=1e-4, rtol=0)


def recording(seed: int = 0, tokens: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mel and embedding of a prompt whose every token always sounds alike."""
    voice = tiny.make_voice("anna", seed, tokens)
    sounds = np.random.default_rng(seed + 9).normal(-4, 2, (tiny.CODES, FLOW.n_mels)).astype(np.float32)
    mel = sounds[voice.prompt_tokens].repeat(2, axis=0).T.copy()
    return torch.from_numpy(voice.prompt_tokens), torch.from_numpy(mel), torch.from_numpy(voice.embedding)


def losses(flow: CausalFlow, found: np.ndarray, *parts: Tensor) -> float:
    """The objective on draws that were not learnt from."""
    generator = torch.Generator().manual_seed(77)
    adapting = Adapting(flow, flow.adaptation + torch.from_numpy(found))
    bins = torch.ones(1, FLOW.n_mels, 1)
    with torch.no_grad():
        drawn = [adaptation._rows(*parts, bins, 2, generator) for _ in range(20)]
        return float(np.mean([float(adapting.loss(*each)) for each in drawn]))


def test_a_recording_is_learnt(flow: CausalFlow) -> None:
    parts = recording()
    found = adaptation_of(flow, *parts, EVERY_BIN)
    assert found.shape == SHAPE
    assert found.dtype == np.float32
    before = losses(flow, np.zeros_like(found), *parts)
    assert losses(flow, found, *parts) < 0.95 * before
    assert losses(flow, found, *recording(5)) > losses(flow, found, *parts), "this one, and not speech as such"


def test_nothing_else_changes_and_the_same_comes_twice(flow: CausalFlow) -> None:
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.random.get_rng_state()
    with torch.inference_mode():
        first = adaptation_of(flow, *recording(), EVERY_BIN, steps=3)
    np.testing.assert_array_equal(adaptation_of(flow, *recording(), EVERY_BIN, steps=3), first)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in flow.state_dict().items())
    assert not any(parameter.requires_grad for parameter in flow.parameters())


def test_it_learns_from_where_the_flow_fits_everybody_and_keeps_what_is_beyond(flow: CausalFlow) -> None:
    other = twin(flow)
    other.adaptation.copy_(added(4))
    assert not adaptation_of(other, *recording(), EVERY_BIN, steps=0).any()
    moved = with_biases(flow, added(4))
    np.testing.assert_allclose(
        adaptation_of(other, *recording(), EVERY_BIN, steps=2),
        adaptation_of(moved, *recording(), EVERY_BIN, steps=2),
        atol=1e-5,
    )


def test_rows_are_one_part_of_the_recording_behind_another() -> None:
    length = adaptation.LONGEST + 30
    tokens = torch.arange(length)
    mel = torch.arange(2.0 * length).expand(FLOW.n_mels, -1)
    counted = torch.zeros(1, FLOW.n_mels, 1)
    counted[:, :60] = 1
    generator = torch.Generator().manual_seed(0)
    turned = set()
    for _ in range(20):
        batch, draws = adaptation._rows(tokens, mel, torch.zeros(192), counted, 2, generator)
        assert batch.tokens.shape == (adaptation.ROWS, adaptation.LONGEST)
        assert draws.keep.all()
        for row, sound, prefix, mask in zip(batch.tokens, batch.mel, batch.prefix, batch.loss_mask, strict=True):
            assert torch.equal(sound[0, ::2], 2.0 * row)
            assert torch.equal(sound[0, 1::2], 2.0 * row + 1)
            assert len(set(row.tolist())) == len(row)
            cut = int(prefix) // 2
            assert 0.29 < cut / len(row) < 0.71
            steps = row.diff()
            jumps = (steps != 1).nonzero().flatten()
            assert jumps.tolist() in ([], [cut - 1]), "only between the prompt and what is said"
            turned.add(len(jumps))
            assert not mask[:, : int(prefix)].any()
            assert mask[:60, int(prefix) :].all()
            assert not mask[60:].any()
    assert turned == {0, 1}
    short, _ = adaptation._rows(tokens[:30], mel[:, :60], torch.zeros(192), counted, 2, generator)
    assert short.tokens.shape == (adaptation.ROWS, 30)


def test_a_new_voice_is_adapted_and_then_calibrated(model: ModelFolder, flow: CausalFlow) -> None:
    engine = Engine(model)
    voice = tiny.make_voice("anna", 0, tokens=60)
    got = engine.fitted(voice)
    assert got.adaptation is not None
    assert got.adaptation.shape == SHAPE
    assert got.card.fitted_to == model.flow_fingerprint
    assert engine.fitted(got).fingerprint == got.fingerprint, "what it had before does not count"
    assert got.calibration is not None
    made, plain = (engine._streaming._said_again(replace(each, calibration=None)) for each in (got, voice))
    np.testing.assert_allclose(got.calibration[0], np.quantile(made, np.linspace(0, 1, 7), axis=1), atol=1e-3)
    assert np.abs(made - plain).max() > 0.1
    assert engine.fitted(tiny.make_voice("anna", 0, tokens=20)).adaptation is None, "too short to say who it is"


def test_voices_keep_to_themselves(model: ModelFolder) -> None:
    adapted = [replace(tiny.make_voice("anna", 0), adaptation=added(seed).numpy()) for seed in (1, 2)]
    requests = [SpeechRequest(v, tokens=(tuple(range(20)),)) for v in (*adapted, tiny.make_voice("anna", 0))]
    alone = [np.concatenate([chunk.samples for chunk in Engine(model).generate(each)]) for each in requests]
    assert all(np.abs(alone[i] - alone[i - 1]).max() > 1e-3 for i in range(3)), "else nothing is adapted"
    engine = Engine(model)
    keys = [engine.submit(each) for each in requests]
    got: dict[int, list[np.ndarray]] = {}
    while engine.active:
        for key, chunk in engine.step():
            got.setdefault(key, []).append(chunk.samples)  # type: ignore[union-attr]
    for key, expected in zip(keys, alone, strict=True):
        np.testing.assert_allclose(np.concatenate(got[key]), expected, atol=1e-3)


def test_at_fixed_sizes_adapted_voices_are_rendered_as_they_are_elsewhere(flow: CausalFlow, tmp_path: Path) -> None:
    stage = IncrementalFlow(flow, compile=False)
    fixed = adaptation_passes(flow)
    voice, tokens = tiny.make_voice("anna", 0), torch.arange(20) % tiny.CODES
    parts = [torch.from_numpy(part) for part in (voice.prompt_tokens, voice.prompt_mel.T, voice.embedding)]
    for change in (added(1), None):
        mels = [each.append([each.start(*parts, change)], [tokens], [True])[0] for each in (stage, fixed)]
        torch.testing.assert_close(mels[1], mels[0], atol=1e-4, rtol=0)


def adaptation_passes(flow: CausalFlow) -> IncrementalFlow:
    """A stage that renders at fixed sizes, without compiling anything."""
    from fireside.engine.chunkwise import PASS_CHUNKS
    from fireside.engine.fixed_flow import FixedPasses

    stage = IncrementalFlow(flow)
    stage._fixed = FixedPasses(stage, PASS_CHUNKS)
    return stage
