"""`fireside model`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fireside.cli.app import app
from fireside.errors import ModelError


def run(*words: object, code: int = 0) -> str:
    """What a command prints; one sentence on stderr at most."""
    result = CliRunner().invoke(app, [str(word) for word in ("model", *words)])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 1
    return result.stdout + result.stderr


def line(output: str, name: str) -> str:
    """The line of a file."""
    return next(text for text in output.splitlines() if f" {name} " in f"{text} ")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_whole_folder(official_model, version: int) -> None:
    output = run("check", official_model(version))
    assert f": CosyVoice {version}\n" in output
    assert output.endswith("complete\n")
    assert "MISSING" not in output
    assert line(output, "llm.pt").split()[0] == "ok"
    assert "zero_shot" in output


def test_what_is_missing_and_what_for(official_copy) -> None:
    folder = official_copy(2)
    for name in ("flow.pt", "campplus.onnx", "spk2info.pt", "CosyVoice-BlankEN/merges.txt"):
        (folder / name).unlink()
    (folder / "hift.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "CosyVoice-BlankEN" / "model.safetensors").touch()
    output = run("check", folder, code=ModelError.exit_code)
    assert line(output, "flow.pt").split(maxsplit=2) == ["MISSING", "flow.pt", "turns speech tokens into mel frames"]
    assert line(output, "CosyVoice-BlankEN/merges.txt").split()[0] == "MISSING"
    assert line(output, "campplus.onnx").split()[0] == "absent"
    assert "whose voice a recording has" in line(output, "campplus.onnx")
    assert line(output, "spk2info.pt").split()[0] == "absent"
    assert line(output, "hift.pt").split()[0] == "WRONG"
    assert "git lfs pull" in output
    assert "not needed: CosyVoice-BlankEN/model.safetensors" in output
    assert "not complete" in output


def test_weights_of_another_version(official_model, official_copy) -> None:
    folder = official_copy(3)
    (folder / "llm.pt").write_bytes((official_model(2) / "llm.pt").read_bytes())
    assert "of CosyVoice 2, but" in run("check", folder, code=ModelError.exit_code)
    assert run("check", folder, "--quick").endswith("complete\n"), "which only looks for the files"


def test_a_folder_without_its_yaml(official_copy) -> None:
    folder = official_copy(2)
    (folder / "cosyvoice2.yaml").unlink()
    output = run("check", folder, code=ModelError.exit_code)
    assert "MISSING cosyvoice.yaml or cosyvoice2.yaml or cosyvoice3.yaml" in output


def test_a_wrong_yaml(official_copy) -> None:
    folder = official_copy(1)
    file = folder / "cosyvoice.yaml"
    file.write_text(file.read_text().replace("TransformerLM", "GalaxyLM"))
    output = run("check", folder, code=ModelError.exit_code)
    assert "'cosyvoice.llm.llm.GalaxyLM' is not a class of CosyVoice" in output


def test_our_own(tiny_model: Path, tmp_path: Path) -> None:
    assert run("check", tiny_model).endswith("complete\n")
    output = run("check", tmp_path, code=ModelError.exit_code)
    assert "is not a model folder" in output


def test_convert_and_check(official_model, tmp_path: Path) -> None:
    assert "MB" in run("convert", official_model(2), tmp_path / "out", "--precision", "bf16")
    output = run("check", tmp_path / "out")
    assert "a model folder of Fireside" in output
    assert "bistream" in output
    assert output.endswith("complete\n")
    assert "already" in run("convert", tmp_path / "out", tmp_path / "again", code=2)


def test_our_own_with_a_file_gone(official_model, tmp_path: Path) -> None:
    run("convert", official_model(1), tmp_path / "out")
    (tmp_path / "out" / "flow.safetensors").unlink()
    (tmp_path / "out" / "campplus.onnx").unlink()
    output = run("check", tmp_path / "out", code=ModelError.exit_code)
    assert line(output, "flow.safetensors").split()[0] == "MISSING"
