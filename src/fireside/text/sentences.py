"""Long text to pieces that are spoken one by one: at sentence ends, long ones at clauses, short ones
joined."""

from __future__ import annotations

import itertools
import re

from fireside.text.abbreviations_en import BEFORE_NUMBER, DOTTED, MONTH_SHORT, MONTHS, TITLES, WEEKDAY_SHORT
from fireside.text.clean import is_han, is_latin
from fireside.text.word_set import word_set

MAX_SECONDS = 12.0
MIN_SECONDS = 1.6
"""Shorter sentences are joined to the next one."""

_SECONDS = {"han": 0.215, "latin": 0.07, "digit": 0.3, "pause": 0.15}
_CLOSERS = "\"')]}」』】》）”’"
_END = re.compile(rf"[.!?。！？]+[{re.escape(_CLOSERS)}]*|\n\s*")
_CLAUSE = re.compile(rf"(?:[,;:](?=\s)|[，；：、]|\s[—–-]+\s|—+|[)）])[{re.escape(_CLOSERS)}]*\s*")
# Words that end in a dot inside a sentence; those that are also plain words are left out.
_ABBREVIATIONS = frozenset([*TITLES, *DOTTED, *MONTH_SHORT, *WEEKDAY_SHORT, "Dr", "St", "sq", "cu", "fl"]) - word_set(
    "in al max min Sun Sat Mar May ed temp"
)
_CALENDAR = frozenset([*MONTHS, *MONTH_SHORT, *WEEKDAY_SHORT, *WEEKDAY_SHORT.values()])
_WINDOW = 80
"""Characters on either side of a mark that decide whether it ends a sentence."""
_MAY_END = frozenset({"Jr", "Sr", "Inc", "Ltd", "Co", "Corp", "etc", "Bros", "Esq", "Ave", "Rd", "Blvd", "St", "al"})
_STARTERS = word_set(
    """The A An He She It We I They You This That These Those But And Or So If In On At By For From As When
    While After Before Then There Here What Why How Who Where My Your His Her Its Our Their Not No Yes Now
    One Some All Most Many Please Let It's He's She's That's There's I'm We're Don't"""
)


def seconds(text: str) -> float:
    """About how long the text takes to say at the normal rate."""
    total = 0.0
    for char in text:
        if is_han(char):
            total += _SECONDS["han"]
        elif is_latin(char):
            total += _SECONDS["latin"]
        elif char.isdigit():
            total += _SECONDS["digit"]
        elif char in ",.;:!?，。；：！？、—":
            total += _SECONDS["pause"]
    return total


def speakable(text: str) -> bool:
    """Whether there is anything to say: a letter or a digit."""
    return any(c.isalnum() for c in text)


def _is_sentence_end(text: str, match: re.Match[str]) -> bool:
    mark, after = match[0], text[match.end() : match.end() + _WINDOW]
    if "\n" in mark:
        return _line_ends(text, match)
    if any(c in "。！？" for c in mark):
        return True
    if after and not after[0].isspace() and not is_han(after[0]):
        return False
    if mark[0] != "." or mark.startswith(".."):
        # An ellipsis goes on where a small letter follows.
        return not (mark.startswith("..") and re.match(r"\s*[a-z]", after))
    lead = text[max(0, match.start() - _WINDOW) : match.start()]
    before = re.search(r"[\w.'-]+$", lead)
    word = re.sub(r"^.*-|^\d+(?=[a-z])", "", before[0]) if before else ""
    following = re.match(r"\s*[\"'(]*([\w']+|\S)", after)
    next_word = following[1] if following else ""
    if not next_word:
        return True
    capital = next_word[0].isupper() or is_han(next_word[0])
    if re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word):
        plain = word.replace(".", "").lower()
        if plain in ("eg", "ie"):
            return False
        named = next_word in _CALENDAR or next_word.isupper()
        return next_word in _STARTERS or (capital and plain in ("am", "pm") and not named)
    if len(word) == 1 and word.isalpha() and word != "I":
        return is_han(next_word[0]) or (word.islower() and capital) or next_word in _STARTERS
    if word in _ABBREVIATIONS:
        return word in _MAY_END and next_word in _STARTERS
    if word in BEFORE_NUMBER and next_word[0].isdigit():
        return False
    # "1. Buy milk": the number of an item.
    item = word.isdigit() and len(word) < 3 and re.search(r"(?:^|\n)\s*$", lead[: len(lead) - len(word)])
    return not item


