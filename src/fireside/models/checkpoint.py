"""Read and write a model folder: `fireside.yaml` and one safetensors file for each part of our own.

Weights are stored in a small format and computed with in float32. `int8` keeps one scale per row (the first
dimension) beside the tensor as `NAME.int8_scale`; biases, norms and other small tensors stay float32, since
they cost nothing and the error of a scale shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fireside.errors import ModelError
from fireside.models.config import (
    FlowConfig,
    LMConfig,
    ModelConfig,
    OnnxSpeakerConfig,
    OnnxTokenizerConfig,
    UpsamplingFlowConfig,
    read_config,
)
from fireside.models.device import CPU
from fireside.models.files import check_whole

if TYPE_CHECKING:
    from fireside.models.flow import CausalFlow
    from fireside.models.hift import HiFT
    from fireside.models.lm import LM
    from fireside.models.onnx_parts import OnnxSpeaker, OnnxTokenizer
    from fireside.models.speaker import SpeakerEncoder
    from fireside.models.speech_tokenizer import SpeechTokenizer
    from fireside.models.transformer_lm import TransformerLM
    from fireside.models.unet_flow import RegulatedFlow, UpsamplingFlow

CONFIG_FILE = "fireside.yaml"
PARTS = ("lm", "flow", "vocoder", "tokenizer", "speaker")
TEXT_FOLDER = "CosyVoice-BlankEN"
"""Where an official folder, and one converted from it, has the files of a Qwen text tokenizer."""
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


def unpack(
    stored: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, exact: Collection[str] = ()
) -> dict[str, Tensor]:
    """Tensors as they are computed with: floating point in dtype (those of `exact` in float32), int8 rows times their
    scale. What has its dtype already is not copied."""
    state: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            continue
        scale = stored.get(name + SCALE)
        if scale is not None:
            tensor = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32 if name in exact else dtype)
        state[name] = tensor
    return state


def write_part(folder: Path, part: str, state: Mapping[str, Tensor], storage: Storage = "float16") -> Path:
    """Write one part's weights as `folder/PART.safetensors`; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{part}.safetensors"
    save_file(pack(state, storage), file, metadata={"format": "pt", "storage": storage})
    return file


def read_part(
    folder: Path, part: str, dtype: torch.dtype = torch.float32, exact: Collection[str] = ()
) -> dict[str, Tensor]:
    """Read one part's weights; see `unpack`. Raises ModelError for a missing or damaged file."""
    file = folder / f"{part}.safetensors"
    check_file(file)
    try:
        return unpack(load_file(file), dtype, exact)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged ({error}): get the model again.") from error


def check_file(file: Path) -> None:
    """Compare a safetensors file's length with what its header promises, without reading the tensors.

    Raises ModelError when the file is missing or truncated.
    """
    check_whole(file)
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


