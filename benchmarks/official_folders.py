"""Makes folders of official checkpoints with random weights, at full size or tiny: names and shapes are the official
ones, nothing else is.

    python benchmarks/official_folders.py OUT --version 2 [--scale tiny] [--seed 0] [--manifests ../shared/manifests]

Writes what a downloaded folder holds: the YAML, `llm.pt`, `flow.pt`, `hift.pt`, `spk2info.pt`, `campplus.onnx`,
`speech_tokenizer_v*.onnx` (stand-ins that compute some function of the right shape) and the text tokenizer's files
(stand-ins over bytes). `tiny` divides every width by 16 and keeps two layers of each stack; heads, kernels, mel bins
and the speech vocabulary stay.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

Scale = Literal["tiny", "full"]
MANIFESTS = Path(__file__).resolve().parents[2] / "shared" / "manifests"
DIVISOR = 16
KEPT_LAYERS = 2
KEPT_WIDTHS = {1, 2, 9, 18, 80, 192, 240, 320}
"""Mel bins and their multiples, the speaker embedding, the source's and the spectrum's channels, control ids."""

STACKS = re.compile(r"\.(?:layers|encoders|mid_blocks|transformer_blocks)\.(\d+)\.")
UNET_BLOCKS = re.compile(r"(?:down_blocks|mid_blocks|up_blocks)\.\d+\.1\.(\d+)\.")
TEXT_TABLES = ("text_embedding.weight", "llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight")
VOCABULARIES = (*TEXT_TABLES, "speech_embedding.weight", "llm_decoder.weight", "llm_decoder.bias")
FLOW_VOCABULARY = "input_embedding.weight"

WHISPER_SPECIALS = 1609
QWEN_TINY_ROWS = 1024
SPEAKERS = ("中文女", "英文男")


@dataclass(frozen=True)
class Entry:
    """A tensor of a manifest."""

    name: str
    shape: tuple[int, ...]
    kind: str


def manifest(folder: Path, version: int, part: str) -> list[Entry]:
    """Names and shapes of an official state dict; part: llm, flow, hift or hifigan."""
    rows = json.loads((folder / f"v{version}_{part}.json").read_text(encoding="utf-8"))
    return [Entry(row["name"], tuple(row["shape"]), row["kind"]) for row in rows]


def shrink(entries: list[Entry], text_rows: int) -> Iterator[Entry]:
    """The tiny counterparts of a state dict's tensors; those of layers that are left out are dropped."""
    for entry in entries:
        stack, blocks = STACKS.search(entry.name), UNET_BLOCKS.search(entry.name)
        if (stack and int(stack[1]) >= KEPT_LAYERS) or (blocks and int(blocks[1]) >= 1):
            continue
        widths = list(entry.shape if len(entry.shape) < 3 else entry.shape[:2])
        keep_first = entry.name in VOCABULARIES or entry.name == FLOW_VOCABULARY or "pos_bias" in entry.name
        for axis, width in enumerate(widths):
            if width in KEPT_WIDTHS or (axis == 0 and keep_first) or ("time_embed.time_mlp.0" in entry.name and axis):
                continue
            widths[axis] = width // DIVISOR
        if entry.name in TEXT_TABLES:
            widths[0] = text_rows
        yield Entry(entry.name, (*widths, *entry.shape[len(widths) :]), entry.kind)


