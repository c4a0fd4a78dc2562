"""`fireside serve`: what its options become."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fireside.cli.app import app
from fireside.serve import logs
from fireside.serve import run as program
from fireside.serve.config import ServeConfig

OPTIONS = {
    "host": "0.0.0.0",
    "port": 1,
    "grpc_port": 2,
    "model": "m",
    "precision": "bf16",
    "device": "cpu",
    "compile": True,
    "normaliser": "none",
    "threads": 3,
    "aliases": ("a", "b"),
    "max_streams": 4,
    "max_queue": 5,
    "request_seconds": 6.0,
    "result_cache": "memory:1MB",
    "api_key_file": Path("keys"),
    "streams_per_key": 7,
    "max_text": 8,
    "max_upload_bytes": 9,
    "max_upload_seconds": 10.0,
    "uploads": False,
    "cors": ("https://a.example",),
    "drain_seconds": 11.0,
    "log_format": "json",
    "log_level": "debug",
    "otlp_endpoint": "http://localhost:4318",
}
NAMES = {"aliases": "--alias"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ServeConfig]:
    """The settings that the program was run with."""
    found: list[ServeConfig] = []
    monkeypatch.setattr(program, "run", lambda config, announce: found.append(config))
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    return found


def arguments(options: dict[str, object]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        option = NAMES.get(name, "--" + name.replace("_", "-"))
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-"))
        else:
            for each in value if isinstance(value, tuple) else (value,):
                words += [option, str(each)]
    return words


def test_every_option_is_a_setting(asked: list[ServeConfig]) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments(OPTIONS)])
    assert result.exit_code == 0, result.output
    assert asked == [ServeConfig(**OPTIONS)]


def test_every_setting_but_the_finest_is_an_option() -> None:
    assert set(ServeConfig.model_fields) - set(OPTIONS) == {"write_timeout", "idle_timeout"}


def test_the_command_line_goes_before_the_file(asked: list[ServeConfig], tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 9000\nwrite_timeout: 5\naliases: [tts-1]\n")
    result = CliRunner().invoke(app, ["serve", "--config", str(file), "--port", "0"])
    assert result.exit_code == 0, result.output
    assert asked == [ServeConfig(port=0, write_timeout=5, aliases=("tts-1",))]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-streams", "0"], "max_streams"),
        (["--log-format", "xml"], "log_format"),
        (["--config", "/no/such/file"], "/no/such/file"),
    ],
)
def test_bad_settings_are_a_sentence(asked: list[ServeConfig], options: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["serve", *options])
    assert result.exit_code == 7
    assert words in result.output
    assert asked == []
