"""The judge of what the LM says: the tokenizer's own judgement, sooner."""

import random

import pytest
import torch

from fireside.engine.judge import LONGEST, PhoneJudge
from fireside.models.config import TokenizerConfig
from fireside.models.speech_tokenizer import SpeechTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    torch.manual_seed(0)
    config = TokenizerConfig(dim=32, heads=2, layers_before=1, layers_after=2, ctc_vocab_size=60)
    return SpeechTokenizer(config).eval().requires_grad_(False)


@pytest.mark.parametrize(("context", "speech"), [(0, 3), (0, 12), (24, 12), (40, 60), (0, LONGEST), (1, LONGEST)])
def test_it_judges_as_the_tokenizer_does(tokenizer: SpeechTokenizer, context: int, speech: int) -> None:
    """Longer than the window of attention, too, and than its tables."""
    rng = random.Random(context + speech)
    before, said = ([rng.randrange(729) for _ in range(count)] for count in (context, speech))
    phones = [rng.randrange(1, 60) for _ in range(max(1, speech // 4))]
    expected = tokenizer.nats(before, said, phones)
    assert PhoneJudge(tokenizer)(before, said, phones) == pytest.approx(expected, rel=2e-3)


def test_what_cannot_be_heard_is_infinitely_unlikely_and_nothing_certain(tokenizer: SpeechTokenizer) -> None:
    judge = PhoneJudge(tokenizer)
    assert judge([], [1, 2], [1, 2, 3]) == float("inf")
    assert judge([1], [1, 2], []) == 0.0


def test_what_came_before_counts(tokenizer: SpeechTokenizer) -> None:
    judge = PhoneJudge(tokenizer)
    assert judge([5, 6, 7], [1, 2, 3], [4]) != judge([], [1, 2, 3], [4])
