"""CosyVoice 1's and 2's flows against the original's: encoder, one-shot synthesis, windows, training loss."""

import json

import pytest
import torch
from unet_cases import load_regulated, load_upsampling, upsampling_config

from fireside.models.config import RegulatedFlowConfig, UpsamplingFlowConfig
from fireside.models.conformer import relative_positions
from fireside.models.flow_encoder import UpsamplingEncoder
from fireside.models.matching import FlowBatch, FlowDraws, euler_times, time_grid
from fireside.models.unet_flow import RegulatedFlow, UpsamplingFlow


def recorded(flow, run):
    """What `run()` returns, and the estimator's arguments and results call by call."""
    calls = []
    handle = flow.estimator.register_forward_hook(lambda _, inputs, out: calls.append((*inputs, out)))
    result = run()
    handle.remove()
    return result, calls


def test_encoder(golden_case):
    case = golden_case("v2_flow_encoder")
    x = case.inputs
    encoder = UpsamplingEncoder(upsampling_config(case.config["ctor"])).eval()
    encoder.load_state_dict(case.weights, strict=True)
    valid = torch.arange(x["xs"].shape[1]) < x["xs_lens"][:, None]
    with torch.no_grad():
        got = {
            "embed_out": encoder.embed(x["xs"]),
            "prelook_noctx": encoder.pre_lookahead_layer(x["xs"]),
            "pos_emb": relative_positions(x["xs"].shape[1], x["xs"].shape[1], encoder.dim)[None],
        }
        for chunked in (False, True):
            name = f"stream{int(chunked)}"
            got[f"y_{name}"] = encoder(x["xs"], valid, chunked=chunked)
            got[f"mask_{name}"] = valid.repeat_interleave(2, dim=1)[:, None]
            got[f"y_ctx_{name}"] = encoder(x["xs"][:1], valid[:1], x["context"], chunked=chunked)
    case.compare(got)


def test_upsampling_inference(golden_case):
    case = golden_case("v2_flow_inference")
    x = case.inputs
    flow = load_upsampling(case.config["ctor"], case.weights)
    prompt = (x["prompt_token"], x["prompt_feat"].mT, x["embedding"])
    got = {}
    for chunked in (False, True):
        for finalize in (False, True):
            mel, calls = recorded(
                flow,
                lambda chunked=chunked, finalize=finalize: flow.inference(
                    x["token"], *prompt, x["noise"], finalize=finalize, chunked=chunked
                ),
            )
            name = f"s{int(chunked)}f{int(finalize)}"
            _, _, mu, _, _, cond, _, velocity = calls[0]
            got[f"mel_{name}"], got[f"mu_{name}"], got[f"v0_{name}"] = mel, mu[:1], velocity
            states = torch.cat([call[0][:1] for call in calls])
            times = torch.stack([call[3][0] for call in calls])
            got |= {
                key: value
                for key, value in (
                    (f"x_at_each_step_{name}", states),
                    ("t_at_each_step", times),
                    ("cond", cond[:1]),
                    ("spk_proj", calls[0][4][:1]),
                )
                if key in case.outputs and case.outputs[key].shape == value.shape
            }
    nothing = (x["prompt_token"][:, :0], x["prompt_feat"].mT[:, :, :0], x["embedding"])
    got["mel_noprompt"] = flow.inference(x["token"], *nothing, x["noise"], chunked=False)
    case.compare(got)


def test_windows(golden_case):
    """Two windows of a CosyVoice 1 stream, the second with what the first left; and no prompt."""
    case = golden_case("v1_flow_inference")
    x = case.inputs
    flow = load_regulated(case.config["ctor"], case.weights)
    prompt = (x["prompt_token"], x["prompt_feat"].mT, x["embedding"])
    got, past = {}, None
    for call in sorted(key.removeprefix("token_") for key in x if key.startswith("token_")):
        (mel, past), calls = recorded(
            flow,
            lambda call=call, past=past: flow.window(x[f"token_{call}"], *prompt, x[f"noise_{call}"], past),
        )
        got[f"{call}_mel"] = mel
        got[f"{call}_x0"], got[f"{call}_mu"] = calls[0][0][:1], calls[0][2][:1]
        got[f"{call}_cache"] = torch.stack([past.noise, past.mu], dim=-1)
    nothing = (x["prompt_token"][:, :0], x["prompt_feat"].mT[:, :, :0], x["embedding"])
    noise = x["noise_call1"][:, :, x["prompt_feat"].shape[1] :]
    got["noprompt_mel"] = flow.inference(x["token_call1"], *nothing, noise)
    case.compare(got)


@pytest.mark.parametrize(("name", "load"), [("v1_flow_loss", load_regulated), ("v2_flow_loss", load_upsampling)])
def test_loss(golden_case, name, load):
    case = golden_case(name)
    x = case.inputs
    flow = load(case.config["ctor"], case.weights)
    parameters = dict(flow.named_parameters())
    assert set(case.config["grad_names"]) == set(parameters)
    positions = torch.arange(x["speech_token"].shape[1])
    got = {}
    for run in sorted(k.removesuffix("_t") for k in x if k.startswith("run") and k.endswith("_t")):
        batch = FlowBatch(
            tokens=x["speech_token"],
            token_mask=positions < x["speech_token_len"][:, None],
            mel=x["speech_feat"].mT,
            embedding=x["embedding"],
            prefix=x[f"{run}_cond"].abs().sum(1).gt(0).sum(1),
            frames=x["speech_feat_len"],
        )
        draws = FlowDraws(
            t=x[f"{run}_t"].flatten(),
            noise=x[f"{run}_z"],
            keep=x[f"{run}_cfg_rand"] > flow.config.train_cfg_drop,
            chunked=bool(x.get(f"{run}_streaming", False)),
        )
        flow.zero_grad()
        result = flow.loss(batch, draws)
        result["loss"].backward()
        got[f"{run}_loss"] = result["loss"].detach()
        got[f"{run}_mu"] = result["mu"].detach()
        got[f"{run}_mask"] = result["mask"]
        got[f"{run}_grad_norms"] = torch.stack([parameters[key].grad.norm() for key in case.config["grad_names"]])
    case.compare(got)


def test_official_names(shared):
    """Full-size flows have exactly the official checkpoints' names and shapes."""
    for version, build in (
        ("v1", lambda: RegulatedFlow(RegulatedFlowConfig())),
        ("v2", lambda: UpsamplingFlow(UpsamplingFlowConfig())),
    ):
        manifest = json.loads((shared / "manifests" / f"{version}_flow.json").read_text())
        with torch.device("meta"):
            flow = build()
        assert {n: list(p.shape) for n, p in flow.state_dict().items()} == {e["name"]: e["shape"] for e in manifest}


def test_times_are_the_solvers(golden_case):
    case = golden_case("v2_flow_inference")
    times, _ = euler_times(time_grid(UpsamplingFlowConfig().steps))
    torch.testing.assert_close(times, case.outputs["t_at_each_step"], atol=case.atol("t_at_each_step"), rtol=0)
