"""The U-Nets of CosyVoice 1 and 2 and CosyVoice 1's length regulator against the original's."""

import json

import torch
from unet_cases import unet_config

from fireside.models.config import RegulatedFlowConfig, UpsamplingFlowConfig
from fireside.models.dit import time_features
from fireside.models.length_regulator import LengthRegulator
from fireside.models.unet import UNet


def test_causal_unet(golden_case):
    case = golden_case("v2_unet")
    x, ctor = case.inputs, case.config["ctor"]
    unet = UNet(unet_config(ctor, causal=True), x["x"].shape[1], ctor["static_chunk_size"]).eval()
    unet.load_state_dict(case.weights, strict=True)
    with torch.no_grad():
        got = {"t_sin": time_features(x["t"], ctor["in_channels"]), "t_emb": unet.time_mlp(x["t"])}
        for chunked in (False, True):
            got[f"y_stream{int(chunked)}"] = unet(
                x["x"], x["mask"], x["mu"], x["t"], x["spks"], x["cond"], chunked=chunked
            )
    case.compare(got)


def test_unet(golden_case):
    case = golden_case("v1_unet")
    x = case.inputs
    runs = sorted(key.removesuffix("_x") for key in x if key.endswith("_x"))
    unet = UNet(unet_config(case.config["ctor"], causal=False), x[f"{runs[0]}_x"].shape[1]).eval()
    unet.load_state_dict(case.weights, strict=True)
    with torch.no_grad():
        got = {
            f"{run}_y": unet(*(x[f"{run}_{name}"] for name in ("x", "mask", "mu", "t", "spks", "cond"))) for run in runs
        }
    case.compare(got)


def test_length_regulator(golden_case):
    case = golden_case("v1_length_regulator")
    x, config = case.inputs, RegulatedFlowConfig()
    regulator = LengthRegulator(x["train_x"].shape[2], config.regulator_layers).eval()
    regulator.load_state_dict(case.weights, strict=True)
    got = {}
    with torch.no_grad():
        for index, (prompt_frames, frames) in enumerate(case.config["mel_lens"]):
            prompt, speech = x[f"{index}_x1"], x[f"{index}_x2"]
            assert frames == config.frames(speech.shape[1])
            got[f"{index}_y"] = regulator.inference(prompt, speech, prompt_frames, config.frames)
        got["train_y"] = regulator(x["train_x"], x["train_ylens"])
    case.compare(got)


def test_official_names(shared):
    """Full-size estimators have exactly the official checkpoints' names and shapes."""
    for version, config in (("v1", RegulatedFlowConfig()), ("v2", UpsamplingFlowConfig())):
        manifest = json.loads((shared / "manifests" / f"{version}_flow.json").read_text())
        prefix = "decoder.estimator."
        expected = {e["name"].removeprefix(prefix): e["shape"] for e in manifest if e["name"].startswith(prefix)}
        with torch.device("meta"):
            unet = UNet(config.unet, config.n_mels)
        assert {n: list(p.shape) for n, p in unet.state_dict().items()} == expected
