"""Features on disk for training: written once from parquet shards, read as memory maps by every loop.

    python -m fireside.train.data --corpus DIR --speakers FILE --campplus campplus.onnx --out runs/features

A feature folder holds `index.jsonl` (a row per utterance, with offsets) and one flat binary file per kind of
feature. All kinds are cut to whole speech tokens, so that one token is 2 mel frames, 4 log-mel frames and 960
samples.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fireside.audio.features import MelSpectrogram, kaldi_fbank, whisper_log_mel
from fireside.audio.resample import resample
from fireside.errors import AudioError

SAMPLE_RATE = 24000
SAMPLES_PER_TOKEN = 960
# kind -> (file, dtype, values per entry, entries per speech token)
KINDS: dict[str, tuple[str, str, int, int]] = {
    "wav": ("wav24.i16", "<i2", 1, 960),
    "mel": ("mel.f16", "<f2", 80, 2),
    "logmel": ("logmel.f16", "<f2", 128, 4),
    "f0": ("f0.f32", "<f4", 1, 2),
    "teacher": ("campplus.f32", "<f4", 192, 0),
    "embedding": ("speaker.f32", "<f4", 192, 0),
    "halves": ("speaker_halves.f32", "<f4", 2 * 192, 0),
    "tokens": ("speech_tokens.i16", "<i2", 1, 1),
    "phones": ("phone_labels.i16", "<i2", 1, 1),
}
LATER = ("tokens", "phones", "embedding", "halves")  # written by the stages of the tokenizer and the speaker encoder

Row = dict[str, Any]


class FeatureStore:
    """Reads a feature folder; every accessor takes a row of `rows` and returns a numpy array.

    wav: float32 [samples] at 24 kHz; mel: float32 [frames, 80] at 50 Hz, natural log; logmel: float32
    [frames, 128] at 100 Hz; f0: float32 [frames] in Hz at 50 Hz, 0 where unvoiced; teacher and embedding:
    float32 [192], unit length, CAM++'s and our speaker encoder's; halves: [2, 192], ours of an utterance's first and
    second half; tokens: int64 [tokens] at 25 Hz; phones:
    int64 [tokens], the sound of each token, 0 in pauses, -1 without text.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        with (self.folder / "index.jsonl").open(encoding="utf-8") as lines:
            self.rows: list[Row] = [json.loads(line) for line in lines]
        self._maps: dict[str, np.ndarray] = {}

    def select(self, split: str, corpus: str | None = None) -> list[Row]:
        """The rows of a split ('train' or 'val'), of one corpus or of all."""
        return [row for row in self.rows if row["split"] == split and corpus in (None, row["corpus"])]

    def _map(self, kind: str) -> np.ndarray:
        if kind not in self._maps:
            name, dtype, width, _ = KINDS[kind]
            flat = np.memmap(self.folder / name, dtype=dtype, mode="r")
            self._maps[kind] = flat.reshape(-1, width) if width > 1 else flat
        return self._maps[kind]

    def _slice(self, kind: str, row: Row) -> np.ndarray:
        per_token = KINDS[kind][3]
        start = row["first_token"] * per_token
        return self._map(kind)[start : start + row["tokens"] * per_token]

    def wav(self, row: Row) -> np.ndarray:
        """Samples."""
        return self._slice("wav", row).astype(np.float32) / 32768.0

    def mel(self, row: Row) -> np.ndarray:
        """Mel spectrogram."""
        return self._slice("mel", row).astype(np.float32)

    def logmel(self, row: Row) -> np.ndarray:
        """Whisper log-mel."""
        return self._slice("logmel", row).astype(np.float32)

    def f0(self, row: Row) -> np.ndarray:
        """Fundamental frequency."""
        return np.array(self._slice("f0", row))

    def embedding(self, row: Row) -> np.ndarray:
        """Our speaker encoder's embedding."""
        return np.array(self._map("embedding")[row["number"]])

    def teacher(self, row: Row) -> np.ndarray:
        """CAM++'s embedding."""
        return np.array(self._map("teacher")[row["number"]])

    def halves(self, row: Row) -> np.ndarray:
        """Our speaker encoder's embeddings of the first and the second half."""
        return np.array(self._map("halves")[row["number"]]).reshape(2, -1)

    def tokens(self, row: Row) -> np.ndarray:
        """Speech tokens."""
        return self._slice("tokens", row).astype(np.int64)

    def phones(self, row: Row) -> np.ndarray:
        """The sound of each token."""
        return self._slice("phones", row).astype(np.int64)

    def write(self, kind: str, values: list[np.ndarray]) -> None:
        """Write the 'tokens' or 'phones' of all rows, in the order of `rows`.

        Raises AudioError when the lengths are not those of the index.
        """
        flat = np.concatenate([np.asarray(ids, dtype="<i2") for ids in values])
        if len(flat) != sum(row["tokens"] for row in self.rows):
            raise AudioError(f"the {kind} do not have the lengths of the index; prepare the features again.")
        flat.tofile(self.folder / KINDS[kind][0])

    def write_embeddings(self, embeddings: np.ndarray, halves: np.ndarray) -> None:
        """Write the speaker encoder's embeddings of all rows, [rows, 192], and of their halves, [rows, 2, 192], in the
        order of `rows`."""
        for kind, values in (("embedding", embeddings), ("halves", halves.reshape(len(halves), -1))):
            if values.shape != (len(self.rows), KINDS[kind][2]):
                raise AudioError(f"{len(self.rows)} embeddings are needed, not {values.shape}.")
            values.astype("<f4").tofile(self.folder / KINDS[kind][0])