def draw(entry: Entry, seed: int) -> Tensor:
    """A tensor of random weights that keep activations in range; each from a generator of its own.

    Norms are about 1 and biases about 0, but never exactly, so that a forgotten parameter shows.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {entry.name}".encode()))
    value = torch.randn(entry.shape, generator=generator)
    if entry.name.endswith("inv_freq"):
        count = entry.shape[0]
        return 10000.0 ** -(torch.arange(count) / count)
    if entry.name.endswith("original0"):
        return 0.7 + 0.1 * value.abs()
    if entry.name.endswith("alpha"):
        return 1 + 0.2 * value.clamp(-2, 2)
    if entry.name.endswith("bias"):
        return 0.1 * value
    if len(entry.shape) == 1:
        return 1 + 0.1 * value
    if "embed" in entry.name.rsplit(".", 2)[-2]:
        return 0.5 * value
    return value / max(1, value[0].numel()) ** 0.5


def write_weights(folder: Path, entries: list[Entry], file: str, seed: int) -> None:
    """Write a state dict as the original does; tied entries share their storage."""
    state: dict[str, Tensor] = {}
    for entry in entries:
        if entry.kind == "tied":
            state[entry.name] = state["llm.model.model.embed_tokens.weight"]
        else:
            state[entry.name] = draw(entry, seed)
    torch.save(state, folder / file)


def tokenizer_onnx(file: Path, vocabulary: int, halvings: int, seed: int) -> None:
    """A stand-in for a speech tokenizer: feats [1, 128, frames], feats_length [1] -> indices [1, tokens].

    halvings: how often the frame rate is halved, 1 for 50 Hz and 2 for 25 Hz.
    """
    rng = np.random.default_rng(seed)
    nodes, weights, x = [], [], "feats"
    for index in range(halvings):
        width = 128 if index == 0 else 8
        kernel = rng.standard_normal((8, width, 3)).astype(np.float32) / (3 * width) ** 0.5
        weights.append(numpy_helper.from_array(kernel, f"kernel{index}"))
        nodes.append(
            helper.make_node(
                "Conv", [x, f"kernel{index}"], [f"hidden{index}"], strides=[2], pads=[1, 1], name=f"c{index}"
            )
        )
        x = f"hidden{index}"
    constants = {"scale": np.float32(997.0), "count": np.float32(vocabulary), "axis": np.array([1], np.int64)}
    weights += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes += [
        helper.make_node("ReduceSum", [x, "axis"], ["sum"], keepdims=0),
        helper.make_node("Abs", ["sum"], ["size"]),
        helper.make_node("Mul", ["size", "scale"], ["large"]),
        helper.make_node("Floor", ["large"], ["whole"]),
        helper.make_node("Mod", ["whole", "count"], ["rest"], fmod=1),
        helper.make_node("Cast", ["rest"], ["indices"], to=TensorProto.INT32),
        helper.make_node("Identity", ["feats_length"], ["length"]),
    ]
    inputs = [
        helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, 128, "frames"]),
        helper.make_tensor_value_info("feats_length", TensorProto.INT32, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("indices", TensorProto.INT32, [1, "tokens"]),
        helper.make_tensor_value_info("length", TensorProto.INT32, [1]),
    ]
    save_onnx(file, helper.make_graph(nodes, "speech_tokenizer", inputs, outputs, weights))


def speaker_onnx(file: Path, seed: int) -> None:
    """A stand-in for CAM++: input [1, frames, 80] -> output [1, 192]."""
    matrix = np.random.default_rng(seed).standard_normal((80, 192)).astype(np.float32) / 80**0.5
    nodes = [
        helper.make_node("Mul", ["input", "input"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["energy"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["energy", "matrix"], ["output"]),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, "frames", 80])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 192])]
    save_onnx(file, helper.make_graph(nodes, "campplus", inputs, outputs, [numpy_helper.from_array(matrix, "matrix")]))


def save_onnx(file: Path, graph: onnx.GraphProto) -> None:
    """Check and write a graph."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def byte_characters() -> list[str]:
    """GPT-2's printable character of every byte, in the order of its vocabulary (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]


def write_qwen_tokenizer(folder: Path, rows: int) -> None:
    """A byte-level vocabulary with three merges, filled up to `rows` with words that no text has."""
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    words = [*byte_characters(), *("".join(pair) for pair in merges)]
    words += [f"<filler{index}>" for index in range(rows - len(words))]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(len(words) + index): {"content": text, **flags} for index, text in enumerate(specials)}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(specials[1:]),
        "bos_token": None,
        "eos_token": specials[0],
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": specials[0],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def write_whisper_ranks(file: Path, rows: int) -> None:
    """Whisper's table of `rows` ranks: base64 of the bytes, a blank, the rank."""
    words = [bytes([byte]) for byte in range(256)]
    words += [f"<filler{index}>".encode() for index in range(rows - len(words))]
    lines = (f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(words))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_speakers(file: Path, seed: int) -> None:
    """Two SFT speakers, as `spk2info.pt` of CosyVoice-300M-SFT has them."""
    generator = torch.Generator().manual_seed(seed)
    torch.save({name: {"embedding": torch.randn(1, 192, generator=generator)} for name in SPEAKERS}, file)


