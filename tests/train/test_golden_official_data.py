"""The data pipeline of the original's recipes, from shards to padded batches, and its learning rates."""

from __future__ import annotations

import io
import itertools
import json
import random
import re

import pytest
import torch

from fireside.train.official_data import VERSIONS, Limits, OfficialData, cropped
from fireside.train.schedules import HoldRate, WarmupRate
from fireside.train.streams import by_count, by_frames, share, shuffled, sorted_runs

parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

RATE = 24000


@pytest.fixture
def case(golden_case):
    return golden_case("data_pipeline")


@pytest.fixture
def pipeline(goldens):
    return json.loads((goldens / "data_pipeline" / "pipeline.json").read_text(encoding="utf-8"))


def check_filter(record, frames):
    for part in record:
        names = {"min_frames": "min_length", "max_frames": "max_length"}
        names |= {"min_text": "token_min_length", "max_text": "token_max_length"}
        assert set(part["params"]) == set(names.values())
        limits = Limits(**{ours: part["params"][theirs] for ours, theirs in names.items()})
        version = {"v2_v3": 2, "v1": 1}.get(part["config"])
        assert version is None or limits == VERSIONS[version].limits
        kept = [limits.keep(row["seconds"], row["text_tokens"], row["speech_tokens"]) for row in part["cases"]]
        assert kept == part["kept"]


def check_shuffle(record, frames, size):
    mixed = shuffled(range(len(frames)), int(size), random.Random(record["python_seed"]))
    assert list(mixed) == record["order"]


def check_sort(record, frames, size):
    assert list(sorted_runs(range(len(frames)), int(size), frames.__getitem__)) == record


def check_static_batch(record, frames, size):
    assert list(by_count(range(len(frames)), int(size))) == record


def check_dynamic_batch(record, frames, limit):
    assert list(by_frames(range(len(frames)), int(limit), frames.__getitem__)) == record


def check_order(record, frames, shuffle, sort, limit):
    mixed = shuffled(range(len(frames)), int(shuffle), random.Random(record["python_seed"]))
    in_order = sorted_runs(mixed, int(sort), frames.__getitem__)
    assert list(by_frames(in_order, int(limit), frames.__getitem__)) == record["batches"]


def check_truncate(record, frames):
    # The wave counts up from 0, so that its values tell where a piece begins. Its length is not stored: it is between
    # the last value seen and the first piece that was filled up with silence.
    def agrees(length):
        for part in record:
            piece = cropped(torch.arange(float(length)), part["truncate_length"], random.Random(part["python_seed"]))
            if [len(piece), float(piece[0]), float(piece[-1])] != [part[k] for k in ("out_len", "first", "last")]:
                return False
        return True

    seen = int(max(part["last"] for part in record)) + 1
    padded = min(part["truncate_length"] for part in record if part["last"] == 0)
    assert any(agrees(length) for length in range(seen, padded, 100))


def check_shares(record, frames):
    for part in record:
        ours = share(
            part["n"],
            epoch=part["epoch"],
            rank=part["rank"],
            ranks=part["world_size"],
            worker=part["worker_id"],
            workers=part["num_workers"],
            shuffle=part["shuffle"],
        )
        assert ours == part["result"], part


def check_rates(record, frames):
    for key, rates in record.items():
        if match := re.fullmatch(r"warmuplr_lr([\de.-]+)_w(\d+)_lr_used_at_step", key):
            rate = WarmupRate(float(match[1]), int(match[2]))
        elif match := re.fullmatch(r"noamhold_max(\d+)_w(\d+)_h(\d+)_min([\de.-]+)", key):
            rate = HoldRate(max(rates.values()), int(match[2]), int(match[3]), int(match[1]), float(match[4]))
        else:  # the first of the schedules was set to a step and went on by one
            match = re.fullmatch(r"warmuplr_after_set_step_(\d+)_and_one_step", key)
            rate, rates = WarmupRate(1e-3, 2500), {int(match[1]) + 1: rates}
        for step, expected in rates.items():
            assert rate(int(step)) == pytest.approx(expected, rel=1e-12), (key, step)


