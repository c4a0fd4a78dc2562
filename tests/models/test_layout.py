"""Sequences of training, and the machines of decoding that walk through the same ones."""

from __future__ import annotations

import random

import pytest

from fireside.errors import TextError
from fireside.models.layout import (
    IGNORE,
    ControlIds,
    LMSequence,
    aligned_blocks,
    block_sequence,
    make_blocks,
    mix_sequence,
    plain_sequence,
    text_ids,
)
from fireside.models.turns import BlockMachine, Event, Machine, MixMachine, PlainMachine, all_but

CONTROL = ControlIds.after(100, 20)
SOS, EOS, TASK, FILL = CONTROL.sos, CONTROL.eos, CONTROL.task, CONTROL.fill
X = IGNORE


def banned_ids(ranges) -> set[int]:
    return {i for first, end in ranges for i in range(first, end)}


def teach(machine: Machine, answers: list[int], supply=lambda: None) -> tuple[list[int], list]:
    """Walk through a machine with known answers: everything that was fed, and everything it gave back."""
    fed: list[int] = []
    out = []
    waited = 0
    while not machine.done:
        supply()
        step = machine.next()
        if step is None:
            waited += 1
            assert waited < 1000, "the machine waits for ever"
            continue
        answer = answers[len(out)]
        assert step.forced in (None, answer)
        assert step.forced is not None or answer not in banned_ids(step.banned)
        fed += step.feed
        out.append(machine.accept(answer))
    assert machine.next() is None
    return fed, out


def asked(sequence: LMSequence, skip: int = 0) -> list[int]:
    return [target for target in sequence.targets if target != IGNORE][skip:]


def test_block_sequence_by_hand():
    """Look-ahead of one: the text is always a block further than the speech."""
    s = block_sequence(CONTROL, [[1, 2], [3], [4, 5]], [[10, 11], [12], [13, 14]], lookahead=1, instruct=[9])
    assert s.inputs == [SOS, ~9, ~1, ~2, ~3, 10, 11, FILL, ~4, ~5, TASK, 12, FILL, 13, 14]
    assert s.targets == [X, X, X, X, 10, 11, FILL, X, X, X, 12, FILL, 13, 14, EOS]
    short = block_sequence(CONTROL, [[1], [2]], [[10], [11]], lookahead=2)
    assert short.inputs == [SOS, ~1, ~2, TASK, 10, FILL, 11]
    assert short.targets == [X, X, X, 10, FILL, 11, EOS]


def test_plain_and_mix_sequences_by_hand():
    s = plain_sequence(CONTROL, [1, 2], [10, 11], instruct=[9])
    assert s.inputs == [SOS, ~9, ~1, ~2, TASK, 10, 11]
    assert s.targets == [X, X, X, X, 10, 11, EOS]
    s = mix_sequence(CONTROL, [1, 2, 3], [10, 11, 12, 13], mix_text=2, mix_speech=3)
    assert s.inputs == [SOS, ~1, ~2, 10, 11, 12, ~3, TASK, 13]
    assert s.targets == [X, X, 10, 11, 12, FILL, X, 13, EOS]
    with pytest.raises(ValueError, match="do not outlast"):
        mix_sequence(CONTROL, [1, 2], [10, 11, 12], mix_text=2, mix_speech=3)


@pytest.mark.parametrize("lookahead", [0, 1, 2, 3])
@pytest.mark.parametrize("prompt", [0, 1, 3])
def test_block_decoding_walks_the_training_sequence_whenever_the_text_comes(lookahead, prompt):
    for seed in range(12):
        rng = random.Random(seed)
        count = prompt + rng.randint(1, 5)
        blocks = [[rng.randrange(50) for _ in range(rng.randint(1, 4))] for _ in range(count)]
        speech = [[rng.randrange(100) for _ in range(rng.randint(1, 6))] for _ in range(count)]
        sequence = block_sequence(CONTROL, blocks, speech, lookahead, instruct=[7])
        machine = BlockMachine(CONTROL, lookahead, [7], blocks[:prompt], speech[:prompt])
        coming = blocks[prompt:]

        def supply(rng=rng, coming=coming, machine=machine) -> None:
            if rng.random() < 0.3 and machine._text.ended is False:
                if coming:
                    machine.push(coming.pop(0))
                else:
                    machine.end()

        given = sum(len(spoken) + 1 for spoken in speech[:prompt])
        fed, out = teach(machine, asked(sequence, skip=given), supply)
        assert fed == sequence.inputs
        said = [item for item in out if isinstance(item, int)]
        assert said == [i for spoken in speech[prompt:] for i in spoken] == machine.history
        assert [item for item in out if isinstance(item, Event)] == [
            *[Event.BOUNDARY] * (count - prompt - 1),
            Event.END,
        ]


