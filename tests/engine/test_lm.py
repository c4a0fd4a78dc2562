"""Decoding several requests over one cache: right against the full forward, and blind to the neighbours."""

from __future__ import annotations

import json
import random

import pytest
import torch
from lm_cases import Recorder, run, tiny_lm

from fireside.engine.lm import LMDecoder
from fireside.engine.products import halves
from fireside.engine.sampling import RepetitionAware, greedy, nucleus
from fireside.errors import ModelError, TextError
from fireside.models.config import LMConfig, SamplingConfig
from fireside.models.lm import LM, UNUSED
from fireside.models.turns import BlockMachine, PlainMachine

SEPARATE = {"control": "separate", "head_bias": True, "num_control": 3}


def machine(lm, seed: int) -> BlockMachine:
    """A request with a prompt, of its own size."""
    rng = random.Random(seed)

    def ids(vocab: int, most: int) -> list[int]:
        return [rng.randrange(vocab) for _ in range(rng.randint(1, most))]

    prompt = rng.randint(0, 2)
    made = BlockMachine(
        lm.control,
        lookahead=1,
        instruct=ids(50, 2),
        prompt_blocks=[ids(50, 5) for _ in range(prompt)],
        prompt_speech=[ids(40, 9) for _ in range(prompt)],
        max_ratio=1.5,
        extra=2,
    )
    for _ in range(rng.randint(1, 4)):
        made.push(ids(50, 3))
    made.end()
    return made


def exact_in_half(lm: LM) -> LM:
    """The model with weights that lose nothing in half precision, so that any number of rows share its products."""
    lm.half().float()
    if not halves([]):
        pytest.skip("this processor has no product with weights in half precision")
    assert LMDecoder(lm, slots=1, max_len=8).any_rows
    return lm


def sampler(seed: int) -> RepetitionAware:
    return RepetitionAware(SamplingConfig(), torch.Generator().manual_seed(seed))


class Watched:
    """A machine that remembers everything that was fed, and where something was drawn."""

    def __init__(self, inner: BlockMachine) -> None:
        self.inner = inner
        self.fed: list[int] = []
        self.drawn: list[int] = []
        self.banned: list = []

    @property
    def done(self) -> bool:
        return self.inner.done

    @property
    def history(self):
        return self.inner.history

    def next(self):
        step = self.inner.next()
        if step is not None:
            self.fed += step.feed
            if step.forced is None:
                self.drawn.append(len(self.fed) - 1)
                self.banned.append(step.banned)
        return step

    def accept(self, token: int):
        return self.inner.accept(token)


