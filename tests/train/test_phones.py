import json
from collections import Counter

import pytest

from fireside.text import Frontend
from fireside.text.phones import FINALS, INITIALS, PHONES, decode
from fireside.train import teacher_ipa
from fireside.train.phones import _KnownEnglish, label, labels, main
from fireside.train.teacher_ipa import arpabet, distance, segment, syllables


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    return Frontend(_KnownEnglish())


def words(text: str, ipa: str, frontend: Frontend) -> list[str]:
    found = label(text, ipa, frontend)
    assert found is not None
    return [" ".join(decode(word)).rstrip() for word in found]


def test_tables_name_phones_that_exist():
    assert set(teacher_ipa._INITIAL_IPA) == {"", *INITIALS}
    assert set(teacher_ipa._FINAL_IPA) == set(FINALS)
    symbols = {*teacher_ipa._CONSONANTS.values(), *(v + "0" for v in teacher_ipa._VOWELS.values())}
    assert symbols <= set(PHONES)


def test_ipa_to_arpabet():
    assert arpabet("tʃˈɔɪs") == ("CH", "OY1", "S")
    assert arpabet("ˌʌndɚstˈænd") == ("AH2", "N", "D", "ER0", "S", "T", "AE1", "N", "D")
    assert arpabet("hˈɪɹɹɪŋ") == ("HH", "IH1", "R", "IH0", "NG")


def test_segments_follow_the_words():
    own = [("AY1",), ("HH", "AE1", "V"), ("IH1", "T")]
    spoken = ("AY0", "HH", "AE0", "V", "IH0", "T")
    assert segment(own, spoken) == [("AY0",), ("HH", "AE0", "V"), ("IH0", "T")]
    wild = [("AY1",), ("<spare0>",) * 3, ("IH1", "T")]
    assert segment(wild, spoken)[1] == ("HH", "AE0", "V")


def test_distance_knows_what_is_alike():
    assert distance(("S", "IH1", "T"), ("S", "IH1", "T")) == 0
    assert distance(("S", "IH1", "T"), ("S", "IY1", "T")) < distance(("S", "IH1", "T"), ("S", "OW1", "T"))
    assert distance(("S", "IH1", "T"), ("S", "IH1")) == pytest.approx(0.7 / 3)


def test_the_dictionary_stands_where_the_teacher_agrees(frontend):
    ipa = "hiː wʌz bˈɔːɹn ɪn lˈʌndən, ɪŋɡlənd."
    assert words("He was born in London, England.", ipa, frontend) == [
        " ".join(decode(word.tokens)).rstrip() for word in frontend.words("He was born in London, England.")
    ]


def test_a_variant_that_was_spoken_is_taken(frontend):
    text = "They read it."
    assert words(text, "ðeɪ ɹˈɛd ɪt.", frontend)[1] == "R EH1 D"
    assert words(text, "ðeɪ ɹˈiːd ɪt.", frontend)[1] == "R IY1 D"


def test_an_unknown_word_is_what_the_teacher_said(frontend):
    assert words("The zorblax is here.", "ðə zˈɔːɹblæks ɪz hˈɪɹ.", frontend)[1] == "Z AO1 R B L AE0 K S"


def test_tones_and_words_are_the_teachers_and_sandhi_is_ours(frontend):
    assert words("我教你。", "wo↓ ʨjau→ ni↓.", frontend) == ["uo3", "j iao1", "n i3 ."]
    assert words("你好。", "ni↓xau↓.", frontend) == ["n i2", "h ao3 ."]
    boundaries = label("你好。", "ni↓ xau↓.", frontend)
    assert [PHONES[word[-1]] for word in boundaries] == [" ", " "]


def test_both_languages_in_a_sentence(frontend):
    found = words("我喜欢 coffee。", "wo↓ ɕi↓xwan kˈɔfi.", frontend)
    assert found[:3] == ["uo2", "x i3", "h uan4"]
    assert found[3].startswith("K AO1 F IY0")


def test_what_does_not_fit_is_left_out(frontend):
    assert label("你好。", "wo↓ ʨjau→ ni↓ xau↓.", frontend) is None
    assert label("我喜欢 coffee。", "kˈɔfi.", frontend) is None
    assert syllables([("n", "i", "3")], "kˈɔfi") is None


def test_rows_are_counted(frontend):
    rows = [
        {"utt": "a", "text": "Hello.", "phonemes": "həlˈoʊ."},
        {"utt": "b", "text": "Hello."},
        {"utt": "c", "text": ""},
        {"utt": "d", "text": "Привет.", "phonemes": "x"},
        {"utt": "e", "text": "你好。", "phonemes": "ni↓."},
    ]
    counts: Counter[str] = Counter()
    found = dict(labels(rows, counts))
    assert list(found) == ["a", "b"]
    assert found["a"] == found["b"]
    assert counts["labelled"] == 2
    assert counts["without text"] == counts["text and teacher do not fit"] == 1
    assert sum(counts.values()) == len(rows)


def test_command_line_writes_a_line_per_labelled_row(tmp_path, capsys):
    row = {"utt": "a", "text": "Hello.", "phonemes": "həlˈoʊ.", "split": "train", "corpus": "kokoro"}
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    main(["--features", str(tmp_path), "--out", str(tmp_path / "phones.jsonl")])
    line = json.loads((tmp_path / "phones.jsonl").read_text(encoding="utf-8"))
    assert line["utt"] == "a"
    assert decode(line["words"][0]) == ["HH", "AH0", "L", "OW1", ".", " "]
    assert "1 labelled" in capsys.readouterr().out
