"""The bridge and the module inside it: the same model, seen with hook points and without."""

import copy

import families
import pytest
import torch
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from infodyn_interp.models import native_logits, open_model, unbridged

# The bridge computes attention itself, and where query, key and value are one matrix in another order.
PARITY = 1e-6


def _relative(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("family", families.NAMES)
def test_native_logits_are_the_plain_module_s_to_the_bit_and_the_bridge_s_to_rounding(family):
    # torch multiplies a single last position in another order where weights want gradients.
    plain = families.build(family).requires_grad_(False)
    tokens = families.windows(2, 40)
    with torch.inference_mode():
        wanted = plain(tokens, use_cache=False).logits
        last = plain(tokens, use_cache=False, logits_to_keep=1).logits
    model = open_model(copy.deepcopy(plain))
    assert torch.equal(native_logits(model, tokens), wanted)
    with torch.inference_mode():
        assert _relative(model.bridge(tokens, use_cache=False), wanted) < PARITY
    assert torch.equal(native_logits(model, tokens, logits_to_keep=1), last)


@pytest.mark.parametrize("family", families.NAMES)
def test_no_bridge_component_takes_part_in_native_logits_and_all_are_back_after(family):
    model = open_model(families.build(family))
    tree = [
        (path, part, vars(part).get("forward")) for path, part in model.bridge.original_model.named_modules()
    ]
    with unbridged(model.bridge) as module:
        inside = [part for part in module.modules() if isinstance(part, GeneralizedComponent)]
        replaced = [path for path, part in module.named_modules() if "forward" in vars(part)]
    assert (inside, replaced) == ([], [])
    after = [
        (path, part, vars(part).get("forward")) for path, part in model.bridge.original_model.named_modules()
    ]
    assert [row[0] for row in after] == [row[0] for row in tree]
    assert all(was is now and f is g for (_, was, f), (_, now, g) in zip(tree, after, strict=True))


@pytest.mark.parametrize("family", ["gpt2", "falcon", "mixtral"])
def test_the_bridge_is_whole_again_after_an_exception_inside_the_module(family):
    model = open_model(families.build(family))
    tokens = families.windows(2, 20)
    with torch.inference_mode():
        before = model.bridge(tokens, use_cache=False)
    with pytest.raises(RuntimeError, match="on the way"), unbridged(model.bridge):
        raise RuntimeError("on the way")
    with pytest.raises(TypeError):
        native_logits(model, tokens, no_such_argument_anywhere=object, input_ids=tokens)
    seen = []
    hook = model.bridge.blocks[-1].attn.hook_attn_scores
    handle = hook.register_forward_hook(lambda *_: seen.append(1))
    with torch.inference_mode():
        after = model.bridge(tokens, use_cache=False)
    handle.remove()
    assert torch.equal(before, after)
    assert seen == [1]


@pytest.mark.parametrize("family", families.NAMES)
def test_a_padded_window_has_the_logits_of_the_unpadded_one_in_the_bridge_and_in_the_module(family):
    model = open_model(families.build(family))
    tokens, padding = families.windows(2, 30), torch.full((2, 7), 2)
    kept, ones = torch.zeros_like(padding), torch.ones_like(tokens)
    with torch.inference_mode():
        wanted = model.bridge(tokens, use_cache=False)
        right = model.bridge(
            torch.cat([tokens, padding], 1), attention_mask=torch.cat([ones, kept], 1), use_cache=False
        )
        left = model.bridge(
            torch.cat([padding, tokens], 1), attention_mask=torch.cat([kept, ones], 1), use_cache=False
        )
    assert _relative(right[:, :30], wanted) < PARITY
    assert _relative(left[:, 7:], wanted) < PARITY


@pytest.mark.parametrize("family", families.NAMES)
def test_in_float64_bridge_and_module_agree_closer_than_in_float32(family):
    model = open_model(families.build(family), dtype="float64")
    tokens = families.windows(2, 40)
    with torch.inference_mode():
        bridged = model.bridge(tokens, use_cache=False)
    assert model.dtype == bridged.dtype == torch.float64
    # Not to 1e-15: Hugging Face takes the softmax of most families in float32, whatever the weights are.
    assert _relative(bridged, native_logits(model, tokens)) < 5e-7


def test_the_demo_s_bridge_has_the_logits_of_its_module(demo_model):
    tokens = torch.randint(100, 49_000, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        bridged = demo_model.bridge(tokens, use_cache=False)
    assert _relative(bridged, native_logits(demo_model, tokens)) < PARITY


@pytest.mark.parametrize("family", families.NAMES)
def test_a_query_sees_the_sliding_window_where_its_layer_has_one_and_all_before_it_elsewhere(family):
    model = open_model(families.build(family))
    reach = {}

    def keep(layer):
        return lambda _point, _inputs, pattern: reach.update(
            {layer: int((pattern[0, :, -1] > 0).sum(-1).min())}
        )

    for layer, block in enumerate(model.bridge.blocks):
        block.attn.hook_pattern.register_forward_hook(keep(layer))
    model.bridge(families.windows(1, 40), use_cache=False)
    sliding = families.SLIDING_LAYERS.get(family, ())
    assert reach == {
        layer: families.SLIDING_WINDOW if layer in sliding else 40 for layer in range(model.layers)
    }
