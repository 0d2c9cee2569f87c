"""Laws of fidelity: KL against scipy, 0 where nothing is left to say, and an affine lens that ends at the identity."""

import families
import numpy as np
import pytest
import scipy.stats
import torch

from infodyn_interp import open_model, read_texts
from infodyn_interp.hooks import read_out, trace
from infodyn_interp.measures import fit_maps, honest
from infodyn_interp.measures.fidelity import divergence, measure_fidelity
from infodyn_interp.measures.fits import Reading, collect_maps, spread_maps
from infodyn_interp.measures.regression import Regression

WORDS = ["clock", "rain", "why", "numbers", "one", "town", "proof", "step", "walk", "sure"]


@pytest.fixture(scope="module")
def texts(tiny_tokenizer):
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, 200)) for _ in range(14)]
    return read_texts(documents, tiny_tokenizer, window=48, windows_per_document=2, documents=6)


@pytest.fixture(scope="module")
def reading(texts, tiny_tokenizer):
    return Reading.of(open_model(families.build("llama"), tokenizer=tiny_tokenizer), texts)


@pytest.fixture(scope="module")
def found(reading):
    return measure_fidelity(reading, fit_maps(reading))


def test_divergence_is_scipys():
    draw = np.random.default_rng(0)
    p, q = draw.dirichlet(np.ones(50), (2, 7))
    ours = divergence(torch.from_numpy(p), torch.from_numpy(p).log(), torch.from_numpy(q).log())
    np.testing.assert_allclose(ours.numpy(), scipy.stats.entropy(p, q, axis=-1), rtol=1e-12)


def test_the_logit_lens_says_at_the_last_layer_what_the_model_says(found):
    kl = found["kl"]
    assert (kl.above[:, -1, 0] == 0).all()
    assert (kl.above > -1e-9).all()
    assert (kl.value[:-1] > 1e-3).all()
    back = found["kl_back"]
    assert (back.above[:, -1, 0] == 0).all()
    assert (back.above > -1e-9).all()


def test_each_direction_is_scipys_over_all_windows(reading, found):
    read, totals, streams = read_out(reading.model), np.zeros(2), {}
    for batch in reading.measured():
        reading.capture(
            batch, lambda layer: streams.update({layer.index: layer.residual_out.clone()}), "residual_out"
        )
        with torch.no_grad():
            last, first = (
                read(streams[layer][:, reading.positions]).double().softmax(-1).numpy()
                for layer in (reading.layers[-1], 0)
            )
        totals += [scipy.stats.entropy(*pair, axis=-1).sum() for pair in ((last, first), (first, last))]
    sums = [found[name].above.sum(0)[0, 0] for name in ("kl", "kl_back")]
    np.testing.assert_allclose(sums, totals, rtol=1e-6)
    assert abs(totals[0] / totals[1] - 1) > 1e-5


def test_the_affine_lens_at_the_last_layer_tends_to_the_identity_and_says_the_same_at_the_default(
    reading, found
):
    assert 0 <= found["kl"].value[-1, 1] <= 0.01
    sharp = fit_maps(Reading.of(reading.model, reading.texts, ridge=1e-9)).maps[reading.layers[-1]].lens
    width = reading.model.width
    assert (sharp.weight - torch.eye(width)).abs().max() < 1e-4
    assert sharp.bias.abs().max() < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bloom", "falcon", "granite", "cohere"])
def test_the_read_out_is_the_models_own_scale_and_cap_included(family):
    model, tokens = open_model(families.build(family)), families.windows(1, 12)
    _, last = trace(model, tokens)
    with torch.no_grad():
        assert torch.equal(read_out(model)(last), model.bridge(tokens, use_cache=False))


def test_the_map_of_a_linear_world_is_found_and_the_mean_is_where_nothing_is():
    draw = torch.Generator().manual_seed(0)
    x = 50 + torch.randn(400, 5, generator=draw, dtype=torch.float64)
    weight = torch.randn(5, 3, generator=draw, dtype=torch.float64)
    regression = Regression(5, 3)
    for part in x.split(70):
        regression.add(part, part @ weight + 2)
    affine = regression.solve(1e-12)
    torch.testing.assert_close(affine.weight, weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(affine(x), x @ weight + 2)
    torch.testing.assert_close(regression.covariance, torch.cov(x.T, correction=0))
    components = regression.components(2)
    torch.testing.assert_close(
        torch.cov(((x - x.mean(0)) @ components).T, correction=0), torch.eye(2).double()
    )
    flat = Regression(2, 1)
    flat.add(torch.ones(9, 2).double(), torch.arange(9.0).double()[:, None])
    assert flat.solve()(torch.ones(1, 2).double()).item() == pytest.approx(4)


def test_what_is_fitted_comes_back_from_its_arrays(reading):
    fitted = fit_maps(reading)
    again = collect_maps(dict(spread_maps(fitted)), reading.layers)
    torch.testing.assert_close(again.unigram, fitted.unigram)
    for layer in reading.layers:
        torch.testing.assert_close(again.maps[layer].lens.weight, fitted.maps[layer].lens.weight.float())


def test_alone_it_gives_intervals_over_documents(reading, found):
    group = honest(reading.model, reading.texts, layers=[0, 2])
    assert dict(group.sizes) == {"layer": 2, "lens": 2}
    np.testing.assert_allclose(group["kl"].values[0], found["kl"].value[0], rtol=1e-6)
    assert (group["kl_low"] <= group["kl"]).all()
    assert (group["kl_high"] >= group["kl"]).all()
