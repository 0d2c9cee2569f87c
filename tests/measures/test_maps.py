"""Laws of the maps: what is linear has share 1, what contracts is undone, gradients are autograd's, fields transfer."""

import families
import numpy as np
import pytest
import torch

from infodyn_interp import open_model, read_texts
from infodyn_interp.hooks import trace
from infodyn_interp.measures import fit_maps, read_maps
from infodyn_interp.measures.fits import Reading
from infodyn_interp.measures.maps import QUANTITIES, Transfer, measure_maps, principal_angle
from infodyn_interp.measures.ratios import Ratio, say
from infodyn_interp.measures.regression import Regression
from infodyn_interp.measures.updates import gradient_norms, inversion_error, steepness

WORDS = ["clock", "rain", "why", "numbers", "one", "town", "proof", "step", "walk", "sure"]


@pytest.fixture(scope="module")
def texts(tiny_tokenizer):
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, 200)) for _ in range(14)]
    return read_texts(documents, tiny_tokenizer, window=48, windows_per_document=1, documents=5)


def held_out_share(activation):
    """Share of an FFN's update that a linear map explains in rows it was not fitted on."""
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(12, 12, generator=draw, dtype=torch.float64) for _ in range(2))
    x = torch.randn(4000, 12, generator=draw, dtype=torch.float64)
    y = activation(x @ first) @ second
    regression = Regression(12, 12)
    regression.add(x[:2000], y[:2000])
    left = (y[2000:] - regression.solve(1e-9)(x[2000:])).square().sum()
    return 1 - (left / (y[2000:] - y[:2000].mean(0)).square().sum()).item()


def test_a_linear_block_has_share_one_and_a_relu_what_its_half_line_leaves():
    assert held_out_share(lambda x: x) == pytest.approx(1, abs=1e-9)
    # of a rectified normal variable, a line explains (1/4) / (1/2 - 1/2 pi)
    assert held_out_share(torch.relu) == pytest.approx(0.25 / (0.5 - 0.5 / np.pi), abs=0.02)


def test_a_linear_feed_forward_in_a_model_has_share_one(texts, tiny_tokenizer):
    module = families.build("gpt2", activation_function="linear", dtype=torch.float64)
    reading = Reading.of(open_model(module, dtype="float64", tokenizer=tiny_tokenizer), texts, ridge=1e-10)
    found = measure_maps(reading, fit_maps(reading), walked=1)
    np.testing.assert_allclose(found["ffn_linear"].value, 1, atol=1e-5)


def test_the_angle_between_what_is_read_and_written_is_that_of_the_subspaces():
    draw = torch.Generator().manual_seed(0)
    base = torch.linalg.qr(torch.randn(20, 20, generator=draw)).Q
    rows = torch.randn(2, 50, 4, generator=draw)
    same = principal_angle(rows @ base[:, :4].T, rows @ base[:, :4].T, 4)
    apart = principal_angle(rows @ base[:, :4].T, rows @ base[:, 4:8].T, 4)
    torch.testing.assert_close(same, torch.zeros(2).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(apart, torch.full((2,), 90.0).double(), atol=0.1, rtol=0)


@pytest.fixture
def contraction():
    """A map with Lipschitz constant .5 in two windows, and states."""
    matrix = torch.linalg.qr(torch.randn(6, 6).double()).Q * 0.5
    return (lambda x: torch.tanh(x @ matrix)), torch.randn(2, 3, 6).double()


def test_a_state_is_found_back_where_the_update_contracts_and_not_where_it_stretches(contraction):
    update, state = contraction
    error = inversion_error(update, state, state + update(state), steps=60)
    assert (error < 1e-8).all()

    def stretch(x):
        return 9 * update(x)

    assert (inversion_error(stretch, state, state + stretch(state), steps=60) > 0.1).all()


def test_steepness_is_the_largest_singular_value_of_each_windows_jacobian(contraction):
    update, state = contraction
    state = state * torch.tensor([0.3, 2.0]).double()[:, None, None]
    found = steepness(update, state, torch.randn_like(state), iterations=60)
    for window in range(2):
        jacobian = torch.autograd.functional.jacobian(update, state[window]).reshape(18, 18)
        torch.testing.assert_close(found[window], torch.linalg.matrix_norm(jacobian, 2), rtol=1e-3, atol=0)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "bloom"])
