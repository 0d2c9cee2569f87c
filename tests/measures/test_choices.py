"""Live choices: a token that is appended is read as the text's own, and its functionals are those of the text."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from infodyn_interp import open_model, read_texts
from infodyn_interp.hooks import capture, read_out
from infodyn_interp.measures.action import fit_drift
from infodyn_interp.measures.choices import (
    CONTEXTS,
    FIRST,
    _read_steps,
    try_choices,
    weigh_choices,
)
from infodyn_interp.measures.fidelity import divergence
from infodyn_interp.measures.fits import Reading, fit_maps
from infodyn_interp.measures.paths import CANDIDATES, walk
from infodyn_interp.texts.windows import evenly_spaced

WORDS = ["clock", "rain", "why", "numbers", "one", "town", "proof", "step", "walk", "sure"]


@pytest.fixture(scope="module")
def reading(tiny_tokenizer):
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, 60)) for _ in range(9)]
    texts = read_texts(documents, tiny_tokenizer, window=32, windows_per_document=1, documents=5)
    return Reading.of(open_model(families.build("llama"), tokenizer=tiny_tokenizer), texts)


@pytest.fixture(scope="module")
def fitted(reading):
    return fit_maps(reading)


@pytest.fixture(scope="module")
def paths(reading, fitted):
    return walk(reading, fitted).paths


def test_a_step_into_the_texts_own_next_token_is_the_step_of_its_path(reading, fitted, paths):
    window, place = next(reading.first_windows(1, 1)).tokens, 20
    steps, apart = _read_steps(
        reading,
        fitted,
        window[0],
        np.array([place]),
        window[:, place + 1 : place + 2],
        read_out(reading.model),
    )
    for step, path in zip(steps, paths, strict=True):  # a path begins at the second token
        np.testing.assert_allclose(step[0, 0], path[0, place - 1 : place + 1], rtol=1e-4, atol=1e-4)
    assert apart[0] > 1e-3
    assert apart[-1] < 0.05  # the last layer's lens is nearly the output


def test_choices_are_the_models_likeliest_and_their_functionals_those_of_a_pass_over_them(
    reading, fitted, paths
):
    choices = try_choices(reading, fitted, 2)
    assert choices.log_probability.shape == (2, CONTEXTS, CANDIDATES)
    assert choices.functionals.shape == (len(reading.layers), 2, CONTEXTS, CANDIDATES, 3)
    window = next(reading.first_windows(1, 1)).tokens
    place = int(FIRST + evenly_spaced(window.shape[1] - 1 - FIRST, CONTEXTS)[1])
    with torch.no_grad():
        logs = reading.model.bridge(window, use_cache=False)[0, place].double().log_softmax(-1)
    top = logs.topk(CANDIDATES)
    np.testing.assert_allclose(choices.log_probability[0, 1], top.values.numpy(), rtol=1e-4, atol=1e-5)
    tokens = torch.cat([window[:, : place + 1], top.indices[None, :1]], 1)
    streams = {}
    says = capture(
        reading.model,
        tokens,
        lambda layer: streams.setdefault(layer.index, layer.residual_out[:, -2:].clone()),
        wants=("residual_out",),
        checked=replace(reading.checked, window=place + 2),
    )[:, -1].double()
    maps = fitted.maps[1]
    step = ((streams[1].double() - maps.mean.double()) @ maps.components.double()).numpy()
    action = fit_drift(np.delete(paths[1], 0, 0)).action(step)[0]
    heard = read_out(reading.model)(maps.lens(streams[1][:, 1:]))[:, 0].detach().double()
    kl = divergence(says.softmax(-1), says.log_softmax(-1), heard.log_softmax(-1))
    np.testing.assert_allclose(choices.functionals[1, 0, 1, 0, 0], action, rtol=1e-3)
    np.testing.assert_allclose(choices.functionals[1, 0, 1, 0, 2], kl.item(), rtol=1e-3)


def test_multipliers_have_an_interval_in_every_layer_but_the_last(reading, fitted):
    found = weigh_choices(reading, fitted, 5)
    multiplier, low, high = (found[f"multiplier{end}"] for end in ("", "_low", "_high"))
    assert np.isnan(multiplier[-1]).all()
    assert ((low < multiplier) & (multiplier < high))[:-1].all()
    assert (found["inflation"][:-1] >= 1).all()
    assert weigh_choices(reading, fitted, 3) is None
