"""Distilling a tiny speaker encoder from a tiny teacher, on a handful of made-up voices."""

from __future__ import annotations

import io
import itertools
import json
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from fireside.errors import AudioError
from fireside.models.config import SpeakerConfig
from fireside.models.speaker import SpeakerEncoder
from fireside.train import loop
from fireside.train import speaker as module
from fireside.train.loop import RunConfig
from fireside.train.speaker import Hearing, HearingConfig, SpeakerTraining, batches, losses, separation, train
from fireside.train.speaker_crops import CropConfig, CropStore, Teacher, prepare_crops

onnx = pytest.importorskip("onnx", reason="the teacher is an ONNX file (extra 'dev')")
pyarrow = pytest.importorskip("pyarrow", reason="the corpus is parquet (extra 'train')")
pytest.importorskip("onnxruntime", reason="the teacher is an ONNX file (extra 'train')")

TINY = SpeakerTraining(
    speaker=SpeakerConfig(
        growth_rate=8,
        bn_size=1,
        init_channels=8,
        head_channels=2,
        head_blocks=(1, 1),
        block_layers=(1, 1),
        block_dilations=(1, 2),
    ),
    crops=CropConfig(real_variants=4),
    run=RunConfig(minutes=0.02, log_every=1, warmup_steps=1),
    batch=4,
    validate_every=3,
)


def names(count: int, every: int, held_out: bool) -> list[str]:
    """Names whose checksum puts them in, or keeps them out of, the held-out share."""
    all_names = (f"name{i}" for i in range(10_000))
    return [n for n in all_names if (zlib.crc32(n.encode()) % every == 0) == held_out][:count]


def recording(number: int, rate: int, seconds: float) -> bytes:
    time = np.arange(round(rate * seconds)) / rate
    pitch = 100 + 60 * number
    wave = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 5))
    noise = np.random.default_rng(number).standard_normal(len(time))
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * wave + 0.01 * noise, rate, format="WAV")
    return buffer.getvalue()


def shard(path, utts: list[str], rate: int, seconds: float) -> None:
    from pyarrow import parquet

    rows = [
        {"utt": utt, "spk": utt, "text": "", "lang": "en", "audio": recording(i, rate, seconds)}
        for i, utt in enumerate(utts)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with a corpus, real people and a teacher: the fbank's deviation over time, projected."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "corpus").mkdir()
    shard(folder / "corpus" / "a.parquet", names(6, 20, False) + names(2, 20, True), 24000, 3.0)
    shard(folder / "real.parquet", names(3, 10, False) + names(3, 10, True), 16000, 4.0)
    helper = onnx.helper
    weight = np.random.default_rng(0).standard_normal((80, 192)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["input"], ["size"]),
            helper.make_node("ReduceMean", ["size"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["output"]),
        ],
        "teacher",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, "T", 80])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1, 192])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(network, folder / "teacher.onnx")
    return folder


@pytest.fixture(scope="module")
def store(data) -> CropStore:
    teacher = Teacher(data / "teacher.onnx")
    prepare_crops(data / "corpus", data / "real.parquet", teacher, data / "crops", TINY.crops)
    return CropStore(data / "crops")


def test_crops_hold_the_teachers_embedding_of_what_is_stored(store, data):
    teacher = Teacher(data / "teacher.onnx")
    for row in store.rows:
        fbank, target = store.fbank(row), store.target(row)
        assert float(target.norm()) == pytest.approx(1, abs=1e-5)
        # Frames are stored in 16 bits.
        assert float(target @ torch.from_numpy(teacher(fbank))) > 0.9999


def test_held_out_speech_is_neither_trained_on_nor_perturbed(store):
    train_rows, held_out = store.select("train"), store.select("val")
    assert {row["utt"] for row in train_rows}.isdisjoint(row["utt"] for row in held_out)
    assert {row["factor"] for row in held_out} == {1.0}
    assert len({row["factor"] for row in store.select("train", "librispeech")}) > 3
    assert len(store.select("val", "librispeech", whole=True)) == 3


def test_crops_are_of_the_asked_length(store):
    seconds = [row["frames"] / 100 for row in store.select("train")]
    assert min(seconds) > 1.9
    assert max(seconds) <= 6.0


def test_complete_crops_are_not_made_again(store, data):
    def never(fbank):
        raise RuntimeError("computed again")

    count = prepare_crops(data / "corpus", None, never, data / "crops", TINY.crops)
    assert count == len(store.rows)


def test_batches_are_windows_of_the_asked_length_with_their_targets(store):
    stream = batches(store, TINY, np.random.default_rng(0))
    targets = {tuple(store.target(row).tolist()) for row in store.select("train")}
    for _ in range(10):
        fbank, target = next(stream)
        assert fbank.shape[0] == target.shape[0] == TINY.batch
        assert 150 <= fbank.shape[1] <= 300
        assert all(tuple(row.tolist()) in targets for row in target)


def test_nothing_to_train_on_is_a_clear_error(store):
    empty = CropStore(store.folder)
    empty.rows = []
    with pytest.raises(AudioError, match="no speech to train on"):
        next(batches(empty, TINY, np.random.default_rng(0)))


