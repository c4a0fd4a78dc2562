"""The LM against what CosyVoice 3 computed: embeddings, logits, losses, gradients (case v3_lm_loss)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fireside.models.config import LayoutConfig, LMConfig
from fireside.models.layout import IGNORE, ControlIds, mix_sequence, plain_sequence
from fireside.models.lm import LM

END_OF_PROMPT = 151646


def golden_lm(case) -> LM:
    """The case's model: its sizes, its weights."""
    ctor = case.config["ctor"]
    lm = LM(
        LMConfig(
            hidden_size=ctor["hidden"],
            num_layers=ctor["layers"],
            num_heads=ctor["heads"],
            num_kv_heads=ctor["kv"],
            intermediate_size=ctor["inter"],
            text_vocab_size=ctor["text_vocab"],
            speech_vocab_size=ctor["speech"],
        )
    )
    lm.load_released(case.weights)
    return lm.eval()


def text_list(ids: torch.Tensor, case) -> list[int]:
    """Text ids; the reduced table of the case has the end-of-prompt marker in its last row."""
    last = case.config["ctor"]["text_vocab"] - 1
    return [last if i == END_OF_PROMPT else i for i in ids.flatten().tolist()]


def sequences(case, run: str):
    """The training sequences of a run: the recorded draws choose the layouts."""
    lm_layout = LayoutConfig()
    ctor = case.config["ctor"]
    control = ControlIds.after(ctor["speech"], LMConfig().num_control)
    got = []
    for row, draw in enumerate(case.config[run]["uniforms"]):

        def ids(kind: str, row: int = row) -> torch.Tensor:
            return case.inputs[f"{kind}_token"][row, : case.inputs[f"{kind}_token_len"][row]]

        text, instruct = text_list(ids("text"), case), text_list(ids("instruct"), case)
        speech = ids("speech").tolist()
        if draw < 0.5 and len(speech) / len(text) > lm_layout.mix_min_ratio:
            mix = (lm_layout.mix_text, lm_layout.mix_speech)
            got.append(mix_sequence(control, text, speech, instruct, *mix))
        else:
            got.append(plain_sequence(control, text, speech, instruct))
    return got


def test_training_loss(golden_case):
    case = golden_case("v3_lm_loss")
    got: dict[str, torch.Tensor] = {}
    for run in sorted(key for key in case.config if key.startswith("run")):
        lm = golden_lm(case)
        items = sequences(case, run)
        lengths = torch.tensor([len(item.inputs) for item in items], dtype=torch.int32)
        size = int(lengths.max())
        inputs = torch.zeros(len(items), size, dtype=torch.long)
        targets = torch.full((len(items), size), IGNORE)
        for row, item in enumerate(items):
            inputs[row, : lengths[row]] = torch.tensor(item.inputs)
            targets[row, : lengths[row]] = torch.tensor(item.targets)
        real = torch.arange(size)[None] < lengths[:, None]
        embedded = lm.embed(inputs)
        logits = lm.llm_decoder(lm.decoder(embedded))
        asked = targets != IGNORE
        loss = F.cross_entropy(logits[asked], targets[asked], label_smoothing=float(case.config["ctor"]["lsm"]))
        loss.backward()
        parameters = dict(lm.named_parameters())
        norms = [parameters[name].grad.norm() for name in case.config["grad_names"]]
        got[f"{run}_loss"] = loss.detach()
        got[f"{run}_acc"] = (logits.argmax(-1) == targets)[asked].float().mean()
        got[f"{run}_grad_norms"] = torch.stack(norms)
        got[f"{run}_lm_input_len"] = lengths
        got[f"{run}_lm_target"] = targets
        # The original pads its embeddings with -1, and what it computes there means nothing.
        if f"{run}_lm_input" in case.outputs:
            got[f"{run}_lm_input"] = torch.where(real[..., None], embedded, -1.0).detach()
        stored = case.outputs[f"{run}_logits"]
        got[f"{run}_logits"] = torch.where(real[..., None], logits.detach(), stored)
    case.compare(got)
