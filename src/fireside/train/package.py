"""Makes a model folder of trained parts: `fireside.yaml`, the weights in a small format, and the named voices.

python -m fireside.train.package --runs runs --out src/fireside/hearth
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import load_file

from fireside.errors import ModelError
from fireside.models.checkpoint import CONFIG_FILE, PARTS, Storage, write_part
from fireside.models.config import (
    FlowConfig,
    LMConfig,
    ModelConfig,
    SpeakerConfig,
    TokenizerConfig,
    VocoderConfig,
)
from fireside.models.speech_tokenizer import SpeechTokenizer
from fireside.text.phones import is_spoken
from fireside.train.data import FeatureStore, Row
from fireside.voices import Voice, VoiceCard, write_voice

PROMPT_SECONDS = (2.8, 5.0)
LICENCE = "Apache-2.0 (synthetic speech of Kokoro-82M)"
LANGUAGES = {"a": "en", "b": "en", "z": "zh"}
ACCENTS = {"a": "American English", "b": "British English", "z": "Mandarin"}
SEXES = {"f": "female", "m": "male"}


def fits(row: Row) -> bool:
    """Whether an utterance has a prompt's length."""
    low, high = PROMPT_SECONDS
    return bool(low <= row["duration"] <= high)


def typical(store: FeatureStore, rows: list[Row], clarity: Callable[[Row], float]) -> tuple[Row, np.ndarray]:
    """The utterance that is most like its voice, among the clearer half of those of a prompt's length (there must be
    one), and the voice's mean embedding."""
    embeddings = np.stack([store.embedding(row) for row in rows])
    mean = embeddings.mean(0)
    mean /= np.linalg.norm(mean)
    fitting = [i for i, row in enumerate(rows) if fits(row)]
    fitting.sort(key=lambda i: clarity(rows[i]), reverse=True)
    best = max(fitting[: (len(fitting) + 1) // 2], key=lambda i: float(embeddings[i] @ mean))
    return rows[best], mean


def named_voices(store: FeatureStore, tokenizer: SpeechTokenizer, model: str) -> list[Voice]:
    """A voice for every named speaker of the training rows, prompted in its own language at its own rate.

    A speaker who has no utterance of a prompt's length is left out.
    """
    aligned = {}
    with (store.folder / "blocks.jsonl").open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            aligned[line["utt"]] = line
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in store.select("train", "kokoro"):
        speaker = row["spk"]
        own = LANGUAGES.get(speaker[0]) == row["lang"]
        if "+" not in speaker and own and row["speed"] == 1.0 and row["utt"] in aligned:
            by_name[speaker].append(row)

    def clarity(row: Row) -> float:
        """How well the tokenizer hears the row's text in its speech tokens: log-probability per phone."""
        phones = [token for word in aligned[row["utt"]]["words"] for token in word if is_spoken(token)]
        return -tokenizer.nats([], store.tokens(row).tolist(), phones) / len(phones)

    voices = []
    for speaker, rows in sorted(by_name.items()):
        if not any(map(fits, rows)):
            continue
        row, embedding = typical(store, rows, clarity)
        line = aligned[row["utt"]]
        card = VoiceCard(
            speaker,
            LANGUAGES[speaker[0]],
            f"{ACCENTS[speaker[0]]}, {SEXES[speaker[1]]}",
            LICENCE,
            prompt_text=row["text"],
            model=model,
            words=tuple(tuple(word) for word in line["words"]),
            word_ends=tuple(line["word_ends"]),
        )
        voices.append(Voice(card, embedding, store.tokens(row), store.mel(row)))
    return voices


def silent_tokens(store: FeatureStore) -> list[int]:
    """Speech tokens that stand in pauses four times out of five, by the tokenizer's own alignments."""
    counts = np.zeros((2, 1 + max(int(store.tokens(row).max()) for row in store.rows)), int)
    for row in store.rows:
        phones, tokens = store.phones(row), store.tokens(row)
        np.add.at(counts[0], tokens[phones == 0], 1)
        np.add.at(counts[1], tokens[phones > 0], 1)
    pauses, sounds = counts
    return np.flatnonzero((pauses >= 100) & (pauses >= 4 * sounds)).tolist()


def part_config(runs: Path, part: str) -> dict[str, Any]:
    """What a training wrote of its part, `PART/config.json`. Raises ModelError when it is not there."""
    file = runs / part / "config.json"
    if not file.is_file():
        raise ModelError(f"There is no {file}: train the {part} first.")
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def package(runs: Path, out: Path, name: str, default_voice: str, storage: Storage, int8: Sequence[str] = ()) -> None:
    """Write the model folder `out` from each part's configuration and `PART/PART.safetensors` in `runs`.

    storage: of the weights, but for the parts in `int8`. Raises ModelError when a part was not trained or there is no
    voice `default_voice`.
    """
    store = FeatureStore(runs / "features")
    tokenizer_config = TokenizerConfig.model_validate(part_config(runs, "tokenizer"))
    config = ModelConfig(
        name=name,
        default_voice=default_voice,
        lm=LMConfig.model_validate({**part_config(runs, "lm"), "silent_tokens": silent_tokens(store)}),
        flow=FlowConfig.model_validate({**part_config(runs, "flow"), "calibrate": True, "adapt": True}),
        vocoder=VocoderConfig.model_validate(part_config(runs, "vocoder")),
        tokenizer=tokenizer_config,
        speaker=SpeakerConfig.model_validate(part_config(runs, "speaker")),
    )
    tokenizer = SpeechTokenizer(tokenizer_config)
    tokenizer.load_state_dict(load_file(runs / "tokenizer" / "tokenizer.safetensors"))
    voices = named_voices(store, tokenizer.eval(), name)
    names = [voice.name for voice in voices]
    if default_voice not in names:
        found = f"choose one of {', '.join(names)}" if names else "the corpus has no named voice"
        raise ModelError(f"There is no voice {default_voice} with an utterance of a prompt's length: {found}.")
    file = runs / "adaptation" / "adaptation.safetensors"
    if not file.is_file():
        raise ModelError(f"There is no {file}: run fireside.train.adaptation first.")
    adaptation = load_file(file)
    out.mkdir(parents=True, exist_ok=True)
    document = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (out / CONFIG_FILE).write_text(document, encoding="utf-8")
    for part in PARTS:
        # Where a training kept the weights of its lowest validation loss, those are shipped.
        best, last = runs / part / f"{part}_best.safetensors", runs / part / f"{part}.safetensors"
        weights = load_file(best if best.is_file() else last)
        if part == "flow":
            weights |= adaptation
        file = write_part(out, part, weights, "int8" if part in int8 else storage)
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    for voice in voices:
        write_voice(out / "voices", voice)
        print(f"voice {voice.name}: {len(voice.prompt_tokens) / 25:.1f} s, {voice.card.prompt_text}")


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder with features/ and one folder per part")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--name", default="hearth")
    parser.add_argument("--default-voice", default="af_heart")
    parser.add_argument("--storage", default="float16", choices=["float32", "float16", "bfloat16", "int8"])
    parser.add_argument("--int8", nargs="*", default=["tokenizer"], choices=PARTS, help="parts stored in int8")
    args = parser.parse_args()
    package(args.runs, args.out, args.name, args.default_voice, args.storage, args.int8)


if __name__ == "__main__":
    main()
