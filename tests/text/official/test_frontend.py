"""The text side of the released models: normalisers, tags, prompts, instructions, incoming text, damaged files."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fireside.errors import ModelError, TextError, UsageError
from fireside.text.official import Kind, OfficialFrontend, make_frontend
from fireside.text.official.paragraphs import split_paragraph
from fireside.text.official.qwen import TAGS_2, TAGS_3
from fireside.text.official.rules import drop_blanks, number_words
from fireside.text.official.whisper import cosyvoice1_tokenizer

VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of the 256 bytes and one merge."""
    folder = tmp_path_factory.mktemp("qwen")
    hidden = iter(range(256, 512))
    characters = [chr(byte if byte in VISIBLE else next(hidden)) for byte in range(256)]
    vocabulary = {character: i for i, character in enumerate(characters)} | {"he": 256}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nh e\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def frontend(qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OfficialFrontend]:
    ranks = tmp_path_factory.mktemp("whisper")
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    (ranks / "multilingual.tiktoken").write_text("\n".join(lines), encoding="utf-8")

    def make(kind: Kind, normaliser: object = "none") -> OfficialFrontend:
        return make_frontend(ranks if kind == "cosyvoice1" else qwen_folder, kind, normaliser)

    return make


def texts(front: OfficialFrontend, ids: tuple[int, ...]) -> str:
    """The text of ids of the vocabularies above."""
    tags = {number: tag for tag, number in front.tokenizer.special.items()}
    parts = [tags[i].encode() if i in tags else b"he" if i == 256 else bytes([i]) for i in ids]
    return b"".join(parts).decode()


@pytest.mark.parametrize(("version", "tags"), [("v2", TAGS_2), ("v3", TAGS_3)])
def test_added_tokens_have_the_official_ids(shared: Path, version: str, tags: list[str]) -> None:
    official = json.loads((shared / "manifests" / "qwen_special_token_ids.json").read_text(encoding="utf-8"))
    assert {tag: 151643 + i for i, tag in enumerate(tags)} == official[version]


def test_the_package_has_whispers_vocabulary() -> None:
    tokenizer = cosyvoice1_tokenizer()
    assert tokenizer.encode("<|zh|>Hello world") == [50260, 15947, 1002]
    assert tokenizer.vocab_size == 51866


@pytest.mark.parametrize(
    ("kind", "told", "expected"),
    [
        ("cosyvoice1", None, ""),
        ("cosyvoice1", "A calm voice.", "A calm voice.<endofprompt>"),
        ("cosyvoice1", "A calm voice.<endofprompt>", "A calm voice.<endofprompt>"),
        ("cosyvoice1", "A calm voice.<|endofprompt|>", "A calm voice.<|endofprompt|>"),
        ("cosyvoice2", None, ""),
        ("cosyvoice2", "用四川话说这句话", "用四川话说这句话<|endofprompt|>"),
        ("cosyvoice2", "用四川话说这句话<|endofprompt|>", "用四川话说这句话<|endofprompt|>"),
        ("cosyvoice3", None, "You are a helpful assistant.<|endofprompt|>"),
        ("cosyvoice3", "请用广东话表达。", "You are a helpful assistant. 请用广东话表达。<|endofprompt|>"),
        (
            "cosyvoice3",
            "You are a helpful assistant. 请用广东话表达。<|endofprompt|>",
            "You are a helpful assistant. 请用广东话表达。<|endofprompt|>",
        ),
    ],
)
def test_instructions(frontend: Callable[..., OfficialFrontend], kind: Kind, told: str | None, expected: str) -> None:
    front = frontend(kind)
    ids = front.instruction(told)
    assert texts(front, ids) == expected
    if kind != "cosyvoice1" and ids:
        assert ids[-1] == front.tokenizer.special["<|endofprompt|>"]


@pytest.mark.parametrize("told", ["", " ", "<|endofprompt|>", "Slowly.<|endofprompt|>and more"])
def test_an_instruction_that_says_nothing_or_too_much(frontend: Callable[..., OfficialFrontend], told: str) -> None:
    with pytest.raises(TextError, match="instruction"):
        frontend("cosyvoice2").instruction(told)


def test_the_callers_own_prefix_is_not_spoken(frontend: Callable[..., OfficialFrontend]) -> None:
    front = frontend("cosyvoice3")
    text = "You are a helpful assistant.<|endofprompt|>[breath]hello 3"
    assert front.written_instruction(text) == "You are a helpful assistant.<|endofprompt|>"
    assert front.written_instruction("hello") is None
    [piece] = front.pieces(text)
    assert piece.text == "[breath]hello 3"
    assert piece.tokens[0] == front.tokenizer.special["[breath]"]
    [word] = front.words("You are a helpful assistant.<|endofprompt|>希望3")
    instruction, words = front.split_prompt(word.tokens)
    assert instruction == front.instruction()
    assert texts(front, words) == "希望3"
    assert front.split_prompt(words) == ((), words)


def test_tags_are_not_read_as_numbers(frontend: Callable[..., OfficialFrontend]) -> None:
    front = frontend("cosyvoice3", lambda text, language: text.replace("cats", "dogs"))
    [piece] = front.pieces("3 cats [HH][AH0] say [laughter] 2")
    assert piece.text == "three dogs [HH][AH0] say [laughter] two."


