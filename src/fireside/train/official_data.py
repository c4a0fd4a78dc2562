"""Training batches for CosyVoice's checkpoints, read from the parquet shards that its recipes make.

    python -m fireside.train.official_data data.list --model CosyVoice2-0.5B

says what a run over the shards would see. In a training loop, in any number of processes and loader workers:

    tokenize, version = official_tokenizer(folder)
    data = OfficialData(read_list(file), VERSIONS[version], tokenize, seed=0)
    for epoch in range(epochs):
        data.epoch = epoch
        for batch in DataLoader(data, batch_size=None, num_workers=4): ...

A shard has the columns `utt`, `audio_data` (a sound file's bytes), `text`, `spk`, `utt_embedding`, `spk_embedding`,
`speech_token`, and maybe `instruct` and `reject_speech_token`. Utterances that are too short, too long, or whose text
cannot be all that is said are left out; so are sounds that cannot be read, with a line in the log.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from fireside.audio.features import WHISPER_RATE, MelSpectrogram, whisper_log_mel
from fireside.audio.io import read_audio
from fireside.audio.resample import resample
from fireside.engine.texts import make_frontend
from fireside.errors import AudioError, ConfigError, FiresideError
from fireside.models.config import Config, MelConfig
from fireside.models.official import OfficialFolder
from fireside.text.official.frontend import OfficialFrontend
from fireside.train.streams import by_frames, share, shuffled, sorted_runs

logger = logging.getLogger(__name__)

Tokenize = Callable[[str], Sequence[int]]
COLUMNS = ("utt", "audio_data", "text", "spk", "utt_embedding", "spk_embedding", "speech_token")
OPTIONAL_COLUMNS = ("instruct", "reject_speech_token")
RECORDS_AT_ONCE = 64


class Limits(Config):
    """Which utterances are kept. Lengths of sound in frames of 10 ms, of text in ids; ratios are ids per frame."""

    min_frames: float = 100
    max_frames: float = 6000
    min_text: int = 1
    max_text: int = 200
    min_ratio: float = 0.0005
    max_ratio: float = 1.0

    def keep(self, seconds: float, text: int, speech: int, rejected: int | None = None) -> bool:
        """Whether an utterance with so many text ids, speech tokens and rejected speech tokens is kept."""
        frames = 100 * seconds
        return (
            self.min_frames <= frames <= self.max_frames
            and self.min_text <= text <= self.max_text
            and speech > 0
            and rejected != 0
            and (frames == 0 or self.min_ratio <= text / frames <= self.max_ratio)
        )


class OfficialDataConfig(Config):
    """How utterances become batches.

    mel: of the flow; min_sample_rate: recordings below are left out; unit: samples that a whole speech token has, up
    to which the sound is filled, None to leave it; whisper: Whisper's log-mel, too, which v2's and v3's speech
    tokenizers read; crop: samples of the piece that a vocoder sees of each utterance, with its f0, None for all;
    speaker_embedding: batches have the speaker's mean embedding, not the utterance's; shuffle, sort: utterances that
    are mixed and that are sorted by length at a time; batch_frames: mel frames of a batch once padded.
    """

    mel: MelConfig = MelConfig()
    limits: Limits = Limits()
    min_sample_rate: int = 16000
    unit: int | None = 960
    whisper: bool = True
    crop: int | None = None
    speaker_embedding: bool = False
    shuffle: int = 1000
    sort: int = 500
    batch_frames: int = 2000


V1 = OfficialDataConfig(
    mel=MelConfig(sample_rate=22050, n_fft=1024, hop_length=256, win_length=1024, fmax=8000.0),
    limits=Limits(min_frames=0, max_frames=40960),
    unit=None,
    whisper=False,
)
V2 = OfficialDataConfig(mel=MelConfig(fmax=8000.0))
V3 = OfficialDataConfig()
VERSIONS = {1: V1, 2: V2, 3: V3}
CROPS = {1: 24576, 2: 24480, 3: 24960}
"""Samples that each version's vocoder is trained on."""