def f0_track(audio: np.ndarray, frames: int) -> np.ndarray:
    """F0 in Hz at the centres of the mel frames (10 ms + 20 ms i), 0 where unvoiced.

    WORLD's DIO with StoneMask.
    """
    import pyworld

    wave = audio.astype(np.float64)
    coarse, times = pyworld.dio(wave, SAMPLE_RATE, f0_floor=60.0, f0_ceil=550.0, frame_period=10.0)
    f0 = pyworld.stonemask(wave, coarse, times, SAMPLE_RATE)[1::2][:frames]
    return np.pad(f0, (0, frames - len(f0))).astype("<f4")


@dataclass
class _Extractor:
    """What one worker process keeps: the teacher of speaker embeddings and the mel filter bank."""

    campplus: Any
    mel: MelSpectrogram

    def __call__(self, item: tuple[Row, bytes]) -> tuple[Row, dict[str, bytes]]:
        import soundfile

        row, audio_bytes = item
        audio, rate = soundfile.read(io.BytesIO(audio_bytes), dtype="float32")
        wave = torch.from_numpy(audio)
        wave24 = resample(wave[None], rate, SAMPLE_RATE)[0] if rate != SAMPLE_RATE else wave
        peak = float(wave24.abs().max())
        if peak > 1.0:
            wave24 = wave24 / peak
        tokens = len(wave24) // SAMPLES_PER_TOKEN
        wave24 = wave24[: tokens * SAMPLES_PER_TOKEN]
        wave16 = resample(wave24[None], SAMPLE_RATE, 16000)[0]
        fbank = kaldi_fbank(wave16)
        centred = (fbank - fbank.mean(0)).numpy()[None]
        embedding = self.campplus.run(None, {"input": centred})[0].ravel()
        features = {
            "wav": (wave24 * 32767.0).round().clamp(-32768, 32767).numpy().astype("<i2"),
            "mel": self.mel(wave24[None])[0].T[: 2 * tokens].numpy().astype("<f2"),
            "logmel": whisper_log_mel(wave16).T[: 4 * tokens].numpy().astype("<f2"),
            "f0": f0_track(wave24.numpy(), 2 * tokens),
            "teacher": (embedding / np.linalg.norm(embedding)).astype("<f4"),
        }
        row["tokens"] = tokens
        row["max_hz"] = min(rate, SAMPLE_RATE) // 2
        return row, {kind: np.ascontiguousarray(value).tobytes() for kind, value in features.items()}


_worker: _Extractor | None = None


def _start_worker(campplus: str) -> None:
    global _worker  # one per worker process: what a process pool offers for state that cannot be pickled
    import onnxruntime

    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(campplus, options)
    _worker = _Extractor(session, MelSpectrogram())


def _extract(item: tuple[Row, bytes]) -> tuple[Row, dict[str, bytes]]:
    if _worker is None:
        raise RuntimeError("the worker was not started")
    return _worker(item)


def held_out(name: str, every: int) -> bool:
    """Whether an utterance or a person is kept for validation: one in `every`, by a checksum of the name."""
    return zlib.crc32(name.encode()) % every == 0


