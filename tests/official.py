"""Tiny folders of official checkpoints, written by the benchmarks' own tool."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).resolve().parents[1]
MANIFESTS = REPO.parent / "shared" / "manifests"


def tool() -> ModuleType:
    """`benchmarks/official_folders.py` as a module."""
    name = "official_folders"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, REPO / "benchmarks" / "official_folders.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # its dataclasses look themselves up there
        spec.loader.exec_module(module)
    return sys.modules[name]


def write_official(folder: Path, version: int) -> Path:
    """A tiny folder of CosyVoice 1, 2 or 3 with random weights."""
    path: Path = tool().write_folder(folder, version, "tiny", manifests=MANIFESTS)
    return path
