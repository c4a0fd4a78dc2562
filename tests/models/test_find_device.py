"""From a device's name to a device, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import tiny
import torch

from fireside import load
from fireside.errors import UsageError
from fireside.models.checkpoint import ModelFolder
from fireside.models.device import CPU, find_device
from fireside.models.onnx_parts import providers


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, as far as one can tell by asking."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def without_gpus(monkeypatch: pytest.MonkeyPatch, cuda: str | None) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_names_where_there_are_gpus(gpus: None) -> None:
    names = ("auto", "cpu", "cuda", "cuda:1")
    assert [str(find_device(name)) for name in names] == ["cuda:0", "cpu", "cuda:0", "cuda:1"]
    with pytest.raises(UsageError, match="it finds 2, counted from cuda:0"):
        find_device("cuda:2")


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpus(monkeypatch, None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == find_device("cpu") == CPU
    assert find_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "mps:0", "auto:0", "CUDA"])
def test_names_that_there_are_not(gpus: None, name: str) -> None:
    with pytest.raises(UsageError, match="use auto, cpu, cuda"):
        find_device(name)


@pytest.mark.parametrize(
    ("name", "cuda", "said"),
    [("cuda", None, "built without CUDA"), ("cuda:1", "12.8", "finds no GPU"), ("mps", None, "Mac with Apple silicon")],
)
def test_devices_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, name: str, cuda: str | None, said: str) -> None:
    without_gpus(monkeypatch, cuda)
    with pytest.raises(UsageError, match=said):
        find_device(name)


def test_it_is_said_before_anything_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpus(monkeypatch, None)
    with pytest.raises(UsageError, match="built without CUDA"):
        load("nobody/has-this-model", device="cuda")


def test_parts_are_loaded_onto_the_device(tiny_model: Path) -> None:
    """`meta` stands for a device that is not the CPU."""
    there = torch.device("meta")
    model = ModelFolder(tiny_model, torch.bfloat16, there)
    for part in ("lm", "flow", "tokenizer", "speaker"):
        module = getattr(model, part)
        assert {each.device for each in (*module.parameters(), *module.buffers())} == {there}, part
    assert model.flow.estimator.proj_out.weight.dtype == torch.bfloat16
    model = ModelFolder(tiny_model)
    assert {each.device for each in model.vocoder.parameters()} == {CPU}


def test_a_macs_vocoder_stays_on_the_cpu(tiny_model: Path) -> None:
    model = ModelFolder(tiny_model, device=torch.device("mps"))
    assert model.vocoder.m_source.l_linear.weight.device == CPU


def test_onnx_uses_a_gpu_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    second = torch.device("cuda", 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert providers(second) == ["CPUExecutionProvider"]
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert providers(second) == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]
    assert providers(CPU) == ["CPUExecutionProvider"]


def test_float16_speaks(tiny_model: Path, home: Path) -> None:
    """On a CPU, too, where it is slow."""
    speech = load(tiny_model, precision="fp16", device="cpu").convert((tiny.recording(1.0), 24000), voice="anna")
    assert speech.seconds > 0.5
    assert abs(speech.samples).max() > 0
