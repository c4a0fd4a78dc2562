"""From the name of a device to what networks are computed on."""

from __future__ import annotations

import torch

from fireside.errors import UsageError

CPU = torch.device("cpu")

_NAMES = "auto, cpu, cuda, cuda:1 (the second GPU) or mps"


def find_device(name: str = "auto") -> torch.device:
    """The device of that name. `auto` is the first NVIDIA GPU where PyTorch can use one, else the CPU.

    Raises UsageError for a name that there is not, and for a device that cannot be used here.
    """
    kind, colon, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(f"There is no device '{name}': use {_NAMES}.")
    if kind == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    if kind == "cuda":
        return _gpu(name, int(number or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("The device mps is the GPU of a Mac with Apple silicon, which PyTorch does not find: use cpu.")
    return torch.device(kind)


def _gpu(name: str, index: int) -> torch.device:
    if torch.version.cuda is None and torch.version.hip is None:
        raise UsageError(
            f"This PyTorch ({torch.__version__}) was built without CUDA, so the device {name} cannot be used: install "
            "PyTorch for CUDA as https://pytorch.org says, or use cpu."
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        there = f"it finds {count}, counted from cuda:0" if count else "it finds no GPU: look at what nvidia-smi says"
        raise UsageError(f"PyTorch cannot use the device {name}: {there}, or use cpu.")
    return torch.device("cuda", index)
