import itertools

import numpy as np
import pytest
import torch

from fireside.errors import AudioError
from fireside.models.config import TokenizerConfig
from fireside.models.speech_tokenizer import BLANK, FSQ, SpeechTokenizer, word_ends


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    torch.manual_seed(0)
    config = TokenizerConfig(
        n_mels=8,
        dim=16,
        heads=2,
        layers_before=2,
        layers_after=1,
        conv_kernel=5,
        fsq_levels=(3, 5),
        ctc_vocab_size=6,
    )
    model = SpeechTokenizer(config).eval()
    # Statistics of a trained model: codes spread over the levels instead of all falling onto the middle one.
    model.train()
    log_mel = torch.randn(4, 8, 160)
    for _ in range(60):
        lengths = torch.full((4,), 40)
        model.quantise(model.hidden(log_mel, lengths), lengths)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("levels", [(3, 3, 3, 3, 3, 3), (3, 5, 7)])
def test_every_code_survives_values_and_quantisation(levels):
    fsq = FSQ(levels)
    ids = torch.arange(int(np.prod(levels)))
    values = fsq.values(ids)
    assert values.shape == (len(ids), len(levels))
    assert len(values.unique(dim=0)) == len(ids)
    assert values.abs().max() == 1
    quantised, again = fsq(torch.atanh(values * 0.98))
    assert torch.equal(again, ids)
    torch.testing.assert_close(quantised, values)


def test_gradient_passes_straight_through_the_rounding():
    x = torch.tensor([[0.3, -1.2, 0.0]], requires_grad=True)
    quantised, _ = FSQ((3, 5, 3))(x)
    quantised.sum().backward()
    torch.testing.assert_close(x.grad, 1 - torch.tanh(x.detach()) ** 2)


def test_a_row_gives_the_same_tokens_padded_in_a_batch_and_alone(tokenizer):
    torch.manual_seed(1)
    lengths = torch.tensor([40, 9, 25])
    log_mel = torch.randn(3, 8, 160)  # what lies behind a row's end must not matter
    hidden = tokenizer.hidden(log_mel, lengths)
    codes, ids = tokenizer.quantise(hidden, lengths)
    scores = tokenizer.ctc_logits(codes, lengths)
    assert len(ids.unique()) > 5
    for row, length in enumerate(lengths.tolist()):
        alone = log_mel[row : row + 1, :, : 4 * length]
        one = torch.tensor([length])
        own = tokenizer.hidden(alone, one)
        torch.testing.assert_close(own, hidden[row : row + 1, :length], atol=1e-5, rtol=0)
        assert torch.equal(tokenizer.encode(alone)[0], ids[row, :length])
        torch.testing.assert_close(
            tokenizer.ctc_logits(codes[row : row + 1, :length], one),
            scores[row : row + 1, :length],
            atol=1e-4,
            rtol=0,
        )


def test_tokens_do_not_depend_on_what_is_far_away(tokenizer):
    torch.manual_seed(2)
    far = 4 * (2 * tokenizer.window * tokenizer.config.layers_before + 20)
    log_mel = torch.randn(1, 8, far)
    other = log_mel.clone()
    other[:, :, -8:] += 3
    first, second = tokenizer.encode(log_mel)[0], tokenizer.encode(other)[0]
    assert torch.equal(first[:20], second[:20])
    assert not torch.equal(first, second)


def test_nothing_to_encode_is_said(tokenizer):
    with pytest.raises(AudioError, match="at least one second"):
        tokenizer.encode(torch.zeros(1, 8, 3))


def scores_of(path: list[int], classes: int = 5) -> np.ndarray:
    """Log-probabilities that leave no doubt about a path."""
    probabilities = np.full((len(path), classes), 0.01)
    probabilities[np.arange(len(path)), path] = 1 - 0.01 * (classes - 1)
    return np.log(probabilities)


def test_a_pause_goes_to_the_word_before_it():
    path = [BLANK, 1, BLANK, 2, *[BLANK] * 6, 3, BLANK]
    assert word_ends(scores_of(path), [[1, 2], [3]]) == [9, 12]


def test_a_short_gap_is_shared():
    path = [1, 2, BLANK, BLANK, 3, 3]
    assert word_ends(scores_of(path), [[1, 2], [3]]) == [3, 6]


def test_the_same_sound_twice_is_two_sounds():
    path = [1, 1, BLANK, 1, BLANK, 2]
    assert word_ends(scores_of(path), [[1], [1], [2]]) == [2, 4, 6]


def test_alignment_is_the_best_of_all_paths():
    rng = np.random.default_rng(0)
    words, phones = [[1], [2, 1]], [1, 2, 1]
    for _ in range(20):
        scores = np.log(rng.dirichlet(np.ones(3), size=6))
        best, best_path = -np.inf, ()
        for path in itertools.product(range(3), repeat=6):
            collapsed = [key for key, _ in itertools.groupby(path) if key != BLANK]
            total = sum(scores[i, label] for i, label in enumerate(path))
            if collapsed == phones and total > best:
                best, best_path = total, path
        runs = [(key, len(list(group))) for key, group in itertools.groupby(best_path)]
        spans, position = [], 0
        for key, size in runs:
            if key != BLANK:
                spans.append((position, position + size))
            position += size
        assert word_ends(scores, words) == [(spans[0][1] + spans[1][0]) // 2, 6]


@pytest.mark.parametrize("words", [[[1, 2], [3, 4]], [[1], [1, 2]]])
def test_a_text_that_cannot_fit_is_refused(words):
    with pytest.raises(AudioError, match="longer than what the recording can hold"):
        word_ends(scores_of([1, 2, 3]), words)


def test_align_gives_rising_ends_up_to_the_last_token(tokenizer):
    tokens = torch.arange(15).repeat(2)
    ends = tokenizer.align(tokens, [[1, 2], [3], [4, 5, 1]])
    assert len(ends) == 3
    assert 0 < ends[0] < ends[1] < ends[2] == 30
