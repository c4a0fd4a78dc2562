"""Folders of official checkpoints as they are downloaded, with the interface of our own `ModelFolder`:
CosyVoice-300M (also -SFT and -Instruct), CosyVoice2-0.5B and Fun-CosyVoice3-0.5B.

Nothing in them is executed: pickles are read with `weights_only=True`, the YAML by `official_yaml`.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from fireside.errors import ConfigError, ModelError
from fireside.models.checkpoint import CONFIG_FILE, TEXT_FOLDER, ModelFolder, unpack
from fireside.models.config import ModelConfig, first_problem
from fireside.models.device import CPU
from fireside.models.files import check_whole
from fireside.models.lm import UNUSED
from fireside.models.official_config import OfficialModel, model_config, read_official
from fireside.models.official_lm import Qwen2Sizes

YAML_FILES = {3: "cosyvoice3.yaml", 2: "cosyvoice2.yaml", 1: "cosyvoice.yaml"}
"""Newest first: a folder with several is of the newest. The first CosyVoice2-0.5B had a `cosyvoice.yaml`; what a file
describes says which version it is, not its name."""
WEIGHTS = {"lm": "llm.pt", "flow": "flow.pt", "vocoder": "hift.pt"}
PURPOSES = {
    "llm.pt": "it turns text into speech tokens",
    "flow.pt": "it turns speech tokens into mel frames",
    "hift.pt": "it turns mel frames into sound",
    "spk2info.pt": "the named voices",
}
SPEAKERS_FILE = "spk2info.pt"
_TRAINING_KEYS = ("epoch", "step")
_GAN_PREFIX = "generator."
_GAN_DROPPED = ("discriminator.", "mel_spec_transform.")

_FOREIGN = re.compile(r"unsupported (?:global|class)\W+(?:global )?([\w.]+)", re.IGNORECASE)
"""How torch names what it refuses to look up."""

Speakers = dict[str, dict[str, Tensor]]


def yaml_file(folder: Path) -> Path | None:
    """The official YAML of a folder, or None when it has none."""
    return next((folder / name for name in YAML_FILES.values() if (folder / name).is_file()), None)


def open_folder(path: Path, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> ModelFolder:
    """A model folder of ours or an official one; see ModelFolder. Raises ModelError when it is neither, and what
    opening it raises."""
    if not path.is_dir():
        raise ModelError(f"There is no model folder {path}.")
    if (path / CONFIG_FILE).is_file():
        return ModelFolder(path, dtype, device)
    if yaml_file(path) is not None:
        return OfficialFolder(path, dtype, device)
    raise ModelError(
        f"{path} is not a model folder: it has neither {CONFIG_FILE} nor {', '.join(reversed(YAML_FILES.values()))}. "
        "Give the folder that holds llm.pt, flow.pt and hift.pt, with its YAML."
    )


def read_pickle(file: Path, mmap: bool = True) -> Any:
    """What a `.pt` file holds. Only tensors and plain data are read.

    mmap: tensors stay in the file where its format allows; then it must not be written over while they are used.
    Raises ModelError for a file that is damaged or that asks for anything else; nothing in it is run.
    """
    check_whole(file, PURPOSES.get(file.name, ""))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # of a file that is refused in a sentence
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                return torch.load(file, map_location="cpu", weights_only=True)  # written by a torch before 1.6
    except pickle.UnpicklingError as error:
        foreign = _FOREIGN.search(str(error))
        if foreign:
            raise ModelError(
                f"{file} holds more than weights: it asks to run code when it is read ({foreign[1]}). It was refused "
                "and nothing was run; do not trust where it came from, and get the model from its publisher."
            ) from error
        raise ModelError(
            f"{file} is damaged or not a file of PyTorch weights; nothing in it was run: get it again."
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ModelError(
            f"{file} is damaged or not a file of PyTorch weights ({type(error).__name__}): get it again."
        ) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """A state dict under its own names, without what training adds: epoch, step and the discriminators of a GAN.

    Raises ModelError for a file without one.
    """
    raw = read_pickle(file)
    if not isinstance(raw, Mapping):
        raise ModelError(f"{file} holds no weights: get it again.")
    gan = any(str(name).startswith(_GAN_PREFIX) for name in raw)
    state: dict[str, Tensor] = {}
    for name, value in raw.items():
        if name in _TRAINING_KEYS or (gan and str(name).startswith(_GAN_DROPPED)):
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"{file} holds '{name}', which is no weight: get it again.")
        state[name.replace(_GAN_PREFIX, "") if gan else name] = value
    if not state:
        raise ModelError(f"{file} holds no weights: get it again.")
    return state


def read_speakers(file: Path) -> Speakers:
    """The voices of `spk2info.pt` as the original keeps them: name -> its tensors.

    Raises ModelError for a file that does not hold voices.
    """
    raw = read_pickle(file, mmap=False)  # small, and written over when voices are added
    good = isinstance(raw, dict) and all(
        isinstance(name, str)
        and isinstance(record, dict)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in record.items())
        for name, record in raw.items()
    )
    if not good:
        raise ModelError(f"{file} does not hold voices of CosyVoice: get it again, or remove it.")
    return raw


class OfficialFolder(ModelFolder):
    """A folder of CosyVoice 1, 2 or 3.

    Raises at once what can be told without reading weights: ModelError for a file that is missing, a Git LFS pointer
    or cut short, ConfigError for a YAML that is wrong. The ONNX files are looked at when they are first used.
    """

    def _open(self) -> ModelConfig:
        file = yaml_file(self.path)
        if file is None:
            raise ModelError(f"{self.path} is not a folder of CosyVoice: it has no {' or '.join(YAML_FILES.values())}.")
        self.config_file = file.name
        official = read_official(file)
        for name in WEIGHTS.values():
            check_whole(self.path / name, PURPOSES[name])
        self.version = official.version
        return self._configure(official, file)

    def _configure(self, official: OfficialModel, file: Path) -> ModelConfig:
        try:
            return model_config(official, self.path.resolve().name, self._qwen_sizes, len(self.speakers))
        except ConfigError as error:
            raise error if str(self.path) in str(error) else ConfigError(f"{file}: {error}") from error

    def _qwen_sizes(self) -> Qwen2Sizes:
        file = self.path / TEXT_FOLDER / "config.json"
        check_whole(file, "the sizes of the language model")
        try:
            return Qwen2Sizes.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise ConfigError(f"{file}: {first_problem(error)}; get it again.") from error

    @cached_property
    def speakers(self) -> Speakers:
        """The named voices that come with the model, in the original's form; empty without `spk2info.pt`."""
        file = self.path / SPEAKERS_FILE
        return read_speakers(file) if file.exists() else {}

    def file(self, part: str) -> Path:
        """The file that holds a part's weights."""
        return self.path / WEIGHTS[part]

    def state(self, part: str, dtype: torch.dtype = torch.float32, exact: Collection[str] = ()) -> dict[str, Tensor]:
        """A part's weights; see `unpack`. Raises ModelError that says so when they are another version's."""
        state = read_weights(self.file(part))
        found = version_of(part, state)
        if found is not None and found != self.version:
            raise ModelError(
                f"{self.file(part)} is of CosyVoice {found}, but {self.config_file} describes CosyVoice "
                f"{self.version}: the folder mixes two models. Get the whole folder again."
            )
        return unpack({name: tensor for name, tensor in state.items() if name not in UNUSED}, dtype, exact)


def version_of(part: str, state: Mapping[str, Tensor]) -> int | None:
    """Which CosyVoice the weights of a part look like; None when they look like none."""
    if part == "lm":
        if "text_encoder.after_norm.weight" in state:
            return 1
        if "llm.model.model.norm.weight" in state:
            return 2 if "llm_embedding.weight" in state else 3
    elif part == "flow":
        if "length_regulator.model.0.weight" in state:
            return 1
        if "encoder.up_layer.conv.weight" in state:
            return 2
        if "pre_lookahead_layer.conv1.weight" in state:
            return 3
    elif "conv_pre.bias" in state:
        if "ups.2.bias" not in state:
            return 1
        kernels = [state[name].shape[-1] for name in _CONV_PRE if name in state]
        return {7: 2, 5: 3}.get(kernels[0]) if kernels else None
    return None


_CONV_PRE = ("conv_pre.parametrizations.weight.original1", "conv_pre.weight_v")
