"""What the decoding tests share: the golden models, and samplers that write down what they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fireside.engine.decoder import Decoder
from fireside.models.config import EncoderConfig, LMConfig, TransformerLMConfig
from fireside.models.lm import LM
from fireside.models.transformer_lm import TransformerLM
from fireside.models.turns import Event, Machine

END_OF_PROMPT = 151646


def golden_lm(case) -> LM | TransformerLM:
    """The case's model: its sizes, its weights."""
    ctor = case.config["ctor"]
    if "te_in" in ctor:
        return golden_transformer_lm(case)
    own_control = "llm_embedding.weight" in case.weights
    config = LMConfig(
        hidden_size=ctor["hidden"],
        num_layers=ctor["layers"],
        num_heads=ctor["heads"],
        num_kv_heads=ctor["kv"],
        intermediate_size=ctor["inter"],
        text_vocab_size=ctor["text_vocab"],
        speech_vocab_size=ctor["speech"],
        num_control=case.weights["speech_embedding.weight"].shape[0] - ctor["speech"],
        control="separate" if own_control else "shared",
        head_bias=own_control,
    )
    lm = LM(config)
    lm.load_released(case.weights)
    return lm.eval()


def golden_transformer_lm(case) -> TransformerLM:
    """The case's model of CosyVoice 1."""
    ctor = case.config["ctor"]
    dim = ctor["dim"]
    config = TransformerLMConfig(
        text_vocab_size=ctor["text_vocab"],
        speech_vocab_size=ctor["speech"],
        speaker_dim=ctor["spk_dim"],
        text_encoder=EncoderConfig(
            input_dim=ctor["te_in"],
            dim=dim,
            heads=ctor["te_heads"],
            ff_dim=ctor["te_lin"],
            layers=ctor["te_blocks"],
            chunk=1,
        ),
        decoder=EncoderConfig(
            input_dim=dim,
            dim=dim,
            heads=ctor["lm_heads"],
            ff_dim=ctor["lm_lin"],
            layers=ctor["lm_blocks"],
            block="transformer",
            activation="relu",
            input_relu=True,
            chunk=1,
        ),
    )
    lm = TransformerLM(config)
    lm.load_state_dict(case.weights)
    return lm.eval()


def text_list(ids: torch.Tensor, case) -> list[int]:
    """Text ids; the reduced table of the case has the end-of-prompt marker in its last row."""
    last = case.config["ctor"]["text_vocab"] - 1
    return [last if i == END_OF_PROMPT else i for i in ids.flatten().tolist()]


class Recorder:
    """A sampler that keeps the scores it was given."""

    def __init__(self, choose: Callable[[torch.Tensor, Sequence[int]], int]) -> None:
        self.choose = choose
        self.scores: list[torch.Tensor] = []

    def __call__(self, scores: torch.Tensor, history: Sequence[int]) -> int:
        self.scores.append(scores)
        return self.choose(scores, history)


def tiny_lm(seed: int = 0, **changes) -> LM:
    """A small random model."""
    sizes = {
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 96,
        "text_vocab_size": 50,
        "speech_vocab_size": 40,
        "num_control": 8,
    }
    torch.manual_seed(seed)
    lm = LM(LMConfig(**{**sizes, **changes})).eval()
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            parameter.normal_(mean, 0.3 if parameter.dim() > 1 else 0.1)
    return lm


def run(decoder: Decoder, machine: Machine, sampler) -> list[int | Event]:
    """Decode one request to its end; an error is raised."""
    handle = decoder.admit(machine, sampler)
    out: list[int | Event] = []
    while not machine.done:
        for _, item in decoder.step():
            if isinstance(item, Exception):
                raise item
            out.append(item)
    decoder.release(handle)
    return out