def utterances(
    corpus: Path, speakers: Path | None, warps: Sequence[float] = (), every: int = 1
) -> Iterator[tuple[Row, bytes]]:
    """All utterances of the corpus shards, then of the real recordings, with their split.

    Held out: every twentieth utterance of the corpus and every tenth real person. warps: each real person who is not
    held out comes again at these speeds, as a tape would be played: another voice, vocal tract and tempo included.
    every: only each `every`th recording of a file, from the first on.
    """
    for shard in sorted(corpus.glob("*.parquet")):
        for record in _records(shard, every):
            audio = record.pop("audio")
            split = "val" if held_out(record["utt"], 20) else "train"
            yield {**record, "corpus": "kokoro", "split": split}, audio
    if speakers is not None:
        for record in _records(speakers, every):
            audio = record.pop("audio")
            split = "val" if held_out(record["spk"], 10) else "train"
            row = {**record, "text": "", "speed": 1.0, "corpus": "librispeech", "split": split}
            yield row, audio
            for warp in warps if split == "train" else ():
                names = {key: f"{record[key]}-{warp:g}" for key in ("utt", "spk")}
                yield {**row, **names, "duration": record["duration"] / warp}, warped(audio, warp)


def _records(file: Path, every: int) -> list[Row]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    return table.take(np.arange(0, len(table), every)).to_pylist()


def warped(audio: bytes, speed: float) -> bytes:
    """A recording (a file's bytes) played at another speed, as FLAC."""
    import soundfile
    import soxr

    samples, rate = soundfile.read(io.BytesIO(audio), dtype="float32")
    out = io.BytesIO()
    soundfile.write(out, soxr.resample(samples, rate * speed, rate).clip(-1, 1), rate, format="FLAC")
    return out.getvalue()


def prepare(
    corpus: Path,
    speakers: Path | None,
    campplus: Path,
    out: Path,
    workers: int = 2,
    warps: Sequence[float] = (),
    every: int = 1,
) -> int:
    """Write the feature folder `out` from parquet shards; returns the number of utterances.

    corpus: folder of shards with `utt, text, lang, spk, speed, audio`; speakers: a parquet of real people or
    None; campplus: the ONNX network whose embeddings are the targets of the speaker encoder; warps, every: see
    `utterances`.
    """
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    files = {kind: (out / name).open("wb") for kind, (name, *_) in KINDS.items() if kind not in LATER}
    first_token = 0
    context = multiprocessing.get_context("spawn")
    with (
        (out / "index.tmp").open("w", encoding="utf-8") as index,
        context.Pool(workers, _start_worker, (str(campplus),)) as pool,
    ):
        work = pool.imap(_extract, utterances(corpus, speakers, warps, every), chunksize=4)
        number = 0
        for row, features in tqdm(work, desc="prepare", unit="utt"):
            row.update(number=number, first_token=first_token)
            for kind, value in features.items():
                files[kind].write(value)
            index.write(json.dumps(row, ensure_ascii=False) + "\n")
            first_token += row["tokens"]
            number += 1
    for file in files.values():
        file.close()
    (out / "index.tmp").replace(out / "index.jsonl")
    return number


def check_splits(store: FeatureStore) -> None:
    """Raise AudioError when nothing of the corpus is there to train on, or nothing is held out: no stage could run."""
    for split, purpose in (("train", "to train on"), ("val", "held out for validation")):
        if not store.select(split, "kokoro"):
            raise AudioError(
                f"No utterance of the corpus is {purpose}: give a larger corpus (one in twenty is held out), or a "
                "smaller --every."
            )


def main(argv: list[str] | None = None) -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of parquet shards")
    parser.add_argument("--speakers", type=Path, help="parquet of real people, without text")
    parser.add_argument("--campplus", type=Path, required=True, help="ONNX teacher of speaker embeddings")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument(
        "--warp", type=float, nargs="*", default=[], metavar="SPEED", help="real people once more at these speeds"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth recording, to try things out")
    args = parser.parse_args(argv)
    shards = sorted(args.corpus.glob("*.parquet"))
    if not shards:
        parser.error(f"there are no parquet shards in {args.corpus}")
    for file in (args.speakers, args.campplus):
        if file is not None and not file.is_file():
            parser.error(f"there is no file {file}")
    if args.every < 1:
        parser.error("--every must be at least 1")
    count = prepare(args.corpus, args.speakers, args.campplus, args.out, args.workers, args.warp, args.every)
    check_splits(FeatureStore(args.out))
    print(f"{args.out}: {count} utterances")


if __name__ == "__main__":
    main()
