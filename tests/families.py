"""Tiny random-weight models of the 19 supported families, built offline, hard parts included.

Weights are drawn wider than the families' own initialisation, so that attention is far from uniform and a
wrong mask, cap, bias or head grouping shows in the scores.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 300
CONTEXT = 128
# Shorter than any window the tests use, so that a sliding mask hides keys that a causal one would show.
SLIDING_WINDOW = 12
WEIGHT_DEVIATION = 0.12

_TRAINING_TEXT = """The train left the station at nine, and nobody waved. Why would they? It was raining.
A proof, said the teacher, is a walk: you start where you are sure, and each step must hold. "Then what?"
Numbers: 1, 2, 3, 10, 42, 1984. Words in a row (some short, some considerably longer) make a rhythm.

In the old house the clock kept its own time. We listened, we counted; we forgot what we had counted for.
"""

_GROUPED = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_PLAIN = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": CONTEXT,
}
_ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

_SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("gpt2", "GPT2LMHeadModel", {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT}),
    "llama": ("llama", "LlamaForCausalLM", _GROUPED | {"num_hidden_layers": 3}),
    "mistral": ("mistral", "MistralForCausalLM", _GROUPED | {"sliding_window": SLIDING_WINDOW}),
    "gemma2": (
        "gemma2",
        "Gemma2ForCausalLM",
        _GROUPED
        | {
            "head_dim": 16,
            "sliding_window": SLIDING_WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 20,
        },
    ),
    "gemma3_text": (
        "gemma3_text",
        "Gemma3ForCausalLM",
        _GROUPED
        | {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "sliding_window": SLIDING_WINDOW,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 20,
        },
    ),
    "qwen2": (
        "qwen2",
        "Qwen2ForCausalLM",
        _GROUPED | {"use_sliding_window": True, "sliding_window": SLIDING_WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", _GROUPED | {"head_dim": 16}),
    "gpt_neox": ("gpt_neox", "GPTNeoXForCausalLM", _PLAIN | {"rotary_pct": 0.5}),
    "phi": ("phi", "PhiForCausalLM", _PLAIN | {"partial_rotary_factor": 0.5}),
    "phi3": ("phi3", "Phi3ForCausalLM", _GROUPED | {"sliding_window": SLIDING_WINDOW}),
    "opt": (
        "opt",
        "OPTForCausalLM",
        {
            "hidden_size": 48,
            "word_embed_proj_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 80,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "bloom": ("bloom", "BloomForCausalLM", {"hidden_size": 48, "n_layer": 2, "n_head": 4}),
    "falcon": (
        "falcon",
        "FalconForCausalLM",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "multi_query": True,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "olmo2": ("olmo2", "Olmo2ForCausalLM", _GROUPED),
    "stablelm": ("stablelm", "StableLmForCausalLM", _GROUPED | {"partial_rotary_factor": 0.5}),
    "gptj": (
        "gptj",
        "GPTJForCausalLM",
        {"n_embd": 48, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": CONTEXT},
    ),
    "granite": (
        "granite",
        "GraniteForCausalLM",
        _GROUPED
        | {
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
    ),
    "cohere": ("cohere", "CohereForCausalLM", _GROUPED | {"logit_scale": 0.25, "use_qk_norm": True}),
    "mixtral": (
        "mixtral",
        "MixtralForCausalLM",
        _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
}

NAMES = tuple(_SETTINGS)
SLIDING_LAYERS: dict[str, tuple[int, ...]] = {
    "mistral": (0, 1),
    "gemma2": (0,),
    "gemma3_text": (0, 1),
    "qwen2": (1,),
    "phi3": (0, 1),
}
LEARNED_POSITIONS = ("gpt2", "opt")


def build(
    name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any
) -> PreTrainedModel:
    """A plain Hugging Face module of the family `name`, in eval mode, with eager attention."""
    model_type, architecture, defaults = _SETTINGS[name]
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, **(_ENDS | defaults | settings))
    config.architectures = [architecture]
    config._attn_implementation = "eager"
    module = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter_name, parameter in sorted(module.named_parameters()):
            parameter.copy_(_draw(f"{seed} {name} {parameter_name}", parameter))
    return module.to(dtype).eval()


def _draw(key: str, parameter: torch.Tensor) -> torch.Tensor:
    """Matrices at WEIGHT_DEVIATION; gains and biases as far off the constant at which they begin."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]))
    noise = WEIGHT_DEVIATION * torch.randn(parameter.shape, generator=generator)
    is_gain_or_bias = bool(torch.all(parameter == parameter.flatten()[0]))
    return parameter + noise if is_gain_or_bias else noise


def windows(count: int, length: int, *, seed: int = 0) -> torch.Tensor:
    """Random token windows, shape [count, length], each beginning with BOS."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(len(_ENDS), VOCABULARY, (count, length), generator=generator)
    tokens[:, 0] = _ENDS["bos_token_id"]
    return tokens


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer of VOCABULARY pieces that puts BOS first, save it and read it back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING_TEXT.splitlines(keepends=True), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
    )
    fast.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def save_gguf(module: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, file: Path) -> None:
    """Write a llama module and its tokenizer as one float32 `.gguf` file."""
    config = module.config
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pieces = sorted(backend["vocab"], key=backend["vocab"].get)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(pieces)
    writer.add_token_merges([" ".join(merge) for merge in backend["merges"]])
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if index < len(_ENDS) else gguf.TokenType.NORMAL
            for index in range(len(pieces))
        ]
    )
    writer.add_bos_token_id(_ENDS["bos_token_id"])
    writer.add_eos_token_id(_ENDS["eos_token_id"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weights in module.state_dict().items():
        short = names.get_name(name, try_suffixes=(".weight",))
        array = weights.numpy()
        for part, count in heads.items():
            if f".{part}." in short:  # the format interleaves the two halves that a rotation pairs
                array = array.reshape(count, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(short, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
