"""From a model's name to its folder: bundled, a path, Hugging Face, ModelScope."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from fireside.errors import ModelError

BUNDLED = "hearth"
CONFIG_FILE = "fireside.yaml"
_HUB_NAME = re.compile(r"(?:(modelscope|huggingface|hf):)?([\w.-]+/[\w.-]+)")
_SPEAKING_FILES = (
    "cosyvoice.yaml, cosyvoice2.yaml or cosyvoice3.yaml, llm.pt, flow.pt, hift.pt, campplus.onnx, "
    "speech_tokenizer_v1.onnx, _v2.onnx or _v3.onnx, spk2info.pt if there is one, and the folder CosyVoice-BlankEN "
    "if there is one, without its model.safetensors"
)
_NOT_NEEDED = (
    "CosyVoice-BlankEN/model.safetensors",
    "flow.decoder.estimator*",
    "*.zip",
    "*.plan",
    "*.rl.pt",
    "*.batch.onnx",
    "asset/*",
)
"""What a released folder also holds and speaking does not need: some gigabytes."""


def data_dir() -> Path:
    """Where the user's voices and downloaded models live: FIRESIDE_HOME, or the platform's data folder."""
    home = os.environ.get("FIRESIDE_HOME")
    if home:
        return Path(home).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "fireside"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "fireside"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "fireside"


def bundled_folder() -> Path:
    """The folder of hearth inside the package."""
    return Path(__file__).parent / BUNDLED


def resolve(name: str | os.PathLike[str] | None = None) -> Path:
    """A model's folder from its name.

    None or "hearth": the bundled model. Otherwise an existing folder, ours or an official one, `org/name` on
    Hugging Face, or `modelscope:org/name`. Downloads are looked for in `<data dir>/models/org/name` first.
    Raises ModelError when nothing of that name can be had, with what to do about it.
    """
    if name is None or str(name) == BUNDLED:
        folder = bundled_folder()
        if not (folder / CONFIG_FILE).is_file():
            raise ModelError(
                f"The bundled model hearth is not in this installation ({folder}): reinstall "
                "fireside, or name another model folder."
            )
        return folder
    path = Path(name).expanduser()
    if str(name) and path.is_dir():
        return path
    match = _HUB_NAME.fullmatch(str(name))
    if path.exists() or match is None:
        raise ModelError(
            f"'{name}' is not a model: give a folder with a {CONFIG_FILE} or an official one with a cosyvoice.yaml, "
            "'hearth', 'org/name' on Hugging Face, or 'modelscope:org/name'."
        )
    hub, repository = match.groups()
    local = data_dir() / "models" / repository
    if local.is_dir():
        return local
    return _from_modelscope(repository, local) if hub == "modelscope" else _from_hugging_face(repository, local)


def _from_hugging_face(repository: str, local: Path) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(_by_hand("Hugging Face", "huggingface_hub", repository, local)) from error
    try:
        return Path(snapshot_download(repository, ignore_patterns=list(_NOT_NEEDED)))
    except Exception as error:  # the hub raises a dozen kinds; each means the same to a user
        raise ModelError(_no_download("Hugging Face", repository, local, error)) from error


def _from_modelscope(repository: str, local: Path) -> Path:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ModelError(_by_hand("ModelScope", "modelscope", repository, local)) from error
    try:
        return Path(snapshot_download(repository, ignore_patterns=list(_NOT_NEEDED)))
    except Exception as error:  # as above
        raise ModelError(_no_download("ModelScope", repository, local, error)) from error


def _by_hand(hub: str, package: str, repository: str, local: Path) -> str:
    return (
        f"There is no folder '{repository}' here, and {hub} needs the package {package}: "
        f"pip install {package}, or download the files of {repository} into {local} ({_SPEAKING_FILES})."
    )


def _no_download(hub: str, repository: str, local: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{repository} could not be fetched from {hub} ({reason}): check the name and the network, or "
        f"download its files into {local} ({_SPEAKING_FILES})."
    )
