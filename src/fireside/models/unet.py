"""U-Net: the velocity field of CosyVoice 1's and 2's flows, one mel frame per position at the top level.

Residual convolutions steered by the flow time, each followed by transformer blocks, as in Matcha-TTS (Mehta et al.
2024). CosyVoice 1 halves the frame rate once and normalises over time; CosyVoice 2 has one level, causal convolutions
and a chunk mask, so that it can run in pieces. Parameter names are those of the released `flow.pt`.

Hidden frames are [batch, frames, channels]. Norms and the residual stream stay in float32 when the weights are in half
precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fireside.models.causal import CausalConv1d
from fireside.models.config import UNetConfig
from fireside.models.dit import attend, chunk_mask, compute_dtype, time_features
from fireside.models.linear import Linear, linear

GROUPS = 8
KERNEL = 3
TIME_MULT = 4

FrameConv = nn.Conv1d | nn.ConvTranspose1d


class Surroundings(Protocol):
    """What the frames at hand see beside themselves: nothing but each other, or what is kept of a past."""

    def hide(self, x: Tensor) -> Tensor:
        """x [batch, frames, channels] with zeros where a row is padded."""
        ...

    def convolve(self, conv: FrameConv, x: Tensor) -> Tensor:
        """A convolution over frames: [batch, frames, channels] to float32 [batch, new frames, new channels]."""
        ...

    def attend(self, layer: Attention, x: Tensor) -> Tensor:
        """Attention of x [batch, frames, dim] to all that it sees: [batch, frames, heads * dim_head]."""
        ...

    def feed(self, block: TransformerBlock, x: Tensor) -> Tensor:
        """`block.feed(x)`, which needs no surroundings, as fast as can be."""
        ...


class Whole:
    """All frames of every row at once.

    valid: bool [batch, frames], False where a row is padded, or None; chunk: width of the chunk mask, or None.
    """

    def __init__(self, frames: int, valid: Tensor | None, chunk: int | None, device: torch.device) -> None:
        self.valid = valid
        self.visible = None if valid is None else valid[:, None, None]
        if chunk is not None:
            chunks = chunk_mask(0, frames, chunk, device)
            self.visible = chunks if self.visible is None else self.visible & chunks

    def hide(self, x: Tensor) -> Tensor:
        """See Surroundings."""
        return x if self.valid is None else x * self.valid[..., None]

    def convolve(self, conv: FrameConv, x: Tensor) -> Tensor:
        """See Surroundings."""
        return conv(x.mT.to(compute_dtype(conv.weight))).mT.float()

    def attend(self, layer: Attention, x: Tensor) -> Tensor:
        """See Surroundings."""
        query, key, value = (linear(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for linear in layer.inputs)
        return attend(query, key, value, self.visible).transpose(1, 2).flatten(2)

    def feed(self, block: TransformerBlock, x: Tensor) -> Tensor:
        """See Surroundings."""
        return block.feed(x)


class TimeEmbedding(nn.Module):
    """Flow time to the vector that steers every residual block."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = Linear(features, dim)
        self.linear_2 = Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """t [batch] to [batch, dim]."""
        features = time_features(t, self.linear_1.in_features)
        return self.linear_2(F.silu(self.linear_1(features.to(self.linear_1.weight.dtype))))


