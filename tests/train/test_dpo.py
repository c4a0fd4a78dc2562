"""Direct preference optimisation: what the loss is at the reference, and where it pushes."""

from __future__ import annotations

import math

import pytest
import torch
from lm_cases import tiny_lm

from fireside.models.layout import IGNORE, plain_sequence
from fireside.train.dpo import preference_loss, sequence_log_probabilities
from fireside.train.lm import collate


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_policy_that_is_its_reference(label_smoothing):
    logps = torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -0.5])
    preference = preference_loss(*logps, *logps, label_smoothing=label_smoothing)
    assert float(preference.loss) == pytest.approx(math.log(2))
    assert preference.chosen_rewards.tolist() == [0.0, 0.0]
    assert float(preference.accuracy) == 0.0


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_a_step_makes_the_chosen_speech_likelier(kind):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7, requires_grad=True)
    targets = torch.tensor([[IGNORE, 1, 2, 3, IGNORE], [IGNORE, 4, 5, IGNORE, IGNORE]])
    reference = sequence_log_probabilities(logits, targets).detach()

    def loss() -> torch.Tensor:
        chosen, rejected = sequence_log_probabilities(logits, targets).split(1)
        return preference_loss(chosen, rejected, reference[:1], reference[1:], beta=0.1, kind=kind).loss

    before = loss()
    before.backward()
    assert logits.grad is not None
    unasked = targets == IGNORE
    assert not logits.grad[unasked].any()
    with torch.no_grad():
        logits -= logits.grad
        chosen, rejected = sequence_log_probabilities(logits, targets)
    assert chosen > reference[0]
    assert rejected < reference[1]
    assert loss() < before


def test_what_is_not_asked_does_not_count():
    """Bug 1."""
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, 2] = 3.0
    targets = torch.tensor([[IGNORE, 2, IGNORE]])
    expected = logits[0, 1].log_softmax(0)[2]
    torch.testing.assert_close(sequence_log_probabilities(logits, targets), expected[None])
    logits[0, 0] = torch.tensor([50.0, -50.0, 0.0, 1.0])
    torch.testing.assert_close(sequence_log_probabilities(logits, targets), expected[None])
    assert sequence_log_probabilities(logits, torch.full((1, 3), IGNORE)).tolist() == [0.0]


@pytest.mark.parametrize("control", ["shared", "separate"])
def test_lms_of_either_kind_learn_a_preference(control):
    """Bug 12: the original's works only where sos and task have an embedding of their own."""
    lm = tiny_lm(control=control)
    text, chosen, rejected = [1, 2, 3], [4, 5, 6, 7], [8, 9]
    batch = collate([plain_sequence(lm.control, text, speech) for speech in (chosen, rejected)])

    def logps() -> torch.Tensor:
        return sequence_log_probabilities(lm.llm_decoder(lm(batch.inputs)), batch.targets)

    reference = logps().detach()
    optimizer = torch.optim.SGD(lm.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        now = logps()
        preference_loss(now[:1], now[1:], reference[:1], reference[1:], beta=0.1).loss.backward()
        optimizer.step()
    gain = logps().detach() - reference
    assert gain[0] > gain[1]
