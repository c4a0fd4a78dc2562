import io
import math
import random

import numpy as np
import pytest
import torch

from fireside.errors import ConfigError
from fireside.train import official_data
from fireside.train.official_data import V1, V2, V3, Batch, Limits, OfficialData, main, read_list, vocoder_data
from fireside.train.schedules import HoldRate, WarmupRate, set_rate
from fireside.train.streams import by_frames, share, shuffled

parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")


def tone(seconds, rate, hertz=200.0, peak=0.4):
    time = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def row(name, wave, rate, **changes):
    import soundfile

    sound = io.BytesIO()
    soundfile.write(sound, wave, rate, format="WAV", subtype="FLOAT")
    plain = {
        "utt": name,
        "audio_data": sound.getvalue(),
        "text": "hello",
        "spk": "s",
        "utt_embedding": [3.0, 4.0],
        "spk_embedding": [0.0, 2.0],
        "speech_token": list(range(1, 1 + round(25 * len(wave) / rate))),
    }
    return plain | changes


def write(file, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


def tokenize(text):
    return list(text.encode())


def names(data):
    return [name for batch in data for name in batch.names]


def test_batches_of_a_shard(tmp_path):
    rows = [
        row("short", tone(1.2, 24000), 24000),
        row("long", tone(1.5, 48000), 48000),
        row("loud", tone(1.3, 24000, peak=2.0), 24000),
        row("too short", tone(0.5, 24000), 24000),
        row("narrow", tone(1.2, 8000), 8000),
        row("silent in tokens", tone(1.2, 24000), 24000, speech_token=[]),
        row("wordless", tone(1.2, 24000), 24000, text=""),
    ]
    (batch,) = OfficialData([write(tmp_path / "a.parquet", rows)], V3, tokenize)
    assert batch.names == ("long", "loud", "short")
    assert batch.wave.lengths.tolist() == [38 * 960, 33 * 960, 30 * 960]
    assert (batch.mel.lengths * 480).tolist() == batch.wave.lengths.tolist()
    assert (batch.whisper.lengths * 240).tolist() == batch.wave.lengths.tolist()
    assert batch.wave.values.abs().amax(1) == pytest.approx([0.4, 1.0, 0.4], abs=0.02)
    torch.testing.assert_close(batch.embedding, torch.tensor([[0.6, 0.8]] * 3))
    assert batch.text.values[0].tolist() == tokenize("hello")
    assert batch.speech.lengths.tolist() == [38, 32, 30]
    assert batch.instruct is None
    assert batch.rejected is None
    assert batch.f0 is None


def test_optional_columns(tmp_path):
    wave = tone(1.2, 24000)
    rows = [
        row("told", wave, 24000, instruct="softly", reject_speech_token=[7, 8]),
        row("untold", wave[:-960], 24000, instruct=None, reject_speech_token=[9]),
        row("nothing rejected", wave, 24000, instruct=None, reject_speech_token=[]),
    ]
    (batch,) = OfficialData([write(tmp_path / "a.parquet", rows)], V3, tokenize)
    assert batch.names == ("told", "untold")
    assert batch.instruct.lengths.tolist() == [6, 0]
    assert batch.rejected.values.tolist() == [[7, 8], [9, 0]]


def test_vocoder_data_is_cut_and_has_f0(tmp_path):
    rows = [row("a", tone(1.6, 24000, 200.0), 24000), row("b", tone(1.1, 24000, 100.0), 24000)]
    config = vocoder_data(2)
    (batch,) = OfficialData([write(tmp_path / "a.parquet", rows)], config, tokenize)
    assert batch.wave.values.shape == (2, 24480)
    assert batch.f0.lengths.tolist() == batch.mel.lengths.tolist() == [51, 51]
    middle = batch.f0.values[:, 20:30].mean(1)
    assert sorted(middle.tolist()) == pytest.approx([100.0, 200.0], rel=0.02)
    assert batch.whisper is None


@pytest.mark.parametrize("version", [1, 2, 3])
def test_vocoders_see_whole_frames(version):
    config = vocoder_data(version)
    assert config.crop % config.mel.hop_length == 0
    assert config.mel.fmax is None


def test_version_1_has_its_own_mel(tmp_path):
    rows = [row("a", tone(1.2, 22050), 22050)]
    (batch,) = OfficialData([write(tmp_path / "a.parquet", rows)], V1, tokenize)
    assert batch.wave.lengths.tolist() == [round(1.2 * 22050)]
    assert batch.mel.lengths.tolist() == [round(1.2 * 22050) // 256]
    assert batch.whisper is None


def test_unreadable_sound_is_left_out_and_told(tmp_path, caplog):
    rows = [row("good", tone(1.2, 24000), 24000), row("bad", tone(1.2, 24000), 24000, audio_data=b"no sound")]
    assert names(OfficialData([write(tmp_path / "a.parquet", rows)], V2, tokenize)) == ["good"]
    assert "bad" in caplog.text


def test_epochs_processes_and_seeds(tmp_path, monkeypatch):
    shards = [
        write(tmp_path / f"{i}.parquet", [row(f"{i}{j}", tone(1.1 + j / 10, 24000), 24000) for j in range(4)])
        for i in range(4)
    ]
    config = V2.model_copy(update={"sort": 1, "batch_frames": 1, "whisper": False})

    def read(seed=0, epoch=0, rank=0, ranks=1, training=True):
        monkeypatch.setattr(OfficialData, "_rank", staticmethod(lambda: (rank, ranks)))
        data = OfficialData(shards, config, tokenize, seed, training)
        data.epoch = epoch
        return names(data)

    everything = read()
    assert sorted(everything) == [f"{i}{j}" for i in range(4) for j in range(4)]
    assert read() == everything
    assert read(seed=1) != everything
    assert read(epoch=1) != everything
    halves = [read(rank=rank, ranks=2) for rank in range(2)]
    assert sorted(halves[0] + halves[1]) == sorted(everything)
    assert len(halves[0]) == len(halves[1])
    assert sorted(read(rank=1, ranks=2, training=False)) == sorted(everything)


def test_loader_workers_share_the_shards(tmp_path):
    shards = [write(tmp_path / f"{i}.parquet", [row(str(i), tone(1.1, 24000), 24000)]) for i in range(3)]
    data = OfficialData(shards, V1, tokenize)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(names(loader)) == ["0", "1", "2"]


def test_shards_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="is not a parquet file"):
        names(OfficialData([tmp_path / "missing.parquet"], V1, tokenize))
    text = tmp_path / "text.parquet"
    text.write_text("no parquet")
    with pytest.raises(ConfigError, match="is not a parquet file"):
        names(OfficialData([text], V1, tokenize))
    poor = row("a", tone(1.2, 24000), 24000)
    del poor["speech_token"]
    with pytest.raises(ConfigError, match="has no column speech_token"):
        names(OfficialData([write(tmp_path / "poor.parquet", [poor])], V1, tokenize))
    listed = tmp_path / "data.list"
    listed.write_text(f"{text}\n\n{tmp_path / 'gone'}\n")
    with pytest.raises(ConfigError, match="gone, which is not there"):
        read_list(listed)


def test_command_line(tmp_path, official_model, capsys):
    shard = write(tmp_path / "a.parquet", [row("a", tone(2.0, 24000), 24000), row("b", tone(1.0, 24000), 24000)])
    listed = tmp_path / "data.list"
    listed.write_text(f"{shard}\n")
    main([str(listed), "--model", str(official_model(2))])
    assert "2 utterances" in (out := capsys.readouterr().out)
    assert "25.0 % of their frames are padding" in out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.list"), "--model", str(official_model(2))])
    assert "is not a list of shards" in capsys.readouterr().err


def test_a_batch_says_whose_embedding_it_has():
    sound = official_data.Sound(torch.zeros(480), torch.zeros(1, 80))
    one = official_data.Utterance("u", sound, torch.ones(1), torch.ones(1), torch.zeros(2), torch.ones(2))
    assert Batch.of([one]).embedding.tolist() == [[0, 0]]
    assert Batch.of([one], speaker_embedding=True).embedding.tolist() == [[1, 1]]


def test_limits_of_a_sound_without_length():
    assert not Limits().keep(0.0, 1, 1)
    assert Limits(min_frames=0).keep(0.0, 1, 1)


def test_streams():
    assert sorted(shuffled(range(50), 8, random.Random(0))) == list(range(50))
    # An item goes on within a few fillings of the pool.
    assert all(item - place < 8 for place, item in enumerate(shuffled(range(50), 8, random.Random(0))))
    assert list(by_frames([5, 20, 3], 10, lambda frames: frames)) == [[5], [20], [3]]
    assert share(0, ranks=4) == []
    assert [share(2, rank=rank, ranks=4, shuffle=False) for rank in range(4)] == [[0], [1], [0], [1]]


def test_rates():
    rate = WarmupRate(1e-3, 100)
    assert max(range(300), key=rate) == 99
    assert rate(399) == pytest.approx(0.5e-3)
    hold = HoldRate(1.0, warmup=10, hold=20, steps=100, least=0.3)
    assert [hold(step) for step in (10, 30)] == [1.0, 1.0]
    assert hold(60) == pytest.approx(math.sqrt(10 / 40))
    assert hold(101) == 0.3
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    set_rate(optimizer, hold(60))
    assert optimizer.param_groups[0]["lr"] == hold(60)
