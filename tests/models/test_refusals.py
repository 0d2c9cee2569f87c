"""What is refused, and that one line says what is missing."""

import families
import pytest
import torch
import transformers
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from infodyn_interp.errors import RequestError
from infodyn_interp.models import open_model

SMALL = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
}
T5 = {"vocab_size": 300, "d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_heads": 4}
HYBRID = SMALL | {
    "num_key_value_heads": 2,
    "layer_types": ["full_attention", "conv", "conv"],
    "num_hidden_layers": 3,
}
STATE_SPACE = {"vocab_size": 300, "hidden_size": 48, "num_hidden_layers": 2}

KINDS = {
    "BertForMaskedLM": ("BertConfig", SMALL, "is an encoder, not causal"),
    "RobertaForMaskedLM": ("RobertaConfig", SMALL, "is an encoder, not causal"),
    "T5ForConditionalGeneration": ("T5Config", T5, "is an encoder-decoder"),
    "MambaForCausalLM": ("MambaConfig", STATE_SPACE, "no softmax attention"),
    "RwkvForCausalLM": ("RwkvConfig", STATE_SPACE, "no softmax attention"),
    "Lfm2ForCausalLM": ("Lfm2Config", HYBRID, "no attention in layer 1, 2"),
    "LlamaModel": ("LlamaConfig", SMALL, "no language-model head"),
    "CTRLLMHeadModel": (
        "CTRLConfig",
        {"vocab_size": 300, "n_embd": 48, "dff": 80, "n_layer": 2, "n_head": 4},
        "no adapter that fits CTRLLMHeadModel",
    ),
}


def _refused(source, **settings):
    with pytest.raises(RequestError) as caught:
        open_model(source, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_without_causal_attention_in_every_layer_is_refused_by_what_it_lacks(kind):
    configuration, settings, lacks = KINDS[kind]
    module = getattr(transformers, kind)(getattr(transformers, configuration)(**settings))
    assert lacks in _refused(module)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "T5ForConditionalGeneration", "MambaForCausalLM"])
def test_the_same_is_said_of_a_folder_before_its_weights_are_read(kind, tmp_path):
    configuration, settings, lacks = KINDS[kind]
    config = getattr(transformers, configuration)(**settings)
    config.architectures = [kind]
    config.save_pretrained(tmp_path)
    assert lacks in _refused(tmp_path)


def test_attention_that_is_computed_in_one_piece_is_refused():
    module = families.build("opt")
    module.set_attn_implementation("sdpa")
    bridge = build_bridge_from_module(module, "OPTForCausalLM", hf_config=module.config)
    assert "layer 0 hides its attention" in _refused(bridge)


def test_a_layer_that_runs_twice_a_forward_is_refused():
    module = families.build("llama", num_hidden_layers=2)
    bridge = build_bridge_from_module(module, "LlamaForCausalLM", hf_config=module.config)
    once = bridge.blocks[1].attn.forward

    def twice(*tensors, **more):
        once(*tensors, **more)
        return once(*tensors, **more)

    vars(bridge.blocks[1].attn)["forward"] = twice
    assert "layer 1 runs 2 times a forward" in _refused(bridge)


def test_tokens_that_see_later_ones_are_refused_whatever_the_architecture_is_called():
    module = families.build("llama")
    bridge = build_bridge_from_module(module, "LlamaForCausalLM", hf_config=module.config)
    point = bridge.blocks[2].attn.hook_attn_scores
    point.register_forward_hook(lambda _point, _inputs, scores: torch.zeros_like(scores))
    assert "tokens see later ones in layer 2" in _refused(bridge)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(value, dtype):
    module = families.build("llama", dtype=dtype)
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight[3, 5] = value
    assert "model.layers.1.mlp.up_proj.weight holds NaN or infinite values" in _refused(module)


def test_not_finite_weights_in_a_folder_are_refused_too(tmp_path, tiny_tokenizer):
    module = families.build("gpt2")
    with torch.no_grad():
        module.transformer.h[0].ln_1.bias[0] = float("nan")
    module.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert "transformer.h.0.ln_1.bias holds NaN" in _refused(tmp_path)


def test_quantised_and_absent_weights_are_refused():
    module = families.build("llama")
    part = module.model.layers[0].mlp.up_proj
    part.weight = nn.Parameter(torch.zeros(part.weight.shape, dtype=torch.int8), requires_grad=False)
    assert "model.layers.0.mlp.up_proj.weight is quantised (torch.int8)" in _refused(module)
    assert "meta device" in _refused(families.build("llama").to("meta"))


def test_a_module_inside_a_bridge_and_a_bridge_with_other_weights_are_refused():
    module = families.build("llama")
    bridge = build_bridge_from_module(module, "LlamaForCausalLM", hf_config=module.config)
    assert "already inside a TransformerBridge" in _refused(module)
    bridge.enable_compatibility_mode(disable_warnings=True)
    assert "compatibility mode" in _refused(bridge)


def test_a_replaced_forward_is_refused_since_a_copy_would_run_the_old_weights():
    module = families.build("llama")
    part = module.model.layers[0].mlp
    part.forward = part.forward
    assert "the forward of model.layers.0.mlp was replaced" in _refused(module)


def test_what_is_no_model_and_what_is_no_setting_are_refused(tmp_path):
    module = families.build("llama")
    assert "not int" in _refused(3)
    assert "float32, float64, bfloat16, float16" in _refused(module, dtype="int8")
    assert "float32, float64, bfloat16, float16" in _refused(module, dtype=torch.int8)
    assert "device: nowhere is not on this computer" in _refused(module, device="nowhere")
    assert "revision= is for names on the hub" in _refused(module, revision="main")
    assert "revision= is for names on the hub" in _refused(tmp_path, revision="main")
    assert "revision= is for names on the hub" in _refused("demo", revision="main")


def test_a_bridge_is_not_converted_behind_its_owner_s_back():
    module = families.build("llama")
    bridge = TransformerBridge.boot_native(
        {
            "n_layers": 1,
            "d_model": 32,
            "n_heads": 2,
            "d_head": 16,
            "d_vocab": 50,
            "n_ctx": 32,
            "act_fn": "gelu",
            "seed": 0,
        }
    )
    assert "this bridge is torch.float32 on cpu" in _refused(bridge, dtype="float64")
    assert open_model(bridge, dtype="float32", device="cpu").bridge is bridge
    assert open_model(module, dtype="float64").dtype == torch.float64
