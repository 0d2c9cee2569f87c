"""Prior against instantiation in a study of replies: what stands before trials, and how freely their states differ."""

import copy
from dataclasses import replace

import families
import numpy as np
import pytest
import torch
import xarray

from infodyn_interp import RequestError, results
from infodyn_interp.hooks import capture
from infodyn_interp.models import open_model, untrained_twin
from infodyn_interp.observe import compare_instantiations, contrast
from infodyn_interp.observe.prompts import Prompt
from infodyn_interp.observe.sampling import Drawing, draw
from infodyn_interp.observing import trace

PROMPTS = ["The train left the station at nine", "In the old house the clock kept its own time", "Why?"]
ASKED = {"trials": 5, "tokens": 10, "seed": 2, "instantiation": True, "instantiation_tokens": 6}
TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{% endfor %} ->"


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    return open_model(families.build("gpt2"), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def seen(model):
    return trace(model, PROMPTS, **ASKED)


def states_after(model, tokens, token):
    """Attention inputs of the tokens of some trials, by layer."""
    found = []
    windows = torch.cat([torch.tensor(tokens).expand(len(token), -1), torch.from_numpy(token)], 1)
    capture(
        model, windows, lambda layer: found.append(layer.attention_input[:, len(tokens) :].double().numpy())
    )
    return np.stack(found)


def test_each_prompt_is_compared_with_its_own_trials_after_nothing_and_in_the_template(model, seen):
    found = seen["output/instantiation"].to_dataset()
    assert found["condition"].values.tolist() == ["none", "prompt", "chat"]
    assert found["weights"].values.tolist() == ["trained", "untrained"]
    assert (found["trials"] == 5).all()
    tokens = [tuple(model.tokenizer(one)["input_ids"]) for one in PROMPTS]
    replies = [draw(model, Prompt("", "", one), Drawing(5, 10, seed=2)).token[0, :, :6] for one in tokens]
    for weights, read in (("trained", model), ("untrained", untrained_twin(model, 2))):
        both = zip(tokens, replies, strict=True)
        states = np.stack([states_after(read, one, token) for one, token in both], 1)
        named = xarray.DataArray(states, dims=("layer", "prompt", "trial", "step", "direction"))
        expected = compare_instantiations(named)["by_prompt"].transpose("layer", "prompt", "statistic")
        own = found["by_prompt"].sel(weights=weights, condition="prompt").squeeze("temperature")
        np.testing.assert_allclose(own.transpose("layer", "prompt", "statistic"), expected, rtol=1e-5)


def test_nothing_before_a_trial_is_drawn_anew_for_each_prompt(seen):
    none = seen["output/instantiation"]["by_prompt"].sel(condition="none", weights="trained")
    assert (none.std("prompt") > 0).all()


def test_what_conditions_differ_in_is_paired_by_prompt_and_so_is_the_twin(seen):
    found = seen["output/instantiation"].to_dataset()
    by_prompt = found["by_prompt"]
    apart = by_prompt.sel(condition="prompt") - by_prompt.sel(condition="none")
    own = found.sel(instance="prompt")
    np.testing.assert_allclose(own["difference"], apart.mean("prompt").transpose(*own["difference"].dims))
    again = contrast(found[["by_prompt"]], "condition").sel(condition="prompt")
    np.testing.assert_allclose(
        own["difference_low"], again["difference_low"].transpose(*own["difference"].dims)
    )
    beside = (by_prompt.sel(weights="trained") - by_prompt.sel(weights="untrained")).mean("prompt")
    np.testing.assert_allclose(found["above_untrained"], beside.transpose(*found["above_untrained"].dims))


def test_the_replies_are_those_of_a_study_without_it(model, seen):
    alone = trace(model, PROMPTS, **ASKED | {"instantiation": False})
    assert "instantiation" not in alone["output"].children
    np.testing.assert_array_equal(alone["output"]["tension"], seen["output"]["tension"])
    np.testing.assert_array_equal(
        alone["output"]["residual_energy_untrained"], seen["output"]["residual_energy_untrained"]
    )


def test_it_is_kept_and_told_in_words(seen, tmp_path):
    results.save(seen, tmp_path)
    said = results.summary(results.open_result(tmp_path))
    assert "Prior and instantiation: first 6 tokens of trials" in said
    assert "  no prompt: " in said
    assert "the prompt in its chat template: " in said
    assert "; against no prompt " in said
    assert "the untrained twin, on the same tokens: " in said


def test_trials_that_end_early_are_left_out_and_said(tiny_tokenizer):
    module = families.build("llama")
    module.generation_config.eos_token_id = list(range(3, 150))
    short = open_model(module, tokenizer=tiny_tokenizer)
    output = trace(short, PROMPTS, nulls=(), **ASKED)["output"]
    assert "instantiation" not in output.children
    assert "4 trials of every condition reach all tokens" in output.attrs["no_instantiation"]


@pytest.mark.parametrize(
    ("keywords", "prompts", "message"),
    [
        (
            {"instantiation_tokens": 11},
            PROMPTS,
            "11 asked; take 2 or more, and no more than the 10 of a reply",
        ),
        ({"instantiation_tokens": 1}, PROMPTS, "1 asked; take 2 or more"),
        ({"trials": 3}, PROMPTS, "3 prompts and 3 trials; it takes 2 prompts and 4 trials"),
        ({}, PROMPTS[:1], "1 prompts and 5 trials; it takes 2"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    model, keywords, prompts, message, tmp_path
):
    with pytest.raises(RequestError, match=message):
        trace(model, prompts, out=tmp_path / "seen", **ASKED | keywords)
    assert not (tmp_path / "seen").exists()


def test_a_tokenizer_that_offers_nothing_to_compare_with_is_refused(model):
    bare = copy.deepcopy(model.tokenizer)
    bare.bos_token = bare.eos_token = bare.chat_template = None
    with pytest.raises(RequestError, match="nothing to compare a prompt with"):
        trace(replace(model, tokenizer=bare), PROMPTS, **ASKED)
