"""Finds the biases with which a trained flow fits everybody, where every new voice's adaptation begins.

    python -m fireside.train.adaptation --runs runs

Reads `features` and `flow` in the folder of runs, writes `adaptation/adaptation.safetensors`. See engine/adaptation.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from fireside.engine.adaptation import Adapting
from fireside.models.config import Config, FlowConfig
from fireside.models.flow import CausalFlow
from fireside.models.matching import FlowDraws
from fireside.train.data import FeatureStore
from fireside.train.flow_data import CropConfig, CropSampler

CROPS = CropConfig(
    lengths=(150,),
    shares=(1.0,),
    batch_tokens=1200,
    real_share=0.6,
    half_share=1.0,
    prefix_share=1.0,
    prefix_max=0.7,
    narrow_share=0.0,
)


class AdaptationConfig(Config):
    """steps, rate: of Adam; averaged: share of the steps, the last ones, whose biases are averaged; see also CROPS."""

    steps: int = 90
    rate: float = 0.004
    averaged: float = 0.4
    seed: int = 0


def adaptation_to_all(flow: CausalFlow, store: FeatureStore, config: AdaptationConfig) -> Tensor:
    """What the biases of a flow's adaptive norms differ by when they fit the training rows, [parts, dim]."""
    torch.manual_seed(config.seed)
    dit = flow.config.dit
    adapting = Adapting(flow, torch.zeros(dit.modulations, dit.dim))
    optimizer = torch.optim.Adam(adapting.biases, lr=config.rate, betas=(0.9, 0.98))
    batches = CropSampler(store, store.select("train"), CROPS, seed=config.seed).batches()
    generator = torch.Generator().manual_seed(config.seed)
    first = round(config.steps * (1 - config.averaged))
    total = torch.zeros_like(adapting.adaptation)
    progress = tqdm(range(config.steps), desc="adaptation", unit="step")
    for step in progress:
        batch = next(batches)
        loss = adapting.loss(batch, FlowDraws.sample(batch, 0.0, 1.0, generator))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{float(loss.detach()):.3f}")
        if step >= first:
            total += adapting.adaptation
    return total / (config.steps - first)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder with features/ and flow/")
    parser.add_argument("--steps", type=int, default=AdaptationConfig().steps)
    options = parser.parse_args(arguments)
    trained = options.runs / "flow"
    flow = CausalFlow(FlowConfig.model_validate(json.loads((trained / "config.json").read_text(encoding="utf-8"))))
    flow.load_state_dict(load_file(trained / "flow.safetensors"))
    flow.eval().requires_grad_(False)
    found = adaptation_to_all(flow, FeatureStore(options.runs / "features"), AdaptationConfig(steps=options.steps))
    out = options.runs / "adaptation"
    out.mkdir(exist_ok=True)
    save_file({"adaptation": found}, out / "adaptation.safetensors")


if __name__ == "__main__":
    main()