def test_gradients_with_the_skip_path_are_autograds_and_without_it_go_through_the_updates_alone(family):
    model = open_model(families.build(family))
    tokens = families.windows(2, 16)
    blocks, last = trace(model, tokens)
    kept, without = gradient_norms(model, tokens, blocks, last)
    streams, hooks = [], []
    for block in model.bridge.blocks:

        def keep(module, inputs, keywords):
            streams.append((inputs or tuple(keywords.values()))[0].requires_grad_())
            streams[-1].retain_grad()

        hooks.append(block.register_forward_pre_hook(keep, with_kwargs=True))
    logits = model.bridge(tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    says = logits[:, :-1].log_softmax(-1)
    (-says.gather(-1, tokens[:, 1:, None]).sum()).backward()
    norms = torch.stack([stream.grad.flatten(1).norm(dim=1) for stream in streams])
    torch.testing.assert_close(kept / kept[-1], norms / norms[-1], rtol=1e-3, atol=0)
    # one block from the end the two differ by the identity alone
    assert (without[-1] > 0).all()
    assert not torch.allclose(without[-1], kept[-1], rtol=1e-2)


def test_a_field_that_another_layers_energies_share_transfers_and_noise_does_not():
    draw = torch.Generator().manual_seed(0)
    transfer = Transfer(6, 3, 2)
    for document in range(6):
        shared = torch.randn(1, 80, 2, generator=draw)
        noise = torch.randn(3, 1, 80, 2, generator=draw)
        mix = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
        transfer.keep(0, shared, shared @ mix)
        transfer.keep(1, noise[0], shared + noise[1])
        transfer.keep(2, noise[2], noise[0])
        transfer.add(np.array([document]))
    found = transfer.solve().value
    assert found[0, 0] > 0.999
    assert found[0, 1] == pytest.approx(0.5, abs=0.1)
    assert found[1, 2] > 0.99
    assert np.abs(found[[0, 1, 2], [2, 0, 0]]).max() < 0.1


@pytest.mark.parametrize("family", ["gemma2", "mixtral", "bloom", "gptj"])
def test_every_kind_of_family_is_measured_and_its_numbers_are_possible(family, texts, tiny_tokenizer):
    model = open_model(families.build(family), tokenizer=tiny_tokenizer)
    group = read_maps(model, texts, walked=2)
    assert set(QUANTITIES) <= set(group)
    for name in QUANTITIES:
        assert np.isfinite(group[name]).all(), name
    assert (np.abs(group["cosine"]) <= 1).all()
    assert (group["ffn_linear"] <= 1).all()
    assert (group["lipschitz"] > 0).all()
    assert ((group["ffn_angle"] >= 0) & (group["ffn_angle"] <= 90)).all()


def test_the_jackknife_of_a_ratio_covers_its_truth():
    draw, hits, truth = np.random.default_rng(0), 0, 2.0
    for _ in range(400):
        below = draw.gamma(4, 1, 12)
        above = truth * below + draw.standard_normal(12)
        estimate = Ratio(above, below).estimate()
        hits += bool(estimate.low <= truth <= estimate.high)
    assert 0.92 <= hits / 400 <= 0.98


def test_documents_that_one_side_did_not_read_count_on_neither():
    whole, part = (
        Ratio(np.arange(1.0, 7), np.ones(6)),
        Ratio(np.array([1.0, 2, 0, 0]), np.array([1.0, 1, 0, 0])),
    )
    apart = whole.of(np.arange(4)).estimate(part)
    assert apart.value == pytest.approx(0)
    alone = Ratio(np.array([3.0, 0]), np.array([1.0, 0])).estimate()
    assert alone.value == 3
    assert np.isnan(alone.low)


def test_a_contrast_that_says_nothing_is_said_to_look_the_same():
    draw = np.random.default_rng(0)

    def ratio(mean):
        return Ratio(mean + draw.standard_normal((10, 30)), np.ones((10, 30)))

    assert say(ratio(0).estimate(ratio(0))).startswith("LOOKS THE SAME")
    assert say(ratio(9).estimate(ratio(0))) == "DIFFERS: above it in 30, below it in 0 of 30"
    assert say(Ratio.empty(4, 3).estimate(Ratio.empty(4, 3))).startswith("not estimable")