def vocoder_data(version: int) -> OfficialDataConfig:
    """What a version's vocoder is trained on: pieces of equal length, up to half the sample rate."""
    config = VERSIONS[version]
    mel = config.mel.model_copy(update={"fmax": None})
    return config.model_copy(update={"mel": mel, "whisper": False, "unit": None, "crop": CROPS[version]})


@dataclass(frozen=True)
class Sound:
    """What is made of a recording.

    wave: float32 [samples]; mel: [frames, n_mels], natural log; whisper: [frames at 100 Hz, 128], and f0: [frames] in
    Hz, where the config asks for them.
    """

    wave: Tensor
    mel: Tensor
    whisper: Tensor | None = None
    f0: Tensor | None = None


@dataclass(frozen=True)
class Utterance:
    """A shard's row, ready for training.

    text, speech: int64 ids; embedding, speaker: of the utterance and the speaker's mean, unit length; instruct,
    rejected: int64 ids, where there are any.
    """

    name: str
    sound: Sound
    text: Tensor
    speech: Tensor
    embedding: Tensor
    speaker: Tensor
    instruct: Tensor | None = None
    rejected: Tensor | None = None

    @property
    def frames(self) -> int:
        """Mel frames."""
        return len(self.sound.mel)


@dataclass(frozen=True)
class Padded:
    """Rows of different lengths in one tensor: values [rows, longest, ...], 0 behind each row's length [rows]."""

    values: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, rows: Sequence[Tensor]) -> Padded:
        """Pad rows [length, ...]."""
        return cls(pad_sequence(list(rows), batch_first=True), torch.tensor([len(row) for row in rows]))


@dataclass(frozen=True)
class Batch:
    """Utterances side by side, the longest sound first; fields as in Utterance and Sound.

    embedding: [rows, dim], of the utterances or of the speakers.
    """

    names: tuple[str, ...]
    text: Padded
    speech: Padded
    wave: Padded
    mel: Padded
    embedding: Tensor
    instruct: Padded | None
    rejected: Padded | None
    whisper: Padded | None
    f0: Padded | None

    @classmethod
    def of(cls, utterances: Sequence[Utterance], speaker_embedding: bool = False) -> Batch:
        """Join utterances. A feature that only some of them have is an empty row of the others."""
        rows = sorted(utterances, key=lambda row: -len(row.sound.wave))
        sounds = [row.sound for row in rows]

        def optional(values: Sequence[Tensor | None]) -> Padded | None:
            given = next((value for value in values if value is not None), None)
            if given is None:
                return None
            return Padded.of([given[:0] if value is None else value for value in values])

        return cls(
            names=tuple(row.name for row in rows),
            text=Padded.of([row.text for row in rows]),
            speech=Padded.of([row.speech for row in rows]),
            wave=Padded.of([sound.wave for sound in sounds]),
            mel=Padded.of([sound.mel for sound in sounds]),
            embedding=torch.stack([row.speaker if speaker_embedding else row.embedding for row in rows]),
            instruct=optional([row.instruct for row in rows]),
            rejected=optional([row.rejected for row in rows]),
            whisper=optional([sound.whisper for sound in sounds]),
            f0=optional([sound.f0 for sound in sounds]),
        )


