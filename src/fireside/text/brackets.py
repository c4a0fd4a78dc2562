"""Pronunciation by hand, as CosyVoice 3 writes it: `[HH][AH0][L][OW1]`, `[zh][ong4]`, `[zhong4]`,
`[zhòng]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fireside.errors import TextError
from fireside.text.phones import ARPABET_CONSONANTS, ARPABET_VOWELS, INITIALS
from fireside.text.pinyin import split_tone, syllable_phones

_PIECE = r"\[(?:[A-Z]{1,7}[0-9]?|[a-zêü][a-zêüv:]{0,6}[0-9])\]"
_INITIAL = "|".join(sorted([*INITIALS, "y", "w"], key=len, reverse=True))
RUN = re.compile(rf"(?:{_PIECE}|\[(?:{_INITIAL})\]|(?<=\])\[[a-z]{{1,7}}\]|\[[a-z]{{1,7}}\](?=\[))+")
"""Brackets that ask for a pronunciation: capitals, a tone, an initial, or any word that touches another
bracket.

A word in small letters by itself is an author's bracket ("[sic]", "[he]") and is read as text.
"""

_ONE = re.compile(r"\[([^\]]+)\]")
_TONE_MARKED = re.compile(r"\[([a-zāáǎàēéěèīíǐìōóǒòūúǔùüǖǘǚǜńňǹḿê\u0300-\u0308\u030c]{1,9})\]")
_INITIALS = frozenset(INITIALS) | {"y", "w"}


@dataclass(frozen=True)
class Spoken:
    """One word (ARPAbet) or one syllable (pinyin) written by its phones."""

    text: str
    lang: str
    phones: tuple[str, ...]


def _arpabet(name: str) -> str | None:
    if name in ARPABET_CONSONANTS:
        return name
    if name in ARPABET_VOWELS:
        return name + "1"
    return name if name[:-1] in ARPABET_VOWELS and name[-1] in "012" else None


def _unknown(name: str) -> TextError:
    return TextError(
        f"[{name}] is no phone: brackets take CMU phones such as [HH][AH0][L][OW1] "
        "or pinyin with its tone such as [zhong4] or [zh][ong4]."
    )


def number_tones(text: str) -> str:
    """Tone marks inside brackets as digits (`[zhòng]` to `[zhong4]`), before accents are folded elsewhere."""

    def plain(match: re.Match[str]) -> str:
        base, tone = split_tone(match[1])
        return f"[{base}{tone}]" if tone else match[0]

    return _TONE_MARKED.sub(plain, text)


def parse(run: str) -> list[Spoken]:
    """Words and syllables of one match of `RUN`; raises `TextError` naming a bracket that is no phone."""
    out: list[Spoken] = []
    english: list[str] = []
    initial = ""

    def close() -> None:
        if english:
            out.append(Spoken("".join(f"[{p}]" for p in english), "en", tuple(english)))
            english.clear()

    for name in _ONE.findall(run):
        phone = _arpabet(name) if not initial else None
        if phone:
            english.append(phone)
            continue
        close()
        if name in _INITIALS and not initial:
            initial = name
            continue
        syllable = syllable_phones(initial + name)
        if syllable is None or not split_tone(name)[1] or name != name.lower():
            raise _unknown(name)
        out.append(Spoken(f"[{initial + name}]", "zh", syllable))
        initial = ""
    if initial:
        raise _unknown(initial)
    close()
    return out
