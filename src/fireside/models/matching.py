"""Flow matching (Lipman et al. 2023): what every flow from speech tokens to mel shares.

Noise is carried to mel along straight paths (Tong et al. 2023, sigma_min -> 0) in a few Euler steps with
classifier-free guidance, given token features `mu`, a speaker and a prompt. Nothing here draws from a global random
generator: start noise and training draws come in as tensors.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.models.config import AnyFlowConfig, ChunkedFlowConfig

Schedule = Literal["cosine", "linear"]


class Estimator(Protocol):
    """A velocity field; see DiT.forward."""

    def __call__(self, x: Tensor, mask: Tensor | None, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor) -> Tensor:
        """The velocity at flow time t [batch]; shapes as in DiT.forward."""
        ...


def time_grid(steps: int, schedule: Schedule = "cosine") -> Tensor:
    """The steps + 1 flow times of the solver: float32; `cosine` is denser near the noise, at 0."""
    grid = torch.linspace(0, 1, steps + 1)
    return 1 - torch.cos(grid * 0.5 * math.pi) if schedule == "cosine" else grid


def euler_times(grid: Tensor) -> tuple[Tensor, Tensor]:
    """The times at which the Euler solver evaluates, and its step widths: two float32 [steps].

    A step goes from the accumulated time to the next grid point, so that rounding does not pile up.
    """
    time, times, widths = grid[0], [], []
    for target in grid[1:]:
        times.append(time)
        widths.append(target - time)
        time = time + widths[-1]
    return torch.stack(times), torch.stack(widths)


def solve_euler(
    estimator: Estimator,
    noise: Tensor,
    mask: Tensor | None,
    mu: Tensor,
    spks: Tensor,
    cond: Tensor,
    grid: Tensor,
    cfg_rate: float,
) -> Tensor:
    """Integrate the velocity from noise [batch, n_mels, frames] to a mel of that shape.

    With cfg_rate > 0 every row is estimated a second time without mu, spks and cond, in the same batch, and
    the velocity is (1 + cfg_rate) * conditional - cfg_rate * unconditional (Ho & Salimans 2022).
    """
    rows = noise.shape[0]
    guided = cfg_rate > 0
    if guided:
        mu, spks, cond = (torch.cat([part, torch.zeros_like(part)]) for part in (mu, spks, cond))
        mask = None if mask is None else mask.repeat(2, 1, 1)
    x = noise
    times, widths = euler_times(grid.to(noise.device))
    for time, width in zip(times, widths, strict=True):
        doubled = x.repeat(2, 1, 1) if guided else x
        velocity = estimator(doubled, mask, mu, time.expand(doubled.shape[0]), spks, cond)
        if guided:
            velocity = (1 + cfg_rate) * velocity[:rows] - cfg_rate * velocity[rows:]
        x = x + width * velocity
    return x


@dataclass(frozen=True)
class FlowBatch:
    """Padded training rows. mel is as the corpus has it (natural log), not normalised.

    tokens: int64 [batch, tokens]; token_mask: bool [batch, tokens]; mel: [batch, n_mels, frames] with frames
    = ratio * tokens; embedding: [batch, speaker_dim]; prefix: int64 [batch], frames given as prompt;
    loss_mask: float, broadcastable to mel, or None for every frame that is not padding; prompt_mel: what the
    prompt is cut from when it is not `mel` itself; frames: int64 [batch], a row's mel frames, for a flow whose
    frames are no multiple of its tokens.
    """

    tokens: Tensor
    token_mask: Tensor
    mel: Tensor
    embedding: Tensor
    prefix: Tensor
    loss_mask: Tensor | None = None
    prompt_mel: Tensor | None = None
    frames: Tensor | None = None


@dataclass(frozen=True)
class FlowDraws:
    """The random choices of one training step.

    t: flow times [batch]; noise: [batch, n_mels, frames]; keep: bool [batch], False drops the conditions of a
    row; chunked: whether the batch trains under the chunk mask.
    """

    t: Tensor
    noise: Tensor
    keep: Tensor
    chunked: bool

    @classmethod
    def sample(cls, batch: FlowBatch, drop: float, chunked_share: float, generator: torch.Generator) -> FlowDraws:
        """Draw everything from one generator: uniform times, Gaussian noise, independent drops."""
        rows = batch.mel.shape[0]
        return cls(
            t=torch.rand(rows, generator=generator),
            noise=torch.randn(batch.mel.shape, generator=generator),
            keep=torch.rand(rows, generator=generator) > drop,
            chunked=bool(torch.rand((), generator=generator) < chunked_share),
        )


Network = TypeVar("Network", bound=nn.Module)


class FlowMatching(nn.Module, Generic[Network]):
    """Holds the velocity network under its official name."""

    def __init__(self, estimator: Network) -> None:
        super().__init__()
        self.estimator = estimator


class Flow(nn.Module, Generic[Network]):
    """Token and speaker embeddings, the training objective and the solver; subclasses make `mu` from tokens."""

    config: AnyFlowConfig
    decoder: FlowMatching[Network]

    def __init__(self, config: AnyFlowConfig, token_dim: int) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.speech_vocab_size, token_dim)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.n_mels)

    @property
    def estimator(self) -> Network:
        """The velocity network."""
        return self.decoder.estimator

    def embed(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids of any shape to embeddings; negative ids, which stand for padding, count as 0.

        mask: bool, of the shape of tokens, False where the embedding is to be zero.
        """
        embedded = self.input_embedding(tokens.clamp_min(0))
        return embedded if mask is None else embedded * mask[..., None]

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker embedding [batch, speaker_dim] of any length to the estimator's condition [batch, n_mels]."""
        unit = F.normalize(embedding, dim=1)
        return self.spk_embed_affine_layer(unit.to(self.spk_embed_affine_layer.weight.dtype))

    def normalise(self, mel: Tensor) -> Tensor:
        """Natural-log mel to the solver's space; the identity in official models."""
        return (mel - self.config.mel_mean) / self.config.mel_std

    def denormalise(self, mel: Tensor) -> Tensor:
        """The solver's space to natural-log mel."""
        return mel * self.config.mel_std + self.config.mel_mean

    def on_path(self, batch: FlowBatch, draws: FlowDraws) -> tuple[Tensor, Tensor, Tensor]:
        """Where the draws are on their way from noise to mel, the velocity there, and the prompt, each
        [batch, n_mels, frames]."""
        clean = self.normalise(batch.mel)
        in_prefix = torch.arange(clean.shape[2], device=clean.device) < batch.prefix[:, None]
        prompt = clean if batch.prompt_mel is None else self.normalise(batch.prompt_mel)
        spread = 1 - self.config.sigma_min
        t = draws.t[:, None, None]
        noisy = (1 - spread * t) * draws.noise + t * clean
        return noisy, clean - spread * draws.noise, prompt * in_prefix[:, None]

    def matching_loss(
        self,
        mu: Tensor,
        mask: Tensor,
        batch: FlowBatch,
        draws: FlowDraws,
        chunked: bool,
        velocity: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean squared error of the velocity over `batch.loss_mask`.

        mu [batch, n_mels, frames]; mask: float [batch, 1, frames], 0 where a row is padded; velocity: of the mel's
        shape, to be learnt in place of that of the straight path. Returns `loss` (a scalar), and for inspection `mu`
        and `mask`.
        """
        noisy, straight, cond = self.on_path(batch, draws)
        velocity = straight if velocity is None else velocity
        keep = draws.keep.to(mu.dtype)[:, None]
        estimate = self.estimator(
            noisy,
            None if bool(mask.all()) else mask,
            mu * keep[..., None],
            draws.t,
            self.speaker(batch.embedding).float() * keep,
            cond * keep[..., None],
            chunked,
        )
        weight = (mask if batch.loss_mask is None else mask * batch.loss_mask).expand_as(estimate)
        error = ((estimate - velocity) ** 2 * weight).sum() / weight.sum()
        return {"loss": error, "mu": mu, "mask": mask}

    def solve(
        self,
        mu: Tensor,
        prompt_mel: Tensor,
        embedding: Tensor,
        noise: Tensor,
        *,
        chunked: bool,
        steps: int | None = None,
        cfg_rate: float | None = None,
    ) -> Tensor:
        """Natural-log mel behind the prompt, [batch, n_mels, frames of mu - frames of the prompt].

        mu [batch, n_mels, frames]; the rest as in ChunkedFlow.inference.
        """
        prompt = prompt_mel.shape[2]
        cond = torch.zeros_like(mu)
        cond[:, :, :prompt] = self.normalise(prompt_mel)

        def velocity(x: Tensor, mask: Tensor | None, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor) -> Tensor:
            return self.estimator(x, mask, mu, t, spks, cond, chunked)

        mel = solve_euler(
            velocity,
            noise[:, :, : mu.shape[2]].float(),
            None,
            mu,
            self.speaker(embedding).float(),
            cond,
            time_grid(self.config.steps if steps is None else steps),
            self.config.cfg_rate if cfg_rate is None else cfg_rate,
        )
        return self.denormalise(mel[:, :, prompt:])


class ChunkedFlow(Flow[Network]):
    """A flow whose every part keeps to the chunk mask, so that it can run in pieces (engine/chunkwise.py)."""

    config: ChunkedFlowConfig

    @abstractmethod
    def encode(
        self, tokens: Tensor, mask: Tensor | None = None, finalize: bool = True, chunked: bool = False
    ) -> Tensor:
        """Tokens [batch, tokens] to mu [batch, n_mels, frames].

        mask: bool [batch, tokens], False where padded. finalize False: the last `pre_lookahead_len` tokens
        are only looked at, and yield no frames. chunked: apply the chunk mask, where the encoder has attention.
        """

    def _encoded(self, batch: FlowBatch, draws: FlowDraws) -> tuple[Tensor, Tensor]:
        """mu [batch, n_mels, frames] of a batch, and the mask [batch, 1, frames] of its frames."""
        mu = self.encode(batch.tokens, batch.token_mask, chunked=draws.chunked).float()
        return mu, batch.token_mask.repeat_interleave(self.config.token_mel_ratio, dim=1)[:, None].to(mu.dtype)

    def loss(self, batch: FlowBatch, draws: FlowDraws, velocity: Tensor | None = None) -> dict[str, Tensor]:
        """See matching_loss."""
        mu, mask = self._encoded(batch, draws)
        return self.matching_loss(mu, mask, batch, draws, draws.chunked, velocity)

    @torch.no_grad()
    def guided(self, batch: FlowBatch, draws: FlowDraws, speaker_rate: float = 0.0) -> Tensor:
        """The velocity [batch, n_mels, frames] that the solver would follow from where the draws are, guidance and all;
        no conditions are dropped.

        speaker_rate: that much further from what it would be without the speaker alone.
        """
        mu, mask = self._encoded(batch, draws)
        noisy, _, cond = self.on_path(batch, draws)
        speaker, rate = self.speaker(batch.embedding).float(), self.config.cfg_rate
        rows = [(mu, speaker, cond), (torch.zeros_like(mu), torch.zeros_like(speaker), torch.zeros_like(cond))]
        if speaker_rate:
            rows.append((mu, torch.zeros_like(speaker), cond))
        mus, speakers, conds = (torch.cat(parts) for parts in zip(*rows, strict=True))
        whole = None if bool(mask.all()) else mask.repeat(len(rows), 1, 1)
        velocity = self.estimator(
            noisy.repeat(len(rows), 1, 1), whole, mus, draws.t.repeat(len(rows)), speakers, conds, draws.chunked
        )
        full, free, *anybody = velocity.float().chunk(len(rows))
        guided = (1 + rate) * full - rate * free
        return guided + speaker_rate * (full - anybody[0]) if anybody else guided

    @torch.inference_mode()
    def inference(
        self,
        tokens: Tensor,
        prompt_tokens: Tensor,
        prompt_mel: Tensor,
        embedding: Tensor,
        noise: Tensor,
        *,
        finalize: bool = True,
        chunked: bool | None = None,
        steps: int | None = None,
        cfg_rate: float | None = None,
    ) -> Tensor:
        """Mel of `tokens` in one shot: [batch, n_mels, frames], natural log; rows are equally long.

        tokens [batch, T], prompt_tokens [batch, P]; prompt_mel: [batch, n_mels, frames of the prompt];
        embedding [batch, speaker_dim]; noise [batch, n_mels, at least all frames], standard normal, from
        frame 0 of the prompt. finalize False keeps the last `pre_lookahead_len` tokens back; chunked: the
        chunk mask, or the full mask; the default is what the model was made for, as are steps and cfg_rate.
        """
        chunked = not self.config.full_mask_offline if chunked is None else chunked
        joined = torch.cat([prompt_tokens, tokens], dim=1)
        mu = self.encode(joined, finalize=finalize, chunked=chunked).float()
        return self.solve(mu, prompt_mel, embedding, noise, chunked=chunked, steps=steps, cfg_rate=cfg_rate)
