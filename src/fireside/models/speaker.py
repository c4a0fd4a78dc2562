"""CAM++: a fast speaker encoder with context-aware masking (Wang et al. 2023, arXiv:2303.00332).

A small residual network over time and frequency, a densely connected time-delay network whose layers mask
their output with what the utterance and its surroundings sound like, and pooling of mean and deviation over
time. State-dict names are those of 3D-Speaker's network.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fireside.errors import ModelError
from fireside.models.config import SpeakerConfig

_MIN_VARIANCE = 1e-10


class Normalised(nn.Sequential):
    """Batch normalisation, then ReLU: one of the original's `nonlinear` units."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.add_module("batchnorm", nn.BatchNorm1d(channels))
        self.add_module("relu", nn.ReLU())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions over [batch, channels, bins, frames] with a shortcut; `stride` is along the
    bins.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, bins, frames] to [batch, channels, ceil(bins / stride), frames]."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ConvolutionHead(nn.Module):
    """The front end: patterns over neighbouring bins and frames, the bins reduced stage by stage."""

    def __init__(self, config: SpeakerConfig) -> None:
        super().__init__()
        channels = config.head_channels
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        bins = config.feat_dim
        self.stages = len(config.head_blocks)
        for stage, blocks in enumerate(config.head_blocks, start=1):
            layers = [ResidualBlock(channels, stride=2 if block == 0 else 1) for block in range(blocks)]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            bins = -(-bins // 2)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.out_channels = channels * -(-bins // 2)

    def forward(self, features: Tensor) -> Tensor:
        """[batch, feat_dim, frames] to [batch, out_channels, frames]."""
        out = F.relu(self.bn1(self.conv1(features.unsqueeze(1))))
        for stage in range(1, self.stages + 1):
            out = self.get_submodule(f"layer{stage}")(out)
        out = F.relu(self.bn2(self.conv2(out)))
        return out.flatten(1, 2)


class ContextMask(nn.Module):
    """A dilated convolution whose output is masked by what the whole input and its segment sound like on
    average.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int, segment: int) -> None:
        super().__init__()
        self.segment = segment
        self.linear_local = nn.Conv1d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(in_channels, in_channels // 2, 1)
        self.linear2 = nn.Conv1d(in_channels // 2, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames] to [batch, out_channels, frames]."""
        frames = x.shape[-1]
        # The last segment is averaged over the frames it has.
        segments = F.avg_pool1d(x, self.segment, stride=self.segment, ceil_mode=True)
        context = x.mean(dim=-1, keepdim=True) + segments
        # The mask is the same all through a segment: compute it once for each and repeat.
        mask = torch.sigmoid(self.linear2(F.relu(self.linear1(context))))
        return self.linear_local(x) * mask.repeat_interleave(self.segment, dim=-1)[..., :frames]


class DenseLayer(nn.Module):
    """One layer of a dense block: bottleneck, then a masked dilated convolution with `growth_rate` new
    channels.
    """

    def __init__(self, in_channels: int, config: SpeakerConfig, dilation: int) -> None:
        super().__init__()
        bottleneck = config.growth_rate * config.bn_size
        self.nonlinear1 = Normalised(in_channels)
        self.linear1 = nn.Conv1d(in_channels, bottleneck, 1, bias=False)
        self.nonlinear2 = Normalised(bottleneck)
        self.cam_layer = ContextMask(bottleneck, config.growth_rate, dilation, config.context_frames)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames] to the new channels [batch, growth_rate, frames]."""
        return self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))


class DenseBlock(nn.Module):
    """Layers that each see the outputs of all the layers before them."""

    def __init__(self, in_channels: int, layers: int, config: SpeakerConfig, dilation: int) -> None:
        super().__init__()
        self.layers = layers
        for layer in range(layers):
            channels = in_channels + layer * config.growth_rate
            self.add_module(f"tdnnd{layer + 1}", DenseLayer(channels, config, dilation))
        self.out_channels = in_channels + layers * config.growth_rate

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames] to [batch, in_channels + layers * growth_rate, frames]."""
        for layer in range(1, self.layers + 1):
            x = torch.cat([x, self.get_submodule(f"tdnnd{layer}")(x)], dim=1)
        return x


class _Tdnn(nn.Module):
    """Convolution over time with a stride of 2, then normalisation: the way into the dense blocks."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 5, stride=2, padding=2, bias=False)
        self.nonlinear = Normalised(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x))


class _Transit(nn.Module):
    """Halves the channels after a dense block."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.nonlinear = Normalised(in_channels)
        self.linear = nn.Conv1d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.nonlinear(x))


