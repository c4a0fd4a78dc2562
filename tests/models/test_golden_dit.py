"""The DiT against the original's: its pieces, and whole calls under both masks."""

import torch
from flow_cases import flow_config

from fireside.models.dit import DiT, rotate_first_head, time_features


def test_dit(golden_case):
    case = golden_case("v3_dit")
    x = case.inputs
    config = flow_config(case.config["ctor"], x["x"].shape[1])
    dit = DiT(config.dit, config.n_mels, config.chunk_frames).eval()
    dit.load_state_dict(case.weights, strict=True)

    with torch.no_grad():
        embedded = dit.input_embed(x["x"].mT, x["cond"].mT, x["mu"].mT, x["spks"])
        angles = dit.rotary_embed.angles(0, x["x"].shape[2])
        query = dit.transformer_blocks[0].attn.to_q(embedded)
        turned = rotate_first_head(query, angles.cos(), angles.sin())
        got = {
            "t_sin": time_features(x["t"]),
            "t_embed": dit.time_embed(x["t"]),
            "input_embed": embedded,
            "rope_freqs": angles,
            "q0_before_rope": query,
            "q0_after_rope": turned,
        }
        for chunked in (False, True):
            got[f"y_stream{int(chunked)}"] = dit(x["x"], x["mask"], x["mu"], x["t"], x["spks"], x["cond"], chunked)
            first = (x["mu"][:1], x["t"][:1], x["spks"][:1], x["cond"][:1], chunked)
            got[f"y_full_mask_stream{int(chunked)}"] = dit(x["x"][:1], None, *first)
            full = dit(x["x"][:1], torch.ones_like(x["mask"][:1]), *first)
            assert torch.allclose(full, got[f"y_full_mask_stream{int(chunked)}"], atol=1e-5)
    case.compare(got)
    touched = (query != turned).any(0).any(0).nonzero().flatten().tolist()
    assert touched == case.config["rope_touched_channels"]
