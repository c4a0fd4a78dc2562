"""Telephones, web and mail addresses, versions: what is spelled rather than said."""

from __future__ import annotations

import re

from fireside.text.abbreviations_en import DOTTED_PHRASES
from fireside.text.numbers_en import cardinal, digits
from fireside.text.rule import Match, Rule, template

_ROADS = "St|Ave|Blvd|Rd|Dr|Ln|Pl|Street|Avenue|Boulevard|Road|Drive|Lane|Place"
_WAYS = {"N": "North", "S": "South", "E": "East", "W": "West"}
_CUES = {"Tel": "telephone", "tel": "telephone"}


def _phone(m: Match) -> str:
    return _phone_groups(m[0])


def _phone_groups(text: str) -> str:
    groups = re.findall(r"\d+", text)
    lead = "plus " if text.lstrip("( ").startswith("+") else ""
    spoken = ["eight hundred" if group == "800" and i < 2 else digits(group) for i, group in enumerate(groups)]
    return lead + ", ".join(spoken)


_TLD = r"(?:com|org|net|edu|gov|io|co|uk|us|cn|de|fr|jp|ai|dev|app|info|tv|me|eu|ca|au|ru|in|ly)"
_SPELLED_PARTS = frozenset({"www", "io", "uk", "us", "cn", "de", "fr", "tv", "ai", "html", "php", "pdf", "http"})


def _spell_address(text: str) -> str:
    names = {
        **{
            ".": "dot",
            "/": "slash",
            "-": "dash",
            "_": "underscore",
            "@": "at",
            ":": "colon",
            "?": "question mark",
        },
        **{"=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus", "~": "tilde"},
    }
    words = []
    for piece in re.findall(r"[A-Za-z]+|\d+|[^\w\s]|_", text):
        if piece.isdigit():
            words.append(cardinal(piece) if len(piece) < 3 else digits(piece))
        elif piece.isalpha():
            words.append(" ".join(piece.upper()) if piece.lower() in _SPELLED_PARTS else piece.lower())
        else:
            words.append(names.get(piece, ""))
    return " ".join(filter(None, words))


def _url(m: Match) -> str:
    text = re.sub(r"^[a-z]+://", "", m[0], flags=re.I)
    tail = re.search(r"[.,;:!?)/]+$", text)
    mark = ""
    if tail:
        mark = tail[0].strip("/)")[:1]
        text = text[: tail.start()]
    return _spell_address(text) + mark


def _mail(m: Match) -> str:
    return _spell_address(m[0])


def _version(m: Match) -> str:
    parts = [part for part in m[0].lstrip("vV").split(".")]
    lead = "version " if m[0][0] in "vV" else ""
    read = digits if len(parts) == 4 and all(len(p) <= 3 for p in parts) else cardinal
    joint = " dot " if len(parts) == 4 else " point "
    return lead + joint.join(read(part) for part in parts)


def rules() -> list[Rule]:
    """Patterns and what is said for them, in the order in which they must run."""
    return [
        # Addresses first: nothing in them is a sentence.
        (r"[A-Za-z0-9._+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", _mail),
        (rf"\bhttps?://[^\s]+|\bwww\.[^\s]+|\b[A-Za-z][\w-]*(?:\.[\w-]+)*\.{_TLD}\b(?:/[^\s,]*)?", _url),
        *((pattern, template(text)) for pattern, text in DOTTED_PHRASES),
        (
            rf"\b(?P<n>\d+)\s(?P<way>[NSEW])\.?\s(?=(?:\d+(?:st|nd|rd|th)|[A-Z][\w ]{{0,30}})\s(?:{_ROADS})\b)",
            lambda m: f"{m['n']} {_WAYS[m['way']]} ",
        ),
        # Telephones and networks.
        (r"(?<![\w.,-])\+?\d{0,3}[-. ]?\(\d{3}\)[-. ]?\d{3}[-. ]\d{4}\b", _phone),
        (r"(?<![\w.,-])\+\d{1,3}(?:[-. ]\d{2,4}){2,4}\b", _phone),
        (r"(?<![\w.,-])(?:1[-. ])?\d{3}[-.]\d{3}[-.]\d{4}\b", _phone),
        (r"(?<![\w.,/-])\d{3}-\d{4}\b(?!-)", _phone),
        (r"(?<![\w.,-])\d{4}(?:[ -]\d{4}){2,4}\b", _phone),
        (r"\b\d{3}-\d{2}-\d{4}\b", _phone),
        (
            r"\b(?P<cue>ISBN|Tel|tel|Fax|fax|[Pp]hone)(?:\.|:)?:?\s(?P<n>\+?\d[\d\s()-]{5,}\d)",
            lambda m: f"{_CUES.get(m['cue'], m['cue'])} {_phone_groups(m['n'])}",
        ),
        (
            r"\b(?P<cue>[Dd]ial|[Cc]all|[Pp]hone|[Tt]ext|[Pp]ress|PIN|pin|code|extension|ext\.)\s(?P<n>\d{3,})\b(?![,.:/-]?\d|\s(?!for|to|if|now|or|and)[a-z])",
            lambda m: f"{m['cue']} {digits(m['n'])}",
        ),
        (r"\b[vV]?\d+(?:\.\d+){2,3}\b", _version),
    ]
