"""Byte-pair encoding against the library that the original uses, on a vocabulary made here."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from fireside.errors import ModelError
from fireside.text.official.bpe import GPT2_WORDS, QWEN_WORDS, BytePairs
from fireside.text.official.qwen import TAGS_3, qwen_tokenizer
from fireside.text.official.tokenizer import TextTokenizer

# The word patterns as they are published with the two vocabularies.
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = [
    "the other brother then they're here; we'll see",
    "你好，世界。你好吗？你说什么？",
    "x = 12 + 345\n\n  done",
] * 4
ALPHABET = [
    *"abet hor'sSlLrevmdy  \n\r\t.,!?[]<>|0129²①你好，世界。こん한국🙂\u0301\u00a0\u3000\x1c\x85",
    "'ll",
    "'RE",
    " the",
]


def trained(pattern: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def texts(seed: int, count: int, alphabet: list[str]) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(alphabet, k=draw.randint(0, 24))) for _ in range(count)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = trained(QWEN)
    tokenizer.model.save(str(folder))
    tokenizer.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in TAGS_3])
    return tokenizer, folder


def test_qwen_ids_are_those_of_the_tokenizers_library(theirs: tuple[Tokenizer, Path]) -> None:
    library, folder = theirs
    ours = qwen_tokenizer(folder, TAGS_3)
    assert ours.vocab_size == library.get_vocab_size()
    for text in texts(0, 600, [*ALPHABET, "[breath]", "<|endofprompt|>", "[AH0]", "[AH", "[ǐ]", "<|"]):
        assert ours.encode(text) == library.encode(text).ids, repr(text)


def test_gpt2_words_are_those_of_the_published_pattern() -> None:
    cut = pre_tokenizers.Split(Regex(GPT2), behavior="isolated")
    for text in texts(1, 600, ALPHABET):
        assert GPT2_WORDS.words(text) == [word for word, _ in cut.pre_tokenize_str(text)], repr(text)


def test_every_word_is_kept_and_long_ones_take_no_quadratic_time() -> None:
    ids = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abab": 257}
    pairs = BytePairs(ids)
    assert pairs.encode("ababab") == [257, 256]
    assert pairs.encode("a" * 20_000) == [97] * 20_000
    assert pairs.encode("ab" * 20_000) == [257] * 10_000


def test_a_vocabulary_without_all_bytes_is_refused() -> None:
    with pytest.raises(ModelError, match="byte 7"):
        BytePairs({bytes([byte]): byte for byte in range(256) if byte != 7})


@pytest.mark.parametrize("words", [GPT2_WORDS, QWEN_WORDS], ids=["gpt2", "qwen"])
def test_what_is_certain_stays_whatever_follows(words: object) -> None:
    ids = {bytes([byte]): byte for byte in range(256)} | {b"he": 256, "你".encode(): 257}
    tags = {"<|en|>": 300, "[breath]": 301, "<|endofprompt|>": 302}
    tokenizer = TextTokenizer(BytePairs(ids), words, tags, 303, compose=False)
    for text in texts(2, 80, [*ALPHABET, "<|en|>", "[breath]", "<|e", "[br"]):
        for cut in range(len(text)):
            end = tokenizer.certain(text[:cut])
            assert tokenizer.encode(text[:end]) + tokenizer.encode(text[end:]) == tokenizer.encode(text), repr(text)
