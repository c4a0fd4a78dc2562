"""Labels of the corpus: the phones of every word, from the front end, corrected by what was really said.

    python -m fireside.train.phones --features runs/features --out runs/phones.jsonl

Writes a line `{"utt", "words": [[token ids] ...]}` per utterance that has a text. The tokens are those that
the front end gives at run time, so that a trained model meets nothing new; only sounds are replaced, where
the IPA that the teacher spoke from (`phonemes` of the corpus) has another pronunciation of the word, or one
of a word that no dictionary knows. Corpora without that column get the front end's reading.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from fireside.errors import TextError
from fireside.text import Frontend, Word, sandhi
from fireside.text.english import English
from fireside.text.lexicon import english_lexicon
from fireside.text.phones import BOUNDARY_ID, PAUSE_IDS, PHONES, encode, is_spoken
from fireside.text.pinyin import toned
from fireside.train.data import FeatureStore
from fireside.train.teacher_ipa import (
    WILDCARD,
    Phones,
    Syllable,
    arpabet,
    distance,
    is_mandarin,
    segment,
    syllables,
)

_SAME = 0.05  # pronunciations closer than this count as one
_OTHER = 0.4  # from here on the teacher said something else than the dictionary
_WORDS_OF_ONE = ("a", "every", "everything")  # short, frequent, and read in several ways


class _KnownEnglish(English):
    """Leaves words that no dictionary has to the teacher."""

    def guess(self, word: str) -> Phones:
        return (WILDCARD,) * max(3, len(word) * 3 // 4)


def label(text: str, teacher: str, frontend: Frontend) -> list[tuple[int, ...]] | None:
    """Token ids of every word of a text that was spoken from the IPA `teacher`; None if they do not fit."""
    runs = [
        (mandarin, list(words))
        for mandarin, words in itertools.groupby(frontend.words(text), lambda word: word.lang == "zh")
    ]
    ipa = [teacher]
    if len(runs) > 1:
        spoken = [word for word in teacher.split() if re.search(r"\w", word)]
        parts = [(mandarin, " ".join(part)) for mandarin, part in itertools.groupby(spoken, is_mandarin)]
        if [mandarin for mandarin, _ in parts] != [mandarin for mandarin, _ in runs]:
            return None
        ipa = [part for _, part in parts]
    out: list[tuple[int, ...]] = []
    for (mandarin, words), part in zip(runs, ipa, strict=True):
        labels = _mandarin(words, part) if mandarin else _english(words, part)
        if labels is None:
            return None
        out += labels
    if out and out[-1][-1] != BOUNDARY_ID:
        out[-1] = (*out[-1], BOUNDARY_ID)
    return out


def _sounds(word: Word) -> Phones:
    return tuple(PHONES[token] for token in word.tokens if is_spoken(token) or PHONES[token] == WILDCARD)


def _english(words: list[Word], ipa: str) -> list[tuple[int, ...]] | None:
    own = [_sounds(word) for word in words]
    heard = segment(own, arpabet(re.sub(r"[^\wˈˌː]", "", ipa)))
    out = []
    for word, phones, spoken in zip(words, own, heard, strict=True):
        chosen = _chosen(word.text, phones, spoken)
        if not chosen:
            return None
        marks = tuple(t for t in word.tokens if t in PAUSE_IDS or t == BOUNDARY_ID)
        out.append(encode(chosen) + marks)
    return out


def _chosen(text: str, own: Phones, spoken: Phones) -> Phones:
    """The dictionary's pronunciation that is nearest to what was spoken, or what was spoken itself."""
    if WILDCARD in own:
        return spoken
    off = distance(own, spoken)
    if text.lower() in _WORDS_OF_ONE and off > 0.2:
        return spoken if 0 < len(spoken) < 8 else own
    other = english_lexicon().variants(text)
    if off > _SAME and len(other) > 1:
        nearest = min(other, key=lambda phones: distance(phones, spoken))
        if distance(nearest, spoken) < off - _SAME:
            return nearest
    if off > _OTHER and 0 < len(spoken) <= 2 * len(own):
        return spoken
    return own


def _mandarin(words: list[Word], ipa: str) -> list[tuple[int, ...]] | None:
    found = syllables([_syllable(_sounds(word)) for word in words], re.sub(r"[^\w→↗↓↘ʰ ]", " ", ipa))
    if found is None:
        return None
    marks = [tuple(t for t in word.tokens if t in PAUSE_IDS) for word in words]
    last = len(words) - 1
    spoken = [
        sandhi.Syllable(
            word.text,
            "yi" if (initial, final) == ("", "i") else initial + final,
            tone,
            word_end=ends or bool(pause) or i == last,
            pause=bool(pause),
        )
        for i, (word, ((initial, final, tone), ends)) in enumerate(zip(words, found, strict=True))
        for pause in [marks[i]]
    ]
    out = []
    for own, ((initial, final, _), _), pause in zip(sandhi.apply_sandhi(spoken), found, marks, strict=True):
        vowel = toned(final, own.tone)
        phones = (initial, vowel) if initial else (vowel,)
        out.append(encode(phones) + pause + ((BOUNDARY_ID,) if own.word_end else ()))
    return out


def _syllable(phones: Phones) -> Syllable:
    *initial, final = phones
    return (initial[0] if initial else "", final[:-1], final[-1])


def labels(rows: Iterable[dict], counts: Counter[str]) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """Utterance and words of every row with a text; what became of the others is counted."""
    known, reader = Frontend(_KnownEnglish()), Frontend()
    for row in rows:
        if not row["text"]:
            counts["without text"] += 1
            continue
        try:
            words = _label(row, known, reader)
        except TextError as error:
            counts[f"unreadable: {error}"] += 1
            continue
        if words is None:
            counts["text and teacher do not fit"] += 1
            continue
        counts["labelled"] += 1
        yield row["utt"], words


def _label(row: dict, known: Frontend, reader: Frontend) -> list[tuple[int, ...]] | None:
    if row.get("phonemes"):
        return label(row["text"], row["phonemes"], known)
    return [word.tokens for word in reader.words(row["text"])]


def main(argv: list[str] | None = None) -> None:
    """Command line of this stage."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="folder made by `fireside.train.data`")
    parser.add_argument("--out", type=Path, required=True, help="the file to write (jsonl)")
    args = parser.parse_args(argv)
    counts: Counter[str] = Counter()
    temporary = args.out.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as out:
        rows = tqdm(FeatureStore(args.features).rows, desc="phones", unit="utt")
        for utt, words in labels(rows, counts):
            out.write(json.dumps({"utt": utt, "words": words}) + "\n")
    temporary.replace(args.out)
    for what, count in counts.most_common():
        print(f"{count} {what}")


if __name__ == "__main__":
    main()