class DenseTdnn(nn.Module):
    """The densely connected time-delay network: frames come in, half as many come out."""

    def __init__(self, in_channels: int, config: SpeakerConfig) -> None:
        super().__init__()
        self.tdnn = _Tdnn(in_channels, config.init_channels)
        channels = config.init_channels
        self.blocks = len(config.block_layers)
        for number, (layers, dilation) in enumerate(
            zip(config.block_layers, config.block_dilations, strict=True), start=1
        ):
            block = DenseBlock(channels, layers, config, dilation)
            self.add_module(f"block{number}", block)
            self.add_module(f"transit{number}", _Transit(block.out_channels))
            channels = block.out_channels // 2
        self.out_nonlinear = Normalised(channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames] to [batch, out_channels, ceil(frames / 2)]."""
        x = self.tdnn(x)
        for number in range(1, self.blocks + 1):
            x = self.get_submodule(f"transit{number}")(self.get_submodule(f"block{number}")(x))
        return self.out_nonlinear(x)


class _Dense(nn.Module):
    """The last projection, normalised without a scale or shift of its own."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.nonlinear = nn.Sequential()
        self.nonlinear.add_module("batchnorm", nn.BatchNorm1d(out_channels, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x.unsqueeze(-1)).squeeze(-1))


class SpeakerEncoder(nn.Module):
    """Who speaks: Kaldi fbank to an embedding whose cosine says how alike two voices are.

    All rows of a batch are of one length; the embedding is not normalised.
    """

    def __init__(self, config: SpeakerConfig) -> None:
        super().__init__()
        self.config = config
        self.head = ConvolutionHead(config)
        self.xvector = DenseTdnn(self.head.out_channels, config)
        self.dense = _Dense(2 * self.xvector.out_channels, config.embedding_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Mean-subtracted fbank [batch, frames, feat_dim] to embeddings [batch, embedding_dim]; frames >=
        3.
        """
        frames = self.xvector(self.head(features.transpose(1, 2))).float()
        # Deviation over N - 1, as the original; the clamp keeps the gradient of a silent channel finite.
        deviation = frames.var(dim=-1).clamp_min(_MIN_VARIANCE).sqrt()
        return self.dense(torch.cat([frames.mean(dim=-1), deviation], dim=-1))


def weights_from_onnx(file: str, config: SpeakerConfig) -> dict[str, Tensor]:
    """The state dict of SpeakerEncoder(config) held by an exported CAM++ such as `campplus.onnx`.

    The export has folded most batch normalisations into the convolution before them: those get the
    convolution's bias as their shift and are otherwise the identity. Needs the `onnx` package. Raises
    ModelError when the file holds another network.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    arrays = {item.name: torch.tensor(numpy_helper.to_array(item)) for item in graph.initializer}
    model = SpeakerEncoder(config)
    expected = model.state_dict()
    weights: dict[str, Tensor] = {name: value for name, value in arrays.items() if name in expected}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        path = _module_path(node.output[0])
        weights[f"{path}.weight"] = arrays[node.input[1]]
        if len(node.input) < 3:
            continue
        bias = arrays[node.input[2]]
        if f"{path}.bias" in expected:
            weights[f"{path}.bias"] = bias
        else:
            weights.update(_folded_norm(model, _norm_after(path), bias))
    for name in set(expected) - set(weights):
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
    wrong = [name for name in expected if name not in weights or weights[name].shape != expected[name].shape]
    if wrong:
        raise ModelError(f"{file} does not hold a CAM++ of these sizes: {wrong[0]} is missing or differs.")
    return {name: weights[name] for name in expected}


def _module_path(output: str) -> str:
    """'/head/layer1/layer1.0/conv1/Conv_output_0' to 'head.layer1.0.conv1'."""
    parts: list[str] = []
    for part in output.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def _norm_after(path: str) -> str:
    """The batch normalisation that follows a convolution without a bias of its own."""
    parent, _, name = path.rpartition(".")
    if name in ("conv1", "conv2"):
        return f"{parent}.bn{name[-1]}"
    if name == "0":
        return f"{parent}.1"
    if name == "linear1":
        return f"{parent}.nonlinear2.batchnorm"
    if parent.startswith("xvector.transit"):
        return "xvector.out_nonlinear.batchnorm"
    return f"{parent}.nonlinear.batchnorm"


def _folded_norm(model: SpeakerEncoder, path: str, shift: Tensor) -> dict[str, Any]:
    norm = model.get_submodule(path)
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        raise ModelError(f"the exported network has a bias where CAM++ has none, before {path}.")
    return {
        f"{path}.weight": torch.full_like(shift, (1.0 + norm.eps) ** 0.5),
        f"{path}.bias": shift,
        f"{path}.running_mean": torch.zeros_like(shift),
        f"{path}.running_var": torch.ones_like(shift),
    }
