"""Worlds are what their recipes say, by formulas of their own."""

import numpy as np
import oracle
import pytest
import torch

from infodyn_interp.energy.terms import rhythm_columns
from infodyn_interp.errors import RequestError
from infodyn_interp.planted.worlds import (
    INGREDIENTS,
    ROWS,
    WORLDS,
    World,
    center,
    choose_worlds,
    draw,
    support,
)

DOCUMENTS, WINDOW = 12, 40


@pytest.fixture(scope="module")
def drawn():
    worlds = [world for world in WORLDS.values() if not world.persistent]
    return worlds, draw(worlds, DOCUMENTS, WINDOW, np.random.default_rng(0))


def test_energies_are_row_centred_and_of_unit_variance(drawn):
    worlds, made = drawn
    mask = support(WINDOW)
    assert (made.energies[:, :, ~mask] == 0).all()
    assert np.abs(made.energies.sum(-1)).max() < 1e-9
    variance = (made.energies**2).sum((0, 2, 3)) / (DOCUMENTS * mask.sum())
    # ingredients are drawn apart, so their covariances are small but not nothing
    assert variance == pytest.approx(np.ones(len(worlds)), abs=0.25)
    assert variance[list(WORLDS).index("noise")] == pytest.approx(1)


def test_support_and_centring_are_the_formulas():
    np.testing.assert_array_equal(support(WINDOW), oracle.support(WINDOW))
    values = np.random.default_rng(1).normal(size=(3, WINDOW, WINDOW))
    mask = oracle.support(WINDOW)
    np.testing.assert_allclose(center(values), [oracle.center_rows(one, mask) for one in values], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "width", "tau"), [("track", 0.4, 2), ("track_8", 0.4, 8), ("track_32", 0.4, 32)]
)
def test_a_tracks_world_is_the_track_with_a_minus_sign(name, width, tau):
    world = World({name: 1.0})
    made = draw([world], 4, WINDOW, np.random.default_rng(2))
    mask = oracle.support(WINDOW)
    for z, energy in zip(made.states[..., :8], made.energies[:, 0], strict=True):
        truth = oracle.center_rows(-oracle.track(z, width, tau), mask)
        scale = (energy * truth).sum() / (truth**2).sum()
        assert scale > 0
        np.testing.assert_allclose(energy, scale * truth, atol=1e-9)


def test_a_rhythms_world_lies_in_the_rhythm_columns():
    made = draw([World({"rhythm": 1.0})], 6, WINDOW, np.random.default_rng(3))
    columns = rhythm_columns(torch.from_numpy(made.flags)).numpy()
    dense = np.stack(
        [center(np.broadcast_to(c[:, None], (6, WINDOW, WINDOW))) for c in np.moveaxis(columns, -1, 0)], -1
    )
    fitted, *_ = np.linalg.lstsq(dense.reshape(-1, dense.shape[-1]), made.energies[:, 0].ravel(), rcond=None)
    np.testing.assert_allclose(dense @ fitted, made.energies[:, 0], atol=1e-8)


def test_carry_over_persists_by_its_rho_and_key_effects_for_ever():
    for name, rho in (("carry", 0.7), ("carry_97", 0.97), ("key_effects", 1.0)):
        made = draw([World({name: 1.0})], 30, WINDOW, np.random.default_rng(4)).energies[:, 0]
        rows = made[:, 20:, 4:19]
        rows = rows - rows.mean(-1, keepdims=True)
        found = (rows[:, 1:] * rows[:, :-1]).sum() / (rows[:, :-1] ** 2).sum()
        assert found == pytest.approx(rho, abs=0.05)


def test_the_same_generator_draws_the_same_world_whatever_stands_beside_it_in_shape():
    one, two = (draw([WORLDS["all_three"]], 5, WINDOW, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.energies, two.energies)
    assert one.energies.shape == (5, 1, WINDOW, WINDOW)


def test_every_world_names_rows_and_ingredients_that_exist():
    used = set()
    for world in WORLDS.values():
        assert set(world.present) <= set(ROWS)
        used |= set(world.shares)
    assert used == set(INGREDIENTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: World({"gravity": 0.1}), "'gravity' is not one of"),
        (lambda: World({"carry": 0.8, "track": 0.3}), "they pass 1"),
        (lambda: choose_worlds(["narnia"]), "worlds: 'narnia' is not one of noise, "),
        (lambda: draw([WORLDS["noise"]], 0, 40, np.random.default_rng(0)), "a draw needs a document"),
        (lambda: draw([WORLDS["noise"]], 3, 12, np.random.default_rng(0)), "windows of 16 tokens"),
        (
            lambda: draw(
                [WORLDS["noise"], WORLDS["bilinear_32_persistent"]], 3, 40, np.random.default_rng(0)
            ),
            "persistent states are drawn apart",
        ),
    ],
)
def test_what_makes_no_world_is_refused_in_one_line(make, message):
    with pytest.raises(RequestError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
