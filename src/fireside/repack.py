"""An official model folder as one of ours: safetensors and `fireside.yaml`, the voices in our registry's files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from fireside.errors import OutputError, UsageError
from fireside.models.checkpoint import CONFIG_FILE, TEXT_FOLDER, Storage, write_part
from fireside.models.config import OnnxSpeakerConfig, OnnxTokenizerConfig
from fireside.models.official import WEIGHTS, OfficialFolder
from fireside.spk2info import voices_of
from fireside.voices import write_voice

Precision = Literal["fp32", "bf16", "int8"]

STORAGE: dict[Precision, dict[str, Storage]] = {
    "fp32": {"lm": "float32", "flow": "float32", "vocoder": "float32"},
    "bf16": {"lm": "bfloat16", "flow": "bfloat16", "vocoder": "float32"},
    "int8": {"lm": "int8", "flow": "bfloat16", "vocoder": "float32"},
}
"""How each part is kept. The vocoder is small and heard directly: it stays exact. int8 is the LM's alone, which
decodes as fast as its weights are read."""
_TEXT_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "config.json")
_RANKS = "*.tiktoken"


def repack(model: OfficialFolder, out: Path, precision: Precision = "fp32") -> list[Path]:
    """Write a folder of ours that speaks as the official one does; returns the files in it.

    out: a folder that does not exist or is empty. Raises OutputError when it cannot be written, UsageError when it
    is in use, ModelError when the official files are damaged.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder: name one that does not exist yet.")
    for part in WEIGHTS:
        model.check(part)  # before anything is written
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [write_part(out, part, model.state(part), STORAGE[precision][part]) for part in WEIGHTS]
        files += _companions(model, out)
        for voice in voices_of(model.speakers, model.config.name, model.config.mel.n_mels).values():
            write_voice(out / "voices", voice, np.float32)
            files += [out / "voices" / f"{voice.name}{suffix}" for suffix in (".json", ".safetensors")]
        default = next(iter(model.speakers), model.config.default_voice)
        config = model.config.model_copy(update={"default_voice": default})
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        files.append(out / CONFIG_FILE)
        files[-1].write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}.") from error
    return files


def _companions(model: OfficialFolder, out: Path) -> list[Path]:
    """Copy what is used as it is: the ONNX files and the text tokenizer's."""
    names: list[Path] = []
    for config in (model.config.tokenizer, model.config.speaker):
        if isinstance(config, OnnxTokenizerConfig | OnnxSpeakerConfig):
            names.append(Path(config.file))
    names += [Path(TEXT_FOLDER) / name for name in _TEXT_FILES]
    names += [file.relative_to(model.path) for file in sorted(model.path.glob(_RANKS))]
    copied = []
    for name in names:
        if (model.path / name).is_file():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(model.path / name, out / name)
            copied.append(out / name)
    return copied