CHECKS = {
    r"filter": check_filter,
    r"shuffle_(\d+)_seeded": check_shuffle,
    r"sort_(\d+)": check_sort,
    r"static_batch_(\d+)": check_static_batch,
    r"dynamic_batch_(\d+)": check_dynamic_batch,
    r"shuffle(\d+)_sort(\d+)_batch(\d+)_seeded": check_order,
    r"truncate": check_truncate,
    r"distributed_sampler": check_shares,
    r"schedulers": check_rates,
}
READ_ELSEWHERE = {"frames": "what the orders are of", "padding_order_utts": "compared in test_batch"}


def test_decisions_and_orders(pipeline):
    for key, record in pipeline.items():
        if key not in READ_ELSEWHERE:
            ((match, check),) = [(m, check) for name, check in CHECKS.items() if (m := re.fullmatch(name, key))]
            check(record, pipeline["frames"], *match.groups())


def read_batch(case, utterances, folder, version, speaker_embedding=False):
    """The batch of our pipeline, from a shard whose rows have the case's waves."""
    import soundfile

    rows = []
    for place, name in enumerate(utterances):
        sound = io.BytesIO()
        wave = case.inputs[f"wav{name.removeprefix('u')}"][0].numpy()
        soundfile.write(sound, wave, RATE, format="WAV", subtype="FLOAT")

        def ids(kind, place=place):
            return case.outputs[f"batch_{kind}"][place, : case.outputs[f"batch_{kind}_len"][place]].tolist()

        # The embeddings that went in are not stored; these are of the same direction, and of another length.
        rows.append(
            {
                "utt": name,
                "audio_data": sound.getvalue(),
                "text": json.dumps(ids("text_token")),
                "spk": "s",
                "utt_embedding": (case.outputs["batch_utt_embedding"][place] * (2 + place)).tolist(),
                "spk_embedding": (case.outputs["batch_spk_embedding"][place] * (3 + place)).tolist(),
                "speech_token": ids("speech_token"),
            }
        )
    shard = folder / "shard.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), shard)
    limits = Limits(min_frames=0, max_ratio=100)
    config = VERSIONS[version].model_copy(update={"limits": limits, "speaker_embedding": speaker_embedding})
    (batch,) = OfficialData([shard], config, json.loads)
    return batch


def test_batch(case, golden_case, goldens, pipeline, tmp_path):
    expected = pipeline["padding_order_utts"]
    batch = read_batch(case, expected, tmp_path, 2)
    assert list(batch.names) == expected
    by_speaker = read_batch(case, expected, tmp_path, 2, speaker_embedding=True)
    got = {
        "batch_text_token": batch.text.values,
        "batch_text_token_len": batch.text.lengths,
        "batch_speech_token": batch.speech.values,
        "batch_speech_token_len": batch.speech.lengths,
        "batch_speech_feat": batch.mel.values,
        "batch_speech_feat_len": batch.mel.lengths,
        "batch_whisper_feat": batch.whisper.values,
        "batch_whisper_feat_len": batch.whisper.lengths,
        "batch_utt_embedding": batch.embedding,
        "batch_spk_embedding": by_speaker.embedding,
        "batch_embedding": batch.embedding,
    }
    # The case states no tolerances: those of its features are where the features themselves are compared.
    mel = max(entry["suggested_atol"] for entry in golden_case("mel_spectrogram").config["tolerances"].values())
    note = (goldens / "whisper_logmel" / "NOTE.md").read_text(encoding="utf-8")
    whisper = float(re.search(r"suggested atol ([\d.e+-]*\d)", note)[1])
    rounding = {"batch_speech_feat": mel, "batch_whisper_feat": whisper}
    rounding |= dict.fromkeys(("batch_utt_embedding", "batch_spk_embedding", "batch_embedding"), 1e-6)
    case.config["tolerances"] = {key: {"suggested_atol": atol} for key, atol in rounding.items()}
    case.compare(got)


def test_batches_differ_by_version(case, pipeline, tmp_path):
    """Version 1's features are others: no filling up to whole tokens, another rate, no log-mel of Whisper's."""
    names = pipeline["padding_order_utts"]
    first, second = (read_batch(case, names, tmp_path, version) for version in (1, 2))
    assert first.whisper is None
    assert first.wave.lengths.tolist() != second.wave.lengths.tolist()
    for a, b in itertools.pairwise(first.wave.lengths.tolist()):
        assert a >= b
