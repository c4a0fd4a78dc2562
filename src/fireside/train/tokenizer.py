"""Trains the FSQ speech tokenizer from nothing, then writes the speech tokens of the whole corpus.

Two teachers at once: phones (CTC after the quantiser), so that words survive, and a speaker-conditioned regression of
mel and pitch contour, so that prosody survives. The speaker's part of the sound comes from the embedding; the code
need not carry it.

    python -m fireside.train.tokenizer --features runs/features --phones runs/phones.jsonl --out runs/tokenizer
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fireside.models.config import TokenizerConfig
from fireside.models.speech_tokenizer import BLANK, PAUSE, SpeechTokenizer, phone_spans, word_ends
from fireside.text.phones import PHONES, is_spoken
from fireside.train.data import FeatureStore, Row
from fireside.train.loop import Average, Run, RunConfig, Stateful
from fireside.train.muon import Muon

SPEAKER_DIM = 192
N_MELS = 80
DROPOUT = 0.1
ROUGH_STEPS = 700  # until then a guessed alignment helps CTC on its way


@dataclass
class Batch:
    """Padded utterances. log_mel [B, 128, 4T]; lengths [B] in tokens; mel [B, 2T, 80]; f0 [B, 2T]; speaker [B, 192];
    labels [B, T]: the phone of each token, BLANK in pauses, -1 where there is no text."""

    log_mel: Tensor
    lengths: Tensor
    mel: Tensor
    mel_bins: Tensor
    f0: Tensor
    speaker: Tensor
    phones: Tensor
    phone_lengths: Tensor
    labels: Tensor


class Regressor(nn.Module):
    """Codes and speaker to mel, relative log-f0 and voicing, two frames a token; used in training only."""

    def __init__(self, levels: int, dim: int = 256) -> None:
        super().__init__()
        self.inputs = nn.Linear(levels + SPEAKER_DIM, dim)
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, 5, padding=2) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.out = nn.Linear(dim, 2 * (N_MELS + 2))

    def forward(self, codes: Tensor, speaker: Tensor) -> Tensor:
        """codes [B, T, levels], speaker [B, 192] -> [B, 2T, 82]."""
        x = self.inputs(torch.cat([codes, speaker[:, None].expand(-1, codes.shape[1], -1)], -1))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + F.gelu(conv(norm(x).transpose(1, 2)).transpose(1, 2))
        return self.out(x).reshape(len(codes), -1, N_MELS + 2)


class Trainee(nn.Module):
    """The tokenizer and what only its training needs."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.tokenizer = SpeechTokenizer(config, DROPOUT)
        self.regressor = Regressor(len(config.fsq_levels))
        # A second CTC before the bottleneck: the encoder learns phones long before the codes can carry them.
        self.early_ctc = nn.Linear(config.dim, config.ctc_vocab_size)
        self.early_phone = nn.Linear(config.dim, config.ctc_vocab_size)
        self.late_phone = nn.Linear(config.dim, config.ctc_vocab_size)

    def losses(self, batch: Batch, log_mel: Tensor, phone_weight: float = 0.0) -> dict[str, Tensor]:
        """CTC, phone of each token, mel, pitch contour, voicing; `log_mel` may be an augmented form of the batch's.

        phone_weight: of the cross-entropies with the phone of each token, before and behind the quantiser.
        """
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.tokenizer.hidden(log_mel, batch.lengths)
            codes, ids = self.tokenizer.quantise(hidden, batch.lengths)
            early = self.early_ctc(hidden)
            context = self.tokenizer.context(codes, batch.lengths)
            logits = self.tokenizer.ctc(context)
            phones = torch.cat([self.early_phone(hidden), self.late_phone(context)])
            predicted = self.regressor(codes, batch.speaker).float()
        ctc, early_ctc = ctc_loss(logits, batch), ctc_loss(early, batch)
        labels = batch.labels.repeat(2, 1).flatten()
        phone = F.cross_entropy(phones.float().flatten(0, 1), labels, ignore_index=-1, reduction="sum")
        phone = phone / (batch.labels >= 0).sum().clamp(min=1)
        frames = torch.arange(batch.mel.shape[1])[None] < 2 * batch.lengths[:, None]
        bins = torch.arange(N_MELS)[None] < batch.mel_bins[:, None]
        seen = frames[:, :, None] & bins[:, None]
        mel = (predicted[..., :N_MELS] - batch.mel).abs()[seen].mean()
        voiced = (batch.f0 > 0) & frames
        log_f0 = torch.where(voiced, batch.f0.clamp(min=1).log2(), 0.0)
        mean = log_f0.sum(1) / voiced.sum(1).clamp(min=1)
        pitch = (predicted[..., N_MELS] - (log_f0 - mean[:, None])).abs()[voiced].mean()
        voicing = F.binary_cross_entropy_with_logits(predicted[..., N_MELS + 1], (batch.f0 > 0).float(), frames.float())
        used = ids[torch.arange(ids.shape[1])[None] < batch.lengths[:, None]]
        counts = torch.bincount(used).float()
        share = counts[counts > 0] / counts.sum()
        return {
            "loss": ctc + 0.5 * early_ctc + phone_weight * phone + 0.5 * mel + pitch + 0.2 * voicing,
            "ctc": ctc.detach(),
            "early": early_ctc.detach(),
            "phone": phone.detach(),
            "mel": mel.detach(),
            "pitch": pitch.detach(),
            "perplexity": (-(share * share.log()).sum()).exp(),
        }


