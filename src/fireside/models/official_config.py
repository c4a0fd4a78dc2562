"""From an official `cosyvoice*.yaml` to our configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fireside.errors import ConfigError
from fireside.models.config import (
    FlowVariant,
    LMVariant,
    Mode,
    ModelConfig,
    OnnxSpeakerConfig,
    OnnxTokenizerConfig,
    first_problem,
)
from fireside.models.official_classes import CLASSES, CausalHiFTGenerator, HiFTGenerator, MelSpectrogram
from fireside.models.official_flow import CausalMaskedDiffWithDiT, CausalMaskedDiffWithXvec, MaskedDiffWithXvec
from fireside.models.official_lm import CosyVoice3LM, Qwen2LM, Qwen2Sizes, TransformerLM
from fireside.models.official_yaml import Call, read_official_yaml

EARLY_MODES: tuple[Mode, ...] = ("zero_shot", "cross_lingual", "convert")
LATER_MODES: tuple[Mode, ...] = ("zero_shot", "cross_lingual", "instruct2", "convert", "bistream")
FRONTENDS: Mapping[int, Literal["cosyvoice1", "cosyvoice2", "cosyvoice3"]] = {
    1: "cosyvoice1",
    2: "cosyvoice2",
    3: "cosyvoice3",
}
LANGUAGES = {
    1: ("zh", "en", "yue", "ja", "ko"),
    2: ("zh", "en", "yue", "ja", "ko"),
    3: ("zh", "en", "yue", "ja", "ko", "de", "es", "fr", "it", "ru"),
}


class OfficialModel(BaseModel):
    """The keys of an official YAML that speaking needs."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    sample_rate: int
    llm: CosyVoice3LM | Qwen2LM | TransformerLM
    flow: CausalMaskedDiffWithDiT | CausalMaskedDiffWithXvec | MaskedDiffWithXvec
    hift: CausalHiFTGenerator | HiFTGenerator
    feat_extractor: MelSpectrogram

    @property
    def version(self) -> Literal[1, 2, 3]:
        """Which CosyVoice it describes. Raises ConfigError for a mixture."""
        versions: dict[type, Literal[1, 2, 3]] = {
            TransformerLM: 1,
            MaskedDiffWithXvec: 1,
            Qwen2LM: 2,
            CausalMaskedDiffWithXvec: 2,
            CosyVoice3LM: 3,
            CausalMaskedDiffWithDiT: 3,
        }
        lm, flow = versions[type(self.llm)], versions[type(self.flow)]
        if lm != flow or isinstance(self.hift, CausalHiFTGenerator) != (lm == 3):
            raise ConfigError(
                f"its LM is CosyVoice {lm}'s, but its flow or vocoder is not: parts of different models are mixed."
            )
        return lm


def read_official(file: Path) -> OfficialModel:
    """Read an official YAML. Raises ConfigError that names the key and the problem."""
    document = read_official_yaml(file, CLASSES)
    wanted = set(OfficialModel.model_fields)
    try:
        keys = {key: _typed(value, file, key) for key, value in document.items() if key in wanted}
        model = OfficialModel.model_validate(keys)
        _ = model.version
        return model
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}; is this a CosyVoice configuration?") from error
    except ConfigError as error:
        raise error if str(file) in str(error) else ConfigError(f"{file}: {error}") from error


def _typed(value: Any, file: Path, where: str) -> Any:
    """A value with every call in it replaced by its checked arguments."""
    if isinstance(value, Call):
        arguments = {key: _typed(item, file, f"{where}.{key}") for key, item in value.arguments.items()}
        try:
            return CLASSES[value.target].model_validate(arguments)
        except ValidationError as error:
            raise ConfigError(
                f"{file}, line {value.line}: {where}.{first_problem(error)} ({value.target.rpartition('.')[2]})."
            ) from error
    if isinstance(value, dict):
        return {key: _typed(item, file, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item, file, where) for item in value]
    return value


def model_config(model: OfficialModel, name: str, qwen: Callable[[], Qwen2Sizes], speakers: int) -> ModelConfig:
    """Our configuration of an official model.

    name: the folder's, which also tells CosyVoice-300M-Instruct from the others; qwen: reads the backbone's sizes
    when they are needed; speakers: how many voices come with it. Raises ConfigError when the parts disagree.
    """
    mel = model.feat_extractor.config()
    version = model.version
    lm: LMVariant = model.llm.config() if isinstance(model.llm, TransformerLM) else model.llm.config(qwen())
    flow: FlowVariant = model.flow.config(mel) if isinstance(model.flow, MaskedDiffWithXvec) else model.flow.config()
    modes = EARLY_MODES if version == 1 else LATER_MODES
    if speakers:
        modes = ("sft", *modes)
        if version == 1 and "instruct" in name.lower():
            modes = (*modes, "instruct")
    try:
        return ModelConfig(
            name=name,
            languages=LANGUAGES[version],
            frontend=FRONTENDS[version],
            modes=modes,
            join="plain",
            mel=mel,
            lm=lm,
            flow=flow,
            vocoder=model.hift.config(),
            tokenizer=OnnxTokenizerConfig(
                file=f"speech_tokenizer_v{version}.onnx", token_rate=model.flow.input_frame_rate
            ),
            speaker=OnnxSpeakerConfig(embedding_dim=model.flow.spk_embed_dim),
        )
    except ValidationError as error:
        raise ConfigError(f"The parts of {name} do not fit each other: {first_problem(error)}.") from error
