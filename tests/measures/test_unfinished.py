"""What functionals leave unfinished: found in the innovations that follow it, and nowhere else."""

import families
import numpy as np
import pytest

from infodyn_interp import open_model, read_texts
from infodyn_interp.errors import RequestError
from infodyn_interp.identify.interference import LEAST_SLOPE, Sizes
from infodyn_interp.measures.action import fit_drift
from infodyn_interp.measures.fidelity import measure_fidelity
from infodyn_interp.measures.fits import Reading, fit_maps
from infodyn_interp.measures.stability import Dynamics, quadratic_form
from infodyn_interp.measures.unfinished import left_by_steps, regress_unfinished, unclosed, weigh_unfinished

DOCUMENTS, HEADS, QUERIES = 12, 3, 80
KEYS = np.arange(8.0, 8 + QUERIES)


WORDS = ["clock", "rain", "why", "numbers", "one", "town", "proof", "step", "walk", "sure", ".", "\n"]


@pytest.fixture(scope="module")
def reading(tiny_tokenizer):
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, 160)) for _ in range(14)]
    texts = read_texts(documents, tiny_tokenizer, window=72, windows_per_document=1, documents=8)
    return Reading.of(open_model(families.build("llama"), tokenizer=tiny_tokenizer), texts)


@pytest.fixture(scope="module")
def fitted(reading):
    return fit_maps(reading)


def world(seed, follows):
    draw = np.random.default_rng(seed)
    unfinished = np.exp(0.5 * draw.standard_normal((2, DOCUMENTS, QUERIES)))
    size = 0.3 * draw.standard_normal((DOCUMENTS, HEADS, QUERIES))
    size[..., 1:] += follows * np.log(unfinished[0])[:, None, :-1]
    others = np.exp(0.3 * draw.standard_normal((2, DOCUMENTS, HEADS, QUERIES)))
    sizes = Sizes(others[0], np.exp(size), others[1])
    return sizes, {"honest": unfinished[0], "helpful": unfinished[1]}


def test_innovations_follow_the_functional_that_drives_them_and_no_other():
    found = regress_unfinished(*world(0, 0.4), KEYS, np.random.default_rng(0))
    honest, helpful = found.sel(functional="honest"), found.sel(functional="helpful")
    assert (honest["slope_low"] > LEAST_SLOPE).all()
    assert (honest["p"] <= 0.001).all()
    assert (abs(helpful["slope"]) < LEAST_SLOPE).all()
    assert (helpful["p"] > 0.001).all()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda one: one[:, 1:], r"honest is of \(12, 79\)"),
        (lambda one: one - 10, "honest is not above 0"),
        (lambda one: 0 * one + 1, "honest is not above 0 at every query, or constant"),
    ],
)
def test_a_functional_without_sizes_is_refused_in_one_line(spoil, words):
    sizes, unfinished = world(0, 0)
    with pytest.raises(RequestError, match=words):
        regress_unfinished(sizes, {"honest": spoil(unfinished["honest"])}, KEYS, np.random.default_rng(0))


def test_one_document_is_refused():
    sizes, unfinished = world(0, 0)
    few = Sizes(*(getattr(sizes, name)[:1] for name in sizes.__match_args__))
    with pytest.raises(RequestError, match="1 documents; an interval needs 4"):
        regress_unfinished(few, unfinished, KEYS, np.random.default_rng(0))


def test_steps_leave_the_action_and_the_rise_that_their_whole_path_has():
    path = np.random.default_rng(0).standard_normal((4, 40, 3)).cumsum(1)
    left, rest = left_by_steps(path), np.delete(path, 2, 0)
    assert np.isnan([one[:, 0] for one in left.values()]).all()
    np.testing.assert_allclose(left["helpful"][2, 1:].sum(), fit_drift(rest).action(path[2]))
    form = quadratic_form(path[2:3], Dynamics.fit(rest))[0]
    np.testing.assert_allclose(left["harmless"][2, 1:].prod(), form[-1] / form[0])


def test_what_is_unclosed_at_every_token_is_what_fidelity_reads_at_some(reading, fitted):
    found = unclosed(reading, fitted, (0, 1, 2), 5)
    kl, places = measure_fidelity(reading, fitted)["kl"], reading.positions.numpy() - 1
    for layer in (0, 1):
        assert found[layer].shape == (5, 71)
        np.testing.assert_allclose(found[layer][:, places].sum(1), kl.above[:5, layer, 1], rtol=1e-3)
    assert (found[2] == 0).all()


@pytest.mark.parametrize(("driven", "follows"), [(0, 1.0), (1, -1.0)])
def test_a_functional_of_the_model_that_drives_innovations_is_found_at_its_layer(
    reading, fitted, driven, follows
):
    left = np.log(unclosed(reading, fitted, (driven,), 8)[driven])
    left = (left - left.mean(1, keepdims=True)) / left.std(1, keepdims=True)
    draw, sizes = np.random.default_rng(1), {}
    for layer in (0, 1):
        logs = 0.5 * draw.standard_normal((3, 8, 2, 71))
        logs[1, ..., 1:] += follows * (layer == driven) * left[:, None, :-1]
        sizes[layer] = Sizes(*np.exp(logs))
    found = weigh_unfinished(reading, fitted, sizes, 8)
    told = found.sel(layer=driven, functional="honest")
    assert (np.sign(follows) * told["unfinished"] > 0.4).all()
    assert (told["unfinished_q"] <= 0.005).all()
    assert (found.sel(layer=1 - driven)["unfinished_p"] > 0.005).all()
    few = weigh_unfinished(reading, fitted, sizes, 3)  # an interval needs four documents
    assert np.isnan(few["unfinished"].sel(functional="honest")).all()
    assert np.isfinite(few["unfinished"].sel(functional="helpful")).all()