def ctc_loss(logits: Tensor, batch: Batch) -> Tensor:
    """CTC per phone, in nats; rows without text have target length 0 and are weighted out."""
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    each = F.ctc_loss(
        scores, batch.phones, batch.lengths, batch.phone_lengths, BLANK, reduction="none", zero_infinity=True
    )
    return (each * (batch.phone_lengths > 0)).sum() / batch.phone_lengths.sum().clamp(min=1)


def augment(log_mel: Tensor, lengths: Tensor, rng: random.Random) -> Tensor:
    """Rooms and microphones for a Whisper log-mel batch: gain and equaliser, a noise floor, band limits, gaps.

    One unit of the feature is 40 dB, so 0.1 is 4 dB.
    """
    batch, bins, frames = log_mel.shape
    out = log_mel.clone()
    for i in range(batch):
        if rng.random() < 0.25:
            continue
        if rng.random() < 0.6:
            # A longer or shorter vocal tract: the whole spectrum moved up or down.
            scale = rng.uniform(0.88, 1.14)
            place = (torch.arange(bins) * scale).clamp(max=bins - 1)
            left, share = place.floor().long(), (place - place.floor())[:, None]
            out[i] = out[i, left] * (1 - share) + out[i, (left + 1).clamp(max=bins - 1)] * share
        if rng.random() < 0.5:
            knots = torch.randn(1, 1, rng.choice([3, 5, 8])) * 0.08
            out[i] += F.interpolate(knots, size=bins, mode="linear", align_corners=True)[0, 0][:, None]
        if rng.random() < 0.2:
            out[i, rng.randint(70, bins - 1) :] = float(out[i].min())
        if rng.random() < 0.4:
            level = float(out[i].mean()) + rng.uniform(-0.6, 0.1)
            tilt = torch.linspace(rng.uniform(-0.1, 0.3), rng.uniform(-0.3, 0.1), bins)[:, None]
            noise = level + tilt + 0.25 * torch.empty(bins, frames).exponential_().clamp(min=1e-3).log10()
            out[i] = torch.log10(10 ** (4 * out[i]) + 10 ** (4 * noise)) / 4
        for _ in range(rng.choice([0, 0, 1, 2])):
            start, width = rng.randrange(bins - 20), rng.randint(4, 20)
            out[i, start : start + width] = out[i].mean()
        for _ in range(rng.choice([0, 0, 1, 2, 3])):
            start, width = rng.randrange(max(1, int(lengths[i]) * 4 - 12)), rng.randint(4, 12)
            out[i, :, start : start + width] = out[i].mean()
    return out


def read_phones(file: Path) -> dict[str, list[list[int]]]:
    """utt -> words -> sounds (ids without pauses and boundaries) of the prepared phones file."""
    phones = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            words = [[token for token in word if is_spoken(token)] for word in row["words"]]
            phones[row["utt"]] = [word for word in words if word]
    return phones