def test_the_users_own_normaliser_is_given_the_language(frontend: Callable[..., OfficialFrontend]) -> None:
    heard = []

    def rewrite(text: str, language: str) -> str:
        heard.append((text, language))
        return text

    front = frontend("cosyvoice2", rewrite)
    front.pieces("你好3")
    front.pieces("hello")
    assert heard == [("你好3", "zh"), ("hello", "en")]


def test_a_normaliser_that_fails_is_named(frontend: Callable[..., OfficialFrontend]) -> None:
    def broken(text: str, language: str) -> str:
        raise AssertionError

    with pytest.raises(TextError, match="broken failed on 'hello'"):
        frontend("cosyvoice2", broken).pieces("hello")


@pytest.mark.parametrize("choice", ["wetext", "ttsfrd"])
def test_a_normaliser_that_is_not_installed_is_no_silent_fallback(
    frontend: Callable[..., OfficialFrontend], monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    monkeypatch.setitem(sys.modules, choice, None)
    with pytest.raises(UsageError, match=f"{choice} is not installed"):
        frontend("cosyvoice2", choice).pieces("3 cats")
    assert frontend("cosyvoice2", choice).pieces("3 cats", normalise=False)[0].text == "3 cats"


def test_an_unknown_normaliser(frontend: Callable[..., OfficialFrontend]) -> None:
    with pytest.raises(UsageError, match="no text normaliser 'wetex'"):
        frontend("cosyvoice2", "wetex")


def test_ttsfrd_cuts_the_text_itself(
    frontend: Callable[..., OfficialFrontend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resources = []

    class Engine:
        def initialize(self, folder: str) -> bool:
            resources.append(Path(folder))
            return Path(folder).is_dir()

        def set_lang_type(self, name: str) -> None:
            assert name == "pinyinvg"

        def do_voicegen_frd(self, text: str) -> str:
            return json.dumps({"sentences": [{"text": part} for part in ["三只猫。", "。", "两只狗。"]]})

    monkeypatch.setitem(sys.modules, "ttsfrd", SimpleNamespace(TtsFrontendEngine=Engine))
    front = frontend("cosyvoice2", f"ttsfrd:{tmp_path}")
    assert front.split("3只猫。2只狗。") == ["三只猫。", "两只狗。"]
    assert resources == [tmp_path]
    with pytest.raises(UsageError, match="no resources"):
        frontend("cosyvoice2", f"ttsfrd:{tmp_path / 'none'}").pieces("好")


@pytest.mark.parametrize("text", ["", " ", "。。。", "?! ...", "\n", "\u200b"])
def test_nothing_to_say(frontend: Callable[..., OfficialFrontend], text: str) -> None:
    for normalise in (True, False):
        with pytest.raises(TextError):
            frontend("cosyvoice2").pieces(text, normalise)
        with pytest.raises(TextError):
            frontend("cosyvoice2").words(text, normalise)


def test_edges_that_the_original_fails_on() -> None:
    assert split_paragraph("", "zh", len) == []
    assert split_paragraph("。”好", "zh", len) == ["好。"]
    assert drop_blanks("你好 ") == "你好"
    assert drop_blanks("a ") == "a"
    assert drop_blanks(" ") == ""


def test_numbers_beyond_names_are_read_digit_by_digit() -> None:
    assert number_words("1" + "0" * 35) == "one hundred decillion"
    assert number_words("9" * 37) == " ".join(["nine"] * 37)


def test_incoming_text_has_the_ids_of_the_whole(frontend: Callable[..., OfficialFrontend]) -> None:
    front = frontend("cosyvoice3")
    text = "he said [breath]hello, the e\u0301clair. 你好"
    stream = front.stream()
    ids = [token for char in text for token in stream.push(char)]
    assert ids + stream.finish() == front.tokenizer.encode(text)
    by_part = front.stream(join_parts=False)
    assert by_part.push("h") + by_part.push("e") + by_part.finish() == [ord("h"), ord("e")]


def test_incoming_words_leave_as_soon_as_they_are_certain(frontend: Callable[..., OfficialFrontend]) -> None:
    front = frontend("cosyvoice2")
    stream = front.stream()
    assert texts(front, tuple(stream.push("hello wor"))) == "hello"
    assert texts(front, tuple(stream.push("ld "))) == " world"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", None, "missing"),
        ("merges.txt", None, "missing"),
        ("vocab.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("vocab.json", '{"a": 0', "no vocabulary"),
        ("vocab.json", '["a"]', "no vocabulary"),
        ("vocab.json", '{"a": 0}', "no token for the byte 0"),
        ("vocab.json", '{"\u4f60": 0}', "no vocabulary"),
        ("merges.txt", "#version: 0.2\na b c\n", "no list of merges"),
    ],
)
def test_a_damaged_qwen_vocabulary(
    qwen_folder: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    for file in qwen_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        make_frontend(tmp_path, "cosyvoice2", "none")


@pytest.mark.parametrize("content", ["IQ== 0 1", "IQ== x", "IQ== 0\nIg== 5"])
def test_a_damaged_whisper_vocabulary(tmp_path: Path, content: str) -> None:
    (tmp_path / "multilingual.tiktoken").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"multilingual\.tiktoken"):
        make_frontend(tmp_path, "cosyvoice1", "none")
