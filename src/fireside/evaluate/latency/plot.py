"""The distributions of several levels as curves: how many listeners had to wait how long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fireside.errors import OutputError
from fireside.evaluate.latency.load import Level
from fireside.evaluate.latency.report import values

PANELS = {
    "ttfa": "first sample (s)",
    "audible": "first audible sample played (s)",
    "slack": "least audio left when a chunk came (s)",
}


def plot(levels: Sequence[Level], title: str, path: Path) -> None:
    """Write a PNG, SVG or PDF. Raises OutputError when that cannot be done."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    figure.suptitle(title)
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        for level in levels:
            waits = np.sort(values(level, name))
            if len(waits):
                share = np.arange(len(waits) + 1) / len(waits)
                axes.step(np.concatenate([waits[:1], waits]), share, where="post", label=str(level.load))
        axes.set(xlabel=label, ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        if name == "slack":
            axes.axvline(0, color="black", linewidth=0.8)
        else:
            axes.set_xlim(left=0)
    figure.axes[0].set_ylabel("share of requests")
    figure.axes[0].legend()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