def rough_alignment(mel: np.ndarray, phones: list[int]) -> np.ndarray:
    """A guess at the phone of each token [T]: phones spread over the loud tokens, vowels twice as long; else BLANK."""
    energy = mel.reshape(-1, 2 * N_MELS).mean(1)
    loud = energy > energy.max() - 0.6 * (energy.max() - energy.min())
    weights = np.array([2.0 if PHONES[phone][-1].isdigit() else 1.0 for phone in phones])
    ends = np.cumsum(weights) / weights.sum()
    place = (np.arange(loud.sum()) + 0.5) / max(1, loud.sum())
    guess = np.full(len(energy), BLANK)
    guess[loud] = np.array(phones)[np.searchsorted(ends, place).clip(max=len(phones) - 1)]
    return guess


def tempo(array: np.ndarray, size: int, whole: bool) -> np.ndarray:
    """Stretch [frames, ...] to `size` frames: between neighbours, or the nearest one where values are `whole`."""
    place = ((np.arange(size) + 0.5) * len(array) / size - 0.5).clip(0, len(array) - 1)
    if whole:
        return array[place.round().astype(int)]
    left = np.floor(place).astype(int)
    share = (place - left).astype(array.dtype).reshape(-1, *[1] * (array.ndim - 1))
    return array[left] * (1 - share) + array[np.minimum(left + 1, len(array) - 1)] * share


def collate(
    store: FeatureStore,
    rows: list[Row],
    phones: dict[str, list[list[int]]],
    aligned: bool = False,
    rng: random.Random | None = None,
) -> Batch:
    """Read and pad utterances; the phone of each token from the store when `aligned`, else guessed.

    rng: read most of them faster or slower than they were spoken.
    """
    rates = [rng.uniform(0.85, 1.2) if rng is not None and rng.random() < 0.7 else 1.0 for _ in rows]
    sizes = [max(1, round(row["tokens"] / rate)) for row, rate in zip(rows, rates, strict=True)]
    longest = max(sizes)

    def read(values: Callable[[Row], np.ndarray], per_token: int, whole: bool = False) -> list[np.ndarray]:
        return [
            values(row) if size == row["tokens"] else tempo(values(row), per_token * size, whole)
            for row, size in zip(rows, sizes, strict=True)
        ]

    def padded(arrays: list[np.ndarray], size: int, fill: float = 0.0) -> Tensor:
        out = torch.full((len(arrays), size, *arrays[0].shape[1:]), fill)
        for i, array in enumerate(arrays):
            out[i, : len(array)] = torch.from_numpy(array)
        return out

    targets = [[phone for word in phones.get(row["utt"], []) for phone in word] for row in rows]
    targets = [t if len(t) < 0.9 * size else [] for t, size in zip(targets, sizes, strict=True)]
    phone_ids = torch.zeros(len(rows), max(1, *map(len, targets)), dtype=torch.long)
    for i, target in enumerate(targets):
        phone_ids[i, : len(target)] = torch.tensor(target)
    labels = torch.full((len(rows), longest), -1)
    mels = read(store.mel, 2)
    known = read(store.phones, 1, whole=True) if aligned else []
    for i, (size, target) in enumerate(zip(sizes, targets, strict=True)):
        if target:
            labels[i, :size] = torch.from_numpy(known[i] if aligned else rough_alignment(mels[i], target))
    bins = [N_MELS if row["max_hz"] >= 12000 else 65 for row in rows]
    return Batch(
        log_mel=padded(read(store.logmel, 4), 4 * longest).transpose(1, 2).contiguous(),
        lengths=torch.tensor(sizes),
        mel=padded(mels, 2 * longest),
        mel_bins=torch.tensor(bins),
        f0=padded(read(store.f0, 2, whole=True), 2 * longest),
        speaker=torch.stack([torch.from_numpy(store.teacher(row)) for row in rows]),
        phones=phone_ids,
        phone_lengths=torch.tensor([len(target) for target in targets]),
        labels=labels,
    )


