"""Our Qwen2 against that of `transformers`: the same weights, prefill and 50 steps of decoding, a ragged batch."""

from __future__ import annotations

import pytest
import torch
from lm_cases import Recorder, tiny_lm

from fireside.engine.lm import LMDecoder
from fireside.engine.sampling import greedy
from fireside.models.turns import PlainMachine

transformers = pytest.importorskip("transformers")

LENGTHS = (7, 31, 18, 2)
STEPS = 50
ATOL = 1e-4


@pytest.fixture(scope="module")
def lm():
    """A small model of the released shape: seven query heads to each of two key heads."""
    sizes = {"hidden_size": 112, "num_heads": 14, "intermediate_size": 200, "num_layers": 4}
    model = tiny_lm(**sizes, rope_theta=1e6, control="separate", head_bias=True, num_control=3)
    with torch.no_grad():  # Of the size that trained weights have: larger ones multiply the rounding of every layer.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    return model


@pytest.fixture(scope="module")
def theirs(lm):
    """`transformers`' model with our weights."""
    config = lm.config
    model = transformers.Qwen2Model(
        transformers.Qwen2Config(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            intermediate_size=config.intermediate_size,
            vocab_size=config.text_vocab_size,
            rope_theta=config.rope_theta,
            rms_norm_eps=config.rms_norm_eps,
            attn_implementation="eager",
        )
    )
    model.load_state_dict(lm.decoder.state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def sequences(lm) -> list[list[int]]:
    """What four requests feed first."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(50, (length,), generator=generator).tolist() for length in LENGTHS]
    return [[lm.control.sos, *(~i for i in text), lm.control.task] for text in texts]


@torch.inference_mode()
def test_prefill_of_a_ragged_batch(lm, theirs, sequences):
    longest = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences])
    real = torch.tensor([[i < len(sequence) for i in range(longest)] for sequence in sequences])
    ours = lm(ids)
    expected = theirs(inputs_embeds=lm.embed(ids), attention_mask=real.long()).last_hidden_state
    assert (ours - expected)[real].abs().max() <= ATOL


@torch.inference_mode()
def test_decoding_of_a_ragged_batch(lm, theirs, sequences):
    decoder = LMDecoder(lm, slots=len(sequences), max_len=128, rows=4)
    recorders = [Recorder(greedy) for _ in sequences]
    machines = []
    for sequence, recorder in zip(sequences, recorders, strict=True):
        text = [~i for i in sequence[1:-1]]
        machines.append(PlainMachine(lm.control, text, min_tokens=STEPS + 1, max_tokens=STEPS + 1))
        decoder.admit(machines[-1], recorder)
    while decoder.step():
        pass
    for sequence, machine, recorder in zip(sequences, machines, recorders, strict=True):
        assert len(recorder.scores) == STEPS + 1
        cache, feed = transformers.DynamicCache(), sequence
        for token, scores in zip(machine.history, recorder.scores, strict=True):
            result = theirs(inputs_embeds=lm.embed(torch.tensor([feed])), past_key_values=cache, use_cache=True)
            expected = lm.llm_decoder(result.last_hidden_state[0, -1]).log_softmax(0)
            speech = slice(0, lm.control.first)
            assert (scores[speech] - expected[speech]).abs().max() <= ATOL
            feed = [token]