class FrameNorm(nn.LayerNorm):
    """Normalises every frame alone, in float32."""

    def forward(self, input: Tensor) -> Tensor:
        """[batch, frames, channels] to the same."""
        return F.layer_norm(input.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


class TimeNorm(nn.GroupNorm):
    """Normalises groups of channels over all frames, in float32."""

    def forward(self, input: Tensor) -> Tensor:
        """[batch, frames, channels] to the same."""
        return F.group_norm(input.float().mT, self.num_groups, self.weight.float(), self.bias.float(), self.eps).mT


def frame_conv(channels: int, width: int, causal: bool) -> nn.Conv1d:
    """A convolution of three frames that keeps their number."""
    return CausalConv1d(channels, width, KERNEL) if causal else nn.Conv1d(channels, width, KERNEL, padding=KERNEL // 2)


class Mish(nn.Module):
    """Mish (Misra 2020), x tanh(softplus(x)), with one exponential: some 2.5 times as fast as torch's on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape to the same."""
        # tanh(log(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2), which is 1 in float32 long before 20.
        e = x.clamp(max=20.0).exp()
        ratio = e * (e + 2)
        return x * (ratio / (ratio + 2))


class Block(nn.Module):
    """Convolution, norm, Mish; the causal form leaves out two official indices, where the original transposes."""

    def __init__(self, channels: int, width: int, causal: bool) -> None:
        super().__init__()
        conv = frame_conv(channels, width, causal)
        if causal:
            self.block = nn.Sequential(conv, nn.Identity(), FrameNorm(width), nn.Identity(), Mish())
        else:
            self.block = nn.Sequential(conv, TimeNorm(GROUPS, width), Mish())

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        """[batch, frames, channels] to float32 [batch, frames, width]."""
        conv, *rest = self.block
        assert isinstance(conv, nn.Conv1d)
        x = around.convolve(conv, around.hide(x))
        for module in rest:
            x = module(x)
        return around.hide(x)


class ResnetBlock(nn.Module):
    """Two convolution blocks with the flow time added between them, beside a pointwise convolution."""

    def __init__(self, channels: int, width: int, time: int, causal: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), Linear(time, width))
        self.block1 = Block(channels, width, causal)
        self.block2 = Block(width, width, causal)
        self.res_conv = nn.Conv1d(channels, width, 1)

    def forward(self, x: Tensor, shift: Tensor, around: Surroundings) -> Tensor:
        """[batch, frames, channels] to float32 [batch, frames, width]; shift: what the flow time adds, [batch, 1,
        width]."""
        hidden = self.block2(self.block1(x, around) + shift, around)
        weight = self.res_conv.weight
        return hidden + linear(around.hide(x).to(compute_dtype(weight)), weight[..., 0], self.res_conv.bias)


class Attention(nn.Module):
    """Multi-head self-attention, without positions."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(dim, heads * dim_head, bias=False)
        self.to_k = Linear(dim, heads * dim_head, bias=False)
        self.to_v = Linear(dim, heads * dim_head, bias=False)
        self.to_out = nn.ModuleList([Linear(heads * dim_head, dim)])

    @property
    def inputs(self) -> tuple[Linear, Linear, Linear]:
        """What makes queries, keys and values."""
        return self.to_q, self.to_k, self.to_v

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        """[batch, frames, dim] to the same shape."""
        return self.to_out[0](around.attend(self, x))


class Gelu(nn.Module):
    """A linear layer and an exact GELU."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(dim, inner)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., inner]."""
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between; nested as the official names are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gelu(dim, 4 * dim), nn.Identity(), Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to the same shape."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(dim)
        self.attn1 = Attention(dim, heads, dim_head)
        self.norm3 = FrameNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        """float32 [batch, frames, dim] to the same."""
        x = x + self.attn1(self.norm1(x).to(compute_dtype(self.attn1.to_q.weight)), around)
        return around.feed(self, x)

    def feed(self, x: Tensor) -> Tensor:
        """What follows attention, frame by frame: float32 [batch, frames, dim] to the same."""
        return x + self.ff(self.norm3(x).to(compute_dtype(self.attn1.to_q.weight)))


class Downsample(nn.Module):
    """Halves the frame rate, rounding up."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, KERNEL, stride=2, padding=1)


class Upsample(nn.Module):
    """Doubles the frame rate."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(dim, dim, 4, stride=2, padding=1)


class Stage(nn.ModuleList):
    """A residual block, transformer blocks, and in the arms of the U what leads to the next level; a list, as the
    official names are."""

    def __init__(
        self, resnet: ResnetBlock, transformer: list[TransformerBlock], leave: nn.Module | None = None
    ) -> None:
        super().__init__([resnet, nn.ModuleList(transformer), *([] if leave is None else [leave])])

    def shift(self, time: Tensor) -> Tensor:
        """What the embedded flow time [batch, time] adds in the residual block: float32 [batch, 1, width]."""
        return self.get_submodule("0.mlp")(time).float()[:, None]

    @property
    def leave(self) -> FrameConv:
        """The convolution that leads to the next level."""
        conv = self[2].conv if isinstance(self[2], Downsample | Upsample) else self[2]
        assert isinstance(conv, FrameConv)
        return conv

    def forward(self, x: Tensor, shift: Tensor, around: Surroundings) -> Tensor:
        """[batch, frames, channels] to float32 [batch, frames, width]."""
        x = self[0](x, shift, around)
        for block in self.get_submodule("1").children():
            x = block(x, around)
        return x


class UNet(nn.Module):
    """Estimates the flow's velocity; chunk: width of the chunk mask in mel frames, where there is one."""

    def __init__(self, config: UNetConfig, n_mels: int, chunk: int | None = None) -> None:
        super().__init__()
        self.chunk = chunk
        time = TIME_MULT * config.channels[0]
        self.time_mlp = TimeEmbedding(4 * n_mels, time)

        def stage(channels: int, width: int, leave: nn.Module | None = None) -> Stage:
            resnet = ResnetBlock(channels, width, time, config.causal)
            blocks = [TransformerBlock(width, config.heads, config.dim_head) for _ in range(config.blocks)]
            return Stage(resnet, blocks, leave)

        last = len(config.channels) - 1
        self.down_blocks = nn.ModuleList()
        for level, (channels, width) in enumerate(pairwise((4 * n_mels, *config.channels))):
            down = Downsample(width) if level < last else frame_conv(width, width, config.causal)
            self.down_blocks.append(stage(channels, width, down))
        bottom = config.channels[-1]
        self.mid_blocks = nn.ModuleList(stage(bottom, bottom) for _ in range(config.mid_blocks))
        self.up_blocks = nn.ModuleList()
        for level, (channels, width) in enumerate(pairwise((*config.channels[::-1], config.channels[0]))):
            up = Upsample(width) if level < last else frame_conv(width, width, config.causal)
            self.up_blocks.append(stage(2 * channels, width, up))
        self.final_block = Block(config.channels[0], config.channels[0], config.causal)
        self.final_proj = nn.Conv1d(config.channels[0], n_mels, 1)

    @property
    def stages(self) -> tuple[list[Stage], list[Stage], list[Stage]]:
        """The way down, the bottom, and the way up."""
        down, mid, up = (
            [stage for stage in blocks if isinstance(stage, Stage)]
            for blocks in (self.down_blocks, self.mid_blocks, self.up_blocks)
        )
        return down, mid, up

    def shifts(self, t: Tensor) -> list[Tensor]:
        """What flow time t [batch] adds in every residual block, in order: float32 [batch, 1, width] each."""
        time = self.time_mlp(t)
        return [stage.shift(time) for arm in self.stages for stage in arm]

    def run(self, x: Tensor, shifts: Sequence[Tensor], levels: Sequence[Surroundings]) -> Tensor:
        """Noisy mel, token features, speaker and prompt [batch, frames, 4 * n_mels] to a float32 velocity [batch,
        frames, n_mels]; shifts: see there; levels: the surroundings at each frame rate, the highest first."""
        down, mid, up = self.stages
        shift, skips = iter(shifts), []
        for stage, around in zip(down, levels, strict=True):
            x = stage(x, next(shift), around)
            skips.append(x)
            x = around.convolve(stage.leave, around.hide(x))
        for stage in mid:
            x = stage(x, next(shift), levels[-1])
        for stage, around in zip(up, reversed(levels), strict=True):
            skip = skips.pop()
            # Doubling an odd number that was rounded up gives one frame too many.
            x = torch.cat([x[:, : skip.shape[1]], skip], dim=-1)
            x = around.convolve(stage.leave, around.hide(stage(x, next(shift), around)))
        top = levels[0]
        x = self.final_block(x, top)
        weight = self.final_proj.weight
        return top.hide(linear(x.to(compute_dtype(weight)), weight[..., 0], self.final_proj.bias).float())

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        mu: Tensor,
        t: Tensor,
        spks: Tensor,
        cond: Tensor,
        chunked: bool = False,
    ) -> Tensor:
        """Velocity at flow time t; shapes and masks as in DiT.forward."""
        frames = x.shape[2]
        joined = torch.cat([x, mu, spks[..., None].expand(-1, -1, frames), cond], dim=1).mT
        valid = None if mask is None else mask[:, 0] > 0
        chunk = self.chunk if chunked else None
        levels = [Whole(frames, valid, chunk, x.device)]
        for _ in range(len(self.down_blocks) - 1):
            frames, valid = (frames + 1) // 2, None if valid is None else valid[:, ::2]
            levels.append(Whole(frames, valid, chunk, x.device))
        return self.run(joined, self.shifts(t), levels).mT
