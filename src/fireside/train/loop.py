"""What every training loop shares: a clock with a learning-rate schedule, checkpoints, weight averaging, logs.

A loop reads as
    run = Run(out, RunConfig(minutes=30)); run.restore(model=model, optimizer=optimizer, ema=ema)
    while run.go_on():
        run.set_rate(optimizer); losses = ...; optimizer.step(); ema.update(model)
        if run.log(losses): validate ...
        run.save_if_due({"part.safetensors": ema.weights}, model=model, optimizer=optimizer, ema=ema)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from fireside.models.checkpoint import load_strict
from fireside.models.config import Config


class RunConfig(Config):
    """How long and how fast to train. The schedule follows time, not steps: it ends when the budget ends."""

    minutes: float = 30.0
    clock: Literal["wall", "cpu"] = "wall"  # cpu: minutes of one core, for a run that shares a busy machine
    peak_rate: float = 1e-3
    final_rate: float = 1e-5
    warmup_steps: int = 200
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    log_every: int = 20
    save_minutes: float = 3.0
    threads: int = 1
    seed: int = 0


class Stateful(Protocol):
    """Anything a checkpoint can hold: modules, optimisers, averages."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class Average:
    """Exponential moving average of a module's parameters and buffers; the average is what gets shipped."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.updates = 0
        self._values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model; early steps weigh more, so that a short run has a fresh average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                mine.append(self._values[name])
                theirs.append(value.detach())
            else:
                self._values[name].copy_(value)
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict, ready for `load_state_dict` or a safetensors file."""
        return {name: value.clone().contiguous() for name, value in self._values.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self._values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in state["values"].items():
            self._values[name].copy_(value)


def warm_start(model: nn.Module, weights: Path | None) -> None:
    """Begin with the weights of an earlier run (safetensors), if given. Raises ModelError if they do not fit."""
    if weights is not None:
        load_strict(model, load_file(weights), str(weights))


def write_weights(file: Path, weights: dict[str, Tensor]) -> None:
    """Write a safetensors file that is whole or not there, whenever the training is ended."""
    temporary = file.with_name(f"{file.name}.tmp")
    save_file(weights, temporary)
    temporary.replace(file)


class Run:
    """The clock, the log and the checkpoints of one training run in the folder `out`."""

    def __init__(self, out: str | Path, config: RunConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.step = 0
        self._seconds_before = 0.0
        self._clock = time.monotonic if config.clock == "wall" else time.process_time
        self._began = self._clock()
        self._saved = time.monotonic()
        self._sums: dict[str, float] = {}
        self._counted = 0
        self._writer = SummaryWriter(str(self.out))
        self._bar = tqdm(total=round(config.minutes * 60), unit="s", desc=self.out.name, mininterval=5)
        torch.set_num_threads(config.threads)

    @property
    def seconds(self) -> float:
        """Training time so far, over all resumptions."""
        return self._seconds_before + self._clock() - self._began

    @property
    def progress(self) -> float:
        """Share of the time budget that is used, 0..1."""
        return min(1.0, self.seconds / (60 * self.config.minutes))

    def rate(self) -> float:
        """Learning rate now: linear warm-up by steps, then a cosine over the time budget."""
        config = self.config
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        rate = config.final_rate + (config.peak_rate - config.final_rate) * cosine
        return rate * min(1.0, (self.step + 1) / max(1, config.warmup_steps))

    def set_rate(self, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> None:
        """Give the optimiser the rate of this step; a group may carry its own factor as `rate_scale`."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate() * scale * group.get("rate_scale", 1.0)

    def go_on(self) -> bool:
        """Whether budget is left. One step is always made, so that a training leaves weights however short it is."""
        return self.step == 0 or self.progress < 1.0

    def log(self, losses: Mapping[str, Tensor | float]) -> bool:
        """Count one step; every `log_every` steps write the means and return True."""
        self.step += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._counted += 1
        if self.step % self.config.log_every:
            return False
        means = {name: value / self._counted for name, value in self._sums.items()}
        self._sums, self._counted = {}, 0
        self.scalars("train", {**means, "rate": self.rate()})
        self._bar.n = round(self.seconds)
        self._bar.set_postfix_str(f"step {self.step} " + " ".join(f"{k} {v:.3f}" for k, v in means.items()))
        return True

    def scalars(self, group: str, values: Mapping[str, float]) -> None:
        """Write scalars to TensorBoard and to the plain text log beside it."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, self.step)
        line = " ".join(f"{name}={value:.5g}" for name, value in values.items())
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{self.seconds:8.0f}s step {self.step} {group}: {line}\n")

    def restore(self, **parts: Stateful) -> bool:
        """Load `checkpoint.pt` of an earlier, interrupted run into the parts; False when there is none."""
        file = self.out / "checkpoint.pt"
        if not file.exists():
            return False
        state = torch.load(file, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        self.step, self._seconds_before = state["step"], state["seconds"]
        return True

    def save(self, exports: Mapping[str, Callable[[], dict[str, Tensor]]], **parts: Stateful) -> None:
        """Write the weights to ship and the checkpoint, each atomically.

        The checkpoint comes last: one whose budget is used up is never trained on, so its weights must be there.
        """
        for name, weights in exports.items():
            write_weights(self.out / name, weights())
        state = {name: part.state_dict() for name, part in parts.items()}
        temporary = self.out / "checkpoint.tmp"
        torch.save({"step": self.step, "seconds": self.seconds, "parts": state}, temporary)
        temporary.replace(self.out / "checkpoint.pt")
        self._saved = time.monotonic()

    def save_if_due(self, exports: Mapping[str, Callable[[], dict[str, Tensor]]], **parts: Stateful) -> bool:
        """Save every `save_minutes`, and when the budget has run out."""
        if self.go_on() and time.monotonic() - self._saved < 60 * self.config.save_minutes:
            return False
        self.save(exports, **parts)
        return True
