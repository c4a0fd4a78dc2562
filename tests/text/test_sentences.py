"""Long text to pieces: sentence ends, abbreviations, clauses, short sentences, lengths."""

from __future__ import annotations

import pytest

from fireside.text.sentences import MAX_SECONDS, MIN_SECONDS, seconds, sentences, speakable, split


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith met Mr. Jones. They talked.", ["Dr. Smith met Mr. Jones.", "They talked."]),
        ("Pi is 3.14 and e is 2.71. So it is.", ["Pi is 3.14 and e is 2.71.", "So it is."]),
        ("Use fruit, e.g. apples. Or i.e. pears.", ["Use fruit, e.g. apples.", "Or i.e. pears."]),
        ("It is 5 p.m. The sun sets.", ["It is 5 p.m.", "The sun sets."]),
        ("It is 5 p.m. on Monday.", ["It is 5 p.m. on Monday."]),
        ("J. K. Rowling wrote it.", ["J. K. Rowling wrote it."]),
        ("He left the U.S. She stayed.", ["He left the U.S.", "She stayed."]),
        ("Apples, pears, etc. We ate.", ["Apples, pears, etc.", "We ate."]),
        ('"Go." He went.', ['"Go."', "He went."]),
        ("hello. how are you", ["hello.", "how are you"]),
        ("Wait... what?", ["Wait... what?"]),
        ("Visit example.com today. Bye.", ["Visit example.com today.", "Bye."]),
        ("你好。今天好吗？很好！", ["你好。", "今天好吗？", "很好！"]),
        ("他说：“走。”然后走了。", ["他说：“走。”", "然后走了。"]),
        ("我爱 Python. 你呢？", ["我爱 Python.", "你呢？"]),
        ("A title\n\nSome text.", ["A title", "Some text."]),
        (
            "This long line of prose was wrapped by\nits author.",
            ["This long line of prose was wrapped by\nits author."],
        ),
        ("1. Buy milk", ["1. Buy milk"]),
        ("See Fig. 3. Then go.", ["See Fig. 3.", "Then go."]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@pytest.mark.parametrize("text", ["", " ", "\n", " \n ", "...", "。", "!?", "( )", "—", "\n\n.\n"])
def test_nothing_to_say_gives_no_pieces(text: str) -> None:
    assert split(text) == []


@pytest.mark.parametrize("text", [" a", "a ", "\na\n", " 你 ", "。你好", "， a ，"])
def test_blanks_at_the_ends(text: str) -> None:
    assert len(split(text)) == 1


def test_pieces_of_punctuation_are_dropped() -> None:
    pieces = split("Hello there to you, my good friend.\n\n* * *\n\n... !!!\n\nAnd a very good evening to all of you.")
    assert pieces == ["Hello there to you, my good friend.", "And a very good evening to all of you."]
    assert all(speakable(piece) for piece in pieces)


def test_short_sentences_are_joined_and_keep_their_words() -> None:
    long = "I do not know what to do about it."
    assert split(f"Yes. No. {long}") == [f"Yes. No. {long}"]
    assert split(f"{long} Yes.") == [f"{long} Yes."]
    assert all(seconds(piece) >= MIN_SECONDS for piece in split("Yes. " * 50))


LONG_ENGLISH = (
    "When the evening came, the people of the small town, who had worked all day, walked slowly home, and " * 4
)
LONG_CHINESE = "今天天气很好，我们一起去公园散步，看见了很多漂亮的花，还有小鸟在唱歌，" * 5


@pytest.mark.parametrize("text", [LONG_ENGLISH, LONG_CHINESE, "word " * 400, "字" * 500, "x" * 3000, "7" * 300])
def test_no_piece_is_too_long_and_nothing_is_lost(text: str) -> None:
    pieces = split(text)
    assert max(seconds(p) for p in pieces) <= MAX_SECONDS
    kept = "".join("".join(p.split()) for p in pieces)
    assert kept.strip(",，") == "".join(text.split()).strip(",，")


def test_long_sentences_are_cut_at_clauses() -> None:
    assert all(p.endswith((",", "and")) for p in split(LONG_ENGLISH))
    assert all(p.endswith("，") for p in split(LONG_CHINESE))


def test_twenty_thousand_characters() -> None:
    text = ("The quick brown fox, aged 3.5 years, paid $1,000.50 to Dr. Smith on Jan. 5. " * 300)[:20000]
    pieces = split(text)
    assert max(seconds(p) for p in pieces) <= MAX_SECONDS
    assert all("$1,000.50" in p for p in pieces[:-1] if "$" in p)
