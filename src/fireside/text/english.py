"""English words in their sentence to ARPAbet: lexicon, endings by rule, initialisms, and the learned
fallback."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fireside.text.g2p import letter_to_sound
from fireside.text.heteronyms import part_of_speech
from fireside.text.inflect import compound, inflected, plural
from fireside.text.lexicon import Lexicon, Phones, english_lexicon
from fireside.text.phones import ARPABET_VOWELS
from fireside.text.word_set import word_set

# Where the lexicon differs from how American voices, the corpus among them, say it; and words it lacks.
_OWN: dict[str, str] = {
    "an": "AE0 N",
    "every": "EH1 V R IY0",
    "everything": "EH1 V R IH0 TH IH2 NG",
    "everyone": "EH1 V R IY0 W AH0 N",
    "everybody": "EH1 V R IY0 B AH0 D IY0",
    "everywhere": "EH1 V R IY0 W EH2 R",
    "houses": "HH AW1 Z IH0 Z",
    "tv": "T IY1 V IY1",
    "tvs": "T IY1 V IY1 Z",
    "messers": "M EH1 S ER0 Z",
    "missus": "M IH1 S IH0 Z",
    "miz": "M IH1 Z",
    "fireside": "F AY1 ER0 S AY2 D",
    "covid": "K OW1 V IH0 D",
    "wifi": "W AY1 F AY2",
    "iphone": "AY1 F OW2 N",
    "ipad": "AY1 P AE2 D",
    "youtube": "Y UW1 T UW2 B",
    "github": "G IH1 T HH AH2 B",
    "chatgpt": "CH AE1 T JH IY2 P IY2 T IY1",
    "mcdonald's": "M AH0 K D AA1 N AH0 L D Z",
    "viz": "V IH1 Z",
    "hmm": "HH AH1 M",
    "hm": "HH AH1 M",
    "mm": "AH1 M",
    "shh": "SH AH1",
    "roosevelt": "R OW1 Z AH0 V EH2 L T",
    "oswald": "AA1 Z W AH0 L D",
    "heinz": "HH AY1 N Z",
    "nguyen": "W IH1 N",
    "tchaikovsky": "CH AY0 K AO1 F S K IY0",
    "schwarzenegger": "SH W AO1 R T S AH0 N EH2 G ER0",
    "zhang": "JH AA1 NG",
    "zhao": "JH AW1",
    "zhou": "JH OW1",
    "xu": "SH UW1",
    "xi": "SH IY1",
    "xiao": "SH Y AW1",
    "qin": "CH IH1 N",
    "qing": "CH IH1 NG",
    "xiaomi": "SH Y AW1 M IY1",
    "huawei": "W AA1 W EY2",
    "wechat": "W IY1 CH AE2 T",
    "taobao": "T AW1 B AW2",
    "alibaba": "AE2 L IY0 B AA1 B AH0",
    "tencent": "T EH1 N S EH2 N T",
    "tiktok": "T IH1 K T AA2 K",
    "google": "G UW1 G AH0 L",
    "openai": "OW2 P AH0 N EY2 AY1",
    "python": "P AY1 TH AA2 N",
    "linux": "L IH1 N AH0 K S",
    "o'clock": "AH0 K L AA1 K",
}
_LETTERS: dict[str, str] = {
    **{"A": "EY1", "B": "B IY1", "C": "S IY1", "D": "D IY1", "E": "IY1", "F": "EH1 F", "G": "JH IY1"},
    **{"H": "EY1 CH", "I": "AY1", "J": "JH EY1", "K": "K EY1", "L": "EH1 L", "M": "EH1 M", "N": "EH1 N"},
    **{"O": "OW1", "P": "P IY1", "Q": "K Y UW1", "R": "AA1 R", "S": "EH1 S", "T": "T IY1", "U": "Y UW1"},
    **{"V": "V IY1", "W": "D AH1 B AH0 L Y UW0", "X": "EH1 K S", "Y": "W AY1", "Z": "Z IY1"},
}
_NEVER_SPELLED = word_set(
    """AM AN AND ARE AS AT BE BUT BY DO FOR GO HAS HE HER HIM HIS IF IN IS ITS ME MY NO NOT OF OFF ON OR OUR
    OUT SHE SO THE TO UP WAS WE YOU ALL ANY CAN NEW NOW OLD ONE TWO WHO WHY YES TOO"""
)
_LABELS = word_set("grade vitamin plan type section letter hepatitis team option class group part level point size big")
_NAME_BEGINNINGS: dict[str, Phones] = {"O'": ("OW0",), "Mc": ("M", "AH0", "K")}


@dataclass(frozen=True)
class Token:
    """One written English word; `pause`: a pause or another language follows. `shout`: all around is in
    capitals."""

    text: str
    pause: bool = False
    shout: bool = False


def spell(letters: str) -> Phones:
    """Letters one by one."""
    return tuple(phone for letter in letters.upper() for phone in _LETTERS[letter].split())


class English:
    """Pronounces English; holds only read-only tables."""

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        self._lexicon = lexicon or english_lexicon()

    def _known(self, word: str) -> Phones | None:
        own = _OWN.get(word)
        return tuple(own.split()) if own else self._lexicon.get(word)

    def _rules(self, word: str) -> Phones | None:
        """A known word, or one that follows from known words."""
        return self._known(word) or inflected(word, self._twice) or compound(word, self._twice)

    def _twice(self, word: str) -> Phones | None:
        """Stems may carry one ending of their own (carelessness, readers')."""
        return self._known(word) or inflected(word, self._known)

    def word(self, text: str, tag: str = "") -> Phones:
        """Phones of one word by itself; never empty for a word with letters."""
        if len(text) == 1:
            return spell(text) if text.isalpha() else ()
        own = _OWN.get(text.lower())
        if own:
            return tuple(own.split())
        found = self._lexicon.get(text, tag) or self._rules(text.lower())
        if found:
            return found
        for beginning, phones in _NAME_BEGINNINGS.items():
            if re.match(rf"{beginning}[A-Z][a-z]", text):
                return (*phones, *self.word(text[len(beginning) :]))
        parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z']+", text)
        if len(parts) > 1 and all(len(p.strip("'")) > 1 or p == p.upper() for p in parts):
            return tuple(phone for part in parts for phone in self._part(part))
        return self.guess(text.lower())

    def _part(self, text: str) -> Phones:
        return self.initialism(text) or self.word(text.lower())

    def guess(self, word: str) -> Phones:
        """Phones of an unknown lower-case word: spelled if it has no vowel, else by the learned fallback."""
        for ending in ("'s", "s'"):
            if word.endswith(ending) and len(word) > 3:
                return plural(self.guess(word[:-2]))
        letters = word.replace("'", "")
        if len(letters) < 8 and not re.search(r"[aeiouy]", letters):
            return spell(letters)
        return letter_to_sound()(letters) or spell(letters)

    def initialism(self, text: str, shout: bool = False) -> Phones | None:
        """Phones of capitals that are read as letters, with a plural or possessive ending; None for words."""
        match = re.fullmatch(r"([A-Z]{2,})('?s)?", text)
        if not match or shout:
            return None
        capitals, ending = match[1], match[2]
        lower = capitals.lower()
        known = self._lexicon.get(capitals)
        spelled = self._lexicon.is_initialism(capitals) and capitals not in _NEVER_SPELLED
        if not spelled and (known or lower in _OWN or (len(capitals) > 5 and re.search("[AEIOUY]", capitals))):
            return None
        phones = spell(capitals)
        return plural(phones) if ending else phones

    def pronounce(self, tokens: Sequence[Token]) -> list[Phones]:
        """Phones of every token of one sentence, weak forms and heteronyms by their neighbours."""
        lower = [token.text.lower() for token in tokens]
        clause_start = 0
        out: list[Phones] = []
        clauses: list[tuple[int, int]] = []
        for i, token in enumerate(tokens):
            if token.pause or i == len(tokens) - 1:
                clauses += [(clause_start, i + 1)] * (i + 1 - clause_start)
                clause_start = i + 1
        for i, token in enumerate(tokens):
            start, end = clauses[i]
            if token.text in ("a", "A"):
                out.append(("EY1",) if self._is_letter(tokens, i) else ("AH0",))
                continue
            phones = self.initialism(token.text, token.shout)
            out.append(phones or self.word(token.text, part_of_speech(lower[start:end], i - start)))
        for i, word in enumerate(lower):
            if word in ("the", "to"):
                vowel = not tokens[i].pause and i + 1 < len(out) and out[i + 1][0][:2] in ARPABET_VOWELS
                onset = ("DH",) if word == "the" else ("T",)
                weak = "IY0" if word == "the" else "UH0"
                out[i] = (*onset, weak if vowel else "AH0")
        return out

    @staticmethod
    def _is_letter(tokens: Sequence[Token], i: int) -> bool:
        before = tokens[i - 1].text if i else ""
        after = tokens[i + 1].text if i + 1 < len(tokens) else ""
        if tokens[i].pause or not after:
            return True
        if len(after) == 1 and after.isupper() and after != "I":
            return tokens[i].text == "A"
        return tokens[i].text == "A" and (before.lower() in _LABELS or (len(before) == 1 and before.isupper()))
