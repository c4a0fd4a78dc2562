"""A voice's adaptation: what is added to the biases of the flow's adaptive norms, so that it speaks as a person does.

An embedding of a few seconds says too little of a person nobody trained on. So when a voice is made, the flow learns
for some steps to say one part of the recording behind another part of it, and nothing but those biases moves:
conditional layer norms are what AdaSpeech adapts to a speaker (M. Chen et al., ICLR 2021), biases alone are enough for
it (E. Ben Zaken et al., "BitFit", ACL 2022). Some ten thousand numbers are kept with the voice, and a chunk costs what
it always did.

A flow that learnt what guidance adds (train/flow.py) has no longer the velocity that the objective asks for. A few
steps would mostly unlearn that. The model therefore knows the biases with which its flow fits everybody
(train/adaptation.py); learning begins there, and a voice's adaptation is what is learnt beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fireside.models.checkpoint import WithoutInitialisation
from fireside.models.dit import AdaptiveNorm, DiT
from fireside.models.flow import CausalFlow
from fireside.models.matching import FlowBatch, FlowDraws

STEPS = 30
ROWS = 3
RATE = 0.02
"""Adam's, of biases that are some tenths."""

LONGEST = 200
"""Tokens of a training row: 8 s."""

_SHARES = (0.3, 0.7)  # of a row's tokens that are its prompt
_BETAS = (0.9, 0.98)


def adapted_norms(network: DiT) -> list[AdaptiveNorm]:
    """Those whose biases an adaptation is added to, in its order."""
    return [*(block.attn_norm for block in network.blocks), network.norm_out]


class Adapting(nn.Module):
    """A copy of a flow's network, computing in half precision where it is fast, of which only those biases change.

    start: the adaptation to begin with, [parts, dim].
    """

    def __init__(self, flow: CausalFlow, start: Tensor) -> None:
        super().__init__()
        self._flow = (flow,)  # out of sight, so that it is no part of this module
        config, device = flow.config, flow.spk_embed_affine_layer.weight.device
        kind = torch.bfloat16 if computes_bfloat16(device) else torch.float32
        with torch.inference_mode(False):
            with WithoutInitialisation():
                self.network = DiT(config.dit, config.n_mels, config.chunk_frames).requires_grad_(False)
            steering = ("norm", "time_embed")  # a vector for each row: their rounding shows, their cost does not
            self.network.load_state_dict(
                {
                    name: tensor.detach().to(
                        torch.float32 if any(part in name for part in steering) else kind, copy=True
                    )
                    for name, tensor in flow.estimator.state_dict().items()
                },
                assign=True,
            )
            self.biases = [norm.linear.bias for norm in adapted_norms(self.network)]
            self._base = torch.cat([bias.detach().flatten() for bias in self.biases])
            parts = start.detach().to(device, torch.float32, copy=True).flatten().split([len(b) for b in self.biases])
            for bias, part in zip(self.biases, parts, strict=True):
                bias.data += part
                bias.requires_grad_()

    def loss(self, batch: FlowBatch, draws: FlowDraws) -> Tensor:
        """The flow's objective (Flow.matching_loss) under the chunk mask; no conditions are dropped."""
        (flow,) = self._flow
        with torch.no_grad():
            mu = flow.encode(batch.tokens, batch.token_mask, chunked=True).float()
            speaker = flow.speaker(batch.embedding).float()
            noisy, straight, cond = flow.on_path(batch, draws)
        mask = batch.token_mask.repeat_interleave(flow.config.token_mel_ratio, dim=1)[:, None].to(mu.dtype)
        padding = None if bool(mask.all()) else mask
        velocity = self.network(noisy, padding, mu, draws.t, speaker, cond, True)
        weight = (mask if batch.loss_mask is None else mask * batch.loss_mask).expand_as(velocity)
        return ((velocity - straight) ** 2 * weight).sum() / weight.sum()

    @property
    def adaptation(self) -> Tensor:
        """What the biases differ by from the flow's own, [parts, dim] float32."""
        now = torch.cat([bias.detach().flatten() for bias in self.biases])
        return (now - self._base).view(-1, self.network.proj_out.in_features)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32."""
    return device.type != "cpu" or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()


def adaptation_of(
    flow: CausalFlow, tokens: Tensor, mel: Tensor, embedding: Tensor, counted: np.ndarray, steps: int = STEPS
) -> np.ndarray:
    """What a person's recording adds to the adaptation with which the flow fits everybody: [parts, dim] float32.

    tokens [P]; mel [n_mels, frames], natural log; embedding [speaker_dim]; counted: bool [n_mels], the bins that the
    recording fills. The same for the same recording.
    """
    with torch.inference_mode(False), torch.enable_grad():
        adapting = Adapting(flow, flow.adaptation)
        device = adapting.network.proj_out.weight.device
        optimizer = torch.optim.Adam(adapting.biases, betas=_BETAS)
        generator = torch.Generator().manual_seed(0)
        tokens, mel, embedding = (part.detach().to(device, copy=True) for part in (tokens, mel, embedding))
        bins = torch.from_numpy(counted).to(device, torch.float32)[None, :, None]
        for step in range(steps):
            batch, draws = _rows(tokens, mel, embedding, bins, flow.config.token_mel_ratio, generator)
            adapting.loss(batch, draws).backward()
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / steps)
            optimizer.step()
            optimizer.zero_grad()
        added: np.ndarray = (adapting.adaptation - flow.adaptation.detach()).cpu().numpy()
    return added


def _rows(
    tokens: Tensor, mel: Tensor, embedding: Tensor, bins: Tensor, ratio: int, generator: torch.Generator
) -> tuple[FlowBatch, FlowDraws]:
    """ROWS rows of a recording, each a stretch of it whose beginning is the prompt of its end, or the reverse."""
    length = min(len(tokens), LONGEST)

    def below(most: int) -> int:
        return int(torch.randint(most, (), generator=generator))

    orders, prefixes = [], []
    for _ in range(ROWS):
        order = below(len(tokens) - length + 1) + torch.arange(length)
        low, high = (round(share * length) for share in _SHARES)
        cut = low + below(high - low + 1)
        if below(2):
            order, cut = order.roll(-cut), length - cut
        orders.append(order)
        prefixes.append(cut * ratio)
    device = mel.device
    places, prefix = torch.stack(orders).to(device), torch.tensor(prefixes, device=device)
    frames = (places[..., None] * ratio + torch.arange(ratio, device=device)).flatten(1)
    rows = mel[:, frames].transpose(0, 1)
    spoken = torch.arange(length * ratio, device=device) >= prefix[:, None]
    batch = FlowBatch(
        tokens[places],
        torch.ones_like(places, dtype=torch.bool),
        rows,
        embedding.expand(ROWS, -1),
        prefix,
        spoken[:, None] * bins,
    )
    t = (torch.arange(ROWS) + torch.rand(ROWS, generator=generator)) / ROWS
    noise = torch.randn(rows.shape, generator=generator)
    keep = torch.ones(ROWS, dtype=torch.bool, device=device)
    return batch, FlowDraws(t.to(device), noise.to(device), keep, True)


def rows_of(adaptations: Sequence[Tensor | None], frames: Sequence[int]) -> Tensor | None:
    """What is added to the modulation of every frame, [1, all frames, parts, dim], of several requests whose frames lie
    one after another; None where no voice has an adaptation."""
    given = next((each for each in adaptations if each is not None), None)
    if given is None:
        return None
    parts = [
        (torch.zeros_like(given) if each is None else each).expand(count, -1, -1)
        for each, count in zip(adaptations, frames, strict=True)
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]