def yaml_v1(sizes: Callable[[int], int], tiny: bool, text_rows: int) -> str:
    """`cosyvoice.yaml`."""
    layers = (lambda count: min(count, KEPT_LAYERS)) if tiny else (lambda count: count)
    return f"""\
__set_seed1: !apply:random.seed [1986]
__set_seed2: !apply:numpy.random.seed [1986]
__set_seed3: !apply:torch.manual_seed [1986]
__set_seed4: !apply:torch.cuda.manual_seed_all [1986]

sample_rate: 22050
text_encoder_input_size: {sizes(512)}
llm_input_size: {sizes(1024)}
llm_output_size: {sizes(1024)}
spk_embed_dim: 192

llm: !new:cosyvoice.llm.llm.TransformerLM
    text_encoder_input_size: !ref <text_encoder_input_size>
    llm_input_size: !ref <llm_input_size>
    llm_output_size: !ref <llm_output_size>
    text_token_size: {text_rows}
    speech_token_size: 4096
    length_normalized_loss: True
    lsm_weight: 0
    spk_embed_dim: !ref <spk_embed_dim>
    text_encoder: !new:cosyvoice.transformer.encoder.ConformerEncoder
        input_size: !ref <text_encoder_input_size>
        output_size: {sizes(1024)}
        attention_heads: 16
        linear_units: {sizes(4096)}
        num_blocks: {layers(6)}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        use_cnn_module: False
        macaron_style: False
        use_dynamic_chunk: False
        use_dynamic_left_chunk: False
        static_chunk_size: 1
    llm: !new:cosyvoice.transformer.encoder.TransformerEncoder
        input_size: !ref <llm_input_size>
        output_size: !ref <llm_output_size>
        attention_heads: 16
        linear_units: {sizes(4096)}
        num_blocks: {layers(14)}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0
        input_layer: 'linear_legacy'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        static_chunk_size: 1
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: 0.8
        top_k: 25
        win_size: 10
        tau_r: 0.1

flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    input_size: {sizes(512)}
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: 4096
    input_frame_rate: 50
    only_mask_loss: True
    encoder: !new:cosyvoice.transformer.encoder.ConformerEncoder
        output_size: {sizes(512)}
        attention_heads: 8
        linear_units: {sizes(2048)}
        num_blocks: {layers(6)}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        input_size: {sizes(512)}
        use_cnn_module: False
        macaron_style: False
    length_regulator: !new:cosyvoice.flow.length_regulator.InterpolateRegulator
        channels: 80
        sampling_ratios: [1, 1, 1, 1]
    decoder: !new:cosyvoice.flow.flow_matching.ConditionalCFM
{CFM}
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
            in_channels: 320
            out_channels: 80
            channels: [{sizes(256)}, {sizes(256)}]
            dropout: 0.0
            attention_head_dim: {sizes(64)}
            n_blocks: {1 if tiny else 4}
            num_mid_blocks: {layers(12)}
            num_heads: 8
            act_fn: 'gelu'

hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: 80
    base_channels: {sizes(512)}
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 8]
    upsample_kernel_sizes: [16, 16]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5]]
    lrelu_slope: 0.1
    audio_limit: 0.99
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        num_class: 1
        in_channels: 80
        cond_channels: {sizes(512)}

parquet_opener: !name:cosyvoice.dataset.processor.parquet_opener
get_tokenizer: !name:whisper.tokenizer.get_tokenizer
    multilingual: True
    num_languages: 100
    language: 'en'
    task: 'transcribe'
allowed_special: 'all'
feat_extractor: !name:matcha.utils.audio.mel_spectrogram
    n_fft: 1024
    num_mels: 80
    sampling_rate: !ref <sample_rate>
    hop_size: 256
    win_size: 1024
    fmin: 0
    fmax: 8000
    center: False
compute_fbank: !name:cosyvoice.dataset.processor.compute_fbank
    feat_extractor: !ref <feat_extractor>
data_pipeline: [
    !ref <parquet_opener>,
    !ref <compute_fbank>,
]
"""


CFM = """\
        in_channels: 240
        n_spks: 1
        spk_emb_dim: 80
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: 1e-06
                solver: 'euler'
                t_scheduler: 'cosine'
                training_cfg_rate: 0.2
                inference_cfg_rate: 0.7
                reg_loss_type: 'l1'"""

