"""Speaks the validation split in every mode and writes manifests for `shared/tools/score.py`.

Nothing here is heard in training: texts, blends and real people are those of the index's `val` rows. A part for
which a small corpus has no sentences or no voices gets an empty manifest.

    python -m fireside.evaluate.speech --features runs/features --out runs/eval [--model FOLDER] [--precision int8]
        [--part en zh ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from fireside.train.data import SAMPLE_RATE, FeatureStore, Row

Item = dict[str, Any]


class Listener:
    """Writes speech and the lines of one manifest."""

    def __init__(self, out: Path, name: str) -> None:
        self.folder = out / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.items: list[Item] = []

    def recording(self, store: FeatureStore, row: Row, seconds: float | None = None) -> Path:
        """A prompt as a file: a row's audio, cut to `seconds` when given."""
        path = self.folder / f"prompt-{row['utt']}.wav"
        audio = store.wav(row)
        soundfile.write(path, audio[: int(seconds * SAMPLE_RATE)] if seconds else audio, SAMPLE_RATE)
        return path

    def add(self, speech: Any, text: str, lang: str, prompt: Path | None = None) -> None:
        """Save one utterance and its line."""
        path = self.folder / f"{len(self.items):03d}.wav"
        speech.save(path)
        item = {"audio": path.name, "text": text, "lang": lang}
        self.items.append({**item, "prompt": prompt.name} if prompt else item)

    def close(self) -> None:
        """Write `manifest.jsonl`."""
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in self.items)
        (self.folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


def texts(store: FeatureStore, lang: str, count: int) -> list[Row]:
    """Validation sentences of a language, the same ones every time."""
    rows = sorted((r for r in store.select("val", "kokoro") if r["lang"] == lang), key=lambda r: r["utt"])
    return random.Random(1).sample(rows, min(count, len(rows)))


def sentences(tts: Any, store: FeatureStore, out: Path, lang: str, count: int) -> None:
    """Named voices of the language read `count` sentences; Mandarin ones those with English in them."""
    listener = Listener(out, lang)
    names = [v.name for v in tts.voices if v.name != "default" and v.language == ("en" if lang == "en" else "zh")]
    for i, (row, name) in enumerate(zip(tqdm(texts(store, lang, count), desc=lang), itertools.cycle(names))):
        listener.add(tts.say(row["text"], voice=name, seed=i), row["text"], lang)
    listener.close()


def blends(tts: Any, store: FeatureStore, out: Path, count: int) -> None:
    """Zero-shot in the voice of held-out blends, with the prompt's text."""
    listener = Listener(out, "blends")
    rows = [r for r in store.select("val", "kokoro") if "+" in r["spk"] and 3.0 < r["duration"] < 9.0]
    for i, row in enumerate(tqdm(rows[:count], desc="blends")):
        targets = texts(store, row["lang"], 100)
        target = targets[i % len(targets)]
        prompt = listener.recording(store, row)
        speech = tts.clone(target["text"], prompt, prompt_text=row["text"], seed=i)
        listener.add(speech, target["text"], row["lang"], prompt)
    listener.close()


def real(tts: Any, store: FeatureStore, out: Path, count: int, transcripts: Path | None) -> None:
    """Zero-shot in the voice of real people, prompts of 6 s cut mid-sentence; with transcripts where given."""
    listener = Listener(out, "real")
    heard = json.loads(transcripts.read_text(encoding="utf-8")) if transcripts else {}
    rows = [r for r in store.select("val", "librispeech") if r["duration"] > 6.0]
    targets = texts(store, "en", 100)
    for i, (row, target) in enumerate(zip(tqdm(rows[:count], desc="real"), itertools.cycle(targets))):
        prompt = listener.recording(store, row, 6.0)
        speech = tts.clone(target["text"], prompt, prompt_text=heard.get(row["utt"]), seed=i)
        listener.add(speech, target["text"], "en", prompt)
    listener.close()


def conversion(tts: Any, store: FeatureStore, out: Path, count: int) -> None:
    """Held-out sentences converted to named voices; the reference is another sentence of that voice."""
    listener = Listener(out, "convert")
    samples = {r["spk"]: r for r in store.rows if r["duration"] > 4 and r["speed"] == 1.0}
    names = [v.name for v in tts.voices if v.name in samples]
    for row, name in zip(tqdm(texts(store, "en", count), desc="convert"), itertools.cycle(names)):
        reference = listener.recording(store, samples[name])
        listener.add(tts.convert(listener.recording(store, row), voice=name), row["text"], "en", reference)
    listener.close()


def rate(tts: Any, store: FeatureStore, out: Path, count: int) -> None:
    """How much longer and shorter speech gets when asked to slow down and to hurry; prints the median ratios."""
    ratios: dict[str, list[float]] = {"speak slowly": [], "speak quickly": []}
    listener = Listener(out, "rate")
    for i, row in enumerate(tqdm(texts(store, "en", count), desc="rate")):
        neutral = len(tts.say(row["text"], seed=i).samples)
        for instruction, found in ratios.items():
            speech = tts.instruct(row["text"], instruction=instruction, seed=i)
            found.append(len(speech.samples) / neutral)
            listener.add(speech, row["text"], "en")
    listener.close()
    for instruction, found in ratios.items():
        if not found:
            continue
        print(f"{instruction}: {statistics.mean(found):.3f} of the neutral duration (mean of {len(found)})")


def oracle(tts: Any, store: FeatureStore, out: Path, count: int) -> None:
    """Wave from true tokens: the flow and the vocoder alone, in the speaker's own voice."""
    listener = Listener(out, "oracle")
    for lang in ("en", "zh"):
        for row in tqdm(texts(store, lang, count), desc=f"oracle {lang}"):
            prompt = listener.recording(store, row)
            listener.add(tts.convert(prompt, prompt=prompt), row["text"], lang, prompt)
    listener.close()


def parts(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[Any, FeatureStore], None]]]:
    """Name and work of every part."""
    yield "en", lambda tts, store: sentences(tts, store, args.out, "en", args.count or 40)
    yield "zh", lambda tts, store: sentences(tts, store, args.out, "zh", args.count or 40)
    yield "mix", lambda tts, store: sentences(tts, store, args.out, "mix", args.count or 15)
    yield "blends", lambda tts, store: blends(tts, store, args.out, args.count or 20)
    yield "real", lambda tts, store: real(tts, store, args.out, args.count or 15, args.transcripts)
    yield "convert", lambda tts, store: conversion(tts, store, args.out, args.count or 20)
    yield "rate", lambda tts, store: rate(tts, store, args.out, args.count or 10)
    yield "oracle", lambda tts, store: oracle(tts, store, args.out, args.count or 10)


def main() -> None:
    """Command line."""
    import fireside

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="model folder; hearth when absent")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or int8")
    parser.add_argument("--part", nargs="+", help="only these: en zh mix blends real convert rate oracle")
    parser.add_argument("--count", type=int, help="utterances per part, for a quick look")
    parser.add_argument("--transcripts", type=Path, help="JSON: utt -> what the real prompt says in its first 6 s")
    args = parser.parse_args()
    store, tts = FeatureStore(args.features), fireside.load(args.model, precision=args.precision)
    for name, work in parts(args):
        if not args.part or name in args.part:
            work(tts, store)


if __name__ == "__main__":
    main()