class WithoutInitialisation(TorchFunctionMode):
    """Modules made within it get memory but no random weights: they are about to be loaded.

    Memory that is never written is never taken from the machine.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every function runs but those of torch.nn.init, which give their tensor back."""
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str, config_file: str = CONFIG_FILE) -> None:
    """Load every weight of a module and no other.

    where: what to call the weights; config_file: what their sizes stand in. Raises ModelError naming what is
    missing, extra or mis-shaped.
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
        raise ModelError(f"{where} does not fit its {config_file}: it {'; it '.join(problems)}.")


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


class ModelFolder:
    """A model folder whose parts are read when they are first used.

    dtype: what the weights of lm and flow are computed in; the other parts stay in float32, where it shows. device:
    what all parts are computed on, but for ONNX files where ONNX Runtime cannot use it. Raises ModelError at once for a
    missing or truncated file, ConfigError for a bad configuration; weights that do not fit are found when their part is
    read."""

    config_file = CONFIG_FILE

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> None:
        if not path.is_dir():
            raise ModelError(f"There is no model folder {path}.")
        self.path = path
        self.dtype = dtype
        self.device = device
        self.config: ModelConfig = self._open()

    def _open(self) -> ModelConfig:
        """Read the configuration and look at the files."""
        if not (self.path / CONFIG_FILE).is_file():
            raise ModelError(
                f"The model folder {self.path} lacks {CONFIG_FILE}: it is not a Fireside model, or incomplete."
            )
        config = read_config(self.path / CONFIG_FILE)
        elsewhere = {
            "tokenizer": isinstance(config.tokenizer, OnnxTokenizerConfig),
            "speaker": isinstance(config.speaker, OnnxSpeakerConfig),
        }
        for part in PARTS:
            if not elsewhere.get(part):
                check_file(self.path / f"{part}.safetensors")
        return config

    def file(self, part: str) -> Path:
        """The file that holds a part's weights."""
        return self.path / f"{part}.safetensors"

    def state(self, part: str, dtype: torch.dtype = torch.float32, exact: Collection[str] = ()) -> dict[str, Tensor]:
        """A part's weights under its modules' names; see `unpack`. What the file has in that dtype is memory-mapped."""
        return read_part(self.path, part, dtype, exact)

    @cached_property
    def flow_fingerprint(self) -> str:
        """The same for models with the same file of flow weights."""
        return hashlib.sha256(self.file("flow").read_bytes()).hexdigest()[:16]

    @property
    def text_folder(self) -> Path:
        """Where the files of the text tokenizer are, for models that have them."""
        nested = self.path / TEXT_FOLDER
        return nested if nested.is_dir() else self.path

    @cached_property
    def lm(self) -> LM | TransformerLM:
        """Text tokens to speech tokens."""
        from fireside.models.lm import LM
        from fireside.models.transformer_lm import TransformerLM

        config = self.config.lm
        if isinstance(config, LMConfig):
            return self._read("lm", lambda: LM(config), self.dtype)
        return self._read("lm", lambda: TransformerLM(config), self.dtype)

    @cached_property
    def flow(self) -> CausalFlow | UpsamplingFlow | RegulatedFlow:
        """Speech tokens to mel."""
        from fireside.models.flow import CausalFlow
        from fireside.models.unet_flow import RegulatedFlow, UpsamplingFlow

        config = self.config.flow
        if isinstance(config, FlowConfig):
            return self._read("flow", lambda: CausalFlow(config), self.dtype)
        if isinstance(config, UpsamplingFlowConfig):
            return self._read("flow", lambda: UpsamplingFlow(config), self.dtype)
        return self._read("flow", lambda: RegulatedFlow(config), self.dtype)

    @cached_property
    def vocoder(self) -> HiFT:
        """Mel to waveform."""
        from fireside.models.hift import HiFT

        # Its phase is carried in float64, which Apple's GPUs do not have.
        device = CPU if self.device.type == "mps" else self.device
        return self._read("vocoder", lambda: HiFT(self.config.vocoder), device=device).for_inference()

    @cached_property
    def tokenizer(self) -> SpeechTokenizer | OnnxTokenizer:
        """Log-mel to speech tokens."""
        config = self.config.tokenizer
        if isinstance(config, OnnxTokenizerConfig):
            from fireside.models.onnx_parts import OnnxTokenizer

            return OnnxTokenizer(self.path / config.file, config, self.device)
        from fireside.models.speech_tokenizer import SpeechTokenizer

        return self._read("tokenizer", lambda: SpeechTokenizer(config))

    @cached_property
    def speaker(self) -> SpeakerEncoder | OnnxSpeaker:
        """Filter bank to speaker embedding."""
        config = self.config.speaker
        if isinstance(config, OnnxSpeakerConfig):
            from fireside.models.onnx_parts import OnnxSpeaker

            return OnnxSpeaker(self.path / config.file, config, self.device)
        from fireside.models.speaker import SpeakerEncoder

        return self._read("speaker", lambda: SpeakerEncoder(config))

    def check(self, part: str) -> None:
        """Read a part and let it go again. Raises what reading it raises."""
        getattr(self, part)
        del self.__dict__[part]  # where cached_property keeps it

    def _read(
        self,
        part: str,
        build: Callable[[], Module],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Module:
        with WithoutInitialisation():
            module = build()
        tables = {name for name, _ in module.named_buffers()}
        load_strict(module, self.state(part, dtype, tables), str(self.file(part)), self.config_file)
        return module.eval().requires_grad_(False).to(self.device if device is None else device)
