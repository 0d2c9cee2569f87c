"""Twins: the form of a model without what it learned, drawn from a seed, the model itself untouched."""

import families
import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from infodyn_interp.errors import RequestError
from infodyn_interp.models import (
    native_logits,
    open_model,
    permuted_weights_twin,
    recast,
    unbridged,
    untrained_twin,
)
from infodyn_interp.models.description import hash_weights

TWINS = [untrained_twin, permuted_weights_twin]
# tied and fused; grouped; forwards replaced by the bridge; experts; learned positions, delegated attention
TRIED = ["gpt2", "llama", "falcon", "mixtral", "opt"]


def _weights(model):
    with unbridged(model.bridge) as module:
        return dict(module.named_parameters())


def _digest(model):
    with unbridged(model.bridge) as module:
        return hash_weights(module)


@pytest.mark.parametrize("make", TWINS)
@pytest.mark.parametrize("family", TRIED)
def test_a_twin_leaves_the_model_and_the_random_state_as_they_were(family, make):
    model = open_model(families.build(family))
    tokens = families.windows(2, 20)
    logits, state = native_logits(model, tokens), torch.get_rng_state()
    twin = make(model, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert _digest(model) == model.digest != twin.digest
    assert torch.equal(native_logits(model, tokens), logits)
    assert not {w.data_ptr() for w in _weights(twin).values()} & {
        w.data_ptr() for w in _weights(model).values()
    }


@pytest.mark.parametrize("make", TWINS)
@pytest.mark.parametrize("family", TRIED)
def test_equal_seeds_give_equal_twins_whatever_was_drawn_before_and_other_seeds_give_others(family, make):
    model = open_model(families.build(family))
    first = make(model, 0)
    torch.rand(5)
    assert make(model, 0).digest == first.digest
    assert make(model, 1).digest != first.digest


@pytest.mark.parametrize("family", TRIED)
def test_a_permuted_twin_keeps_the_entries_of_each_matrix_and_every_gain_and_bias(family):
    model = open_model(families.build(family))
    before, after = _weights(model), _weights(permuted_weights_twin(model))
    assert list(before) == list(after)
    for name, weights in before.items():
        if weights.ndim < 2:
            assert torch.equal(after[name], weights), name
            continue
        pairs = (
            zip(weights.flatten(0, -3), after[name].flatten(0, -3), strict=True)
            if weights.ndim > 2
            else [(weights, after[name])]
        )
        for matrix, permuted in pairs:
            assert torch.equal(matrix.flatten().sort().values, permuted.flatten().sort().values), name
            # Nothing of the order is left: neighbours correlate no more than chance lets them.
            assert abs(np.corrcoef(matrix.flatten(), permuted.flatten())[0, 1]) < 5 / matrix.numel() ** 0.5, (
                name
            )


@pytest.mark.parametrize("make", TWINS)
def test_tied_weights_stay_tied(make):
    twin = make(open_model(families.build("gpt2")))
    with unbridged(twin.bridge) as module:
        assert module.lm_head.weight is module.transformer.wte.weight


@pytest.mark.parametrize("family", families.NAMES)
def test_an_untrained_twin_is_the_family_s_own_initialisation(family):
    model = open_model(families.build(family))
    twin = untrained_twin(model, 5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        with unbridged(model.bridge) as module:
            fresh = type(module)(module.config)
    assert twin.digest == hash_weights(fresh)
    assert (twin.twin, twin.layers, twin.heads, twin.context) == (
        "untrained",
        model.layers,
        model.heads,
        model.context,
    )


@pytest.mark.parametrize("make", TWINS)
def test_a_twin_has_the_dtype_and_the_tokenizer_of_its_model(make, tiny_tokenizer):
    model = open_model(families.build("llama"), dtype="bfloat16", tokenizer=tiny_tokenizer)
    twin = make(model)
    assert {weights.dtype for weights in _weights(twin).values()} == {torch.bfloat16}
    assert twin.tokenizer is tiny_tokenizer
    assert (twin.name, twin.device) == (model.name, model.device)


@pytest.mark.parametrize("make", TWINS)
def test_a_twin_of_a_model_without_a_hugging_face_module_is_refused_in_one_line(make):
    native = TransformerBridge.boot_native(
        {
            "n_layers": 2,
            "d_model": 32,
            "n_heads": 2,
            "d_head": 16,
            "d_vocab": 50,
            "n_ctx": 32,
            "act_fn": "gelu",
            "seed": 0,
        }
    )
    model = open_model(native)
    with pytest.raises(RequestError, match="needs a Hugging Face module"):
        make(model)


@pytest.mark.parametrize("family", TRIED)
def test_weights_in_another_dtype_are_the_same_weights_rounded(family):
    model = open_model(families.build(family))
    for dtype in (torch.float64, torch.bfloat16):
        twin = recast(model, dtype)
        for name, weights in _weights(twin).items():
            assert torch.equal(weights, _weights(model)[name].to(dtype)), name
        assert (twin.dtype, twin.twin, twin.heads) == (dtype, model.twin, model.heads)
    tokens = families.windows(2, 20)
    logits = native_logits(model, tokens)
    assert torch.equal(native_logits(recast(model, "float32"), tokens), logits)
    torch.testing.assert_close(native_logits(recast(model, "float64"), tokens).float(), logits)
    assert _digest(model) == model.digest


def test_a_dtype_that_models_are_not_opened_in_is_refused():
    with pytest.raises(RequestError, match="dtype: int8 is none of float32"):
        recast(open_model(families.build("llama")), "int8")


def test_the_demo_has_an_untrained_twin_although_it_was_read_from_quantised_weights(demo_model):
    twin = untrained_twin(demo_model)
    assert twin.digest != demo_model.digest == _digest(demo_model)
    tokens = torch.arange(1000, 1032)[None]
    # What was learned is lost: the next token is near to anybody's guess.
    surprisal = -native_logits(twin, tokens)[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None]).mean()
    assert 0.8 * np.log(49_152) < float(surprisal)
