"""Trains the flow from nothing: speech tokens, a speaker embedding and a prompt to mel.

    python -m fireside.train.flow --features runs/features --out runs/flow --minutes 45

Differences from the original's objective, meant for a small model that must clone from a few
seconds: the mel is normalised, prompts are longer and may come from elsewhere in the recording, and the
prompt's own frames do not count in the loss. With --teacher it learns instead the velocity that a trained flow has
with its guidance (Meng et al., "On Distillation of Guided Diffusion Models", 2023): it then needs no second row for
that, and synthesis costs half. Writes `flow.safetensors` (averaged weights) and `config.json`
(the `flow` section of the model folder's configuration).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from fireside.errors import UsageError
from fireside.models.config import Config, DiTConfig, FlowConfig, read_config
from fireside.models.flow import CausalFlow
from fireside.models.matching import FlowBatch, FlowDraws, euler_times, time_grid
from fireside.train.data import FeatureStore
from fireside.train.flow_data import CropConfig, CropSampler
from fireside.train.loop import Average, Run, RunConfig, Stateful, warm_start
from fireside.train.muon import Muon

HEARTH = FlowConfig(
    speech_vocab_size=729,
    lookahead_channels=256,
    chunk_tokens=15,
    dit=DiTConfig(dim=256, depth=8, heads=4, dim_head=64, ff_mult=2),
    full_mask_offline=False,
    calibrate=True,
    steps=6,
    cfg_rate=1.3,
    start_noise="lazy",
)


class FlowTrainConfig(Config):
    """Everything a run can change; chunked_share: share of batches under the chunk mask.

    solver_share: with a teacher, share of rows at the flow times at which the solver evaluates; others are anywhere.
    speaker_rate: its guidance towards the speaker embedding, beside that of its configuration.
    """

    flow: FlowConfig = HEARTH
    run: RunConfig = RunConfig(minutes=45, peak_rate=2e-3, warmup_steps=100, ema_decay=0.998)
    crops: CropConfig = CropConfig()
    chunked_share: float = 0.9
    solver_share: float = 0.75
    speaker_rate: float = 0.0
    muon: bool = True
    validate_rows: int = 16


class FlowOptimizer:
    """Muon for the blocks' matrices, AdamW for the rest; steps and saves as one."""

    def __init__(self, flow: CausalFlow, muon: bool) -> None:
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in flow.named_parameters():
            hidden = "transformer_blocks" in name and "norm" not in name and parameter.ndim == 2
            (matrices if muon and hidden else others).append(parameter)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        ]
        if matrices:
            self.parts.append(Muon(matrices))

    def step(self, run: Run) -> None:
        """Apply the gradients at the run's present learning rate and clear them."""
        for part in self.parts:
            run.set_rate(part)
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The state of both optimisers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def draw(batch: FlowBatch, config: FlowTrainConfig, generator: torch.Generator) -> FlowDraws:
    """The step's draws, with flow times spread evenly over the batch so that the loss varies less."""
    draws = FlowDraws.sample(batch, config.flow.train_cfg_drop, config.chunked_share, generator)
    rows = len(draws.t)
    spread = (torch.arange(rows) + draws.t) / rows
    order = torch.randperm(rows, generator=generator)
    return FlowDraws(spread[order], draws.noise, draws.keep, draws.chunked)


class Teacher:
    """A trained flow, from whose guided velocity another learns to do without guidance.

    What it says counts in every bin, also in those that a narrow recording lacks.
    """

    def __init__(self, weights: Path, config: FlowTrainConfig, flow: FlowConfig) -> None:
        self.flow = CausalFlow(flow).eval().requires_grad_(False)
        warm_start(self.flow, weights)
        self._times, _ = euler_times(time_grid(flow.steps))
        self._solver_share, self._speaker_rate = config.solver_share, config.speaker_rate

    def draw(self, draws: FlowDraws, generator: torch.Generator) -> FlowDraws:
        """The draws with most flow times where the solver needs them, and all conditions kept."""
        rows = len(draws.t)
        chosen = self._times[torch.randint(len(self._times), (rows,), generator=generator)]
        there = torch.rand(rows, generator=generator) < self._solver_share
        return replace(draws, t=torch.where(there, chosen, draws.t), keep=torch.ones_like(draws.keep))

    def loss(self, flow: CausalFlow, batch: FlowBatch, draws: FlowDraws) -> Tensor:
        """Mean squared error of a flow's velocity."""
        counted = None if batch.loss_mask is None else batch.loss_mask.amax(1, keepdim=True)
        velocity = self.flow.guided(batch, draws, self._speaker_rate)
        return flow.loss(replace(batch, loss_mask=counted), draws, velocity)["loss"]


