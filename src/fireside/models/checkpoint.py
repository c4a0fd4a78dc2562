"""Read and write a model folder: `fireside.yaml` and one safetensors file for each part.

Weights are stored in a small format and computed with in float32. `int8` keeps one scale per row (the first
dimension) beside the tensor as `NAME.int8_scale`; biases, norms and other small tensors stay float32, since
they cost nothing and the error of a scale shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fireside.errors import ModelError
from fireside.models.config import ModelConfig, read_config

if TYPE_CHECKING:
    from fireside.models.flow import CausalFlow
    from fireside.models.hift import HiFT
    from fireside.models.lm import LM
    from fireside.models.speaker import SpeakerEncoder
    from fireside.models.speech_tokenizer import SpeechTokenizer

CONFIG_FILE = "fireside.yaml"
PARTS = ("lm", "flow", "vocoder", "tokenizer", "speaker")
SCALE = ".int8_scale"
Storage = Literal["float32", "float16", "bfloat16", "int8"]
Module = TypeVar("Module", bound=nn.Module)
_SMALL = 1024  # elements; below this a tensor stays float32


def pack(state: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Tensors as they are stored: large floating-point matrices in `storage`, everything else as it is."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu().contiguous()
        if not value.is_floating_point() or storage == "float32":
            packed[name] = value
        elif value.ndim < 2 or value.numel() < _SMALL:
            packed[name] = value.float()
        elif storage == "int8":
            rows = value.float().flatten(1)
            scale = (rows.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
            packed[name] = (rows / scale[:, None]).round().to(torch.int8).view(value.shape)
            packed[name + SCALE] = scale
        else:
            packed[name] = value.to(getattr(torch, storage))
    return packed


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are computed with: floating point in float32, int8 rows times their scale."""
    state: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            continue
        scale = stored.get(name + SCALE)
        if scale is not None:
            state[name] = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
        elif tensor.is_floating_point():
            state[name] = tensor.float()
        else:
            state[name] = tensor
    return state


def write_part(folder: Path, part: str, state: Mapping[str, Tensor], storage: Storage = "float16") -> Path:
    """Write one part's weights as `folder/PART.safetensors`; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{part}.safetensors"
    save_file(pack(state, storage), file, metadata={"format": "pt", "storage": storage})
    return file


def read_part(folder: Path, part: str) -> dict[str, Tensor]:
    """Read one part's weights in float32. Raises ModelError for a missing or damaged file."""
    file = folder / f"{part}.safetensors"
    check_file(file)
    try:
        return unpack(load_file(file))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged ({error}): get the model again.") from error


def check_file(file: Path) -> None:
    """Compare a safetensors file's length with what its header promises, without reading the tensors.

    Raises ModelError when the file is missing or truncated.
    """
    if not file.is_file():
        raise ModelError(f"The model folder {file.parent} lacks {file.name}: get the model again.")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            if length > size:
                raise ValueError
            header = json.loads(stream.read(length))
            end = max(
                (entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"),
                default=0,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            end = -1
    if end < 0 or size != 8 + length + end:
        raise ModelError(f"{file} is truncated or not a safetensors file: get the model again.")


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load every weight of a module and no other.

    Raises ModelError naming what is missing, extra or mis-shaped.
    """
    own = module.state_dict()
    shaped = sorted(name for name in set(own) & set(state) if own[name].shape != state[name].shape)
    fitting = {name: tensor for name, tensor in state.items() if name not in shaped}
    # Modules may translate older names as they load, so it is theirs to say what is left over.
    outcome = module.load_state_dict(fitting, strict=False, assign=True)
    missing = sorted(set(outcome.missing_keys) - set(shaped))
    extra = sorted(outcome.unexpected_keys)
    problems = []
    if missing:
        problems.append(f"lacks {_some(missing)}")
    if extra:
        problems.append(f"has {_some(extra)}, which the configuration does not ask for")
    for name in shaped[:3]:
        problems.append(f"has {name} as {list(state[name].shape)} where {list(own[name].shape)} is asked for")
    if problems:
        raise ModelError(f"{where} does not fit its {CONFIG_FILE}: it {'; it '.join(problems)}.")


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


class ModelFolder:
    """A model folder whose parts are read when they are first used.

    Raises ModelError at once for a missing or truncated file, ConfigError for a bad configuration; weights
    that do not fit are found when their part is read."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ModelError(f"There is no model folder {path}.")
        if not (path / CONFIG_FILE).is_file():
            raise ModelError(f"The model folder {path} lacks {CONFIG_FILE}: it is not a Fireside model, or incomplete.")
        self.path = path
        self.config: ModelConfig = read_config(path / CONFIG_FILE)
        for part in PARTS:
            check_file(path / f"{part}.safetensors")

    @cached_property
    def lm(self) -> LM:
        """Text tokens to speech tokens."""
        from fireside.models.lm import LM

        return self._read("lm", lambda: LM(self.config.lm))

    @cached_property
    def flow(self) -> CausalFlow:
        """Speech tokens to mel."""
        from fireside.models.flow import CausalFlow

        return self._read("flow", lambda: CausalFlow(self.config.flow))

    @cached_property
    def vocoder(self) -> HiFT:
        """Mel to waveform."""
        from fireside.models.hift import HiFT

        return self._read("vocoder", lambda: HiFT(self.config.vocoder)).for_inference()

    @cached_property
    def tokenizer(self) -> SpeechTokenizer:
        """Log-mel to speech tokens."""
        from fireside.models.speech_tokenizer import SpeechTokenizer

        return self._read("tokenizer", lambda: SpeechTokenizer(self.config.tokenizer))

    @cached_property
    def speaker(self) -> SpeakerEncoder:
        """Filter bank to speaker embedding."""
        from fireside.models.speaker import SpeakerEncoder

        return self._read("speaker", lambda: SpeakerEncoder(self.config.speaker))

    def _read(self, part: str, build: Callable[[], Module]) -> Module:
        module = build()
        load_strict(module, read_part(self.path, part), f"{self.path / part}.safetensors")
        return module.eval().requires_grad_(False)
