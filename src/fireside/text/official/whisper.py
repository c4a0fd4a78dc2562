"""The text tokenizer of CosyVoice 1: Whisper's multilingual vocabulary, with language tags such as `<|en|>`."""

from __future__ import annotations

import binascii
import lzma
from importlib.resources import files
from pathlib import Path

from fireside.errors import ModelError
from fireside.text.official.bpe import GPT2_WORDS, BytePairs
from fireside.text.official.tokenizer import TextTokenizer
from fireside.text.word_set import word_list

RANKS_FILE = "multilingual.tiktoken"
"""Looked for in the model folder before the package's own copy."""

CHARACTER_RANKS_FILE = "multilingual_zh_ja_yue_char_del.tiktoken"
"""The vocabulary of the 25 Hz recipe (CosyVoice-300M-25Hz), Chinese and Japanese by characters: from
cosyvoice/tokenizer/assets of the original's repository, not in this package."""

_LANGUAGES = word_list(
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
)
_EVENTS = word_list("ASR AED SER Speech /Speech BGM /BGM Laughter /Laughter Applause /Applause HAPPY SAD ANGRY NEUTRAL")
_TASKS = word_list("translate transcribe startoflm startofprev nospeech notimestamps")
_RESERVED = [f"SPECIAL_TOKEN_{i}" for i in range(1, 31)]
_SPEAKERS = [f"TTS/{name}" for name in ("B", "O", "Q", "A", "CO", "CL", "H")] + [f"TTS/SP{i:02}" for i in range(1, 14)]
_TIMES = [f"{step * 0.02:.2f}" for step in range(1501)]


def cosyvoice1_tokenizer(folder: Path | None = None) -> TextTokenizer:
    """The tokenizer of a model folder: that of the 25 Hz recipe if its vocabulary is there, else Whisper's (51,866
    ids), from the folder or the package. Raises ModelError for a damaged vocabulary."""
    for name, tags in ((CHARACTER_RANKS_FILE, character_tags()), (RANKS_FILE, whisper_tags())):
        file = folder / name if folder else None
        if file is not None and file.is_file():
            return _tokenizer(read_ranks(file.read_bytes(), str(file)), tags)
    packed = files("fireside.text").joinpath("data", "whisper_multilingual.tiktoken.xz").read_bytes()
    return _tokenizer(read_ranks(lzma.decompress(packed), RANKS_FILE), whisper_tags())


def whisper_tags() -> list[str]:
    """Whisper's special tokens in the order of their ids, without their marks and the first two."""
    return [*_LANGUAGES, *_TASKS, *_TIMES]


def character_tags() -> list[str]:
    """The special tokens of the 25 Hz recipe in the order of their ids, without their marks and the first two."""
    return [*_LANGUAGES, *_EVENTS, *_TASKS, *_RESERVED, *_SPEAKERS, *_TIMES]


def _tokenizer(ranks: dict[bytes, int], tags: list[str]) -> TextTokenizer:
    names = ["endoftext", "startoftranscript", *tags]
    special = {f"<|{name}|>": len(ranks) + i for i, name in enumerate(names)}
    return TextTokenizer(BytePairs(ranks), GPT2_WORDS, special, len(ranks) + len(special), compose=False)


def read_ranks(data: bytes, where: str) -> dict[bytes, int]:
    """A tiktoken file: a line for each token, its bytes in base64 and its rank. Raises ModelError for another file."""
    ranks: dict[bytes, int] = {}
    try:
        for line in data.splitlines():
            if line:
                token, rank = line.split()
                # The last token is empty and written as "=".
                ranks[b"" if token == b"=" else binascii.a2b_base64(token)] = int(rank)
    except (ValueError, binascii.Error) as error:
        raise ModelError(f"{where} is no tiktoken vocabulary ({error}): get it again.") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ModelError(f"{where} is truncated or damaged: get it again.")
    return ranks
