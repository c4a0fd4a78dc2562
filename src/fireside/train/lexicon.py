"""Recipe: the English lexicon in the package, from misaki's US dictionaries (Apache-2.0).

    python -m fireside.train.lexicon --misaki FOLDER      # holds us_gold.json and us_silver.json

misaki's compressed IPA becomes ARPAbet: `A I O W Y` are diphthongs, a stress mark stands before its vowel,
and the allophones (flap, glottal stop, reduced vowels) are written as the phones they belong to.
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path

from fireside.errors import UsageError

VOWELS = {
    **{"A": "EY", "I": "AY", "O": "OW", "W": "AW", "Y": "OY", "i": "IY", "u": "UW", "æ": "AE", "ɑ": "AA"},
    **{"ɔ": "AO", "ə": "AH", "ɛ": "EH", "ɪ": "IH", "ʊ": "UH", "ʌ": "AH", "ᵊ": "AH", "ᵻ": "IH", "ɜ": "ER"},
}
CONSONANTS = {
    **{c: c.upper() for c in "bdfklmnpstvwz"},
    **{"ð": "DH", "ŋ": "NG", "ɡ": "G", "h": "HH", "j": "Y", "ɹ": "R", "ʃ": "SH", "ʒ": "ZH", "θ": "TH"},
    **{"ʤ": "JH", "ʧ": "CH", "ɾ": "T", "ʔ": "T"},
}
STRESS = {"ˈ": "1", "ˌ": "2"}
TAGS = {"VERB": "V", "NOUN": "N", "ADJ": "J", "ADV": "R", "VBD": "D", "VBN": "P", "VBP": "B"}


def arpabet(ipa: str) -> list[str]:
    """ARPAbet phones of one entry; raises `UsageError` on a symbol that the dictionaries do not document."""
    phones: list[str] = []
    stress, i = "0", 0
    while i < len(ipa):
        symbol = ipa[i]
        if symbol in STRESS:
            stress = STRESS[symbol]
        elif symbol in VOWELS:
            if symbol in "əɜ" and ipa[i + 1 : i + 2] == "ɹ":
                phones.append("ER" + stress)
                i += 1
            else:
                phones.append(VOWELS[symbol] + stress)
            stress = "0"
        elif symbol in CONSONANTS:
            phones.append(CONSONANTS[symbol])
        else:
            raise UsageError(f"Unknown symbol {symbol!r} in the dictionary entry {ipa!r}.")
        i += 1
    return phones


def entry(value: str | dict[str, str | None]) -> str:
    """One entry: phones, then `TAG=phones` of the pronunciations by part of speech; `N=*` = spelled as a
    noun."""
    if isinstance(value, str):
        return " ".join(arpabet(value))
    default = " ".join(arpabet(value["DEFAULT"] or ""))
    fields = [default]
    for tag, ipa in value.items():
        if tag in TAGS:
            phones = " ".join(arpabet(ipa)) if ipa else "*"
            if phones != default:
                fields.append(f"{TAGS[tag]}={phones}")
    return "\t".join(fields)


def build(gold: dict, silver: dict) -> list[str]:
    """Lines `word TAB entry`, sorted. Capitalised words keep their case only where it tells two words
    apart."""
    merged = {**silver, **gold}
    lines: dict[str, str] = {}
    for word in sorted(merged, key=lambda w: (w.lower(), w != w.lower(), w)):
        fields = entry(merged[word])
        lower = word.lower()
        if word != lower and lower not in merged and lower not in lines and len(word) > 1:
            word = lower
        if word == lower or lines.get(lower) != fields:
            lines[word] = fields
    return [f"{word}\t{fields}" for word, fields in sorted(lines.items()) if fields]


def main(argv: list[str] | None = None) -> None:
    """Write the lexicon (`--out`, the package's own file by default)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--misaki", type=Path, required=True, help="folder of us_gold.json, us_silver.json")
    default = Path(__file__).resolve().parents[1] / "text" / "data" / "english.tsv.xz"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args(argv)
    gold, silver = (
        json.loads((args.misaki / f"us_{grade}.json").read_text(encoding="utf-8")) for grade in ("gold", "silver")
    )
    lines = build(gold, silver)
    args.out.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9))
    print(f"{len(lines)} words, {args.out.stat().st_size / 1e6:.2f} MB: {args.out}")


if __name__ == "__main__":
    main()