def batches(rows: list[Row], tokens: int, rng: random.Random) -> Iterator[list[Row]]:
    """Endless batches of about `tokens` padded tokens, of rows of similar length, in random order."""
    while True:
        order = sorted(rows, key=lambda row: row["tokens"] * rng.uniform(0.9, 1.1))
        groups: list[list[Row]] = [[]]
        for row in order:
            longest = max([row["tokens"], *(r["tokens"] for r in groups[-1])])
            if groups[-1] and longest * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from groups


@torch.inference_mode()
def validate(
    trainee: Trainee, store: FeatureStore, rows: list[Row], phones: dict[str, list[list[int]]], aligned: bool
) -> dict[str, float]:
    """Phone error rate of greedy CTC and the regression losses over validation rows."""
    trainee.eval()
    sums: dict[str, list[float]] = {}
    wrong = total = 0
    for group in next_epoch(rows):
        batch = collate(store, group, phones, aligned)
        for name, value in trainee.losses(batch, batch.log_mel).items():
            sums.setdefault(name, []).append(float(value))
        hidden = trainee.tokenizer.hidden(batch.log_mel, batch.lengths)
        codes, _ = trainee.tokenizer.quantise(hidden, batch.lengths)
        best = trainee.tokenizer.ctc_logits(codes, batch.lengths).argmax(-1)
        for i, length in enumerate(batch.lengths.tolist()):
            target = batch.phones[i, : batch.phone_lengths[i]].tolist()
            if target:
                heard = [int(p) for p in torch.unique_consecutive(best[i, :length]) if p != BLANK]
                wrong += edit_distance(heard, target)
                total += len(target)
    trainee.train()
    return {**{name: float(np.mean(values)) for name, values in sums.items()}, "per": wrong / max(1, total)}


def next_epoch(rows: list[Row], size: int = 16) -> Iterator[list[Row]]:
    """Every row once, in groups of similar length."""
    order = sorted(rows, key=lambda row: row["tokens"])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def edit_distance(a: list[int], b: list[int]) -> int:
    """Levenshtein distance."""
    costs = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, costs[0] = costs[0], i
        for j, y in enumerate(b, 1):
            diagonal, costs[j] = costs[j], min(costs[j] + 1, costs[j - 1] + 1, diagonal + (x != y))
    return costs[-1]


def optimizers(trainee: Trainee) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in trainee.named_parameters():
        inner = parameter.ndim == 2 and (".before." in name or ".after." in name)
        (matrices if inner else others).append(parameter)
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    return [adamw, Muon(matrices)]


