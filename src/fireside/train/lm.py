"""Trains the language model from nothing: phones and 25 Hz speech tokens in the block layout.

Each epoch is built anew: utterances of one voice are joined, words are grouped into blocks of changing
size, and the rate mark is there or not. A share of sequences can be in the plain and mix layouts.

    python -m fireside.train.lm --features runs/features --out runs/lm --minutes 90 --set lm.positions=12000
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fireside.errors import ConfigError
from fireside.models.config import Config, LayoutConfig, LMConfig, ProofreadConfig, SamplingConfig
from fireside.models.layout import (
    IGNORE,
    ControlIds,
    LMSequence,
    aligned_blocks,
    block_sequence,
    mix_sequence,
    plain_sequence,
)
from fireside.models.lm import LM
from fireside.models.qwen2 import Drop
from fireside.text.phones import PAUSE_IDS, PHONE_ID, PHONES
from fireside.train.data import FeatureStore
from fireside.train.loop import Average, Run, RunConfig, warm_start, write_weights

TOKENS_PER_SECOND = 25


def hearth() -> LMConfig:
    """The LM of hearth: about 5 M parameters, phones in, 729 speech tokens out."""
    return LMConfig(
        hidden_size=256,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=704,
        text_vocab_size=len(PHONES),
        speech_vocab_size=729,
        rope_theta=1e4,
        min_ratio=0.8,
        max_ratio=6.0,
        layout=LayoutConfig(kind="block", mix_text=15, mix_speech=15, mix_min_ratio=1.0),
        # A fifth of the true tokens was said within the last ten; one in seventy six times.
        sampling=SamplingConfig(top_p=0.55, tau=0.6),
        proofread=ProofreadConfig(tries=8, first_tries=3, good=0.15),
    )


class LMTrainConfig(Config):
    """What a step sees. Shares and probabilities are 0..1."""

    positions: int = 8192
    join_seconds: float = 20.0
    min_block: tuple[int, int] = (3, 8)
    plain_share: float = 0.0
    mix_share: float = 0.0
    rate_dropped: float = 0.3
    other_rate_prefix: float = 0.15
    token_noise: float = 0.05
    dropout: float = 0.1
    label_smoothing: float = 0.05
    weight_decay: float = 0.05
    validate_every: int = 250


@dataclass(frozen=True)
class Utterance:
    """Words as text ids, the end of each in speech tokens, and the tokens."""

    speaker: str
    rate: str
    words: tuple[tuple[int, ...], ...]
    word_ends: tuple[int, ...]
    tokens: tuple[int, ...]

    def blocks(self, min_block: int) -> tuple[list[list[int]], list[list[int]]]:
        """Text blocks and their speech."""
        return aligned_blocks(self.words, self.word_ends, self.tokens, min_block, PAUSE_IDS)


def rate_mark(speed: float) -> str:
    """The rate mark of a teacher's speed factor."""
    if speed >= 1.05:
        return "<faster>" if speed >= 1.15 else "<fast>"
    if speed <= 0.95:
        return "<slower>" if speed <= 0.87 else "<slow>"
    return "<normal>"


def read_utterances(store: FeatureStore, blocks: Path, split: str) -> list[Utterance]:
    """The aligned utterances of a split."""
    rows = {row["utt"]: row for row in store.select(split)}
    utterances = []
    with blocks.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            row = rows.get(line["utt"])
            if row is None:
                continue
            tokens, ends = store.tokens(row), line["word_ends"]
            if not len(tokens) or len(ends) != len(line["words"]) or ends[-1] != len(tokens):
                raise ConfigError(f"{blocks}: {line['utt']} is not aligned to its {len(tokens)} tokens.")
            utterances.append(
                Utterance(
                    row["spk"],
                    rate_mark(row["speed"]),
                    tuple(tuple(word) for word in line["words"]),
                    tuple(ends),
                    tuple(tokens.tolist()),
                )
            )
    return utterances


