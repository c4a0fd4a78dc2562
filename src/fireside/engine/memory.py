"""How much memory there is left for requests."""

from __future__ import annotations

from pathlib import Path

import torch

UNKNOWN = 4 * 2**30
"""What is taken to be free where the system does not say."""

_GROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; of the main memory, no more than this process' control group may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _available()
    limit, used = _number(_GROUP / "memory.max"), _number(_GROUP / "memory.current")
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return free


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return UNKNOWN
    sizes = dict(line.split(":") for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file, or no limit in it."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
