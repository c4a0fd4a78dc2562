from __future__ import annotations

import pytest
import torch

from fireside.models.config import SpeakerConfig
from fireside.models.speaker import SpeakerEncoder

SMALL = SpeakerConfig(
    embedding_dim=24,
    growth_rate=8,
    bn_size=2,
    init_channels=12,
    head_channels=4,
    head_blocks=(1, 2),
    block_layers=(2, 3),
    block_dilations=(1, 3),
    context_frames=10,
)


@pytest.fixture
def encoder() -> SpeakerEncoder:
    torch.manual_seed(0)
    model = SpeakerEncoder(SMALL)
    features = torch.randn(8, 60, SMALL.feat_dim)
    for _ in range(20):  # settle the running statistics
        model(features)
    return model.eval()


def test_embedding_size_and_any_number_of_frames(encoder):
    for frames in (3, 20, 41, 203):
        assert encoder(torch.randn(2, frames, SMALL.feat_dim)).shape == (2, SMALL.embedding_dim)


def test_a_row_does_not_depend_on_its_neighbours(encoder):
    features = torch.randn(3, 57, SMALL.feat_dim)
    together = encoder(features)
    for row in range(3):
        torch.testing.assert_close(encoder(features[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-4)


def test_a_silent_input_has_finite_gradients(encoder):
    features = torch.zeros(2, 50, SMALL.feat_dim, requires_grad=True)
    encoder(features).sum().backward()
    assert torch.isfinite(features.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


def test_the_context_mask_uses_whole_and_partial_segments(encoder):
    mask = encoder.xvector.block1.tdnnd1.cam_layer
    x = torch.randn(1, mask.linear_local.in_channels, 25)
    got = mask(x)
    for first, last in ((0, 10), (10, 20), (20, 25)):
        context = x.mean(-1, keepdim=True) + x[..., first:last].mean(-1, keepdim=True)
        gate = torch.sigmoid(mask.linear2(torch.relu(mask.linear1(context))))
        torch.testing.assert_close(got[..., first:last], mask.linear_local(x)[..., first:last] * gate)


def test_blocks_and_dilations_must_be_as_many():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        SpeakerEncoder(SMALL.model_copy(update={"block_dilations": (1,)}))