class Extractor:
    """Makes features of one utterance after another; keeps nothing of them."""

    def __init__(self, config: OfficialDataConfig, tokenize: Tokenize) -> None:
        self.config = config
        self.tokenize = tokenize
        self.mel = MelSpectrogram.from_config(config.mel)

    def utterance(self, record: Mapping[str, Any], rng: random.Random) -> Utterance | None:
        """A shard's row, or None where the config leaves it out. rng: of the piece that is cut.

        Raises AudioError when the sound cannot be read.
        """
        limits = self.config.limits
        recording = read_audio(record["audio_data"], max_seconds=limits.max_frames / 100 + 1)
        text = self.tokenize(record["text"])
        speech, rejected, instruct = (record.get(name) for name in ("speech_token", "reject_speech_token", "instruct"))
        if recording.sample_rate < self.config.min_sample_rate or not limits.keep(
            recording.seconds, len(text), len(speech or ()), None if rejected is None else len(rejected)
        ):
            return None
        return Utterance(
            name=record["utt"],
            sound=self.sound(torch.from_numpy(recording.samples), recording.sample_rate, rng),
            text=torch.tensor(text),
            speech=torch.tensor(speech),
            embedding=F.normalize(torch.tensor(record["utt_embedding"], dtype=torch.float32), dim=0),
            speaker=F.normalize(torch.tensor(record["spk_embedding"], dtype=torch.float32), dim=0),
            instruct=None if instruct is None else torch.tensor(self.tokenize(instruct), dtype=torch.long),
            rejected=None if rejected is None else torch.tensor(rejected),
        )

    def sound(self, wave: Tensor, rate: int, rng: random.Random) -> Sound:
        """Features of a recording [samples] of any sample rate."""
        config, target = self.config, self.config.mel.sample_rate
        wave = prepared(wave, rate, target)
        if config.crop is not None:
            wave = cropped(wave, config.crop, rng)
        if config.unit is not None:
            wave = F.pad(wave, (0, -len(wave) % config.unit))
        mel = self.mel(wave[None])[0].T
        whisper = whisper_log_mel(resample(wave, target, WHISPER_RATE)).T if config.whisper else None
        return Sound(wave, mel, whisper, None if config.crop is None else pitch(wave, len(mel), config.mel))


def prepared(wave: Tensor, rate: int, target: int) -> Tensor:
    """A recording [samples] at the sample rate of the mel; scaled where it goes beyond -1..1."""
    wave = resample(wave, rate, target)
    return wave / wave.abs().max().clamp_min(1.0)


def cropped(wave: Tensor, samples: int, rng: random.Random) -> Tensor:
    """A random piece of a recording, or the whole with silence behind it."""
    if len(wave) <= samples:
        return F.pad(wave, (0, samples - len(wave)))
    start = rng.randint(0, len(wave) - samples)
    return wave[start : start + samples]


def pitch(wave: Tensor, frames: int, mel: MelConfig) -> Tensor:
    """F0 in Hz of every mel frame [frames], 0 where unvoiced: WORLD's Harvest with StoneMask (Morise 2017), or its DIO
    where Harvest hears nothing."""
    import pyworld

    signal, rate = wave.double().numpy(), mel.sample_rate
    period = 1000 * mel.hop_length / rate
    f0, times = pyworld.harvest(signal, rate, frame_period=period)
    if np.count_nonzero(f0) < 5:
        f0, times = pyworld.dio(signal, rate, frame_period=period)
    f0 = pyworld.stonemask(signal, f0, times, rate)
    return F.interpolate(torch.from_numpy(f0)[None, None], size=frames, mode="linear")[0, 0].float()


