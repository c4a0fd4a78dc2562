"""Plain decoding against CosyVoice 3 (case v3_lm_inference)."""

from __future__ import annotations

from dataclasses import replace

import torch
from lm_cases import Recorder, golden_lm, run, text_list

from fireside.engine.lm import LMDecoder
from fireside.engine.sampling import RepetitionAware, greedy
from fireside.models.config import LMConfig, SamplingConfig
from fireside.models.turns import PlainMachine

# (min, max) of the text's length; the runs that do not name theirs have the original's defaults.
RATIOS = {"greedy": (2, 3), "noprompt": (1, 2)}


def decode(case, name: str, stop_mask: str, lm=None):
    """One run: (first ids fed, scores, tokens)."""
    lm = lm or golden_lm(case)
    text = text_list(case.inputs["text"], case)
    prompt_text = text_list(case.inputs["prompt_text"], case)
    prompt = [] if name == "noprompt" else case.inputs["prompt_speech_token"].flatten().tolist()
    low, high = RATIOS.get(name, (LMConfig().min_ratio, LMConfig().max_ratio))
    limits = int(low * len(text)), int(high * len(text))
    machine = PlainMachine(lm.control, text, prompt_text, prompt, *limits, stop_mask=stop_mask)
    step = machine.next()
    assert step is not None
    if name.startswith("ras"):
        generator = torch.Generator().manual_seed(case.config["ids"][f"torch_seed_{name}"])
        choose = RepetitionAware(SamplingConfig(), generator)
    elif name == "stop":
        end = len(case.outputs["stop_tokens"])
        eos, speech = case.config["ids"]["eos"], case.config["ctor"]["speech"]

        def choose(scores, history):
            return eos if len(history) == end else int(scores[:speech].argmax())
    else:
        choose = greedy
    recorder = Recorder(choose)
    run(LMDecoder(lm, slots=1, max_len=2048), machine, recorder)
    return lm, step.feed, torch.stack(recorder.scores), torch.tensor(machine.history)


def test_runs(golden_case):
    case = golden_case("v3_lm_inference")
    got = {}
    for name in sorted(key.removesuffix("_tokens") for key in case.outputs if key.endswith("_tokens")):
        lm, feed, scores, tokens = decode(case, name, "sos_only")
        with torch.inference_mode():
            got[f"{name}_lm_input"] = lm.embed(torch.tensor([feed]))
            got[f"{name}_prefill_hidden"] = lm(torch.tensor([feed]))
        got[f"{name}_logp"] = scores
        got[f"{name}_tokens"] = tokens
    # The sampled runs have no tolerances of their own; they begin as the greedy run does.
    tolerances = dict(case.config["tolerances"])
    for key in set(case.outputs) - set(tolerances):
        name, _, kind = key.partition("_")
        if name.startswith("ras") and not key.endswith("tokens"):
            tolerances[key] = tolerances[f"greedy_{kind}"]
    case = replace(case, config={**case.config, "tolerances": tolerances})
    case.compare({key: got[key] for key in got if key in case.outputs})


def test_ids_are_the_case_s_ids(golden_case):
    case = golden_case("v3_lm_inference")
    control, ids = golden_lm(case).control, case.config["ids"]
    assert (control.sos, control.eos, control.task, control.fill) == tuple(
        ids[key] for key in ("sos", "eos", "task_id", "fill")
    )
    assert ids["stop_token_ids"] == [control.first, control.end - 1]


def test_minimum_length_bans_every_stop_id(golden_case):
    """Bug 2: the original bans sos only, so its sampled runs can end before the minimum."""
    case = golden_case("v3_lm_inference")
    shortest = int(LMConfig().min_ratio * case.inputs["text"].shape[1])
    for name in ("ras", "ras2"):
        lm, _, scores, tokens = decode(case, name, "all")
        assert len(tokens) >= shortest
        assert torch.isinf(scores[:shortest, lm.control.first :]).all()
        assert not torch.isinf(scores[:shortest, : lm.control.first]).any()