def joined(
    utterances: Sequence[Utterance], config: LMTrainConfig, rng: random.Random
) -> Iterator[tuple[list[Utterance], int]]:
    """Every utterance once, joined with others of its voice and rate up to a random length.

    The number says how many at the front are only context: sometimes an utterance of the voice at another
    rate stands before, as a prompt does, and the mark speaks of what follows.
    """
    queues: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    voices: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in rng.sample(utterances, len(utterances)):
        queues[utterance.speaker, utterance.rate].append(utterance)
        voices[utterance.speaker].append(utterance)
    for (speaker, rate), queue in queues.items():
        while queue:
            room = rng.uniform(0, config.join_seconds) * TOKENS_PER_SECOND
            group = [queue.pop()]
            room -= len(group[0].tokens)
            if rng.random() < config.other_rate_prefix:
                other = rng.choice(voices[speaker])
                if other.rate != rate and len(other.tokens) <= room:
                    yield [other, *group], 1
                    continue
            while queue and len(queue[-1].tokens) <= room:
                room -= len(queue[-1].tokens)
                group.append(queue.pop())
            yield group, 0


def build_sequence(
    group: Sequence[Utterance], context: int, model: LMConfig, config: LMTrainConfig, rng: random.Random
) -> LMSequence:
    """One training sequence of utterances of one voice; the first `context` of them carry no loss."""
    control = ControlIds.after(model.speech_vocab_size, model.num_control)
    marked = rng.random() >= config.rate_dropped
    instruct = [PHONE_ID[group[-1].rate]] if marked else []
    layout, kind = model.layout, rng.random()
    if context == 0 and kind < config.plain_share + config.mix_share:
        text = [i for utterance in group for word in utterance.words for i in word]
        speech = [i for utterance in group for i in utterance.tokens]
        enough = len(speech) > max(layout.mix_min_ratio, layout.mix_speech / layout.mix_text) * len(text)
        if kind < config.plain_share or not enough:
            return plain_sequence(control, text, speech, instruct)
        return mix_sequence(control, text, speech, instruct, layout.mix_text, layout.mix_speech)
    min_block = rng.randint(*config.min_block)
    texts: list[list[int]] = []
    speech_blocks: list[list[int]] = []
    silent = 0
    for i, utterance in enumerate(group):
        blocks, spoken = utterance.blocks(min_block)
        texts += blocks
        speech_blocks += spoken
        if i < context:
            silent += sum(len(block) + 1 for block in spoken)
    sequence = block_sequence(control, texts, speech_blocks, layout.lookahead, instruct)
    for i, target in enumerate(sequence.targets):
        if silent == 0:
            break
        if target != IGNORE:
            sequence.targets[i] = IGNORE
            silent -= 1
    return sequence


@dataclass
class Batch:
    """inputs, targets: int64 [rows, length], padded on the right with 0 and IGNORE."""

    inputs: Tensor
    targets: Tensor


def collate(sequences: Sequence[LMSequence]) -> Batch:
    """Pad to the longest."""
    longest = max(len(sequence.inputs) for sequence in sequences)
    inputs = np.zeros((len(sequences), longest), dtype=np.int64)
    targets = np.full((len(sequences), longest), IGNORE, dtype=np.int64)
    for i, sequence in enumerate(sequences):
        inputs[i, : len(sequence.inputs)] = sequence.inputs
        targets[i, : len(sequence.targets)] = sequence.targets
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))


def bucketed(sequences: Iterable[LMSequence], positions: int) -> list[Batch]:
    """Batches of sequences of similar length, each of at most `positions` with its padding."""
    groups: list[list[LMSequence]] = [[]]
    for sequence in sorted(sequences, key=lambda s: -len(s.inputs)):
        if groups[-1] and len(groups[-1][0].inputs) * (len(groups[-1]) + 1) > positions:
            groups.append([])
        groups[-1].append(sequence)
    return [collate(group) for group in groups if group]


def epoch(utterances: Sequence[Utterance], model: LMConfig, config: LMTrainConfig, rng: random.Random) -> list[Batch]:
    """All utterances once, in random groups, layouts and order."""
    groups = joined(utterances, config, rng)
    sequences = [build_sequence(group, context, model, config, rng) for group, context in groups]
    batches = bucketed(sequences, config.positions)
    rng.shuffle(batches)
    return batches


