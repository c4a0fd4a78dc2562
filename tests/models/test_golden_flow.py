"""The flow against the original's: solver, one-shot synthesis, training loss, and the pipeline's mels."""

import json

import torch
from flow_cases import load_flow

from fireside.models.config import FlowConfig
from fireside.models.flow import CausalFlow
from fireside.models.matching import FlowBatch, FlowDraws, euler_times, solve_euler, time_grid


def test_cfm_schedule(golden_case):
    case = golden_case("cfm_schedule")
    x = case.inputs
    got = {}

    def run(steps, schedule="cosine", cfg_rate=0.7, temperature=1.0):
        seen = []

        def toy(state, mask, mu, t, spks, cond):
            seen.append(t[0])
            drift = x["A"] @ state + mu * t[:, None, None] + 0.3 * spks[:, :, None] - 0.2 * cond
            return drift * mask

        grid = time_grid(steps, schedule)
        mel = solve_euler(toy, x["noise"] * temperature, x["mask"], x["mu"], x["spks"], x["cond"], grid, cfg_rate)
        assert torch.equal(torch.stack(seen), euler_times(grid)[0])
        return mel, torch.stack(seen), grid

    for steps in sorted(int(k[1:-2]) for k in case.outputs if k[1:-2].isdigit()):
        got[f"n{steps}_y"], got[f"n{steps}_t_used"], got[f"n{steps}_t_span"] = run(steps)
    for key in set(case.outputs) - set(got):
        steps, *options = key.removeprefix("n").removesuffix("_y").split("_")
        temperature = next((float(o[4:]) for o in options if o.startswith("temp")), 1.0)
        cfg_rate = next((float(o[3:]) for o in options if o.startswith("cfg")), 0.7)
        schedule = "linear" if "linear" in options else "cosine"
        got[key] = run(int(steps), schedule, cfg_rate, temperature)[0]
    # The case stores no tolerances; its note gives 1e-5.
    assert not case.config["tolerances"]
    assert set(got) == set(case.outputs)
    for key, value in got.items():
        torch.testing.assert_close(value, case.outputs[key], atol=1e-5, rtol=0, msg=lambda m, k=key: f"{k}: {m}")


def test_flow_inference(golden_case):
    case = golden_case("v3_flow_inference")
    x = case.inputs
    flow = load_flow(case.config["ctor"], case.weights)
    got = {}
    for chunked in (False, True):
        for finalize in (False, True):
            calls = []
            handle = flow.estimator.register_forward_hook(
                lambda _, inputs, out, calls=calls: calls.append((inputs[2], out))
            )
            mel = flow.inference(
                x["token"],
                x["prompt_token"],
                x["prompt_feat"].mT,
                x["embedding"],
                x["noise"],
                finalize=finalize,
                chunked=chunked,
            )
            handle.remove()
            name = f"s{int(chunked)}f{int(finalize)}"
            got[f"mel_{name}"], got[f"mu_{name}"], got[f"v0_{name}"] = mel, calls[0][0][:1], calls[0][1]
    case.compare(got)


def test_flow_loss(golden_case):
    case = golden_case("v3_flow_loss")
    x = case.inputs
    flow = load_flow(case.config["ctor"], case.weights)
    assert case.config["grad_names"] == [name for name, _ in flow.named_parameters()]
    positions = torch.arange(x["speech_token"].shape[1])
    got = {}
    for run in sorted(k.removesuffix("_t") for k in x if k.startswith("run") and k.endswith("_t")):
        batch = FlowBatch(
            tokens=x["speech_token"],
            token_mask=positions < x["speech_token_len"][:, None],
            mel=x["speech_feat"].mT,
            embedding=x["embedding"],
            prefix=x[f"{run}_cond"].abs().sum(1).gt(0).sum(1),
        )
        draws = FlowDraws(
            t=x[f"{run}_t"].flatten(),
            noise=x[f"{run}_z"],
            keep=x[f"{run}_cfg_rand"] > flow.config.train_cfg_drop,
            chunked=bool(x[f"{run}_streaming"]),
        )
        flow.zero_grad()
        result = flow.loss(batch, draws)
        result["loss"].backward()
        got[f"{run}_loss"] = result["loss"].detach()
        got[f"{run}_mu"] = result["mu"].detach()
        got[f"{run}_mask"] = result["mask"]
        got[f"{run}_grad_norms"] = torch.stack([p.grad.norm() for p in flow.parameters()])
    case.compare(got)


def test_pipeline_mels(golden_case):
    """The flow half of the pipeline: the mel of every streaming call, and the one-shot mel."""
    case = golden_case("v3_tts_pipeline")
    x = case.inputs
    weights = {k.removeprefix("flow."): v for k, v in case.weights.items() if k.startswith("flow.")}
    flow = load_flow(case.config["ctor_flow"], weights)
    prompt = (x["flow_prompt_speech_token"], x["prompt_speech_feat"].mT, x["flow_embedding"], x["noise"])

    def calls(trace):
        mels = []
        for call in trace:
            tokens = x["source_speech_token"][:, : call["tokens"]]
            # The original's final call uses the full mask; a Fireside stream never does (FACTS §9, 6).
            mel = flow.inference(tokens, *prompt, finalize=call["finalize"], chunked=call["stream"])
            mels.append(mel[:, :, call["token_offset"] * flow.config.token_mel_ratio :])
        return mels

    streamed = calls(case.config["stream_trace"])
    got = {f"stream_vocoder_mel{i}": torch.cat(streamed[: i + 1], 2) for i in range(len(streamed))}
    (got["nonstream_mel"],) = calls(case.config["nonstream_trace"])
    waves = {k: "a waveform; the vocoder's test" for k in case.outputs if case.outputs[k].ndim == 2}
    case.compare(got, waves)


def test_official_names(shared):
    """A full-size flow has exactly the official checkpoint's names and shapes."""
    manifest = json.loads((shared / "manifests" / "v3_flow.json").read_text())
    with torch.device("meta"):
        flow = CausalFlow(FlowConfig())
    assert {n: list(p.shape) for n, p in flow.state_dict().items()} == {e["name"]: e["shape"] for e in manifest}
