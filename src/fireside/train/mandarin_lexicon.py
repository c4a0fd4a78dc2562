"""Recipe: the Mandarin word list in the package: words, how frequent they are, and how they are read.

    python -m fireside.train.mandarin_lexicon --words dict.txt --variants char_convert.py

`--words` is jieba's dictionary (MIT): `word frequency tag` per line. Readings are pypinyin's (MIT; its data
are pinyin-data and phrase-pinyin-data, MIT). `--variants` is PaddlePaddle's table of traditional and
simplified characters (Apache-2.0), as misaki carries it; only its two strings are read, nothing is
executed.
"""

from __future__ import annotations

import argparse
import ast
import lzma
import math
from pathlib import Path

from fireside.text.pinyin import syllable_phones

MIN_FREQUENCY = 8
MAX_LENGTH = 5


def readings(word: str) -> list[str]:
    """Toned syllables of a word by pypinyin, neutral as 5; syllables that cannot be parsed raise
    `ValueError`."""
    from pypinyin import Style, lazy_pinyin

    syllables = lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True, errors="ignore")
    if len(syllables) != len(word) or any(syllable_phones(s) is None for s in syllables):
        raise ValueError(word)
    return syllables


NUMERALS = frozenset("零〇一二三四五六七八九十百千万亿")


def is_han(text: str) -> bool:
    """Whether all characters are Chinese."""
    return all("\u3400" <= c <= "\u9fff" or c == "〇" for c in text)


def read_variants(path: Path) -> dict[str, str]:
    """Traditional to simplified, from the two string literals of the file."""
    strings: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            strings[getattr(node.targets[0], "id", "")] = str(node.value.value)
    simple, traditional = strings["simplified_charcters"], strings["traditional_characters"]
    return {t: s for s, t in zip(simple, traditional, strict=True) if s != t}


def build(words: Path, variants: Path) -> str:
    """The file's text: three blocks divided by blank lines (characters by syllable, variants, words).

    The word block begins with the log of all frequencies together; a line is `word log-frequency
    [reading]`, both in quarter bits, the reading only where it differs from that of the single characters.
    """
    from pypinyin.phrases_dict import phrases_dict
    from pypinyin.pinyin_dict import pinyin_dict

    single: dict[str, str] = {}
    for code in pinyin_dict:
        if is_han(chr(code)):
            single[chr(code)] = readings(chr(code))[0]
    by_syllable: dict[str, str] = {}
    for char, syllable in sorted(single.items()):
        by_syllable[syllable] = by_syllable.get(syllable, "") + char

    frequency: dict[str, int] = {}
    for line in words.read_text(encoding="utf-8").splitlines():
        word, count, *_ = line.split(" ")
        if set(word) <= NUMERALS and len(word) > 1:
            continue  # numbers are read by rule
        if is_han(word) and len(word) <= MAX_LENGTH and (int(count) >= MIN_FREQUENCY or len(word) == 1):
            frequency[word] = int(count)
    for phrase in phrases_dict:
        if is_han(phrase) and 2 <= len(phrase) <= MAX_LENGTH and phrase not in frequency:
            try:
                usual = [single[c] for c in phrase] == readings(phrase)
            except (ValueError, KeyError):
                continue
            if not usual:
                frequency[phrase] = 2
    lines = []
    total = 0.0
    for word in sorted(frequency):
        if len(word) == 1 and word not in single:
            continue
        try:
            read = readings(word)
        except ValueError:
            continue
        weight = round(4 * math.log2(frequency[word] + 1))
        total += 2 ** (weight / 4)
        usual = len(word) == 1 or read == [single.get(c) for c in word]
        lines.append(f"{word} {weight}" + ("" if usual else " " + " ".join(read)))
    table = {t: s for t, s in sorted(read_variants(variants).items()) if is_han(t) and is_han(s)}
    chars = [f"{syllable} {text}" for syllable, text in sorted(by_syllable.items())]
    return "\n\n".join(
        [
            "\n".join(chars),
            "".join(table) + "\n" + "".join(table.values()),
            "\n".join([f"{4 * math.log2(total):.2f}", *lines]),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Write the word list (`--out`, the package's own file by default)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=Path, required=True, help="jieba's dict.txt")
    parser.add_argument("--variants", type=Path, required=True, help="PaddlePaddle's char_convert.py")
    default = Path(__file__).resolve().parents[1] / "text" / "data" / "mandarin.txt.xz"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args(argv)
    text = build(args.words, args.variants)
    args.out.write_bytes(lzma.compress(text.encode(), preset=9))
    print(f"{text.count(chr(10)) + 1} lines, {args.out.stat().st_size / 1e6:.2f} MB: {args.out}")


if __name__ == "__main__":
    main()