def train(
    features: Path,
    phones_file: Path,
    out: Path,
    run_config: RunConfig,
    tokens_per_step: int,
    refine: Path | None = None,
) -> None:
    """Train within the time budget; weights go to OUT/tokenizer.safetensors, the config to OUT/config.json.

    refine: the folder of an earlier run to go on from, whose alignments (`--write-tokens`) now teach the phone of
    each token all the way.
    """
    torch.manual_seed(run_config.seed)
    rng = random.Random(run_config.seed)
    store, phones = FeatureStore(features), read_phones(phones_file)
    config = TokenizerConfig(ctc_vocab_size=len(PHONES))
    trainee = Trainee(config)
    if refine is not None:
        earlier = torch.load(refine / "checkpoint.pt", weights_only=True)["parts"]["ema"]["values"]
        trainee.load_state_dict(earlier, strict=False)
    adamw, muon = optimizers(trainee)
    average = Average(trainee, run_config.ema_decay)
    run = Run(out, run_config)
    parts: dict[str, Stateful] = {"model": trainee, "adamw": adamw, "muon": muon, "ema": average}
    if run.restore(**parts):
        rng.seed(run_config.seed + run.step)
        torch.manual_seed(run_config.seed + run.step)
    (out / "config.json").write_text(config.model_dump_json(indent=1))

    def weights() -> dict[str, Tensor]:
        prefix = "tokenizer."
        return {k.removeprefix(prefix): v for k, v in average.weights().items() if k.startswith(prefix)}

    train_rows = store.select("train")
    val_rows = store.select("val", "kokoro")
    averaged = Trainee(config)
    for group in batches(train_rows, tokens_per_step, rng):
        if not run.go_on():
            break
        batch = collate(store, group, phones, refine is not None, rng)
        phone_weight = 0.5 if refine else max(0.0, 1.0 - run.step / ROUGH_STEPS)
        losses = trainee.losses(batch, augment(batch.log_mel, batch.lengths, rng), phone_weight)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), run_config.grad_clip)
        for optimizer in (adamw, muon):
            run.set_rate(optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(trainee)
        run.log(losses)
        if run.step % 500 == 0:
            averaged.load_state_dict(average.weights())
            run.scalars("val", validate(averaged, store, val_rows, phones, refine is not None))
        run.save_if_due({"tokenizer.safetensors": weights}, **parts)
    averaged.load_state_dict(average.weights())
    run.scalars("val", validate(averaged, store, val_rows, phones, refine is not None))
    run.save({"tokenizer.safetensors": weights}, **parts)


def phone_labels(scores: np.ndarray, phones: list[int]) -> np.ndarray:
    """The phone of each token [T] on the best path: a short gap between two spikes is shared, a pause is BLANK."""
    first, last = phone_spans(scores, phones)
    labels = np.full(len(scores), BLANK)
    for i, phone in enumerate(phones):
        before = first[i] - last[i - 1] - 1 if i else PAUSE + 1
        after = first[i + 1] - last[i] - 1 if i + 1 < len(phones) else PAUSE + 1
        start = first[i] - (before // 2 if before <= PAUSE else 1)
        stop = last[i] + 1 + (after - after // 2 if after <= PAUSE else 1)
        labels[max(0, start) : stop] = phone
    return labels


@torch.inference_mode()
def write_tokens(features: Path, phones_file: Path, tokenizer: SpeechTokenizer) -> None:
    """Write the speech tokens of all utterances, the phone of each token, and `blocks.jsonl`: words with their ends."""
    store = FeatureStore(features)
    with phones_file.open(encoding="utf-8") as lines:
        words_of = {row["utt"]: row["words"] for row in map(json.loads, lines)}
    tokenizer.eval()
    tokens, labels = [], []
    with (features / "blocks.jsonl").open("w", encoding="utf-8") as out:
        for row in tqdm(store.rows, desc="tokens", unit="utt"):
            log_mel = torch.from_numpy(store.logmel(row).T.copy())[None]
            ids = tokenizer.encode(log_mel)[0]
            tokens.append(ids.numpy())
            labels.append(np.full(len(ids), -1))
            words = words_of.get(row["utt"])
            sounds = [[token for token in word if is_spoken(token)] for word in words or []]
            if not words or not all(sounds) or sum(map(len, sounds)) >= 0.9 * row["tokens"]:
                continue
            scores = tokenizer.scores(ids)
            ends = word_ends(scores, sounds)
            labels[-1] = phone_labels(scores, [phone for word in sounds for phone in word])
            line = {"utt": row["utt"], "words": words, "word_ends": ends}
            out.write(json.dumps(line) + "\n")
    store.write("tokens", tokens)
    store.write("phones", labels)


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="folder made by `prepare`")
    parser.add_argument("--phones", type=Path, required=True, help="phones of every utterance (jsonl)")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, logs and weights")
    parser.add_argument("--minutes", type=float, default=30, help="time budget; the schedule ends with it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=3000, help="speech tokens a step")
    parser.add_argument("--refine", type=Path, help="go on from this run, taught by its alignments")
    parser.add_argument("--write-tokens", action="store_true", help="only write tokens and alignments")
    args = parser.parse_args()
    if not args.write_tokens:
        run_config = RunConfig(
            minutes=args.minutes, threads=args.threads, peak_rate=1.5e-3, warmup_steps=150, ema_decay=0.998
        )
        train(args.features, args.phones, args.out, run_config, args.tokens, args.refine)
    from safetensors.torch import load_file

    torch.set_num_threads(args.threads)
    tokenizer = SpeechTokenizer(TokenizerConfig.model_validate_json((args.out / "config.json").read_text()))
    tokenizer.load_state_dict(load_file(args.out / "tokenizer.safetensors"))
    write_tokens(args.features, args.phones, tokenizer)


if __name__ == "__main__":
    main()
