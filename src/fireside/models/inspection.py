"""What is in a model folder, what is missing, and what each file is for: without raising at the first problem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fireside.errors import ConfigError, ModelError
from fireside.models.checkpoint import CONFIG_FILE, PARTS, TEXT_FOLDER, ModelFolder
from fireside.models.config import ModelConfig, OnnxSpeakerConfig, OnnxTokenizerConfig
from fireside.models.files import check_whole
from fireside.models.official import (
    PURPOSES,
    SPEAKERS_FILE,
    WEIGHTS,
    YAML_FILES,
    OfficialFolder,
    open_folder,
    yaml_file,
)
from fireside.models.official_config import read_official

SPEAKER_FILE = "campplus.onnx"
_PROMPTS = "recordings as prompts, and voice conversion"
_OUR_PURPOSES = {
    "lm": "text to speech tokens",
    "flow": "speech tokens to mel frames",
    "vocoder": "mel frames to sound",
    "tokenizer": f"recordings to speech tokens: {_PROMPTS}",
    "speaker": f"whose voice a recording has: {_PROMPTS}",
}
_NOT_NEEDED = (
    f"{TEXT_FOLDER}/model.safetensors",
    "flow.decoder.estimator.*",
    "flow.encoder.*",
    "llm.llm.*",
    "llm.text_encoder.*",
)


@dataclass(frozen=True)
class FileReport:
    """One file: what it is for, whether speaking needs it at all, and what is wrong with it ('' for nothing)."""

    name: str
    purpose: str
    needed: bool
    problem: str = ""


@dataclass(frozen=True)
class Inspection:
    """What a folder is: `kind` in words, its files, and, when it can be opened, its configuration."""

    kind: str
    files: tuple[FileReport, ...]
    config: ModelConfig | None = None
    not_needed: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing that is needed is missing or wrong."""
        return not any(file.problem for file in self.files if file.needed)


def inspect_folder(path: Path, weights: bool = True) -> Inspection:
    """Look at a model folder of any kind.

    weights: also read the names and shapes of all weights, and open the ONNX files. Raises ModelError only when the
    folder is none, or holds nothing of a model.
    """
    if not path.is_dir():
        raise ModelError(f"There is no model folder {path}.")
    if (path / CONFIG_FILE).is_file():
        return _own(path, weights)
    if yaml_file(path) is None and not any((path / name).exists() for name in WEIGHTS.values()):
        open_folder(path)  # says what a model folder is
    return _official(path, weights)


def _own(path: Path, weights: bool) -> Inspection:
    try:
        model = ModelFolder(path)
    except (ModelError, ConfigError) as error:
        reports = [FileReport(CONFIG_FILE, "the sizes of everything", True, str(error))]
        reports += [_present(path, f"{part}.safetensors", _OUR_PURPOSES[part], True) for part in PARTS]
        return Inspection("a model folder of Fireside", tuple(reports))
    reports = [FileReport(CONFIG_FILE, "the sizes of everything", True)]
    for part in PARTS:
        config = getattr(model.config, part)
        onnx = isinstance(config, OnnxTokenizerConfig | OnnxSpeakerConfig)
        name = config.file if onnx else f"{part}.safetensors"
        reports.append(_fits(model, part, name, _OUR_PURPOSES[part], not onnx, weights))
    if model.config.frontend in ("cosyvoice2", "cosyvoice3"):
        reports += _qwen_files(path)
    return Inspection("a model folder of Fireside", tuple(reports), model.config)


def _official(path: Path, weights: bool) -> Inspection:
    file = yaml_file(path)
    reports: list[FileReport] = []
    version: int | None = None
    if file is None:
        names = " or ".join(reversed(YAML_FILES.values()))
        reports.append(FileReport(names, "the sizes of everything", True, "missing"))
    else:
        try:
            version = read_official(file).version
            problem = ""
        except ConfigError as error:
            problem = str(error)
        reports.append(FileReport(file.name, "the sizes of everything", True, problem))
    for name in WEIGHTS.values():
        reports.append(_present(path, name, PURPOSES[name].removeprefix("it "), True))
    if version is None:
        return Inspection("an incomplete folder of CosyVoice", tuple(reports))
    if version > 1:
        reports.append(_present(path, f"{TEXT_FOLDER}/config.json", "the sizes of the language model", True))
        reports += _qwen_files(path)
    tokenizer = f"speech_tokenizer_v{version}.onnx"
    config = None
    if any(report.problem for report in reports):
        reports.append(_present(path, tokenizer, _OUR_PURPOSES["tokenizer"], False))
        reports.append(_present(path, SPEAKER_FILE, _OUR_PURPOSES["speaker"], False))
    else:
        model = OfficialFolder(path)
        config = model.config
        by_name = {report.name: report for report in reports}
        for part, name in WEIGHTS.items():
            by_name[name] = _fits(model, part, name, by_name[name].purpose, True, weights)
        reports = list(by_name.values())
        reports.append(_fits(model, "tokenizer", tokenizer, _OUR_PURPOSES["tokenizer"], False, weights))
        reports.append(_fits(model, "speaker", SPEAKER_FILE, _OUR_PURPOSES["speaker"], False, weights))
    reports.append(_present(path, SPEAKERS_FILE, "named voices (SFT)", False))
    unused = sorted(str(found.relative_to(path)) for pattern in _NOT_NEEDED for found in path.glob(pattern))
    return Inspection(f"CosyVoice {version}", tuple(reports), config, tuple(unused))


def _qwen_files(path: Path) -> list[FileReport]:
    return [
        _present(path, f"{TEXT_FOLDER}/{name}", "text to text tokens", True) for name in ("vocab.json", "merges.txt")
    ]


def _present(path: Path, name: str, purpose: str, needed: bool) -> FileReport:
    """Whether a file is there and whole."""
    problem = ""
    if not (path / name).is_file():
        problem = "missing"
    else:
        try:
            check_whole(path / name)
        except ModelError as error:
            problem = str(error)
    return FileReport(name, purpose, needed, problem)


def _fits(model: ModelFolder, part: str, name: str, purpose: str, needed: bool, weights: bool) -> FileReport:
    """As `_present`, and whether what the file holds is what the configuration asks for."""
    report = _present(model.path, name, purpose, needed)
    if report.problem or not weights:
        return report
    try:
        model.check(part)
    except ModelError as error:
        return FileReport(name, purpose, needed, str(error))
    return report
