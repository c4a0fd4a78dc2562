"""The LM's training: what sequences it sees, and that a short run learns, stops, resumes and ships."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fireside.errors import ConfigError
from fireside.models.config import LMConfig
from fireside.models.layout import IGNORE
from fireside.models.lm import LM
from fireside.text.phones import BOUNDARY_ID, FIRST_SPOKEN_ID, PAUSE_IDS, PHONE_ID
from fireside.train import lm as training
from fireside.train.data import FeatureStore
from fireside.train.loop import RunConfig

PAUSE = min(PAUSE_IDS)


def utterance(seed: int, speaker: str = "a", rate: str = "<normal>") -> training.Utterance:
    """Random words with their tokens; some words have none."""
    rng = random.Random(seed)
    words, ends = [], []
    for _ in range(rng.randint(3, 9)):
        sounds = [rng.randrange(FIRST_SPOKEN_ID, FIRST_SPOKEN_ID + 20) for _ in range(rng.randint(1, 4))]
        words.append((*sounds, *([PAUSE] if rng.random() < 0.2 else []), BOUNDARY_ID))
        ends.append((ends[-1] if ends else 0) + rng.choice([0, 2, 3, 5]))
    ends[-1] += 3
    tokens = tuple(rng.randrange(27) for _ in range(ends[-1]))
    return training.Utterance(speaker, rate, tuple(words), tuple(ends), tokens)


def small(**changes) -> LMConfig:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 48}
    sizes.update(speech_vocab_size=27, num_control=8)
    return training.hearth().model_copy(update={**sizes, **changes})


@pytest.mark.parametrize("min_block", [1, 3, 8])
def test_blocks_keep_all_text_and_speech_and_are_never_empty(min_block):
    for seed in range(30):
        u = utterance(seed)
        texts, speech = u.blocks(min_block)
        assert [i for text in texts for i in text] == [i for word in u.words for i in word]
        assert tuple(i for spoken in speech for i in spoken) == u.tokens
        assert len(texts) == len(speech)
        assert all(texts)
        assert all(speech)


@pytest.mark.parametrize(
    ("speed", "mark"),
    [
        *((0.8, "<slower>"), (0.87, "<slower>"), (0.9, "<slow>"), (0.95, "<slow>"), (1.0, "<normal>")),
        *((1.05, "<fast>"), (1.1, "<fast>"), (1.15, "<faster>"), (1.3, "<faster>")),
    ],
)
def test_rate_marks(speed, mark):
    assert training.rate_mark(speed) == mark


def test_joining_says_every_utterance_once_with_its_own_voice_and_rate():
    utterances = [utterance(i, "ab"[i % 2], ("<normal>", "<slow>")[i % 3 == 0]) for i in range(60)]
    config = training.LMTrainConfig(join_seconds=8, other_rate_prefix=0.5)
    said, contexts = [], 0
    for group, context in training.joined(utterances, config, random.Random(0)):
        assert len({u.speaker for u in group}) == 1
        assert len({u.rate for u in group[context:]}) == 1
        said += group[context:]
        contexts += context
        if context:
            assert group[0].rate != group[1].rate
        if len(group) > 1:
            assert sum(len(u.tokens) for u in group) <= 8 * 25
    assert sorted(map(id, said)) == sorted(map(id, utterances))
    assert contexts > 0


def test_context_carries_no_loss_and_the_rest_all_of_it():
    model, config = small(), training.LMTrainConfig(rate_dropped=0.0, min_block=(5, 5))
    group = [utterance(1, rate="<slow>"), utterance(2, rate="<fast>")]
    sequence = training.build_sequence(group, 1, model, config, random.Random(0))
    _, spoken = group[1].blocks(5)
    asked = [target for target in sequence.targets if target != IGNORE]
    fill, eos = model.speech_vocab_size + 3, model.speech_vocab_size + 1
    assert asked == [*[i for block in spoken for i in (*block, fill)][:-1], eos]
    assert sequence.inputs[1] == ~PHONE_ID["<fast>"]


def test_layout_shares():
    config = training.LMTrainConfig(plain_share=1.0, rate_dropped=1.0)
    u, model = utterance(3), small()
    sequence = training.build_sequence([u], 0, model, config, random.Random(0))
    text = [~i for word in u.words for i in word]
    v = model.speech_vocab_size
    assert sequence.inputs == [v, *text, v + 2, *u.tokens]
    layout = model.layout.model_copy(update={"mix_text": 2, "mix_speech": 1, "mix_min_ratio": 0.1})
    mixed = config.model_copy(update={"plain_share": 0.0, "mix_share": 1.0})
    sequence = training.build_sequence([u], 0, small(layout=layout), mixed, random.Random(0))
    assert sequence.inputs[:5] == [v, *text[:2], u.tokens[0], text[2]]


def test_batches_hold_every_sequence_within_the_limit():
    utterances = [utterance(i) for i in range(80)]
    config = training.LMTrainConfig(positions=400, join_seconds=0, other_rate_prefix=0)
    batches = training.epoch(utterances, small(), config, random.Random(0))
    assert sum(len(batch.inputs) for batch in batches) == len(utterances)
    for batch in batches:
        assert batch.inputs.numel() <= 400
        assert batch.inputs.shape == batch.targets.shape
    real = sum(int((batch.inputs != 0).sum()) for batch in batches)
    assert real > 0.8 * sum(batch.inputs.numel() for batch in batches)


def test_disturbing_changes_a_share_of_the_speech_and_nothing_else():
    torch.manual_seed(0)
    inputs = torch.randint(-20, 35, (40, 200))
    changed = training.disturb(inputs, 27, 0.1)
    speech = (inputs >= 0) & (inputs < 27)
    assert torch.equal(changed[~speech], inputs[~speech])
    assert ((changed[speech] >= 0) & (changed[speech] < 27)).all()
    share = (changed != inputs)[speech].float().mean()
    assert 0.06 < share < 0.1
    assert training.disturb(inputs, 27, 0.0) is inputs


def test_dropout_keeps_the_mean():
    drop = training.Dropout(0.25, seed=0)
    x = drop(torch.ones(200, 500))
    assert abs(float((x == 0).float().mean()) - 0.25) < 0.01
    assert abs(float(x.mean()) - 1) < 0.01


def test_loss_ignores_padding_and_the_length_of_the_batch():
    torch.manual_seed(0)
    model = LM(small())
    training.initialise(model)
    sequences = [
        training.build_sequence([utterance(i)], 0, small(), training.LMTrainConfig(), random.Random(i)) for i in (1, 2)
    ]
    both = training.losses(model, *vars(training.collate(sequences)).values())
    parts = [training.losses(model, *vars(training.collate([s])).values()) for s in sequences]
    counts = [sum(t != IGNORE for t in s.targets) for s in sequences]
    mean = sum(n * p["loss"] for n, p in zip(counts, parts, strict=True)) / sum(counts)
    torch.testing.assert_close(both["loss"], mean)


@pytest.fixture
def features(tmp_path):
    """A feature folder with tokens and alignments only; each word always sounds the same."""
    folder = tmp_path / "features"
    folder.mkdir()
    rng = random.Random(0)
    rows, tokens, first = [], [], 0
    with (folder / "blocks.jsonl").open("w") as blocks:
        for i in range(24):
            kinds = [rng.randrange(6) for _ in range(5)]
            words = [[FIRST_SPOKEN_ID + k, FIRST_SPOKEN_ID + k + 6, BOUNDARY_ID] for k in kinds]
            tokens.append(np.array([t for k in kinds for t in (3 * k, 3 * k + 1, 3 * k + 2)]))
            row = {"utt": f"u{i}", "spk": "v", "speed": 1.0, "split": "val" if i % 8 == 0 else "train"}
            rows.append({**row, "number": i, "first_token": first, "tokens": 15, "corpus": "kokoro"})
            first += 15
            line = {"utt": f"u{i}", "words": words, "word_ends": [3, 6, 9, 12, 15]}
            blocks.write(json.dumps(line) + "\n")
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    FeatureStore(folder).write("tokens", tokens)
    return folder


def test_a_short_run_learns_ships_and_resumes(features, tmp_path):
    out = tmp_path / "out"
    config = training.LMTrainConfig(positions=600, dropout=0.0, token_noise=0.0, validate_every=20)
    run = RunConfig(minutes=0.06, peak_rate=5e-3, warmup_steps=5, ema_decay=0.9, log_every=5, threads=1)
    training.train(features, out, small(), config, run)
    log = (out / "log.txt").read_text().splitlines()
    accuracy = [float(line.split("accuracy=")[1].split()[0]) for line in log if "val:" in line]
    assert accuracy[-1] > 0.3, "chance is 1 / 27"
    assert (out / "lm_best.safetensors").exists()
    model = LM(LMConfig.model_validate_json((out / "config.json").read_text()))
    model.load_released(load_file(out / "lm.safetensors"))
    steps = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    training.train(features, out, small(), config, run.model_copy(update={"minutes": 0.07}))
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] > steps


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_aligned_utterances_is_a_clear_error(features, tmp_path, split):
    of = {row["utt"]: row["split"] for row in FeatureStore(features).rows}
    lines = (features / "blocks.jsonl").read_text().splitlines(keepends=True)
    (features / "blocks.jsonl").write_text("".join(line for line in lines if of[json.loads(line)["utt"]] != split))
    with pytest.raises(ConfigError, match=f"no {split} utterance"):
        training.train(features, tmp_path / "out", small(), training.LMTrainConfig(), RunConfig(minutes=0.01))


def test_tokens_that_do_not_fit_the_alignment_are_refused(features):
    text = (features / "blocks.jsonl").read_text().replace("12, 15]", "12, 14]", 1)
    (features / "blocks.jsonl").write_text(text)
    with pytest.raises(ConfigError, match="u0 is not aligned"):
        training.read_utterances(FeatureStore(features), features / "blocks.jsonl", "val")


def test_settings():
    chosen = training.settings(["lm.num_layers=8", "train.dropout=0.2", "run.peak_rate=0.001"], 5, 2)
    assert (chosen.lm.num_layers, chosen.train.dropout, chosen.run.peak_rate) == (8, 0.2, 0.001)
    assert (chosen.run.minutes, chosen.run.threads) == (5, 2)
    for wrong in ("lm.layers=8", "num_layers=8", "train.dropout"):
        with pytest.raises(ConfigError, match="--set"):
            training.settings([wrong], 5, 1)
    with pytest.raises(ConfigError, match="positions"):
        training.settings(["train.positions=many"], 5, 1)
