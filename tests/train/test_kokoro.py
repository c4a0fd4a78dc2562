"""Making more of the corpus: who speaks what. The teacher itself is not needed."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fireside.train.data import held_out
from fireside.train.kokoro import NAMED, SHARES, pick_voice, read_texts, sentences, speak

NAMES = ["af_heart", "bm_george", "zf_xiaobei", "zm_yunxi", "jf_alpha"]


@pytest.mark.parametrize(("lang", "native"), [("en", "ab"), ("zh", "z"), ("mix", "z")])
def test_a_native_voice_leads_every_blend(lang: str, native: str) -> None:
    """Otherwise the words would not be understood."""
    rng = random.Random(0)
    speakers = [pick_voice(lang, NAMES, rng) for _ in range(200)]
    for shares in speakers:
        leader = max(shares, key=lambda name: shares[name])
        assert leader[0] in native
        assert sum(shares.values()) == pytest.approx(1.0, abs=0.02)
    named = sum(len(shares) == 1 for shares in speakers)
    assert 50 < named < 110
    assert {next(iter(s)) for s in speakers if len(s) == 1} <= set(NAMED["en" if lang == "en" else "zh"])


def test_every_sentence_before_any_comes_again() -> None:
    """And the languages have their shares."""
    texts = {"zh": [f"zh{i}" for i in range(20)], "en": [f"en{i}" for i in range(10)]}
    drawn = list(islice(sentences(texts, random.Random(0)), 400))
    first = [text for lang, text in drawn if lang == "zh"][:20]
    assert sorted(first) == sorted(texts["zh"])
    share = Counter(lang for lang, _ in drawn)["zh"] / 400
    assert share == pytest.approx(SHARES["zh"] / (SHARES["zh"] + SHARES["en"]), abs=0.08)


def test_held_out_sentences_are_not_spoken_again(tmp_path: Path) -> None:
    """Nor is a text of the training rows that a held-out row has too."""
    names = [f"u{i}" for i in range(60)]
    kept = next(name for name in names if held_out(name, 20))
    trained = [name for name in names if not held_out(name, 20)]
    shared = "这一句话两边都有，不能再说一遍。"
    rows = [
        {"utt": kept, "text": shared, "lang": "zh"},
        {"utt": trained[0], "text": shared, "lang": "zh"},
        {"utt": trained[1], "text": "这一句话只在训练的数据里才有。", "lang": "zh"},
        {"utt": trained[2], "text": "A sentence read by a voice of the other language.", "lang": "mix"},
        {"utt": trained[3], "text": "请把这个 computer 放在桌子上。", "lang": "mix"},
    ]
    table = pyarrow.Table.from_pylist([{**row, "audio": b"", "spk": "x", "speed": 1.0} for row in rows])
    pyarrow.parquet.write_table(table, tmp_path / "w0.parquet")
    lines = tmp_path / "zh.txt"
    lines.write_text("自己写的句子。\n\n", encoding="utf-8")
    texts = read_texts({"zh": [lines]}, tmp_path)
    assert texts["zh"] == ["自己写的句子。", "这一句话只在训练的数据里才有。"]
    assert texts["mix"] == ["请把这个 computer 放在桌子上。"]


def test_a_blend_is_the_mean_of_its_styles() -> None:
    """Of the row for the number of symbols; symbols that the teacher does not know are left out."""
    heard = {}

    class Session:
        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            heard.update(inputs)
            return [np.zeros((1, 5), np.float32)]

    voices = {name: np.full((510, 256), value, np.float32) for name, value in (("a", 1.0), ("b", 3.0))}
    assert speak(Session(), {"x": 7, "y": 8}, "x?y", voices, {"a": 0.25, "b": 0.75}, 1.1).shape == (5,)
    assert heard["input_ids"].tolist() == [[0, 7, 8, 0]]
    assert heard["style"].shape == (1, 256)
    assert np.allclose(heard["style"], 2.5)
    with pytest.raises(ValueError, match="cannot speak 0 symbols"):
        speak(Session(), {"x": 7}, "?", voices, {"a": 1.0}, 1.0)
