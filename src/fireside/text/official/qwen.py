"""The text tokenizer of CosyVoice 2 and 3: Qwen2's vocabulary and the tokens that CosyVoice added to it."""

from __future__ import annotations

import json
from pathlib import Path

from fireside.errors import ModelError
from fireside.text.official.bpe import QWEN_WORDS, BytePairs
from fireside.text.official.tokenizer import TextTokenizer
from fireside.text.word_set import word_list

END_OF_PROMPT = "<|endofprompt|>"

_QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_SOUNDS = word_list(
    "<|endofprompt|> [breath] <strong> </strong> [noise] [laughter] [cough] [clucking] [accent] [quick_breath] "
    "<laughter> </laughter> [hissing] [sigh] [vocalized-noise] [lipsmack] [mn]"
)
_ARPABET = word_list(
    "AA AA0 AA1 AA2 AE AE0 AE1 AE2 AH AH0 AH1 AH2 AO AO0 AO1 AO2 AW AW0 AW1 AW2 AY AY0 AY1 AY2 B CH D DH EH EH0 EH1 "
    "EH2 ER ER0 ER1 ER2 EY EY0 EY1 EY2 F G HH IH IH0 IH1 IH2 IY IY0 IY1 IY2 JH K L M N NG OW OW0 OW1 OW2 OY OY0 OY1 "
    "OY2 P R S SH T TH UH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH"
)
_PINYIN = word_list(
    "a ai an ang ao b c ch d e ei en eng f g h i ian in ing iu ià iàn iàng iào iá ián iáng iáo iè ié iòng ióng iù iú "
    "iā iān iāng iāo iē iě iōng iū iǎ iǎn iǎng iǎo iǒng iǔ j k l m n o ong ou p q r s sh t u uang ue un uo uà uài uàn "
    "uàng uá uái uán uáng uè ué uì uí uò uó uā uāi uān uāng uē uě uī uō uǎ uǎi uǎn uǎng uǐ uǒ vè w x y z zh à ài àn "
    "àng ào á ái án áng áo è èi èn èng èr é éi én éng ér ì ìn ìng í ín íng ò òng òu ó óng óu ù ùn ú ún ā āi ān āng āo "
    "ē ēi ēn ēng ě ěi ěn ěng ěr ī īn īng ō ōng ōu ū ūn ǎ ǎi ǎn ǎng ǎo ǐ ǐn ǐng ǒ ǒng ǒu ǔ ǔn ǘ ǚ ǜ"
)

TAGS_2 = [*_QWEN, *_SOUNDS]
"""Special tokens of CosyVoice 2 in the order of their ids, which follow the vocabulary's own."""

TAGS_3 = [*TAGS_2, "<|endofsystem|>", *(f"[{phone}]" for phone in [*_ARPABET, *_PINYIN])]
"""Those of CosyVoice 3, with CMU phones and the pieces of pinyin syllables."""


def qwen_tokenizer(folder: Path, tags: list[str]) -> TextTokenizer:
    """Qwen2's tokenizer from its folder (CosyVoice-BlankEN in a model's), with the special tokens of a version.

    Raises ModelError for a missing or damaged vocab.json or merges.txt."""
    vocabulary, merges = _read_vocabulary(folder / "vocab.json"), _read_merges(folder / "merges.txt")
    special = {tag: len(vocabulary) + i for i, tag in enumerate(tags)}
    size = len(vocabulary) + len(tags)
    return TextTokenizer(BytePairs(vocabulary, merges), QWEN_WORDS, special, size, compose=True)


def _read_vocabulary(file: Path) -> dict[bytes, int]:
    try:
        raw = json.loads(_read(file))
        return {_bytes(token): int(number) for token, number in raw.items()}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ModelError(f"{file} is no vocabulary of Qwen's ({error}): get it again.") from error


def _read_merges(file: Path) -> dict[tuple[bytes, bytes], int]:
    merges: dict[tuple[bytes, bytes], int] = {}
    try:
        for line in _read(file).split("\n"):
            if line and not line.startswith("#version"):
                left, right = line.rstrip("\r").split(" ")
                merges[_bytes(left), _bytes(right)] = len(merges)
    except (ValueError, KeyError) as error:
        raise ModelError(f"{file} is no list of merges ({error}): get it again.") from error
    return merges


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelError(
            f"{file} is missing, a part of the text tokenizer: get the model again, its sub-folder CosyVoice-BlankEN "
            "included."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} cannot be read ({error}): get it again.") from error
    if text.startswith("version https://git-lfs"):
        raise ModelError(f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in the model folder.")
    return text


def _printable_bytes() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: Latin-1's visible characters are
    themselves, the other bytes follow from U+0100 in their order (GPT-2)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _printable_bytes()


def _bytes(token: str) -> bytes:
    return bytes(_BYTES[char] for char in token)
