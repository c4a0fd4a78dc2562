"""Fixtures that every room of the tests shares."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

REPO = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class GoldenCase:
    """What the original computed on one small seeded model."""

    name: str
    config: dict
    weights: dict[str, torch.Tensor]
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]

    def atol(self, key: str) -> float:
        """The case's own tolerance for an output; outputs without one are exact."""
        return float(self.config.get("tolerances", {}).get(key, {}).get("suggested_atol", 0.0))

    def compare(self, got: Mapping[str, torch.Tensor], not_compared: Mapping[str, str] | None = None) -> None:
        """Compare every stored output; a key is either in `got` or in `not_compared` with its reason."""
        not_compared = not_compared or {}
        missing = set(self.outputs) - set(got) - set(not_compared)
        unknown = (set(got) | set(not_compared)) - set(self.outputs)
        assert not missing, f"{self.name}: outputs neither compared nor listed: {sorted(missing)}"
        assert not unknown, f"{self.name}: no such outputs: {sorted(unknown)}"
        for key, value in got.items():
            expected = self.outputs[key]
            assert value.shape == expected.shape, f"{self.name}/{key}: {value.shape} for {expected.shape}"
            torch.testing.assert_close(
                value.double(),
                expected.double(),
                atol=self.atol(key),
                rtol=0,
                msg=lambda text, key=key: f"{self.name}/{key}: {text}",
            )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder beside the repository; a user's machine has none."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which lies beside the repository in development and CI only")
    return folder


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of golden cases: FIRESIDE_GOLDENS, or ../shared/goldens."""
    folder = Path(os.environ.get("FIRESIDE_GOLDENS", REPO.parent / "shared" / "goldens"))
    if not folder.is_dir():
        pytest.skip(f"needs the golden cases: {folder} does not exist (set FIRESIDE_GOLDENS)")
    return folder


@pytest.fixture(scope="session")
def golden_case(goldens: Path) -> Callable[[str], GoldenCase]:
    """A function from a case's name to its data."""

    def read(name: str) -> GoldenCase:
        def tensors(kind: str) -> dict[str, torch.Tensor]:
            file = goldens / name / f"{kind}.safetensors"
            return load_file(file) if file.exists() else {}

        config = json.loads((goldens / name / "config.json").read_text(encoding="utf-8"))
        return GoldenCase(name, config, tensors("weights"), tensors("inputs"), tensors("outputs"))

    return read


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with tiny random weights; copy it before changing anything."""
    import tiny

    return tiny.write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def official_model(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """From a version to a tiny official folder with random weights; copy it before changing anything."""
    import official

    made: dict[int, Path] = {}

    def folder(version: int) -> Path:
        if version not in made:
            made[version] = official.write_official(tmp_path_factory.mktemp(f"cosyvoice{version}"), version)
        return made[version]

    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user data folder of the test's own."""
    monkeypatch.setenv("FIRESIDE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def official_copy(official_model: Callable[[int], Path], tmp_path: Path) -> Callable[[int], Path]:
    """As `official_model`, copies that a test may damage."""

    def copy(version: int) -> Path:
        return Path(shutil.copytree(official_model(version), tmp_path / f"cosyvoice{version}"))

    return copy


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes with two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
