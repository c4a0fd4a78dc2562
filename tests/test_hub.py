"""Names of models to folders."""

from __future__ import annotations

import sys
import types
from fnmatch import fnmatch
from pathlib import Path

import pytest

from fireside import hub
from fireside.errors import ModelError


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_none_and_hearth_are_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / hub.CONFIG_FILE).write_text("format: 1\n")
    monkeypatch.setattr(hub, "bundled_folder", lambda: tmp_path)
    assert hub.resolve() == hub.resolve("hearth") == tmp_path


def test_an_installation_without_hearth_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "bundled_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="reinstall"):
        hub.resolve()


@pytest.mark.parametrize("name", ["nothing-here", "a/b/c", "ftp:a/b", ""])
def test_what_is_no_model(name: str) -> None:
    with pytest.raises(ModelError, match="is not a model"):
        hub.resolve(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is not a model"):
        hub.resolve(tmp_path / "file")


def test_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESIDE_HOME", str(tmp_path))
    assert hub.data_dir() == tmp_path
    monkeypatch.delenv("FIRESIDE_HOME")
    assert hub.data_dir().name == "fireside"


@pytest.mark.parametrize(
    ("name", "package"), [("someone/voice", "huggingface_hub"), ("modelscope:someone/voice", "modelscope")]
)
def test_hub_names(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESIDE_HOME", str(tmp_path))
    place = tmp_path / "models" / "someone" / "voice"

    monkeypatch.setitem(sys.modules, package, None)  # as if not installed
    with pytest.raises(ModelError, match=f"pip install {package}") as caught:
        hub.resolve(name)
    assert str(place) in str(caught.value)

    def offline(repository: str, ignore_patterns: list[str]) -> str:
        raise OSError("no route to host\nsecond line")

    module = types.ModuleType(package)
    module.snapshot_download = offline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package, module)
    with pytest.raises(ModelError, match=r"no route to host\)") as caught:
        hub.resolve(name)
    assert str(place) in str(caught.value)
    for file in ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx", "CosyVoice-BlankEN"):
        assert file in str(caught.value), "says what to download"

    left_out: list[str] = []

    def fetch(repository: str, ignore_patterns: list[str]) -> str:
        left_out.extend(ignore_patterns)
        return f"/cache/{repository}"

    module.snapshot_download = fetch  # type: ignore[attr-defined]
    assert hub.resolve(name) == Path("/cache/someone/voice")
    needed = ("llm.pt", "hift.pt", "cosyvoice2.yaml", "speech_tokenizer_v2.onnx", "CosyVoice-BlankEN/vocab.json")
    assert not any(fnmatch(file, pattern) for file in needed for pattern in left_out)
    assert any(fnmatch("CosyVoice-BlankEN/model.safetensors", pattern) for pattern in left_out)

    place.mkdir(parents=True)
    monkeypatch.setitem(sys.modules, package, None)
    assert hub.resolve(name) == place, "files put there by hand are found without the network"