@pytest.mark.parametrize("portions", [0, 1, 3])
def test_mix_decoding_walks_the_training_sequence_whenever_the_text_comes(portions):
    for seed in range(12):
        rng = random.Random(seed)
        text = [rng.randrange(50) for _ in range(rng.randint(5 * portions, 30))]
        speech = [rng.randrange(100) for _ in range(15 * (len(text) // 5) + rng.randint(1, 20))]
        sequence = mix_sequence(CONTROL, text, speech, instruct=[7])
        # The prompt ends inside its last portion: the text of that one is known in full.
        given = max(0, 15 * portions - rng.randint(1, 14)) if portions else 0
        known = rng.randint(0, 5 * portions)
        machine = MixMachine(CONTROL, [7], text[:known], speech[:given])
        coming = text[known:]

        def supply(rng=rng, coming=coming, machine=machine) -> None:
            if rng.random() < 0.3:
                size = rng.randint(1, 7)
                if coming:
                    machine.push(coming[:size])
                    del coming[:size]
                else:
                    machine.end()

        skip = given + given // 15
        fed, _ = teach(machine, asked(sequence, skip), supply)
        assert fed == sequence.inputs


def test_plain_decoding_walks_the_training_sequence():
    sequence = plain_sequence(CONTROL, [1, 2, 3], [10, 11, 12, 13])
    machine = PlainMachine(CONTROL, [3], [1, 2], [10, 11])
    fed, out = teach(machine, asked(sequence, skip=2))
    assert fed == sequence.inputs
    assert out == [12, 13, Event.END]


def test_lengths_of_plain_decoding():
    machine = PlainMachine(CONTROL, [1], min_tokens=2, max_tokens=3)
    for count in range(3):
        step = machine.next()
        assert step is not None
        stops = set(range(CONTROL.first, CONTROL.end))
        assert banned_ids(step.banned) == (stops if count < 2 else set())
        machine.accept(count)
    assert machine.done


def test_a_block_cannot_be_skipped_nor_said_twice():
    """Only the block's own end can be drawn, after one id at least; at the maximum it is forced."""
    machine = BlockMachine(CONTROL, 1, max_ratio=1.5, extra=1)
    for block in ([1, 2], [3]):
        machine.push(block)
    machine.end()
    control = set(range(CONTROL.first, CONTROL.end))
    for limit, end, event in ((4, FILL, Event.BOUNDARY), (2, EOS, Event.END)):
        for count in range(limit):
            step = machine.next()
            assert step is not None
            assert step.forced is None
            assert banned_ids(step.banned) == (control if count == 0 else control - {end})
            assert machine.accept(5) == 5
        step = machine.next()
        assert step is not None
        assert step.forced == end
        assert machine.accept(end) is event
    assert machine.done


def test_blocks_wait_until_it_is_known_whether_they_are_the_last():
    machine = BlockMachine(CONTROL, lookahead=1)
    machine.push([1])
    machine.push([2])
    assert machine.next() is None
    machine.push([3])
    step = machine.next()
    assert step is not None
    assert step.feed == [SOS, ~1, ~2]
    with pytest.raises(ValueError, match="no place"):
        machine.accept(EOS)


def test_a_text_without_words_is_refused():
    with pytest.raises(TextError, match="nothing to say"):
        BlockMachine(CONTROL, 1, prompt_blocks=[[1]], prompt_speech=[[5]]).end()
    with pytest.raises(ValueError, match="prompt block"):
        BlockMachine(CONTROL, 1, prompt_blocks=[[1]], prompt_speech=[[]])


def test_the_last_portion_of_a_mix_has_a_longest_length():
    machine = MixMachine(CONTROL, prompt_text=[1], max_tokens=3)
    machine.end()
    fed, out = teach(machine, [5, 6, 7])
    assert out == [5, 6, 7]
    assert fed == [SOS, ~1, TASK, 5, 6]


def test_all_but():
    assert banned_ids(all_but(CONTROL, [FILL])) == set(range(CONTROL.first, CONTROL.end)) - {FILL}
    assert banned_ids(all_but(CONTROL, [])) == set(range(CONTROL.first, CONTROL.end))
    assert banned_ids(all_but(CONTROL, [SOS, CONTROL.end - 1])) == set(range(SOS + 1, CONTROL.end - 1))


def test_blocks_of_words():
    words = [[1, 2], [3], [4, 99], [5], [6, 7, 8, 9], [10]]
    assert make_blocks(words, 4, closing=[99]) == [[1, 2, 3, 4, 99], [5, 6, 7, 8, 9], [10]]
    assert make_blocks(words[:3], 9) == [[1, 2, 3, 4, 99]]
    assert make_blocks([[1, 99], [2]], 9, closing=[99]) == [[1, 99], [2]]
    assert make_blocks([], 4) == []


def test_a_block_without_speech_joins_the_next():
    texts, speech = aligned_blocks([[1], [2], [3]], [0, 2, 2], [10, 11], min_block=1)
    assert texts == [[1, 2, 3]]
    assert speech == [[10, 11]]
    assert text_ids(texts[0]) == [-2, -3, -4]


def test_a_block_cannot_end_in_the_silence_before_it():
    machine = BlockMachine(CONTROL, lookahead=1, min_ratio=0.5, silent={7})
    machine.push([1, 2, 3, 4])
    machine.end()
    for token in (7, 7, 7, 0):  # four text ids ask for two sounds; silence is none
        step = machine.next()
        assert step is not None
        assert step.banned == all_but(CONTROL, [])
        machine.accept(token)
    assert machine.next().banned == all_but(CONTROL, [])
    machine.accept(1)
    assert machine.next().banned == all_but(CONTROL, [CONTROL.eos])