def disturb(inputs: Tensor, speech_vocab_size: int, share: float) -> Tensor:
    """Replace a share of the speech inputs by a random id or the id before, as a slip in decoding would."""
    if share == 0:
        return inputs
    chance = torch.rand(inputs.shape)
    speech = (inputs >= 0) & (inputs < speech_vocab_size)
    before = torch.roll(inputs, 1, 1)
    usable = (before >= 0) & (before < speech_vocab_size)
    other = torch.randint_like(inputs, speech_vocab_size)
    other = torch.where(usable & (chance < share / 2), before, other)
    return torch.where(speech & (chance < share), other, inputs)


class Dropout:
    """Dropout from a byte generator: torch draws the mask of a CPU tensor ten times more slowly.

    The rate is rounded to 1/256.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.threshold = round(256 * rate)
        self.scale = 256 / (256 - self.threshold)
        self._random = np.random.Generator(np.random.SFC64(seed))

    def __call__(self, x: Tensor) -> Tensor:
        """x with a share of its values 0 and the rest scaled up."""
        drawn = torch.frombuffer(bytearray(self._random.bytes(x.numel())), dtype=torch.uint8)
        return x * ((drawn >= self.threshold).view(x.shape) * x.new_tensor(self.scale))


def losses(
    model: LM, inputs: Tensor, targets: Tensor, drop: Drop | None = None, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Cross entropy and accuracy over the asked positions; `ends` is the accuracy at block ends and eos."""
    hidden = model(inputs, drop)
    asked = targets != IGNORE
    wanted = targets[asked]
    logits = model.llm_decoder(hidden[asked]).float()
    loss = F.cross_entropy(logits, wanted, label_smoothing=label_smoothing)
    with torch.no_grad():
        right = logits.argmax(-1) == wanted
        ends = wanted >= model.control.first
        return {
            "loss": loss,
            "accuracy": right.float().mean(),
            "ends": right[ends].float().mean() if bool(ends.any()) else torch.tensor(0.0),
        }


@torch.inference_mode()
def validate(model: LM, batches: Sequence[Batch]) -> dict[str, float]:
    """Means over fixed batches, weighted by their targets; the loss without smoothing."""
    sums: dict[str, float] = defaultdict(float)
    count = 0
    for batch in batches:
        asked = int((batch.targets != IGNORE).sum())
        with torch.autocast("cpu", torch.bfloat16):
            values = losses(model, batch.inputs, batch.targets)
        for name, value in values.items():
            sums[name] += asked * float(value)
        count += asked
    return {name: value / max(1, count) for name, value in sums.items()}


