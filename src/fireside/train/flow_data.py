"""Crops for the flow: how utterances become fixed-length training rows with a prompt in front.

A row is a prompt followed by what is to be generated, both by one voice, as at synthesis. The prompt is the
beginning of the same stretch of speech, or another place of the same utterance, or another utterance of the
same named voice, so that the network meets the jump between a prompt and a new sentence. All rows of a batch
are equally long, in one of a few lengths, and hardly ever padded.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fireside.audio.features import slaney_filterbank
from fireside.models.config import Config
from fireside.models.matching import FlowBatch
from fireside.train.data import KINDS, FeatureStore, Row
from fireside.train.disguise import Disguise

RATIO = 2  # mel frames per token
EDGE_BINS = 3
NARROW_HZ = 8000.0


class CropConfig(Config):
    """What a training row looks like. Lengths are in tokens (25 a second).

    lengths and shares: the row lengths and how often a row that could have any of them gets each;
    batch_tokens: tokens per batch; real_share: share of rows from real recordings; prefix_share, prefix_max:
    how often a prompt is given, and its longest share of the row; jump_share: how often the prompt comes from
    another place; sibling_share: how often the speaker embedding is that of another utterance of the same
    voice; embedding_noise: length of the Gaussian noise added to the unit embedding; narrow_share: how often
    the prompt of a full-band row lacks what a 16 kHz recording lacks; blind_share: how often a row whose prompt
    has at least `blind_prompt` tokens gets no speaker embedding (zeros), so that the voice must be taken from the
    prompt: a person with one utterance has an embedding that tells all about the row itself, as no new person's
    does; half_share: how often such a person's row gets the embedding of that half of the utterance which has less of
    what is to be generated, where that half has at least `least_half` tokens; loss_on_prefix: whether the prompt's own
    frames count (as in the original). disguise_share: how often a row whose prompt has at least `blind_prompt` tokens
    is in the voice of nobody (see disguise.py), with no embedding; warp, colour: how much so.
    """

    lengths: tuple[int, ...] = (60, 120, 180, 300)
    shares: tuple[float, ...] = (0.35, 0.4, 0.15, 0.1)
    batch_tokens: int = 1800
    real_share: float = 0.12
    prefix_share: float = 0.6
    prefix_max: float = 0.6
    jump_share: float = 0.4
    sibling_share: float = 0.3
    embedding_noise: float = 0.15
    narrow_share: float = 0.15
    blind_share: float = 0.0
    blind_prompt: int = 25
    half_share: float = 0.0
    least_half: int = 75
    loss_on_prefix: bool = False
    disguise_share: float = 0.0
    warp: float = 0.15
    colour: float = 0.4


@dataclass(frozen=True)
class Crop:
    """A row's pieces (row, first token, tokens) in order, its prompt's and its own length in tokens.

    embedding_of: whose speaker embedding it gets; None for none. half: of which half (0 or 1) of that utterance, None
    for all of it. disguise: what is done to its voice.
    """

    pieces: tuple[tuple[Row, int, int], ...]
    prefix: int
    length: int
    embedding_of: Row | None
    half: int | None = None
    disguise: Disguise | None = None


@dataclass(frozen=True)
class MelStatistics:
    """Mean mel [n_mels] of full-band and of narrow-band recordings; mean and deviation of all values."""

    wide: Tensor
    narrow: Tensor
    mean: float
    std: float

    @classmethod
    def of(cls, store: FeatureStore, rows: list[Row], sample: int = 300) -> MelStatistics:
        """Measure on at most about `sample` rows of each kind."""

        def read(some: list[Row]) -> np.ndarray:
            return np.concatenate([store.mel(row) for row in some[:: max(1, len(some) // sample)]])

        top = max(row["max_hz"] for row in rows)
        wide = read([row for row in rows if row["max_hz"] == top])
        narrow = [row for row in rows if row["max_hz"] < top]
        narrow_mean = (read(narrow) if narrow else wide).mean(0)
        return cls(
            torch.from_numpy(wide.mean(0)),
            torch.from_numpy(narrow_mean),
            float(wide.mean()),
            float(wide.std()),
        )


def bins_below(max_hz: float, n_mels: int, sample_rate: int = 24000, n_fft: int = 1920) -> int:
    """Number of mel bins whose whole filter lies at or below max_hz."""
    bank = slaney_filterbank(sample_rate, n_fft, n_mels)
    above = np.fft.rfftfreq(n_fft, 1 / sample_rate) > max_hz
    return int((bank[:, above].sum(1) == 0).sum())


def _top(crop: Crop) -> float:
    """Up to which frequency there is something in a crop, in Hz."""
    top: float = crop.pieces[0][0]["max_hz"]
    return top if crop.disguise is None else top * min(1.0, crop.disguise.factor)


class CropSampler:
    """Draws batches of crops for ever. All choices come from one seeded generator; `rows` is not changed."""

    def __init__(self, store: FeatureStore, rows: list[Row], config: CropConfig, seed: int) -> None:
        self.store = store
        self.config = config
        self.reseed(seed)
        self.statistics = MelStatistics.of(store, rows)
        self.real = [row for row in rows if row["corpus"] == "librispeech"]
        self.voiced = [row for row in rows if row["corpus"] != "librispeech"]
        self.siblings: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            self.siblings[row["spk"]].append(row)
        self._weights = {
            id(pool): np.cumsum([row["tokens"] for row in pool]).tolist() for pool in (self.real, self.voiced)
        }

    def reseed(self, seed: int) -> None:
        """Start the random choices over; an interrupted run goes on with other crops than it began with."""
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def crop(self) -> Crop:
        """Draw one crop."""
        rng, config = self.rng, self.config
        pool = self.real if self.real and rng.random() < config.real_share else self.voiced
        row = rng.choices(pool, cum_weights=self._weights[id(pool)])[0]
        others = self.siblings[row["spk"]]
        joinable = len(others) > 2
        allowed = [
            (length, share)
            for length, share in zip(config.lengths, config.shares, strict=True)
            if joinable or length <= row["tokens"]
        ] or [(config.lengths[0], 1.0)]
        lengths, shares = zip(*allowed, strict=True)
        length = rng.choices(lengths, shares)[0]
        prefix = rng.randint(0, int(config.prefix_max * length)) if rng.random() < config.prefix_share else 0
        embedding_of = rng.choice(others) if joinable and rng.random() < config.sibling_share else row
        pieces = self._pieces(row, others, length, prefix)
        joint = length - pieces[-1][2]
        if joinable and row["tokens"] < length and prefix and joint <= config.prefix_max * length:
            prefix = joint  # a whole utterance after a prompt that ends one: what synthesis mostly meets
        blind = prefix >= config.blind_prompt and rng.random() < config.blind_share
        half = None
        if not joinable and row["tokens"] >= 2 * config.least_half and rng.random() < config.half_share:
            half = self._other_half(pieces, prefix)
        disguise = None
        if prefix >= config.blind_prompt and rng.random() < config.disguise_share:
            blind, disguise = True, Disguise.draw(rng, config.warp, config.colour, self.statistics.wide.numel())
        return Crop(tuple(pieces), prefix, length, None if blind else embedding_of, half, disguise)

    @staticmethod
    def _other_half(pieces: list[tuple[Row, int, int]], prefix: int) -> int:
        """The half of an utterance that has less of what follows the prompt."""
        row, start, count = pieces[-1]
        if len(pieces) == 1:
            start, count = start + prefix, count - prefix
        return int(2 * start + count < row["tokens"])

    def _pieces(self, row: Row, others: list[Row], length: int, prefix: int) -> list[tuple[Row, int, int]]:
        """Choose what fills `length` tokens: one stretch, two with a jump, or whole utterances."""
        rng = self.rng
        tokens = row["tokens"]
        jump = prefix > 0 and rng.random() < self.config.jump_share
        if tokens >= length:
            slack = tokens - length
            start = rng.randint(0, slack)
            if not jump or slack == 0:
                return [(row, start, length)]
            # Two stretches that do not overlap, in either order, with what is left over as gaps.
            before, between = sorted((rng.randint(0, slack), rng.randint(0, slack)))
            between -= before
            first = prefix if rng.random() < 0.5 else length - prefix
            early = (row, before, first)
            late = (row, before + first + between, length - first)
            return [early, late] if first == prefix else [late, early]
        pieces = [(row, 0, tokens)]
        rest = [other for other in others if other is not row] if len(others) > 2 else []
        while tokens < length and rest:
            other = rest.pop(rng.randrange(len(rest)))  # none twice, or the network learns to copy
            wanted = min(length - tokens, other["tokens"])
            # What comes before is the end of an utterance, so that the joint is one between sentences.
            pieces.insert(0, (other, other["tokens"] - wanted, wanted))
            tokens += wanted
        return pieces

    def batches(self) -> Iterator[FlowBatch]:
        """Batches of equally long crops, `batch_tokens` tokens each."""
        waiting: dict[int, list[Crop]] = defaultdict(list)
        while True:
            crop = self.crop()
            queue = waiting[crop.length]
            queue.append(crop)
            if len(queue) * crop.length >= self.config.batch_tokens:
                yield self.collate(queue)
                queue.clear()

    def collate(self, crops: list[Crop]) -> FlowBatch:
        """Read the crops' features. All crops must have one length; a crop that is shorter is padded."""
        length = crops[0].length
        n_mels = self.statistics.wide.numel()
        tokens = torch.zeros(len(crops), length, dtype=torch.long)
        token_mask = torch.zeros(len(crops), length, dtype=torch.bool)
        heard = self.statistics.wide.repeat(len(crops), RATIO * length, 1)
        for i, crop in enumerate(crops):
            at = 0
            for row, start, count in crop.pieces:
                tokens[i, at : at + count] = torch.from_numpy(self.store.tokens(row)[start : start + count])
                piece = self.store.mel(row)[RATIO * start : RATIO * (start + count)]
                if crop.disguise is not None:
                    piece = crop.disguise(piece)
                heard[i, RATIO * at : RATIO * (at + count)] = torch.from_numpy(piece)
                at += count
            token_mask[i, :at] = True
        prefix = torch.tensor([RATIO * crop.prefix for crop in crops])
        bands = torch.tensor([bins_below(_top(crop), n_mels) for crop in crops])
        in_band = torch.arange(n_mels) < bands[:, None]
        loss_mask = in_band[:, :, None].float()
        if not self.config.loss_on_prefix:
            frames = torch.arange(RATIO * length)
            loss_mask = loss_mask * (frames >= prefix[:, None])[:, None]
        mel = torch.where(in_band[:, None], heard, self._continued(heard, bands))
        return FlowBatch(
            tokens=tokens,
            token_mask=token_mask,
            mel=mel.transpose(1, 2),
            embedding=torch.stack([self._embedding(crop) for crop in crops]),
            prefix=prefix,
            loss_mask=loss_mask,
            prompt_mel=self._narrowed(heard).transpose(1, 2),
        )

    def _embedding(self, crop: Crop) -> Tensor:
        """Speaker embedding [192] of a crop, made less sure; zeros, which the flow leaves as they are, for none."""
        row = crop.embedding_of
        if row is None:
            return torch.zeros(KINDS["embedding"][2])
        known = self.store.embedding(row) if crop.half is None else self.store.halves(row)[crop.half]
        embedding = torch.from_numpy(known)
        noise = torch.randn(embedding.shape, generator=self.generator) / len(embedding) ** 0.5
        return embedding + self.config.embedding_noise * noise

    def _continued(self, mel: Tensor, bands: Tensor) -> Tensor:
        """Mel [batch, frames, n_mels] above each row's band, guessed from the last bins that exist.

        These bins never enter the loss; filled, they look to the network like the full band that it must
        produce.
        """
        wide = self.statistics.wide
        edges = [
            (row[:, top - EDGE_BINS : top] - wide[top - EDGE_BINS : top]).mean(1)
            for row, top in zip(mel, bands.tolist(), strict=True)
        ]
        return torch.stack(edges)[..., None] + wide

    def _narrowed(self, mel: Tensor) -> Tensor:
        """Mel [batch, frames, n_mels] with the top band of some rows as empty as in a 16 kHz recording."""
        top = bins_below(NARROW_HZ, mel.shape[2])
        rows = torch.rand(len(mel), generator=self.generator) < self.config.narrow_share
        empty = torch.minimum(self.statistics.narrow, self.statistics.wide)
        chosen = rows[:, None, None] & (torch.arange(mel.shape[2]) >= top)
        return torch.where(chosen, torch.minimum(mel, empty), mel)
