"""Plain decoding against CosyVoice 1, 2 and 3 (cases v1, v2 and v3_lm_inference)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lm_cases import END_OF_PROMPT, Recorder, golden_lm, text_list

from fireside.engine.decoders import make_decoder
from fireside.engine.sampling import RepetitionAware, greedy
from fireside.models.config import LMConfig, SamplingConfig
from fireside.models.transformer_lm import TransformerLM
from fireside.models.turns import PlainMachine

# (min, max) of the text's length, found in the outputs' lengths; the other runs have the original's defaults.
RATIOS = {"greedy": (2, 3), "noprompt": (1, 2), "noemb": (1, 2), "emb_noprompt": (1, 2)}
RATIOS_V1 = {**RATIOS, "ras": (2, 4), "ras2": (2, 4)}
VERSIONS = ["v1", "v2", "v3"]


class Run:
    """One run of a case: what was fed, scored and said."""

    def __init__(self, case, name: str, stop_mask: str, steps: int | None = None) -> None:
        self.lm = golden_lm(case)
        text = text_list(case.inputs["text"], case)
        prompted = name not in ("noprompt", "noemb", "emb_noprompt")
        prompt_text = text_list(case.inputs["prompt_text"], case)
        if not prompted and END_OF_PROMPT not in case.inputs["prompt_text"]:
            prompt_text = []  # CosyVoice 3 keeps its instruction, which ends with that marker.
        prompt = case.inputs["prompt_speech_token"].flatten().tolist() if prompted else []
        ratios = RATIOS_V1 if isinstance(self.lm, TransformerLM) else RATIOS
        low, high = ratios.get(name, (LMConfig().min_ratio, LMConfig().max_ratio))
        limits = int(low * len(text)), int(high * len(text))
        machine = PlainMachine(self.lm.control, text, prompt_text, prompt, *limits, stop_mask=stop_mask)
        first = machine.next()
        assert first is not None
        self.feed = first.feed
        self.speaker = None
        if "embedding" in case.inputs and name != "noemb":
            self.speaker = case.inputs["embedding"][0]
        recorder = Recorder(self._sampler(case, name))
        self.decoder = make_decoder(self.lm, slots=1, max_len=2048)
        self.handle = self.decoder.admit(machine, recorder, self.speaker)
        while not machine.done and steps != 0:
            self.decoder.step()
            steps = steps and steps - 1
        self.scores = torch.stack(recorder.scores)
        self.tokens = torch.tensor(machine.history)

    def _sampler(self, case, name: str):
        if name.startswith("ras"):
            generator = torch.Generator().manual_seed(case.config["ids"][f"torch_seed_{name}"])
            return RepetitionAware(SamplingConfig(), generator)
        if name != "stop":
            return greedy
        end = len(case.outputs["stop_tokens"])
        eos, speech = self.lm.control.eos, case.config["ctor"]["speech"]
        return lambda scores, history: eos if len(history) == end else int(scores[:speech].argmax())

    @torch.inference_mode()
    def prefill(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first step through the modules: embeddings and hidden states, each [1, positions, hidden]."""
        if isinstance(self.lm, TransformerLM):
            embedded = self.lm.embed(self.feed, self.speaker)[None]
            return embedded, self.lm(embedded)
        ids = torch.tensor([self.feed])
        return self.lm.embed(ids), self.lm(ids)


def names(case) -> list[str]:
    return sorted(key.removesuffix("_tokens") for key in case.outputs if key.endswith("_tokens"))


def encoder_outputs(case) -> dict[str, torch.Tensor]:
    """CosyVoice 1's text encoder, alone and on a batch; what it makes of padding means nothing."""
    lm = golden_lm(case)
    text = torch.cat((case.inputs["prompt_text"], case.inputs["text"]), dim=1)
    stored = case.outputs["text_encoder_batch_raw"]
    with torch.inference_mode():
        embedded = lm.text_embedding(text)
        lengths = torch.tensor([text.shape[1], case.inputs["text"].shape[1]])
        valid = torch.arange(text.shape[1]) < lengths[:, None]
        batch = lm.text_encoder(torch.cat((embedded, embedded.flip(1))), valid)
        return {
            "text_encoded": lm.encode_text(text),
            "text_encoder_batch_raw": torch.where(valid[..., None], batch, stored),
        }


def cache_after(case, calls: int) -> torch.Tensor:
    """Keys and values beside each other, [layers, heads, positions, 2 * head_dim], as the original keeps them."""
    part = Run(case, "greedy", "first_only", steps=calls)
    return part.decoder.cache[:, part.handle.slot, :, :, : part.handle.length].unbind(1)


@pytest.mark.parametrize("version", VERSIONS)
def test_runs(golden_case, version):
    case = golden_case(f"{version}_lm_inference")
    got = {}
    for name in names(case):
        result = Run(case, name, "first_only")
        got[f"{name}_lm_input"], got[f"{name}_prefill_hidden"] = result.prefill()
        got[f"{name}_logp"] = result.scores
        got[f"{name}_tokens"] = result.tokens
    if version == "v1":
        got |= encoder_outputs(case)
        for key in case.outputs:
            if key.startswith("greedy_att_cache_after_"):
                calls = int(key.removeprefix("greedy_att_cache_after_").removesuffix("_calls"))
                got[key] = torch.cat(cache_after(case, calls), dim=-1)
    # The sampled runs have no tolerances of their own; they begin as the greedy run does.
    tolerances = dict(case.config["tolerances"])
    for key in set(case.outputs) - set(tolerances):
        name, _, kind = key.partition("_")
        if name.startswith("ras") and not key.endswith("tokens"):
            tolerances[key] = tolerances[f"greedy_{kind}"]
    case = replace(case, config={**case.config, "tolerances": tolerances})
    case.compare({key: got[key] for key in got if key in case.outputs})


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_are_the_case_s_ids(golden_case, version):
    case = golden_case(f"{version}_lm_inference")
    control, ids = golden_lm(case).control, case.config["ids"]
    apart = control.sos >= control.end
    assert control.eos == ids["eos"]
    assert (control.sos, control.task) == tuple(ids[key] + (control.end if apart else 0) for key in ("sos", "task_id"))
    assert control.has_fill == ("fill" in ids)
    if control.has_fill:
        assert control.fill == ids["fill"]
        assert ids["stop_token_ids"] == [control.first, control.end - 1]


@pytest.mark.parametrize("version", VERSIONS)
def test_minimum_length_bans_every_stop_id(golden_case, version):
    """Bug 2: the original bans one of them only, so its sampled runs can end before the minimum."""
    case = golden_case(f"{version}_lm_inference")
    shortest = int(LMConfig().min_ratio * case.inputs["text"].shape[1])
    for name in ("ras", "ras2"):
        result = Run(case, name, "all")
        first = result.lm.control.first
        assert len(result.tokens) >= shortest
        assert torch.isinf(result.scores[:shortest, first:]).all()
        assert not torch.isinf(result.scores[:shortest, :first]).any()
