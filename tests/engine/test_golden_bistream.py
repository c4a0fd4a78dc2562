"""Decoding while text streams in against CosyVoice 2 and 3 (cases v2 and v3_lm_bistream)."""

from __future__ import annotations

import pytest
import torch
from lm_cases import END_OF_PROMPT, Recorder, golden_lm, text_list

from fireside.engine.lm import LMDecoder
from fireside.models.turns import MixMachine, Original, Step

VERSIONS = ["v2", "v3"]


class Watched:
    """A machine whose steps are counted, as the original's backbone calls were."""

    def __init__(self, machine: MixMachine) -> None:
        self.machine = machine
        self.lengths: list[int] = []

    @property
    def done(self) -> bool:
        return self.machine.done

    @property
    def history(self):
        return self.machine.history

    def next(self) -> Step | None:
        step = self.machine.next()
        if step is not None:
            self.lengths.append(len(step.feed))
        return step

    def accept(self, token: int):
        return self.machine.accept(token)


def instruct_length(prompt: list[int]) -> int:
    """How many ids of the prompt text stand behind sos: CosyVoice 3's, up to the end-of-prompt marker."""
    return prompt.index(END_OF_PROMPT) + 1 if END_OF_PROMPT in prompt else 0


def decode(case, name: str, original: Original | None):
    """One scenario with the case's scripted sampler: (machine, scores, speech ids)."""
    lm = golden_lm(case)
    scenario, ids = case.config["scenarios"][name], case.config["ids"]
    prompt = case.inputs[f"{name}_prompt_text"].flatten().tolist()
    marker = instruct_length(prompt)
    prompt = text_list(torch.tensor(prompt), case)
    machine = MixMachine(
        lm.control,
        prompt[:marker],
        prompt[marker:],
        case.inputs[f"{name}_prompt_speech"].flatten().tolist(),
        original=original,
    )
    watched = Watched(machine)
    text = iter(text_list(case.inputs[f"{name}_text"], case))
    pieces = [[next(text) for _ in range(size)] for size in scenario["chunks"]]
    assert next(text, None) is None
    speech, ended = case.config["ctor"]["speech"], False

    def script(scores: torch.Tensor, history: list[int]) -> int:
        if ended and len(history) >= scenario["end"]:
            return ids["eos"]
        if not ended and len(history) in scenario["fill_at"]:
            return ids["fill"]
        return int(scores[:speech].argmax())

    recorder = Recorder(script)
    decoder = LMDecoder(lm, slots=1, max_len=1024)
    handle = decoder.admit(watched, recorder)
    spoken = []

    def drain() -> None:
        while results := decoder.step():
            for _, item in results:
                assert not isinstance(item, Exception)
                if isinstance(item, int):
                    spoken.append(item)

    for piece in pieces:
        machine.push(piece)
        drain()
    machine.end()
    ended = True
    drain()
    assert machine.done
    decoder.release(handle)
    return watched, torch.stack(recorder.scores), torch.tensor(spoken)


@pytest.mark.parametrize("version", VERSIONS)
def test_scenarios_as_the_original_has_them(golden_case, version):
    case = golden_case(f"{version}_lm_bistream")
    got = {}
    for name in case.config["scenarios"]:
        watched, scores, spoken = decode(case, name, Original.all())
        got[f"{name}_tokens"] = spoken
        got[f"{name}_input_lens"] = torch.tensor(watched.lengths)
        got[f"{name}_logp"] = scores
    case.compare(got)


@pytest.mark.parametrize("version", VERSIONS)
def test_decoding_waits_for_text(golden_case, version):
    """Bug 19: without prompt speech the original, with CosyVoice 3, starts to speak with no text in sight."""
    case = golden_case(f"{version}_lm_bistream")
    bare = [name for name, s in case.config["scenarios"].items() if s["S"] == 0]
    if not bare:
        pytest.skip("this set of cases has no scenario without prompt speech")
    for name in bare:
        watched, _, _ = decode(case, name, None)
        instruct = instruct_length(case.inputs[f"{name}_prompt_text"].flatten().tolist())
        first = int(case.outputs[f"{name}_input_lens"][0])
        assert first == (1 + instruct if instruct else 6)
        assert watched.lengths[0] == 1 + instruct + 5


@pytest.mark.parametrize("version", VERSIONS)
def test_only_fill_can_end_a_portion_and_only_eos_the_last(golden_case, version):
    """Bug 2 in this layout: the original bans the first control id only, and nothing in the last portion."""
    case = golden_case(f"{version}_lm_bistream")
    for name in case.config["scenarios"]:
        watched, scores, _ = decode(case, name, None)
        control, history = golden_lm(case).control, watched.history
        last = max((i for i, token in enumerate(history) if token == control.fill), default=-1)
        allowed = {tuple((torch.isfinite(row[control.first :])).nonzero()[:, 0].tolist()) for row in scores}
        assert allowed <= {(control.fill - control.first,), (control.eos - control.first,)}
        assert history[-1] == control.eos
        assert control.eos not in history[: last + 1]