@pytest.mark.parametrize(("rows", "changes"), [(1, {}), (4, {}), (4, SEPARATE), (None, {}), (None, SEPARATE)])
def test_the_cache_agrees_with_the_full_forward(rows, changes):
    lm = exact_in_half(tiny_lm(**changes)) if rows is None else tiny_lm(**changes)
    decoder = LMDecoder(lm, slots=1, max_len=256, rows=rows)
    for seed in range(3):
        watched, recorder = Watched(machine(lm, seed)), Recorder(sampler(seed))
        run(decoder, watched, recorder)
        with torch.inference_mode():
            logits = lm.llm_decoder(lm(torch.tensor([watched.fed])))[0]
        expected = logits.log_softmax(-1)[watched.drawn]
        for row, banned in zip(expected, watched.banned, strict=True):
            for first, end in banned:
                row[first:end] = -torch.inf
        torch.testing.assert_close(torch.stack(recorder.scores), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("rows", [1, 4, None])
def test_a_request_says_the_same_alone_and_among_others(rows):
    """Exact: the ids, and every score on the way. The others come and go, in other slots, at other times."""
    lm = tiny_lm(hidden_size=128, intermediate_size=200)
    if rows is None:
        exact_in_half(lm)
    alone = {}
    for seed in range(8):
        recorder = Recorder(sampler(seed))
        decoder = LMDecoder(lm, slots=1, max_len=256, rows=rows)
        alone[seed] = run(decoder, machine(lm, seed), recorder), recorder.scores
    decoder = LMDecoder(lm, slots=8, max_len=256, rows=rows)
    rng = random.Random(0)
    waiting, running, crowd = list(range(8)), {}, {}
    while waiting or running:
        while waiting and (not running or rng.random() < 0.4):
            seed = waiting.pop(rng.randrange(len(waiting)))
            recorder = Recorder(sampler(seed))
            running[decoder.admit(machine(lm, seed), recorder)] = seed
            crowd[seed] = [], recorder.scores
        for handle, item in decoder.step():
            crowd[running[handle]][0].append(item)
        for handle in [handle for handle in running if handle.machine.done]:
            decoder.release(handle)
            del running[handle]
    for seed, (ids, scores) in alone.items():
        assert crowd[seed][0] == ids
        assert len(ids) > 1
        assert all(torch.equal(a, b) for a, b in zip(crowd[seed][1], scores, strict=True))
    assert decoder.free_slots == 8


def test_what_a_slot_held_before_does_not_matter():
    lm = tiny_lm()
    decoder = LMDecoder(lm, slots=1, max_len=256)
    first = run(decoder, machine(lm, 5), sampler(5))
    with torch.inference_mode():
        decoder.cache.fill_(float("nan"))
    assert run(decoder, machine(lm, 5), sampler(5)) == first


def test_a_waiting_request_holds_nobody_up():
    lm = tiny_lm()
    decoder = LMDecoder(lm, slots=2, max_len=256)
    patient = BlockMachine(lm.control, lookahead=0)
    handle = decoder.admit(patient, greedy)
    assert decoder.step() == []
    said = run(decoder, machine(lm, 3), sampler(3))
    assert said == run(LMDecoder(lm, slots=1, max_len=256), machine(lm, 3), sampler(3))
    patient.push([1])
    patient.end()
    assert [who for who, _ in decoder.step()] == [handle]


def test_a_request_that_outgrows_the_context_gets_a_clear_error_and_no_one_else_does():
    """Bug 22: the original fails on shapes somewhere inside."""
    lm = tiny_lm()
    decoder = LMDecoder(lm, slots=3, max_len=64)
    long = decoder.admit(PlainMachine(lm.control, [1] * 70), greedy)
    grows = decoder.admit(PlainMachine(lm.control, [1] * 4, min_tokens=200), greedy)
    fine = decoder.admit(PlainMachine(lm.control, [1] * 4, min_tokens=30, max_tokens=30), greedy)
    errors = {}
    for _ in range(70):
        for handle, item in decoder.step():
            if isinstance(item, TextError):
                errors[handle] = item
                decoder.release(handle)
    assert set(errors) == {long, grows}
    assert "64 positions" in str(errors[long])
    assert grows.length == 64
    assert len(fine.machine.history) == 30


def test_a_request_that_fails_ends_alone():
    """Whether its sampler fails, its machine, or the products that it shares with others."""
    lm = tiny_lm()

    class Fails(PlainMachine):
        def accept(self, token: int):
            raise ArithmeticError("machine")

    def bad_sampler(scores, history):
        raise ArithmeticError("sampler")

    class Shares(LMDecoder):
        def _advance(self, handles, ids):
            if shared in handles:
                raise ArithmeticError("product")
            return super()._advance(handles, ids)

    decoder = Shares(lm, slots=5, max_len=64, rows=4)
    plain = {"text": [1] * 4, "min_tokens": 9, "max_tokens": 9}
    sampled = decoder.admit(PlainMachine(lm.control, **plain), bad_sampler)
    walked = decoder.admit(Fails(lm.control, **plain), greedy)
    shared = decoder.admit(PlainMachine(lm.control, **plain), greedy)
    fine = [decoder.admit(PlainMachine(lm.control, **plain), greedy) for _ in range(2)]
    errors = {}
    for _ in range(9):
        for handle, item in decoder.step():
            if isinstance(item, Exception):
                errors[handle] = str(item)
                decoder.release(handle)
    assert errors == {sampled: "sampler", walked: "machine", shared: "product"}
    alone = run(LMDecoder(lm, slots=1, max_len=64, rows=4), PlainMachine(lm.control, **plain), greedy)
    assert all(handle.machine.history == alone for handle in fine)


def test_only_the_requests_that_are_asked_for_move_on():
    lm = tiny_lm()
    decoder = LMDecoder(lm, slots=3, max_len=64)
    first, second, third = (
        decoder.admit(PlainMachine(lm.control, [1], min_tokens=3, max_tokens=3), greedy) for _ in range(3)
    )
    assert [handle for handle, _ in decoder.step({third, first})] == [first, third]
    assert [handle for handle, _ in decoder.step([])] == []
    assert [handle for handle, _ in decoder.step()] == [first, second, third]
    assert [len(handle.machine.history) for handle in (first, second, third)] == [2, 1, 2]


PROMPT = {"prompt_blocks": [[1] * 5, [2] * 5, [3] * 5], "prompt_speech": [[4] * 9, [5] * 9, [6] * 9]}


def voiced(lm: LM, text: list[int], prompt: dict = PROMPT) -> BlockMachine:
    made = BlockMachine(lm.control, 1, [7, 8], **prompt)
    made.push(text)
    made.end()
    return made


def test_what_a_voice_begins_with_is_computed_once():
    """And makes no difference: with it, without it, and in another slot every score is the same."""
    lm = tiny_lm()
    decoder = LMDecoder(lm, slots=2, max_len=256)
    texts = ([9, 10], [11, 12, 13], [9, 10])
    heard = []
    for text in texts:
        recorder = Recorder(sampler(1))
        run(decoder, voiced(lm, text), recorder)
        heard.append(recorder.scores)
        decoder.admit(voiced(lm, text), greedy)  # takes the slot, so that the next one gets the other
        decoder.release(next(iter(decoder._handles)))
    use = decoder.prefixes.use
    assert (use.hits, use.misses, use.entries) == (2, 1, 1)
    for text, scores in zip(texts, heard, strict=True):
        recorder = Recorder(sampler(1))
        run(LMDecoder(lm, slots=1, max_len=256), voiced(lm, text), recorder)
        assert all(torch.equal(a, b) for a, b in zip(recorder.scores, scores, strict=True))
    assert use.nbytes == decoder.position_bytes * voiced(lm, [1]).next().shared


def test_voices_do_not_share_what_they_begin_with():
    lm = tiny_lm()
    decoder = LMDecoder(lm, slots=1, max_len=256)
    other = {**PROMPT, "prompt_speech": [[4] * 9, [5] * 8 + [4], [6] * 9]}
    run(decoder, voiced(lm, [9]), sampler(1))
    recorder, fresh = Recorder(sampler(1)), Recorder(sampler(1))
    run(decoder, voiced(lm, [9], other), recorder)
    run(LMDecoder(lm, slots=1, max_len=256), voiced(lm, [9], other), fresh)
    assert decoder.prefixes.use.hits == 0
    assert all(torch.equal(a, b) for a, b in zip(recorder.scores, fresh.scores, strict=True))


def test_a_voice_begins_with_all_that_comes_before_new_text():
    """The last prompt block's speech is not part of it: the first new block is fed before it."""
    lm = tiny_lm()
    first, second = voiced(lm, [9, 10]).next(), voiced(lm, [11, 12, 13]).next()
    same = next(i for i, (a, b) in enumerate(zip(first.feed, second.feed, strict=False)) if a != b)
    assert first.shared == second.shared == same
    assert BlockMachine(lm.control, 1).next() is None
    bare = BlockMachine(lm.control, 1)
    bare.push([1])
    bare.end()
    assert bare.next().shared == 0


def test_slots_are_given_back_once():
    lm = tiny_lm()
    decoder = LMDecoder(lm, slots=2, max_len=32)
    handle = decoder.admit(machine(lm, 0), greedy)
    assert decoder.free_slots == 1
    decoder.release(handle)
    decoder.release(handle)
    assert decoder.free_slots == 2
    assert decoder.step() == []


def test_nucleus_keeps_equals_in_order_and_never_takes_more_than_top_k():
    ids, _ = nucleus(torch.full((40,), 1 / 40), top_p=0.9, top_k=25)
    assert ids.tolist() == list(range(25))
    ids, probabilities = nucleus(torch.tensor([0.1, 0.5, 0.1, 0.3]), top_p=0.8, top_k=25)
    assert ids.tolist() == [1, 3]
    assert probabilities.tolist() == pytest.approx([0.5, 0.3])


def test_the_second_draw_never_takes_a_banned_id_nor_the_one_said_lately():
    scores = torch.tensor([0.0, -1.0, -2.0, -torch.inf])
    drawn = {sampler(seed)(scores, [0, 1]) for seed in range(200)}
    assert drawn == {0, 1, 2}
    only = torch.tensor([0.0, -torch.inf])
    assert sampler(0)(only, [0]) == 0


def test_weights_that_do_not_fit_are_named():
    lm = tiny_lm()
    state = {**lm.state_dict(), "llm.model.lm_head.weight": torch.zeros(50, 64)}
    lm.load_released(state)
    del state["llm.model.model.norm.weight"]
    with pytest.raises(ModelError, match=r"llm\.model\.model\.norm\.weight"):
        lm.load_released(state)


@pytest.mark.parametrize(("version", "changes"), [("v2", SEPARATE), ("v3", {})])
def test_names_and_shapes_of_the_released_checkpoint(shared, version, changes):
    """Every tensor of the official file has its place, and none is missing; only the tied head is unused."""
    manifest = json.loads((shared / "manifests" / f"{version}_llm.json").read_text())
    with torch.device("meta"):
        ours = {name: list(value.shape) for name, value in LM(LMConfig(**changes)).state_dict().items()}
    theirs = {entry["name"]: entry["shape"] for entry in manifest if entry["name"] not in UNUSED}
    assert ours == theirs
