"""Decoding with CosyVoice 1's LM: right against the modules, blind to the neighbours, and never out of positions."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from lm_cases import Recorder

from fireside.engine import transformer_lm
from fireside.engine.sampling import RepetitionAware, greedy
from fireside.engine.transformer_lm import TransformerLMDecoder
from fireside.errors import ModelError, TextError
from fireside.models.config import EncoderConfig, SamplingConfig, TransformerLMConfig
from fireside.models.layout import ControlIds
from fireside.models.transformer_lm import TransformerLM
from fireside.models.turns import MixMachine, PlainMachine

SPEECH = 40


@pytest.fixture(scope="module")
def lm() -> TransformerLM:
    """A small random model, every position of which matters."""
    text = EncoderConfig(input_dim=12, dim=16, heads=2, ff_dim=24, layers=2, chunk=1)
    decoder = EncoderConfig(
        input_dim=16,
        dim=16,
        heads=2,
        ff_dim=32,
        layers=2,
        block="transformer",
        activation="relu",
        input_relu=True,
        chunk=1,
    )
    config = TransformerLMConfig(
        text_vocab_size=50, speech_vocab_size=SPEECH, speaker_dim=6, text_encoder=text, decoder=decoder
    )
    torch.manual_seed(0)
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
    return model


def request(lm: TransformerLM, seed: int) -> tuple[PlainMachine, torch.Tensor | None, Recorder]:
    """A request of its own size, every second one without a speaker."""
    rng = random.Random(seed)
    text = [rng.randrange(50) for _ in range(rng.randint(2, 9))]
    prompt = [rng.randrange(SPEECH) for _ in range(rng.randint(0, 9))]
    machine = PlainMachine(lm.control, text, [], prompt, min_tokens=8, max_tokens=rng.randint(9, 20))
    speaker = torch.randn(6, generator=torch.Generator().manual_seed(seed)) if seed % 2 else None
    draws = RepetitionAware(SamplingConfig(), torch.Generator().manual_seed(seed))
    return machine, speaker, Recorder(draws)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_cache_agrees_with_the_full_forward(lm, rows, monkeypatch):
    """Also where projected positions have to be added on the way."""
    monkeypatch.setattr(transformer_lm, "GROWTH", 8)
    decoder = TransformerLMDecoder(lm, slots=1, max_len=64, rows=rows)
    for seed in range(3):
        machine, speaker, recorder = request(lm, seed)
        feed = machine.next().feed
        handle = decoder.admit(machine, recorder, speaker)
        while not machine.done:
            decoder.step()
        decoder.release(handle)
        with torch.inference_mode():
            logits = lm.llm_decoder(lm(lm.embed([*feed, *machine.history], speaker)[None]))[0]
        expected = logits[-len(machine.history) - 1 :].log_softmax(-1)[: len(recorder.scores)]
        got = torch.stack(recorder.scores)
        said = torch.isfinite(got)
        torch.testing.assert_close(got[said], expected[said], atol=2e-4, rtol=0)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_request_says_the_same_alone_and_among_others(lm, rows, monkeypatch):
    monkeypatch.setattr(transformer_lm, "GROWTH", 8)
    alone = {}
    for seed in range(5):
        machine, speaker, recorder = request(lm, seed)
        decoder = TransformerLMDecoder(lm, slots=1, max_len=64, rows=rows)
        decoder.admit(machine, recorder, speaker)
        while not machine.done:
            decoder.step()
        alone[seed] = machine.history, recorder.scores
    decoder = TransformerLMDecoder(lm, slots=5, max_len=64, rows=rows)
    crowd = {}
    for seed in (3, 0, 4, 1, 2):
        machine, speaker, recorder = request(lm, seed)
        decoder.admit(machine, recorder, speaker)
        crowd[seed] = machine, recorder
        decoder.step()
    while decoder.step():
        pass
    for seed, (history, scores) in alone.items():
        machine, recorder = crowd[seed]
        assert machine.history == history
        assert all(torch.equal(a, b) for a, b in zip(recorder.scores, scores, strict=True))


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"weights": "int8"}])
def test_less_precision_says_about_the_same(lm, options):
    """From a module in bfloat16 too, as a converted folder has it."""
    exact, rough = Recorder(greedy), Recorder(greedy)
    for module, recorder, chosen in ((lm, exact, {}), (copy.deepcopy(lm).bfloat16(), rough, options)):
        decoder = TransformerLMDecoder(module, slots=1, max_len=32, **chosen)
        decoder.admit(PlainMachine(lm.control, [1, 2, 3], max_tokens=1), recorder, torch.ones(6))
        decoder.step()
    difference = (rough.scores[0].exp() - exact.scores[0].exp()).abs().sum()
    assert 0 < difference < 0.1


def test_the_speaker_takes_a_position_of_its_own(lm):
    decoder = TransformerLMDecoder(lm, slots=2, max_len=32)
    machines = [PlainMachine(lm.control, [1, 2, 3], max_tokens=4) for _ in range(2)]
    bare = decoder.admit(machines[0], greedy)
    voiced = decoder.admit(machines[1], greedy, torch.ones(6))
    decoder.step()
    assert (bare.length, voiced.length) == (5, 6)


def test_a_request_that_outgrows_the_context_gets_a_clear_error(lm):
    """Bug 22; and the speaker's position counts."""
    decoder = TransformerLMDecoder(lm, slots=2, max_len=12)
    text = [1] * 10
    fits = decoder.admit(PlainMachine(lm.control, text, max_tokens=1), greedy)
    long = decoder.admit(PlainMachine(lm.control, text, max_tokens=1), greedy, torch.ones(6))
    results = dict(decoder.step())
    assert isinstance(results[long], TextError)
    assert "12 positions" in str(results[long])
    assert not isinstance(results[fits], Exception)


def test_text_cannot_stream_into_it(lm):
    with pytest.raises(ModelError, match="whole text"):
        MixMachine(lm.control)


def test_control_ids_do_not_collide():
    control = ControlIds.apart(SPEECH, 1)
    assert (control.eos, control.first, control.end) == (SPEECH, SPEECH, SPEECH + 1)
    assert len({control.sos, control.task, control.fill, control.eos}) == 4
    assert not control.has_fill


def test_names_and_shapes_of_the_released_checkpoint(shared):
    manifest = json.loads((shared / "manifests" / "v1_llm.json").read_text())
    with torch.device("meta"):
        ours = {name: list(value.shape) for name, value in TransformerLM(TransformerLMConfig()).state_dict().items()}
    assert ours == {entry["name"]: entry["shape"] for entry in manifest}
