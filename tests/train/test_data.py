import io
import json
import zlib

import numpy as np
import pytest
import soundfile
import torch

from fireside.audio.features import MelSpectrogram, whisper_log_mel
from fireside.audio.resample import resample
from fireside.errors import AudioError
from fireside.train import data
from fireside.train.data import FeatureStore, main, prepare, utterances

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyworld")
parquet = pytest.importorskip("pyarrow.parquet")


def tone(seconds: float, rate: int, hertz: float = 200.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * sum(np.sin(2 * np.pi * hertz * k * time) / k for k in (1, 2, 3))).astype(np.float32)


def encoded(wave: np.ndarray, rate: int) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


WAVES = [tone(0.63, 24000), tone(0.4, 24000, 150.0), tone(0.5, 24000) * 4]
REAL = tone(0.5, 16000, 300.0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    (folder / "corpus").mkdir()
    shared = {"text": "Hello.", "lang": "en", "speed": 1.0, "phonemes": "həlˈoʊ."}
    rows = [
        {"utt": f"u{i}", "spk": "af_heart", **shared, "duration": len(wave) / 24000, "audio": encoded(wave, 24000)}
        for i, wave in enumerate(WAVES)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows[:2]), folder / "corpus" / "a.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows[2:]), folder / "corpus" / "b.parquet")
    person = {"utt": "r0", "spk": "84", "lang": "en", "duration": 0.5, "audio": encoded(REAL, 16000)}
    parquet.write_table(pyarrow.Table.from_pylist([person]), folder / "people.parquet")
    return folder


class Teacher:
    """Stands in for CAM++: the mean spectrum of what it is given, so that rows can be told apart."""

    def run(self, names, inputs):
        fbank = inputs["input"]
        assert fbank.shape[0] == 1
        assert abs(fbank.mean(axis=1)).max() < 1e-3
        return [np.concatenate([fbank.std(axis=1), np.ones((1, 112), np.float32)], axis=1)]


class Here:
    """Stands in for a pool of processes: the same work, in this one."""

    def __init__(self, workers, start, arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def imap(self, work, items, chunksize):
        return map(work, items)


@pytest.fixture(scope="module")
def store(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_worker", data._Extractor(Teacher(), MelSpectrogram()))
        patch.setattr(data.multiprocessing, "get_context", lambda kind: type("Context", (), {"Pool": Here}))
        count = prepare(sources / "corpus", sources / "people.parquet", sources / "campplus.onnx", out)
    assert count == 4
    return FeatureStore(out)


def test_everything_is_cut_to_whole_tokens(store):
    assert [row["tokens"] for row in store.rows] == [15, 10, 12, 12]
    assert [row["first_token"] for row in store.rows] == [0, 15, 25, 37]
    assert [row["number"] for row in store.rows] == [0, 1, 2, 3]
    for row in store.rows:
        tokens = row["tokens"]
        assert store.wav(row).shape == (960 * tokens,)
        assert store.mel(row).shape == (2 * tokens, 80)
        assert store.logmel(row).shape == (4 * tokens, 128)
        assert store.f0(row).shape == (2 * tokens,)
        assert store.teacher(row).shape == (192,)
    assert "audio" not in store.rows[0]


def test_features_are_those_of_the_row(store):
    for row, wave in zip(store.rows, WAVES[:2], strict=False):
        cut = torch.from_numpy(wave[: 960 * row["tokens"]])
        np.testing.assert_allclose(store.wav(row), cut, atol=1e-4)
        mel = MelSpectrogram()(cut[None])[0].T[: 2 * row["tokens"]]
        np.testing.assert_allclose(store.mel(row), mel, atol=1e-2)
        log_mel = whisper_log_mel(resample(cut[None], 24000, 16000)[0]).T[: 4 * row["tokens"]]
        np.testing.assert_allclose(store.logmel(row), log_mel, atol=1e-2)
    middle = store.f0(store.rows[0])[8:-8]
    np.testing.assert_allclose(middle, 200.0, atol=4)


def test_real_people_come_again_as_others_but_not_those_held_out(tmp_path):
    """A tape played at 1.25: a quarter more pitch, a fifth less time, and somebody else's name."""
    (tmp_path / "none").mkdir()
    names = [str(number) for number in range(100)]
    held = [name for name in names if data.held_out(name, 10)]
    people = [
        {"utt": f"r{name}", "spk": name, "lang": "en", "duration": 0.5, "audio": encoded(REAL, 16000)}
        for name in (next(name for name in names if name not in held), held[0])
    ]
    parquet.write_table(pyarrow.Table.from_pylist(people), tmp_path / "people.parquet")
    rows = list(utterances(tmp_path / "none", tmp_path / "people.parquet", [1.25]))
    assert [row["split"] for row, _ in rows] == ["train", "train", "val"]
    (plain, _), (other, audio), (kept, _) = rows
    assert other["spk"] == f"{plain['spk']}-1.25"
    assert other["utt"] != plain["utt"]
    assert kept["spk"] == held[0]
    wave, rate = soundfile.read(io.BytesIO(audio))
    assert rate == 16000
    assert len(wave) == pytest.approx(0.4 * rate, abs=2)
    assert other["duration"] == pytest.approx(0.4)
    loudest = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * rate / len(wave)
    assert loudest == pytest.approx(375.0, abs=4)


def test_teacher_embeddings_have_unit_length_and_their_own_row(store):
    embeddings = np.stack([store.teacher(row) for row in store.rows])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    assert len(np.unique(embeddings.round(4), axis=0)) == 4


def test_embeddings_of_our_encoder_are_written_and_read_by_row(store):
    embeddings = np.random.default_rng(0).standard_normal((4, 192)).astype(np.float32)
    halves = np.stack([embeddings + 1, embeddings + 2], axis=1)
    store.write_embeddings(embeddings, halves)
    again = FeatureStore(store.folder)
    for row in again.rows:
        np.testing.assert_array_equal(again.embedding(row), embeddings[row["number"]])
        np.testing.assert_array_equal(again.halves(row), halves[row["number"]])
    with pytest.raises(AudioError, match="4 embeddings are needed"):
        store.write_embeddings(embeddings[:3], halves)


def test_what_is_too_loud_is_scaled_not_clipped(store):
    wave = store.wav(store.rows[2])
    assert np.abs(wave).max() <= 1.0
    reference = WAVES[2][: len(wave)] / np.abs(WAVES[2]).max()
    np.testing.assert_allclose(wave, reference, atol=1e-3)


def test_real_recordings_are_marked_as_narrow_and_without_text(store):
    row = store.rows[3]
    assert (row["corpus"], row["text"], row["max_hz"]) == ("librispeech", "", 8000)
    assert all(other["max_hz"] == 12000 for other in store.rows[:3])
    assert store.select("train", "librispeech") + store.select("val", "librispeech") == [row]


def test_split_is_by_name_and_by_person(tmp_path):
    names = [f"utt-{i}" for i in range(400)]
    rows = [{"utt": name, "spk": "af_heart", "audio": b""} for name in names]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    people = [{"utt": f"{i}-{take}", "spk": str(i), "audio": b""} for i in range(200) for take in range(2)]
    parquet.write_table(pyarrow.Table.from_pylist(people), tmp_path / "people")
    found = [row for row, _ in utterances(tmp_path, tmp_path / "people")]
    assert len(found) == 800
    held = {row["utt"] for row in found if row["split"] == "val" and row["corpus"] == "kokoro"}
    assert held == {name for name in names if zlib.crc32(name.encode()) % 20 == 0}
    assert 8 <= len(held) <= 32
    splits: dict[str, set[str]] = {}
    for row in found[400:]:
        splits.setdefault(row["spk"], set()).add(row["split"])
    assert all(len(kinds) == 1 for kinds in splits.values())
    assert 8 <= sum(kinds == {"val"} for kinds in splits.values()) <= 32


def test_every_nth_recording_of_each_file(tmp_path):
    for shard in ("a", "b"):
        rows = [{"utt": f"{shard}{i}", "spk": "af_heart", "audio": b""} for i in range(5)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{shard}.parquet")
    people = [{"utt": f"r{i}", "spk": str(i), "audio": b""} for i in range(4)]
    parquet.write_table(pyarrow.Table.from_pylist(people), tmp_path / "people")
    found = [row["utt"] for row, _ in utterances(tmp_path, tmp_path / "people", every=3)]
    assert found == ["a0", "a3", "b0", "b3", "r0", "r3"]


def test_a_corpus_of_which_nothing_is_held_out_is_refused(store, tmp_path):
    with pytest.raises(AudioError, match=r"held out for validation: give a larger corpus .* smaller --every"):
        data.check_splits(store)
    rows = [{**store.rows[0], "split": split} for split in ("train", "val")]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data.check_splits(FeatureStore(tmp_path))
    (tmp_path / "index.jsonl").write_text(json.dumps(rows[1]) + "\n", encoding="utf-8")
    with pytest.raises(AudioError, match="to train on"):
        data.check_splits(FeatureStore(tmp_path))


def test_tokens_are_written_and_read_by_row(store):
    tokens = [np.arange(row["tokens"]) + 100 * row["number"] for row in store.rows]
    store.write("tokens", tokens)
    again = FeatureStore(store.folder)
    for row, expected in zip(again.rows, tokens, strict=True):
        np.testing.assert_array_equal(again.tokens(row), expected)
        assert again.tokens(row).dtype == np.int64


def test_tokens_of_another_length_are_refused(store):
    with pytest.raises(AudioError, match="lengths of the index"):
        store.write("tokens", [np.zeros(row["tokens"] - 1) for row in store.rows])


def test_index_can_be_read_by_people(store):
    lines = (store.folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["phonemes"] == "həlˈoʊ."
    assert "həlˈoʊ" in lines[0]
    assert not (store.folder / "index.tmp").exists()


@pytest.mark.parametrize(("corpus", "message"), [("nowhere", "no parquet shards"), ("corpus", "no file .*campplus")])
def test_command_line_names_what_is_missing(sources, corpus, message, capsys):
    arguments = ["--corpus", str(sources / corpus), "--campplus", str(sources / "campplus.onnx")]
    with pytest.raises(SystemExit):
        main([*arguments, "--out", str(sources / "out")])
    import re

    assert re.search(message, capsys.readouterr().err)
    assert not (sources / "out").exists()
