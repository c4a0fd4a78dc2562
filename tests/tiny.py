"""A whole model folder with tiny random weights: every part of hearth at a size that a test can afford."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from fireside.models import checkpoint
from fireside.models.config import (
    DiTConfig,
    FlowConfig,
    LayoutConfig,
    LMConfig,
    ModelConfig,
    SamplingConfig,
    SpeakerConfig,
    TokenizerConfig,
    VocoderConfig,
)
from fireside.text.phones import PHONES
from fireside.voices import Voice, VoiceCard, write_voice

CODES = 27

CONFIG = ModelConfig(
    name="tiny",
    default_voice="anna",
    lm=LMConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=48,
        text_vocab_size=len(PHONES),
        speech_vocab_size=CODES,
        num_control=8,
        rope_theta=1e4,
        min_ratio=0.5,
        max_ratio=2.0,
        layout=LayoutConfig(kind="block"),
        sampling=SamplingConfig(tau=1.0),
    ),
    flow=FlowConfig(
        speech_vocab_size=CODES,
        lookahead_channels=32,
        chunk_tokens=5,
        dit=DiTConfig(dim=32, depth=2, heads=2, dim_head=16, conv_pos_kernel=5, conv_pos_groups=4),
        steps=2,
        full_mask_offline=False,
        start_noise="lazy",
        mel_mean=-5.0,
        mel_std=2.0,
    ),
    vocoder=VocoderConfig(
        base_channels=16,
        f0_channels=16,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
        source_resblock_kernel_sizes=(3, 3, 3),
        source_resblock_dilation_sizes=((1,), (1,), (1,)),
        f0_float64=False,
        source_phase="sample",
        istft_phase="angle",
    ),
    tokenizer=TokenizerConfig(
        dim=32,
        heads=2,
        layers_before=1,
        layers_after=1,
        ff_mult=1,
        conv_kernel=3,
        fsq_levels=(3, 3, 3),
        ctc_vocab_size=len(PHONES),
    ),
    speaker=SpeakerConfig(
        growth_rate=8,
        bn_size=2,
        init_channels=16,
        head_channels=4,
        block_layers=(1, 1, 1),
    ),
)


def parts(config: ModelConfig = CONFIG) -> dict[str, nn.Module]:
    """Every part, its weights drawn from one seed."""
    from fireside.models.flow import CausalFlow
    from fireside.models.hift import HiFT
    from fireside.models.lm import LM
    from fireside.models.speaker import SpeakerEncoder
    from fireside.models.speech_tokenizer import SpeechTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(5)
        modules: dict[str, nn.Module] = {
            "lm": LM(config.lm),
            "flow": CausalFlow(config.flow),
            "vocoder": HiFT(config.vocoder),
            "tokenizer": SpeechTokenizer(config.tokenizer),
            "speaker": SpeakerEncoder(config.speaker),
        }
        # Zero-initialised layers would hide mistakes: every matrix gets weights.
        for module in modules.values():
            for parameter in module.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    nn.init.normal_(parameter, std=0.1)
    return modules


def make_voice(name: str, seed: int, tokens: int = 12) -> Voice:
    """A voice with a random prompt of two words."""
    rng = np.random.default_rng(seed)
    card = VoiceCard(
        name,
        language="zh" if seed % 2 else "en",
        description="a random voice",
        words=((40, 41, 42), (50, 51)) if tokens else (),
        word_ends=(tokens // 2, tokens) if tokens else (),
        model="tiny",
    )
    return Voice(
        card,
        embedding=rng.standard_normal(192).astype(np.float32),
        prompt_tokens=rng.integers(0, CODES, tokens),
        prompt_mel=rng.normal(-5, 2, (2 * tokens, 80)).astype(np.float32),
    )


def write_model(folder: Path, config: ModelConfig = CONFIG) -> Path:
    """Write the whole folder, with the voices anna and bo."""
    for name, module in parts(config).items():
        checkpoint.write_part(folder, name, module.state_dict(), "float32")
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (folder / checkpoint.CONFIG_FILE).write_text(text, encoding="utf-8")
    for seed, name in enumerate(["anna", "bo"]):
        write_voice(folder / "voices", make_voice(name, seed))
    return folder


def fitting_config() -> ModelConfig:
    """CONFIG with a flow that is fitted to new voices."""
    assert isinstance(CONFIG.flow, FlowConfig)
    return CONFIG.model_copy(update={"flow": CONFIG.flow.model_copy(update={"calibrate": True, "adapt": True})})


def recording(seconds: float, rate: int = 24000, level: float = 0.3) -> np.ndarray:
    """Something like speech: syllables of a harmonic tone, with a little noise."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 20 * np.sin(3 * time)) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    noise = np.random.default_rng(0).standard_normal(len(time)) * 0.05
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0.02, 1)
    return (level * (tone + noise) / 2 * syllables).astype(np.float32)