def _line_ends(text: str, match: re.Match[str]) -> bool:
    """Whether a line break ends a sentence: a blank line, a short line, or a finished one."""
    if match[0].count("\n") > 1:
        return True
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()].rstrip()
    after = text[match.end() : match.end() + 1]
    if not line or not after:
        return True
    if line[-1] in ",;:，；：、-":
        return False
    return seconds(line) < 4.0 and not after.islower()


def sentence_ends(text: str) -> list[int]:
    """Positions after which a new sentence begins, the end of the text not among them."""
    return [m.end() for m in _END.finditer(text) if m.end() < len(text) and _is_sentence_end(text, m)]


def sentences(text: str) -> list[str]:
    """Sentences in order, stripped, without those that have nothing to say."""
    ends = [0, *sentence_ends(text), len(text)]
    parts = (text[start:end].strip() for start, end in itertools.pairwise(ends))
    return [part for part in parts if speakable(part)]


def _cut(text: str) -> list[str]:
    """A clause that is too long by itself, cut between words (or Chinese characters)."""
    parts: list[str] = []
    current = ""
    for token in re.findall(r"[\u3400-\u4dbf\u4e00-\u9fff〇]|[^\s\u3400-\u4dbf\u4e00-\u9fff〇]+|\s+", text):
        while seconds(token) > MAX_SECONDS:
            fit = int(len(token) * MAX_SECONDS * 0.8 / seconds(token))
            head, token = token[:fit], token[fit:]
            parts += [current, head]
            current = ""
        if seconds(current) + seconds(token) > MAX_SECONDS * 0.9 and current.strip():
            parts.append(current)
            current = ""
        current += token
    return [part for part in [*parts, current] if part.strip()]


def clauses(sentence: str) -> list[str]:
    """One sentence in pieces of at most `MAX_SECONDS`, of about equal length, cut at clauses where it can
    be."""
    total = seconds(sentence)
    if total <= MAX_SECONDS:
        return [sentence]
    units: list[str] = []
    start = 0
    for match in _CLAUSE.finditer(sentence):
        units.append(sentence[start : match.end()])
        start = match.end()
    units.append(sentence[start:])
    target = total / (int(total / MAX_SECONDS) + 1) + 1.0
    pieces: list[str] = []
    for unit in (part for u in units for part in ([u] if seconds(u) <= MAX_SECONDS else _cut(u))):
        if pieces and seconds(pieces[-1]) + seconds(unit) <= min(target, MAX_SECONDS):
            pieces[-1] += unit
        else:
            pieces.append(unit)
    return [piece.strip() for piece in pieces if speakable(piece)]


def join_short(pieces: list[str], more_follows: bool = False) -> list[str]:
    """Very short pieces joined to the next one; a last short one to the one before, unless more follows."""
    out: list[str] = []
    for piece in pieces:
        if out and seconds(out[-1]) < MIN_SECONDS and seconds(out[-1]) + seconds(piece) <= MAX_SECONDS:
            out[-1] += _joint(out[-1], piece) + piece
        else:
            out.append(piece)
    if more_follows:
        return out
    if len(out) > 1 and seconds(out[-1]) < MIN_SECONDS and seconds(out[-2]) + seconds(out[-1]) <= MAX_SECONDS:
        last = out.pop()
        out[-1] += _joint(out[-1], last) + last
    return out


def _joint(before: str, after: str) -> str:
    if before[-1] in "。！？，；：":
        return ""
    return " " if before[-1] in ".!?,;:\"')" else ". "


def split(text: str) -> list[str]:
    """Pieces of a text of any length, each at most about 12 seconds of speech; [] if there is nothing to
    say."""
    return join_short([clause for sentence in sentences(text) for clause in clauses(sentence)])