class Validator:
    """Fixed crops of held-out recordings with fixed draws."""

    def __init__(self, store: FeatureStore, config: FlowTrainConfig) -> None:
        crops = config.crops.model_copy(
            update={
                "lengths": config.crops.lengths[1:2],
                "shares": (1.0,),
                "batch_tokens": config.validate_rows * config.crops.lengths[1],
                "prefix_share": 1.0,
                "narrow_share": 0.0,
            }
        )
        self.batch = next(CropSampler(store, store.select("val"), crops, seed=1).batches())
        generator = torch.Generator().manual_seed(1)
        self.noise = torch.randn(self.batch.mel.shape, generator=generator)
        rows = len(self.noise)
        self.draws = FlowDraws((torch.arange(rows) + 0.5) / rows, self.noise, torch.ones(rows, dtype=torch.bool), True)

    @torch.no_grad()
    def __call__(self, flow: CausalFlow) -> dict[str, float]:
        """loss: the objective, chunked; mel_l1: error of synthesised mel after the prompt, nats."""
        batch = self.batch
        with torch.autocast("cpu", torch.bfloat16):
            loss = flow.loss(batch, self.draws)["loss"]
        errors = []
        for i in range(0, len(self.noise), 4):
            prefix = int(batch.prefix[i])
            cut = prefix // flow.config.token_mel_ratio
            prompt_mel = batch.mel if batch.prompt_mel is None else batch.prompt_mel
            with torch.autocast("cpu", torch.bfloat16):
                mel = flow.inference(
                    batch.tokens[i : i + 1, cut:],
                    batch.tokens[i : i + 1, :cut],
                    prompt_mel[i : i + 1, :, :prefix],
                    batch.embedding[i : i + 1],
                    self.noise[i : i + 1],
                    chunked=True,
                )
            length = int(batch.token_mask[i].sum()) * flow.config.token_mel_ratio - prefix
            counted = 1.0 if batch.loss_mask is None else batch.loss_mask[i : i + 1].amax(2, keepdim=True)
            difference = (mel - batch.mel[i : i + 1, :, prefix:])[:, :, :length].abs() * counted
            errors.append(difference.mean())
        return {"loss": float(loss), "mel_l1": float(torch.stack(errors).mean())}


def normalised(config: FlowConfig, sampler: CropSampler) -> FlowConfig:
    """The configuration with the corpus's mel statistics, unless it already names some."""
    if (config.mel_mean, config.mel_std) != (0.0, 1.0):
        return config
    measured = {"mel_mean": round(sampler.statistics.mean, 2), "mel_std": round(sampler.statistics.std, 2)}
    return config.model_copy(update=measured)


def unguided(config: FlowConfig) -> FlowConfig:
    """The configuration of a flow that has learnt what guidance adds."""
    return config.model_copy(update={"cfg_rate": 0.0, "train_cfg_drop": 0.0})


def train(
    features: Path, out: Path, config: FlowTrainConfig, init: Path | None = None, teacher: Path | None = None
) -> None:
    """Train until the time budget is used, going on from `out/checkpoint.pt` if there is one.

    init: weights of an earlier run to begin with; teacher: those of a teacher, from which it begins, too.
    """
    store = FeatureStore(features)
    torch.manual_seed(config.run.seed)
    run = Run(out, config.run)
    sampler = CropSampler(store, store.select("train"), config.crops, seed=config.run.seed)
    flow_config = normalised(config.flow, sampler)
    taught_by = None
    if teacher is not None:
        taught_by, init = Teacher(teacher, config, flow_config), init or teacher
        flow_config = unguided(flow_config)
    (out / "config.json").write_text(flow_config.model_dump_json(indent=1), encoding="utf-8")
    flow = CausalFlow(flow_config)
    warm_start(flow, init)
    shadow = CausalFlow(flow_config).eval().requires_grad_(False)
    optimizer = FlowOptimizer(flow, config.muon)
    average = Average(flow, config.run.ema_decay)
    parts: dict[str, Stateful] = {"model": flow, "optimizer": optimizer, "average": average}
    if run.restore(**parts):
        sampler.reseed(config.run.seed + run.step)
    validator = Validator(store, config)
    generator = torch.Generator().manual_seed(config.run.seed + run.step)
    batches = sampler.batches()
    while run.go_on():
        batch = next(batches)
        draws = draw(batch, config, generator)
        with torch.autocast("cpu", torch.bfloat16):
            if taught_by is None:
                loss = flow.loss(batch, draws)["loss"]
            else:
                loss = taught_by.loss(flow, batch, taught_by.draw(draws, generator))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), config.run.grad_clip)
        optimizer.step(run)
        average.update(flow)
        run.log({"loss": loss.detach(), "grad_norm": norm})
        if run.save_if_due({"flow.safetensors": average.weights}, **parts):
            shadow.load_state_dict(average.weights())
            run.scalars("val", validator(shadow))


def override(config: FlowTrainConfig, settings: Sequence[str]) -> FlowTrainConfig:
    """Apply `key=value` settings with dotted keys. Raises UsageError for a key that does not exist."""
    values = config.model_dump()
    for setting in settings:
        path, _, value = setting.partition("=")
        *parents, key = path.split(".")
        place = values
        for parent in parents:
            place = place.get(parent, {})
        if key not in place:
            raise UsageError(f"There is no setting {path}; settings look like run.peak_rate=0.001.")
        place[key] = yaml.safe_load(value)
    return FlowTrainConfig.model_validate(values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, help="a fireside.yaml, whose flow section is used")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--init", type=Path, help="flow.safetensors of an earlier run to begin with")
    parser.add_argument("--teacher", type=Path, help="flow.safetensors of a run whose guided velocity is learnt")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="settings")
    options = parser.parse_args(arguments)
    config = FlowTrainConfig()
    if options.config is not None:
        config = config.model_copy(update={"flow": read_config(options.config).flow})
    settings = list(options.settings)
    for name in ("minutes", "threads"):
        if getattr(options, name) is not None:
            settings.append(f"run.{name}={getattr(options, name)}")
    train(options.features, options.out, override(config, settings), options.init, options.teacher)


if __name__ == "__main__":
    main()
