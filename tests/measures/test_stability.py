"""Laws of stability: exponents of known Jacobians, products against differences, potentials of known paths."""

import families
import numpy as np
import pytest
import torch

from infodyn_interp import RequestError
from infodyn_interp.hooks import trace
from infodyn_interp.measures import exponents, harmless
from infodyn_interp.measures.depths import token_steps
from infodyn_interp.measures.jacobians import Jacobian, push
from infodyn_interp.measures.stability import Dynamics, longest_run, quadratic_form
from infodyn_interp.models import open_model

DEPTH, WIDTH = 6, 10


@pytest.fixture
def network():
    """Matrices of a random linear network, its maps, and the matrix of all of it."""
    matrices = torch.randn(DEPTH, WIDTH, WIDTH, dtype=torch.float64) / WIDTH**0.5
    return (
        matrices,
        [lambda x, m=matrix: m @ x for matrix in matrices],
        torch.linalg.multi_dot([*matrices.flip(0)]),
    )


def test_from_its_right_singular_vectors_exponents_are_the_log_singular_values_over_depth(network):
    _, steps, whole = network
    _, sizes, directions = torch.linalg.svd(whole)
    rates = exponents(steps, torch.randn(WIDTH).double(), directions.T)[:, 0]
    torch.testing.assert_close(rates.mean(0), sizes.log() / DEPTH, rtol=0, atol=1e-6)


def test_from_any_full_frame_exponents_add_up_to_the_log_determinant_over_depth(network):
    matrices, steps, _ = network
    rates = exponents(steps, torch.randn(WIDTH).double(), torch.randn(WIDTH, WIDTH).double())[:, 0]
    torch.testing.assert_close(rates.mean(0).sum(), matrices.det().abs().log().mean(), rtol=0, atol=1e-6)


def test_one_direction_grows_as_the_product_says(network):
    _, steps, whole = network
    direction = torch.randn(WIDTH, 1).double()
    rates = exponents(steps, torch.randn(WIDTH).double(), direction)[:, 0]
    expected = ((whole @ direction).norm() / direction.norm()).log() / DEPTH
    torch.testing.assert_close(rates.mean(), expected, rtol=0, atol=1e-10)


def test_growth_of_the_norm_alone_leaves_angles_as_they_are():
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH).double()).Q
    steps = [lambda x, size=size: size * (turn @ x) for size in (2.0, 0.5, 7.0)]
    start, frame = torch.randn(WIDTH).double(), torch.randn(WIDTH, 3).double()
    raw, angular = exponents(steps, start, frame).unbind(1)
    torch.testing.assert_close(raw, torch.tensor([2.0, 0.5, 7.0]).double().log()[:, None].expand(3, 3))
    torch.testing.assert_close(angular, torch.zeros(3, 3).double())


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "falcon", "olmo2", "gptj"])
def test_products_agree_with_central_differences_and_with_each_other(family):
    model = open_model(families.build(family, dtype=torch.float64), dtype="float64")
    blocks, _ = trace(model, families.windows(1, 16))
    block, tangent = blocks[1], torch.randn(1, 1, 16, model.width).double()
    image, (carried,) = push(block.advance, block.stream, tangent)
    # some families compute norms and softmax in float32 whatever their weights are: a wide step, to the fourth order
    at = {k: block.advance(block.stream + k * 0.03 * tangent[0]) for k in (-2, -1, 1, 2)}
    difference = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * 0.03)
    assert (carried - difference).norm() / difference.norm() < 1e-4
    torch.testing.assert_close(image, block.advance(block.stream))
    cotangent = torch.randn_like(image)
    jacobian = Jacobian(block.advance, block.stream)
    torch.testing.assert_close(jacobian.push(tangent[0]), carried, rtol=1e-5, atol=1e-6)
    back = jacobian.pull(cotangent)
    torch.testing.assert_close((back * tangent[0]).sum(), (cotangent * carried).sum(), rtol=1e-5, atol=1e-6)


def test_a_token_goes_through_the_blocks_as_in_the_pass_itself():
    model = open_model(families.build("llama"))
    blocks, last = trace(model, families.windows(1, 16))
    state = blocks[0].stream[0, -1]
    for step in token_steps(blocks):
        state = step(state)
    torch.testing.assert_close(state, last[0, -1])


def test_autoregressive_paths_rise_as_their_twins_do():
    draw = np.random.default_rng(1)
    fitted = Dynamics.fit(np.cumsum(draw.standard_normal((4, 50, 3)), 1))
    path = Dynamics(0.8 * np.eye(3), np.zeros(3), np.eye(3), np.zeros(3), fitted.form).draw(
        draw.standard_normal((24, 3)), 120, draw
    )
    found = harmless(path)
    assert np.abs((found.share - found.share_null).mean(0)).max() < 0.02
    assert np.abs((found.run - found.run_null).mean(0)).max() < 1


def test_paths_that_fall_down_a_well_are_told_from_their_twins():
    draw = np.random.default_rng(2)
    radius = np.exp(-0.05 * np.arange(60))[:, None]
    path = draw.standard_normal((8, 1, 3)) * radius + 1e-3 * draw.standard_normal((8, 60, 3))
    found = harmless(path)
    assert (found.share[:, 1] < 0.35).all()


def test_the_form_falls_along_the_steps_it_was_fitted_on():
    draw = np.random.default_rng(3)
    matrix = 0.9 * np.linalg.qr(draw.standard_normal((4, 4)))[0]
    start = draw.standard_normal((6, 4))
    path = np.stack([start @ np.linalg.matrix_power(matrix, k) for k in range(12)], 1)
    fitted = Dynamics.fit(path)
    np.testing.assert_allclose(fitted.step, matrix, atol=1e-8)
    assert (np.diff(quadratic_form(path, fitted), axis=1) < 0).all()


def test_the_longest_run_is_counted():
    rising = np.array([[1, 1, 0, 1, 1, 1, 0], [0] * 7, [1] * 7], bool)
    assert longest_run(rising).tolist() == [3, 0, 7]


@pytest.mark.parametrize(
    ("path", "more", "message"),
    [
        (np.zeros((4, 7, 2)), {}, "4 documents of 7 steps given, 2 of 8 are needed"),
        (np.zeros((1, 20, 2)), {}, "1 documents of 20 steps"),
        (np.full((3, 20, 2), np.nan), {}, "not finite"),
        (np.zeros((3, 20, 2)), {"alpha": 0.0}, r"alpha: 0.0 asked, it lies above 0 and up to 1"),
    ],
)
def test_paths_that_say_nothing_are_refused_in_one_line(path, more, message):
    with pytest.raises(RequestError, match=message) as caught:
        harmless(path, **more)
    assert "\n" not in str(caught.value)
