"""Which of two pronunciations an English word has, by its neighbours: rules of thumb, no tagger.

`part_of_speech` gives the lexicon's tag letter: V (verb), N (noun), J (adjective), D/P (past), "" (the
default).
"""

from __future__ import annotations

from collections.abc import Sequence

from fireside.text.word_set import word_set

_TO_VERB = word_set(
    """to will would can could should must may might shall cannot can't won't wouldn't couldn't shouldn't
    don't doesn't didn't do does did i you we they who let's please not never always often also i'll you'll
    we'll they'll he'll she'll i'd you'd we'd they'd help helped let"""
)
_TO_NOUN = word_set(
    """the a an this that these those my your his her its our their of no some any each every another in on
    for with from by at into what which whose first last next new old good bad best free full big small own
    such one two three four five public private main present modern former"""
)
_HAVE = word_set("have has had having i've you've we've they've was were been being be is are am get got")
_PAST_CUES = word_set("yesterday ago last earlier once had already")
_PLACES = word_set(
    """in at on with here there by together alone near under for without to long like off next abroad apart
    forever happily outside upstairs downstairs within among"""
)
_SINGULAR = word_set("he she it who")


def part_of_speech(words: Sequence[str], i: int) -> str:
    """The tag of word `i` of a clause of lower-case words."""
    word = words[i]
    before = words[i - 1] if i else ""
    before2 = words[i - 2] if i > 1 else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    if word in ("read", "reread"):
        if before in _HAVE or (before2 in _HAVE and before not in ("to", "a", "the")):
            return "P"
        past = before in _SINGULAR or bool(_PAST_CUES & set(words))
        return "D" if past and before not in _TO_VERB - {"i", "you", "we", "they"} else ""
    if word == "live":
        verb = before in _TO_VERB or after in _PLACES or (not after and before not in _TO_NOUN)
        return "V" if verb and before not in ("a", "the", "went", "go", "goes", "is", "are") else ""
    if word == "lives":
        return "V" if before in _SINGULAR or (after in _PLACES and before not in _TO_NOUN) else ""
    if word == "used":
        return "D" if after == "to" and before not in ("is", "are", "was", "were", "be", "been", "being") else ""
    if word == "wound":
        return "D" if after in ("up", "around", "down") else ""
    if word in ("use", "uses", "excuse", "abuse", "house", "misuse"):
        return "N" if before in _TO_NOUN else "V" if before in _TO_VERB else ""
    if word == "close":
        if before in _TO_VERB or after in (
            "the",
            "your",
            "it",
            "his",
            "her",
            "my",
            "this",
            "down",
            "that",
            "our",
        ):
            return "V" if before not in ("is", "are", "was", "were", "so", "very", "too", "not") else ""
        return ""
    if word == "bass":
        return "J" if after in ("guitar", "player", "drum", "line", "clef", "notes", "guitarist", "note") else ""
    if before in _TO_VERB:
        return "V"
    return "N" if before in _TO_NOUN else ""
