"""Speech to tokens: an encoder over Whisper log-mel with finite scalar quantisation at 25 Hz, and a phone CTC head.

Finite scalar quantisation: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (2023). The supervised
placement inside a recogniser is CosyVoice's; the CTC head (Graves et al. 2006) also aligns a prompt's text to its
tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fireside.errors import AudioError
from fireside.models.config import TokenizerConfig
from fireside.models.linear import Linear

BLANK = 0
PAUSE = 4  # tokens between two phones' spikes beyond which there is a pause between them


class FSQ(nn.Module):
    """Finite scalar quantisation with odd levels: each channel is bounded and rounded to its levels.

    [..., channels] -> quantised [..., channels] in -1..1 (straight-through gradient) and ids [...].
    """

    reach: Tensor
    base: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        reach = torch.tensor([(level - 1) / 2 for level in levels])
        base = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("reach", reach, persistent=False)
        self.register_buffer("base", base, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bounded = torch.tanh(x.float()) * self.reach
        rounded = bounded + (bounded.round() - bounded).detach()
        ids = ((rounded.detach() + self.reach).round().long() * self.base).sum(-1)
        return rounded / self.reach, ids

    def values(self, ids: Tensor) -> Tensor:
        """The quantised channels of ids [...] -> [..., channels] in -1..1."""
        levels = (2 * self.reach + 1).long()
        return ((ids[..., None] // self.base) % levels - self.reach) / self.reach


def rotary(length: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, channels // 2] of positions."""
    angles = torch.arange(length, device=device)[:, None] * torch.pow(
        10000.0, -torch.arange(0, channels, 2, device=device) / channels
    )
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (part.to(x.dtype) for part in rotary)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Block(nn.Module):
    """Self-attention within a window, a depthwise convolution, and a feed-forward layer, each pre-normalised."""

    def __init__(self, dim: int, heads: int, ff_mult: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)
        self.norm_conv = nn.LayerNorm(dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.conv_out = Linear(dim, dim)
        self.norm_ff = nn.LayerNorm(dim)
        self.ff = nn.Sequential(Linear(dim, ff_mult * dim), nn.SiLU(), Linear(ff_mult * dim, dim))

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], visible: Tensor, valid: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, rotary), _rotate(key, rotary)
        # Plain matrix products: at these lengths they beat the fused kernel's backward pass on CPU three to one.
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + visible.to(query.dtype)
        mixed = scores.softmax(-1).to(value.dtype) @ value
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, dim)))
        local = self.depthwise((self.norm_conv(x) * valid).transpose(1, 2)).transpose(1, 2)
        x = x + self.dropout(self.conv_out(F.silu(local)))
        return x + self.dropout(self.ff(self.norm_ff(x)))