HEAD_24K = """\
__set_seed1: !apply:random.seed [1986]
__set_seed2: !apply:numpy.random.seed [1986]
__set_seed3: !apply:torch.manual_seed [1986]
__set_seed4: !apply:torch.cuda.manual_seed_all [1986]

sample_rate: 24000
llm_input_size: {hidden}
llm_output_size: {hidden}
spk_embed_dim: 192
qwen_pretrain_path: ''
token_frame_rate: 25
token_mel_ratio: 2

chunk_size: 25
num_decoding_left_chunks: -1

llm: !new:cosyvoice.llm.llm.{lm}
    llm_input_size: !ref <llm_input_size>
    llm_output_size: !ref <llm_output_size>
    speech_token_size: 6561
    length_normalized_loss: True
    lsm_weight: 0
    mix_ratio: [5, 15]
    llm: !new:cosyvoice.llm.llm.Qwen2Encoder
        pretrain_path: !ref <qwen_pretrain_path>
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: 0.8
        top_k: 25
        win_size: 10
        tau_r: 0.1
"""

FLOW_V2 = """
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithXvec
    input_size: {wide}
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: 6561
    input_frame_rate: !ref <token_frame_rate>
    only_mask_loss: True
    token_mel_ratio: !ref <token_mel_ratio>
    pre_lookahead_len: 3
    encoder: !new:cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder
        output_size: {wide}
        attention_heads: 8
        linear_units: {feed}
        num_blocks: {blocks}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        input_size: {wide}
        use_cnn_module: False
        macaron_style: False
        static_chunk_size: !ref <chunk_size>
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
{cfm}
        estimator: !new:cosyvoice.flow.decoder.CausalConditionalDecoder
            in_channels: 320
            out_channels: 80
            channels: [{channels}]
            dropout: 0.0
            attention_head_dim: {dim_head}
            n_blocks: {unet_blocks}
            num_mid_blocks: {mid_blocks}
            num_heads: 8
            act_fn: 'gelu'
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
            num_decoding_left_chunks: !ref <num_decoding_left_chunks>
"""

FLOW_V3 = """
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithDiT
    input_size: 80
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: 6561
    input_frame_rate: !ref <token_frame_rate>
    only_mask_loss: True
    token_mel_ratio: !ref <token_mel_ratio>
    pre_lookahead_len: 3
    pre_lookahead_layer: !new:cosyvoice.transformer.upsample_encoder.PreLookaheadLayer
        in_channels: 80
        channels: {dim}
        pre_lookahead_len: 3
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
{cfm}
        estimator: !new:cosyvoice.flow.DiT.dit.DiT
            dim: {dim}
            depth: {depth}
            heads: 16
            dim_head: {dim_head}
            ff_mult: 2
            mel_dim: 80
            mu_dim: 80
            spk_dim: 80
            out_channels: 80
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
            num_decoding_left_chunks: !ref <num_decoding_left_chunks>
"""

TAIL_24K = """
hift: !new:cosyvoice.hifigan.generator.{vocoder}
    in_channels: 80
    base_channels: {wide}
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 5, 3]
    upsample_kernel_sizes: [16, 11, 7]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    lrelu_slope: 0.1
    audio_limit: 0.99
{look_right}    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.{f0}
        num_class: 1
        in_channels: 80
        cond_channels: {wide}

mel_spec_transform1: !name:matcha.utils.audio.mel_spectrogram
    n_fft: 1920
    num_mels: 80
    sampling_rate: !ref <sample_rate>
    hop_size: 480
    win_size: 1920
    fmin: 0
    fmax: null
    center: False
hifigan: !new:cosyvoice.hifigan.hifigan.HiFiGan
    generator: !ref <hift>
    discriminator: !new:cosyvoice.hifigan.discriminator.MultipleDiscriminator
        mpd: !new:matcha.hifigan.models.MultiPeriodDiscriminator
        mrd: !new:cosyvoice.hifigan.discriminator.MultiResSpecDiscriminator
    mel_spec_transform: [
        !ref <mel_spec_transform1>
    ]

parquet_opener: !name:cosyvoice.dataset.processor.parquet_opener
get_tokenizer: !name:cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer
    token_path: !ref <qwen_pretrain_path>
    skip_special_tokens: True
{tokenizer_version}allowed_special: 'all'
feat_extractor: !name:matcha.utils.audio.mel_spectrogram
    n_fft: 1920
    num_mels: 80
    sampling_rate: !ref <sample_rate>
    hop_size: 480
    win_size: 1920
    fmin: 0
    fmax: {fmax}
    center: False
data_pipeline: [
    !ref <parquet_opener>,
]
"""