def test_noise_has_the_asked_level_and_fills_the_gaps():
    hearing = Hearing(HearingConfig(noise=1.0, narrow=0.0, snr=(10.0, 10.0), tilt=(0.0, 0.0)), seed=0)
    fbank = torch.full((1, 2000, 80), -3.0)
    fbank[:, 1000:] = -15.0
    added = hearing(fbank).exp() - fbank.exp()
    assert (added >= 0).all()
    ratio = 10 * torch.log10(fbank.exp().sum() / added.sum())
    assert float(ratio) == pytest.approx(10.0, abs=0.5)
    torch.testing.assert_close(added[:, :1000].mean(), added[:, 1000:].mean(), rtol=0.05, atol=0)


def test_a_narrow_band_loses_the_top_and_keeps_the_bottom():
    hearing = Hearing(HearingConfig(noise=0.0, narrow=1.0, cutoff=(4000.0, 4000.0)), seed=0)
    heard = hearing(torch.zeros(1, 5, 80))
    assert heard[..., :50].abs().max() < 0.01
    assert heard[..., -1].max() < -12
    untouched = Hearing(HearingConfig(noise=0.0, narrow=0.0), seed=0)(torch.zeros(1, 5, 80))
    torch.testing.assert_close(untouched, torch.zeros(1, 5, 80))


def test_losses_vanish_for_the_teachers_own_embeddings_at_any_length():
    teacher = torch.randn(5, 16)
    perfect = losses(teacher * 3, teacher)
    assert float(perfect["cosine"]) == pytest.approx(0, abs=1e-6)
    assert float(perfect["similarity"]) == pytest.approx(0, abs=1e-6)
    rotated = losses(-teacher, teacher)
    assert float(rotated["cosine"]) == pytest.approx(2, abs=1e-5)
    assert float(rotated["similarity"]) == pytest.approx(0, abs=1e-6)  # the same voices are alike


def test_a_student_learns_a_batch_by_heart(store):
    fbank, target = next(batches(store, TINY, np.random.default_rng(0)))
    features = fbank - fbank.mean(dim=1, keepdim=True)
    torch.manual_seed(0)
    student = SpeakerEncoder(TINY.speaker)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    history = []
    for _ in range(60):
        parts = losses(student(features), target)
        optimizer.zero_grad()
        sum(parts.values()).backward()
        optimizer.step()
        history.append(float(parts["cosine"].detach()))
    assert history[-1] < 0.6 * history[0]


def test_separation_tells_a_good_ear_from_a_deaf_one(store):
    deaf = separation(lambda fbank: np.ones(4) / 2, store)
    assert deaf["same"] == deaf["different"] == pytest.approx(1)
    assert deaf["error"] >= 0.5
    rows = store.select("val", "librispeech", whole=True)
    voices = {float(store.fbank(row).mean().round(decimals=2)): i for i, row in enumerate(rows)}
    assert len(voices) == 3

    def perfect(fbank):
        nearest = min(voices, key=lambda mean: abs(mean - float(fbank.mean())))
        return np.eye(3)[voices[nearest]]

    assert separation(perfect, store) == {"same": 1.0, "different": 0.0, "error": 0.0}


def test_separation_of_a_single_person_is_not_a_number(store):
    alone = CropStore(store.folder)
    alone.rows = store.select("val", "librispeech", whole=True)[:1]
    assert all(np.isnan(value) for value in separation(lambda fbank: np.ones(4) / 2, alone).values())


def test_training_resumes_and_leaves_a_loadable_model(store, data, tmp_path, monkeypatch):
    # The budget is time: a clock that moves when it is looked at makes it a number of steps, on any machine.
    ticks = itertools.count()
    monkeypatch.setattr(
        loop,
        "time",
        SimpleNamespace(monotonic=lambda: 0.01 * next(ticks), process_time=lambda: 0.01 * next(ticks)),
    )
    (tmp_path / "crops").symlink_to(store.folder)
    arguments = (data / "corpus", data / "real.parquet", data / "teacher.onnx", tmp_path)
    train(*arguments, TINY)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] > 3
    log = (tmp_path / "log.txt").read_text()
    assert log.count(" train: ") == report["steps"]
    assert "val: cosine_kokoro=" in log

    # A longer budget goes on from the checkpoint, not from the beginning.
    longer = TINY.model_copy(update={"run": TINY.run.model_copy(update={"minutes": 0.025})})
    command = [
        "speaker",
        *(f"--{key}={value}" for key, value in zip(("corpus", "speakers", "teacher", "out"), arguments, strict=True)),
    ]
    (tmp_path / "tiny.yaml").write_text(longer.model_dump_json())
    monkeypatch.setattr("sys.argv", [*command, "--config", str(tmp_path / "tiny.yaml"), "--threads", "1"])
    module.main()
    assert json.loads((tmp_path / "report.json").read_text())["steps"] > report["steps"]

    config = SpeakerConfig.model_validate_json((tmp_path / "config.json").read_text())
    model = SpeakerEncoder(config)
    model.load_state_dict(load_file(tmp_path / "speaker.safetensors"))
    assert model.eval()(torch.randn(1, 50, 80)).shape == (1, 192)