def initialise(model: LM) -> None:
    """Normal weights of 0.02; branches that end in the residual are scaled down by depth (GPT-2)."""
    depth = (2 * model.config.num_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            scale = depth if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            nn.init.normal_(parameter, std=0.02 * scale)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def optimiser(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; norms, biases and embeddings do not decay."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.dim() > 1 and "embed" not in name else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


class Best:
    """The lowest validation loss so far, which survives an interruption."""

    def __init__(self) -> None:
        self.loss = float("inf")

    def improved(self, loss: float) -> bool:
        """Whether this is the lowest yet; then it is kept."""
        better = loss < self.loss
        self.loss = min(self.loss, loss)
        return better

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"loss": self.loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.loss = state["loss"]


def block_sizes(utterances: Sequence[Utterance], layout: LayoutConfig) -> dict[str, float]:
    """How long blocks are at the layout's own size: what the limits of decoding must leave room for."""
    pairs = [pair for u in utterances for pair in zip(*u.blocks(layout.min_block), strict=True)]
    text = np.array([len(text) for text, _ in pairs])
    speech = np.array([len(spoken) for _, spoken in pairs])
    return {
        "text_mean": float(text.mean()),
        "speech_mean": float(speech.mean()),
        "speech_p99.9": float(np.quantile(speech, 0.999)),
        "speech_max": float(speech.max()),
        "speech_over_6x": float((speech - 6 * text).max()),
    }


def train(
    features: Path,
    out: Path,
    model_config: LMConfig,
    config: LMTrainConfig,
    run_config: RunConfig,
    init: Path | None = None,
) -> None:
    """Train within the time budget; averaged weights go to OUT/lm.safetensors, the model's config to
    OUT/config.json.

    OUT/lm_best.safetensors has the averaged weights of the lowest validation loss. init: weights of an earlier run
    to begin with.
    """
    torch.manual_seed(run_config.seed)
    rng = random.Random(run_config.seed)
    store, blocks = FeatureStore(features), features / "blocks.jsonl"
    train_set, held_out = (read_utterances(store, blocks, split) for split in ("train", "val"))
    for split, utterances in (("train", train_set), ("val", held_out)):
        if not utterances:
            raise ConfigError(f"{blocks} has no {split} utterance: use a larger corpus and align it again.")
    model = LM(model_config)
    initialise(model)
    warm_start(model, init)
    optimizer = optimiser(model, config.weight_decay)
    average = Average(model, run_config.ema_decay)
    run = Run(out, run_config)
    best = Best()
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "ema": average, "best": best}
    if run.restore(**parts):
        rng.seed(run_config.seed + run.step)
        torch.manual_seed(run_config.seed + run.step)
    drop = Dropout(config.dropout, run_config.seed + run.step) if config.dropout else None
    (out / "config.json").write_text(model_config.model_dump_json(indent=1))
    run.scalars("blocks", block_sizes(train_set, model_config.layout))
    fixed = config.model_copy(
        update={"min_block": (model_config.layout.min_block,) * 2, "rate_dropped": 0.0, "join_seconds": 0.0}
    )
    val_batches = epoch(held_out, model_config, fixed, random.Random(0))
    averaged = LM(model_config)
    exports = {"lm.safetensors": average.weights}

    def check() -> None:
        averaged.load_state_dict(average.weights())
        values = validate(averaged, val_batches)
        run.scalars("val", values)
        if best.improved(values["loss"]):
            write_weights(out / "lm_best.safetensors", average.weights())

    while run.go_on():
        for batch in epoch(train_set, model_config, config, rng):
            inputs = disturb(batch.inputs, model_config.speech_vocab_size, config.token_noise)
            with torch.autocast("cpu", torch.bfloat16):
                values = losses(model, inputs, batch.targets, drop, config.label_smoothing)
            run.set_rate(optimizer)
            optimizer.zero_grad(set_to_none=True)
            values["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), run_config.grad_clip)
            optimizer.step()
            average.update(model)
            run.log({name: value.detach() for name, value in values.items()})
            if run.step % config.validate_every == 0:
                check()
            run.save_if_due(exports, **parts)
            if not run.go_on():
                break
    check()
    run.save(exports, **parts)


class _Settings(Config):
    """Everything `--set` reaches."""

    lm: LMConfig
    train: LMTrainConfig
    run: RunConfig


def settings(assignments: Sequence[str], minutes: float, threads: int) -> _Settings:
    """Defaults of hearth with `group.key=value` assignments; groups are lm, train and run."""
    from pydantic import ValidationError

    values: dict[str, Any] = {
        "lm": hearth().model_dump(),
        "train": LMTrainConfig().model_dump(),
        "run": RunConfig(minutes=minutes, threads=threads, peak_rate=2e-3, ema_decay=0.998).model_dump(),
    }
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        *groups, key = path.split(".")
        place = values
        for group in groups:
            place = place.get(group, {})
        if not equals or not groups or key not in place:
            raise ConfigError(f"--set {assignment}: write group.key=value with an existing key.")
        try:
            place[key] = json.loads(text)
        except json.JSONDecodeError:
            place[key] = text
    try:
        return _Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"--set: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}") from error


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="folder with tokens and blocks.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, logs and weights")
    parser.add_argument("--minutes", type=float, default=60, help="time budget; the schedule ends with it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--init", type=Path, help="lm.safetensors of an earlier run to begin with")
    parser.add_argument("--set", action="append", default=[], help="lm.KEY=, train.KEY= or run.KEY=value")
    args = parser.parse_args()
    chosen = settings(args.set, args.minutes, args.threads)
    train(args.features, args.out, chosen.lm, chosen.train, chosen.run, args.init)


if __name__ == "__main__":
    main()