class SpeechTokenizer(nn.Module):
    """Log-mel [batch, n_mels, frames at 100 Hz] to speech tokens [batch, frames // 4] at 25 Hz.

    dropout: of the layers' outputs, in training.
    """

    # Attention sees 1.3 s to either side: prompts longer than anything in training cannot confuse it.
    window = 32

    def __init__(self, config: TokenizerConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        dim = config.dim

        def blocks(count: int) -> nn.ModuleList:
            sizes = (dim, config.heads, config.ff_mult, config.conv_kernel)
            return nn.ModuleList(Block(*sizes, dropout) for _ in range(count))

        self.conv1 = nn.Conv1d(config.n_mels, dim, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.before = blocks(config.layers_before)
        self.norm = nn.LayerNorm(dim)
        self.to_code = nn.Linear(dim, len(config.fsq_levels))
        # Without it all codes fall onto one within a hundred steps: the statistics keep every level in use.
        self.code_norm = nn.BatchNorm1d(len(config.fsq_levels), affine=False)
        self.fsq = FSQ(config.fsq_levels)
        self.from_code = nn.Linear(len(config.fsq_levels), dim)
        self.after = blocks(config.layers_after)
        self.norm_ctc = nn.LayerNorm(dim)
        self.ctc = Linear(dim, config.ctc_vocab_size)

    def _run(self, blocks: nn.ModuleList, x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        near = (steps[:, None] - steps[None, :]).abs() <= self.window
        valid = steps[None, :] < lengths[:, None]
        # A padded query sees what is near it, so that no row of the softmax is empty.
        seen = near & (valid[:, None, :] | ~valid[:, :, None])
        visible = torch.zeros(seen.shape, device=x.device).masked_fill(~seen, float("-inf"))[:, None]
        turns = rotary(x.shape[1], x.shape[2] // self.config.heads, x.device)
        for block in blocks:
            x = block(x, turns, visible, valid[:, :, None].to(x.dtype))
        return x

    def hidden(self, log_mel: Tensor, lengths: Tensor) -> Tensor:
        """log_mel [batch, n_mels, frames], lengths in tokens [batch] -> what is quantised [batch, T, dim]."""
        frames = torch.arange(log_mel.shape[2], device=log_mel.device)
        log_mel = log_mel * (frames < 4 * lengths[:, None])[:, None]
        x = F.gelu(self.conv2(F.gelu(self.conv1(log_mel)))).transpose(1, 2)
        return self.norm(self._run(self.before, x, lengths))

    def quantise(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [batch, T, dim], lengths [batch] -> codes [batch, T, levels] and speech tokens [batch, T]."""
        x = self.to_code(hidden).float()
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        normal = torch.zeros_like(x)
        normal[valid] = self.code_norm(x[valid])
        return self.fsq(normal)

    def context(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Codes [batch, T, levels] -> what the phones are read from [batch, T, dim]."""
        return self.norm_ctc(self._run(self.after, self.from_code(codes), lengths))

    def ctc_logits(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Codes [batch, T, levels] -> phone scores [batch, T, ctc_vocab_size]; id 0 is CTC's blank."""
        return self.ctc(self.context(codes, lengths))

    @torch.inference_mode()
    def encode(self, log_mel: Tensor) -> Tensor:
        """log_mel [1, n_mels, frames] of one recording -> tokens [1, frames // 4]. Raises AudioError if empty."""
        tokens = log_mel.shape[2] // 4
        if tokens == 0:
            raise AudioError("The recording is too short: give at least one second of speech.")
        length = torch.tensor([tokens], device=log_mel.device)
        return self.quantise(self.hidden(log_mel[:, :, : 4 * tokens], length), length)[1]

    @torch.inference_mode()
    def align(self, speech_tokens: Tensor, words: Sequence[Sequence[int]]) -> list[int]:
        """End of each word in the tokens [T] of a recording whose text is `words` (phone ids; ids without a CTC
        class, as punctuation, are the caller's to leave out). Ends are exclusive and rise to T.

        Raises AudioError when the text cannot fit into the recording.
        """
        return word_ends(self.scores(speech_tokens), words)

    @torch.inference_mode()
    def scores(self, speech_tokens: Tensor) -> np.ndarray:
        """CTC log-probabilities [T, ctc_vocab_size] of speech tokens [T], wherever they are."""
        speech_tokens = speech_tokens.to(self.from_code.weight.device)
        codes = self.fsq.values(speech_tokens[None]).to(self.from_code.weight.dtype)
        length = torch.tensor([len(speech_tokens)], device=speech_tokens.device)
        return self.ctc_logits(codes, length)[0].float().log_softmax(-1).cpu().numpy()

    @torch.inference_mode()
    def nats(self, context: Sequence[int], speech: Sequence[int], phones: Sequence[int]) -> float:
        """Minus log-probability that the speech tokens `speech` say `phones` and nothing else.

        context: the tokens in front of them. Infinite when the speech is too short for so many phones.
        """
        if not phones:
            return 0.0
        return ctc_nats(torch.from_numpy(self.scores(torch.tensor([*context, *speech])))[len(context) :], phones)


def ctc_nats(scores: Tensor, phones: Sequence[int]) -> float:
    """Minus log-probability of phones by CTC scores [T, classes] (log-probabilities)."""
    sizes = torch.tensor([len(scores)]), torch.tensor([len(phones)])
    return float(F.ctc_loss(scores[:, None], torch.tensor([list(phones)]), *sizes, BLANK, reduction="sum"))


def word_ends(scores: np.ndarray, words: Sequence[Sequence[int]]) -> list[int]:
    """End token of each word by a Viterbi pass over CTC scores [T, classes] (log-probabilities).

    A pause between words goes to the word before it. Raises AudioError when there are fewer tokens than the text needs.
    """
    first, last = phone_spans(scores, [phone for word in words for phone in word])
    ends, position = [], 0
    for word in words[:-1]:
        position += len(word)
        start, stop = int(last[position - 1]) + 1, int(first[position])
        # CTC's spikes sit inside their phones: a short gap is shared, a long one is a pause of the word before.
        ends.append(stop - 1 if stop - start > PAUSE else (start + stop) // 2)
    return [*ends, len(scores)]


def phone_spans(scores: np.ndarray, phones: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """First and last token of each phone's CTC spike on the best path through scores [T, classes].

    Raises AudioError when there are fewer tokens than the phones need.
    """
    labels = np.full(2 * len(phones) + 1, BLANK)
    labels[1::2] = phones
    steps, states = len(scores), len(labels)
    repeats = sum(a == b for a, b in itertools.pairwise(phones))
    if steps < len(phones) + repeats:
        raise AudioError(
            "The prompt text is longer than what the recording can hold; give the words that are spoken in it."
        )
    skip = np.zeros(states, bool)
    skip[3::2] = labels[3::2] != labels[1:-2:2]
    best = np.full(states, -np.inf)
    best[:2] = scores[0, labels[:2]]
    moves = np.zeros((steps, states), np.int8)
    for step in range(1, steps):
        one = np.concatenate([[-np.inf], best[:-1]])
        two = np.where(skip, np.concatenate([[-np.inf, -np.inf], best[:-2]])[:states], -np.inf)
        options = np.stack([best, one, two])
        moves[step] = options.argmax(0)
        best = options.max(0) + scores[step, labels]
    state = states - 1 if best[-1] >= best[-2] else states - 2
    first, last = np.full(len(phones), steps), np.zeros(len(phones), int)
    for step in range(steps - 1, -1, -1):
        if state % 2:
            phone = state // 2
            first[phone] = step
            last[phone] = max(last[phone], step)
        state -= int(moves[step, state])
    return first, last