def records(shard: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard, some at a time. Raises ConfigError when it is no shard of training data."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(shard)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ConfigError(f"{shard} is not a parquet file of training data.") from error
    missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise ConfigError(f"{shard} has no column {missing[0]}; training data has {', '.join(COLUMNS)}.")
    wanted = [name for name in (*COLUMNS, *OPTIONAL_COLUMNS) if name in file.schema_arrow.names]
    for rows in file.iter_batches(batch_size=RECORDS_AT_ONCE, columns=wanted):
        yield from rows.to_pylist()


def batches(utterances: Iterable[Utterance], config: OfficialDataConfig, rng: random.Random) -> Iterator[Batch]:
    """Mix utterances, put those of like length together, and pad them."""
    mixed = shuffled(utterances, config.shuffle, rng)
    in_order = sorted_runs(mixed, config.sort, lambda utterance: utterance.frames)
    for batch in by_frames(in_order, config.batch_frames, lambda utterance: utterance.frames):
        yield Batch.of(batch, config.speaker_embedding)


class OfficialData(IterableDataset[Batch]):
    """One epoch's batches of this process: of its rank in `torch.distributed`, and its worker in a DataLoader.

    tokenize: text to ids; seed: of mixing and cutting, which also differ from epoch to epoch; training False: for
    validation, every process reads all shards in their order.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        config: OfficialDataConfig,
        tokenize: Tokenize,
        seed: int = 0,
        training: bool = True,
    ) -> None:
        super().__init__()
        self.shards = list(shards)
        self.extractor = Extractor(config, tokenize)
        self.seed = seed
        self.training = training
        self.epoch = 0

    def __iter__(self) -> Iterator[Batch]:
        worker, workers = self._worker()
        rank, ranks = self._rank() if self.training else (0, 1)
        rng = random.Random(f"{self.seed} {self.epoch} {rank} {worker}")
        order = share(
            len(self.shards),
            epoch=self.epoch,
            rank=rank,
            ranks=ranks,
            worker=worker,
            workers=workers,
            shuffle=self.training,
        )
        yield from batches(self._utterances(order, rng), self.extractor.config, rng)

    def _utterances(self, order: Iterable[int], rng: random.Random) -> Iterator[Utterance]:
        for index in order:
            for record in records(self.shards[index]):
                try:
                    utterance = self.extractor.utterance(record, rng)
                except AudioError as error:
                    logger.warning("%s, %s: %s", self.shards[index], record["utt"], error)
                    continue
                if utterance is not None:
                    yield utterance

    @staticmethod
    def _worker() -> tuple[int, int]:
        info = get_worker_info()
        return (0, 1) if info is None else (info.id, info.num_workers)

    @staticmethod
    def _rank() -> tuple[int, int]:
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return 0, 1
        return distributed.get_rank(), distributed.get_world_size()


def read_list(file: Path) -> list[Path]:
    """The shards that a `data.list` names, one in a line. Raises ConfigError when one is missing."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a list of shards, one in a line.") from error
    shards = [Path(line.strip()) for line in lines if line.strip()]
    for shard in shards:
        if not shard.is_file():
            raise ConfigError(f"{file} names {shard}, which is not there.")
    return shards


def official_tokenizer(folder: Path) -> tuple[Tokenize, int]:
    """How a model tokenizes the text of its training data, as it is written; and which CosyVoice it is.

    Raises ModelError or ConfigError when the folder is none of CosyVoice's.
    """
    model = OfficialFolder(folder)
    frontend = make_frontend(model, normaliser="none")
    assert isinstance(frontend, OfficialFrontend)
    return frontend.tokenizer.encode, model.version


def main(arguments: Sequence[str] | None = None) -> None:
    """Say what a run over the shards would see."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="a list of parquet shards, one in a line")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model to train, for its tokenizer")
    parser.add_argument("--vocoder", action="store_true", help="the pieces that a vocoder is trained on")
    options = parser.parse_args(arguments)
    try:
        tokenize, version = official_tokenizer(options.model)
        data = OfficialData(
            read_list(options.shards), vocoder_data(version) if options.vocoder else VERSIONS[version], tokenize
        )
        rows = frames = padded = count = 0
        for batch in data:
            count, rows = count + 1, rows + len(batch.names)
            frames, padded = frames + int(batch.mel.lengths.sum()), padded + batch.mel.values[..., 0].numel()
    except FiresideError as error:
        parser.error(str(error))
    mel = data.extractor.config.mel
    hours = frames * mel.hop_length / mel.sample_rate / 3600
    share_padded = 100 * (1 - frames / max(1, padded))
    print(f"{rows} utterances, {hours:.2f} hours, in {count} batches; {share_padded:.1f} % of their frames are padding")


if __name__ == "__main__":
    main()