def yaml_24k(version: int, sizes: Callable[[int], int], tiny: bool) -> str:
    """`cosyvoice2.yaml` or `cosyvoice3.yaml`."""
    layers = (lambda count: min(count, KEPT_LAYERS)) if tiny else (lambda count: count)
    second = version == 2
    head = HEAD_24K.format(hidden=sizes(896), lm="Qwen2LM" if second else "CosyVoice3LM")
    if second:
        flow = FLOW_V2.format(
            wide=sizes(512),
            feed=sizes(2048),
            blocks=layers(6),
            cfm=CFM,
            channels=sizes(256),
            dim_head=sizes(64),
            unet_blocks=1 if tiny else 4,
            mid_blocks=layers(12),
        )
    else:
        flow = FLOW_V3.format(dim=sizes(1024), depth=layers(22), dim_head=sizes(64), cfm=CFM)
    return (
        head
        + flow
        + TAIL_24K.format(
            vocoder="HiFTGenerator" if second else "CausalHiFTGenerator",
            f0="ConvRNNF0Predictor" if second else "CausalConvRNNF0Predictor",
            wide=sizes(512),
            look_right="" if second else "    conv_pre_look_right: 4\n",
            tokenizer_version="" if second else "    version: cosyvoice3\n",
            fmax=8000 if second else "null",
        )
    )


def qwen_config(sizes: Callable[[int], int], rows: int, tiny: bool) -> dict[str, Any]:
    """`CosyVoice-BlankEN/config.json`."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": sizes(896),
        "initializer_range": 0.02,
        "intermediate_size": sizes(4864),
        "max_position_embeddings": 32768,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": KEPT_LAYERS if tiny else 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": rows,
    }


def write_description(out: Path, version: int, scale: Scale = "full") -> int:
    """Write a folder's YAML and the text tokenizer's files (and the folder, if need be); returns the text rows."""
    tiny = scale == "tiny"

    def sizes(width: int) -> int:
        return width // DIVISOR if tiny else width

    out.mkdir(parents=True, exist_ok=True)
    if version == 1:
        ranks = 300 if tiny else 50257
        text_rows = ranks + WHISPER_SPECIALS
        write_whisper_ranks(out / "multilingual.tiktoken", ranks)
        (out / "cosyvoice.yaml").write_text(yaml_v1(sizes, tiny, text_rows), encoding="utf-8")
        return text_rows
    text_rows = QWEN_TINY_ROWS if tiny else 151936
    blank = out / "CosyVoice-BlankEN"
    blank.mkdir(exist_ok=True)
    write_qwen_tokenizer(blank, 300 if tiny else 151643)
    config = json.dumps(qwen_config(sizes, text_rows, tiny), indent=2)
    (blank / "config.json").write_text(config + "\n", encoding="utf-8")
    (out / f"cosyvoice{version}.yaml").write_text(yaml_24k(version, sizes, tiny), encoding="utf-8")
    return text_rows


def write_folder(out: Path, version: int, scale: Scale = "full", seed: int = 0, manifests: Path = MANIFESTS) -> Path:
    """Write the whole folder of a version into `out` (made if need be); returns it."""
    text_rows = write_description(out, version, scale)
    for part in ("llm", "flow", "hift"):
        entries = manifest(manifests, version, part)
        write_weights(out, list(shrink(entries, text_rows)) if scale == "tiny" else entries, f"{part}.pt", seed)
    speaker_onnx(out / "campplus.onnx", seed)
    vocabulary, halvings = (4096, 1) if version == 1 else (6561, 2)
    tokenizer_onnx(out / f"speech_tokenizer_v{version}.onnx", vocabulary, halvings, seed)
    write_speakers(out / "spk2info.pt", seed)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--scale", choices=("tiny", "full"), default="full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--manifests", type=Path, default=MANIFESTS)
    args = parser.parse_args()
    print(write_folder(args.out, args.version, args.scale, args.seed, args.manifests))


if __name__ == "__main__":
    main()
