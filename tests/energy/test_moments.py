"""Structured moments against dense arrays with alternating projections, and the laws a stream needs."""

from collections.abc import Callable

import numpy as np
import oracle
import pytest
import torch
from made_up import HEADS, World, gram

from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.terms import FINE, NINE, Grid, columns_of


def dense(world: World, place: int, gauge: str) -> tuple[np.ndarray, np.ndarray]:
    """The same from dense arrays in float64, and the row-gauge squares that set its scale."""
    mask, columns = world.support.mask.numpy(), world.columns
    arrays = oracle.dense_columns(
        world.states[place],
        world.rhythm[place],
        world.centres,
        3.0,
        columns.bins,
        columns.grid.widths,
        columns.grid.taus,
    )
    if gauge == "within":
        arrays = arrays[: world.columns.within]
    arrays = [*arrays, *(world.surface[place] - world.scores[place])]
    rows = [oracle.center_rows(array, mask) for array in arrays]
    centred = rows if gauge == "row" else [oracle.center_both(array, mask) for array in arrays]
    flat = np.stack(centred).reshape(len(arrays), -1)
    return flat @ flat.T, np.stack(rows).reshape(len(arrays), -1).__pow__(2).sum(1)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("gauge", ["row", "within"])
@pytest.mark.parametrize(
    ("window", "rank", "reach", "grid"),
    [(64, 8, None, NINE), (50, 3, 20, NINE), (40, 1, None, NINE), (40, 3, None, FINE)],
)
def test_structured_moments_equal_dense_ones_for_every_pair_of_columns(
    window: int, rank: int, reach: int | None, grid: Grid, gauge: str, dtype: torch.dtype, bound: float
) -> None:
    world = World(window, rank, reach, grid=grid)
    moments = world.moments(dtype)
    for place in range(2):
        expected, squares = dense(world, place, gauge)
        scale = np.sqrt(np.outer(squares, squares)) + 1e-30
        difference = np.abs(gram(world, moments, place, gauge) - expected) / scale
        assert np.nanmax(difference) <= bound


@pytest.mark.parametrize(
    ("dtype", "size", "bound"), [(torch.float64, 1e6, 1e-9), (torch.float32, 30.0, 1e-6)]
)
def test_adding_a_row_constant_to_scores_changes_no_moment(
    dtype: torch.dtype, size: float, bound: float
) -> None:
    world = World(64, 4, windows=1)
    constant = size * np.random.default_rng(1).uniform(-1, 1, (1, HEADS, 64, 1))
    held = world.scores.astype(np.float32 if dtype == torch.float32 else np.float64)
    before, after = world.moments(dtype, held), world.moments(dtype, held + constant)
    for gauge in ("row", "within"):
        first, second = gram(world, before, 0, gauge), gram(world, after, 0, gauge)
        scale = np.sqrt(np.outer(np.diag(first), np.diag(first))) + 1e-30
        alive = np.diag(first) > 1e-9 * np.diag(gram(world, before, 0, "row"))[: len(first)].max()
        assert np.nanmax((np.abs(first - second) / scale)[np.ix_(alive, alive)]) <= bound


def test_moments_of_a_corpus_are_the_sum_over_any_split_of_it() -> None:
    world = World(40, 3, windows=6)
    folds = [0, 1, 2, 0, 1, 2]
    whole = world.folded(world.moments(), folds, 3)
    for cut in (1, 3, 5):
        parts = []
        for chosen in (slice(0, cut), slice(cut, 6)):
            part = World(40, 3, windows=6)
            for name in ("states", "rhythm", "scores", "surface"):
                setattr(part, name, getattr(world, name)[chosen])
            parts.append(part.folded(part.moments(), folds[chosen], 3))
        together = parts[0] + parts[1]
        for name in Moments._arrays:
            np.testing.assert_allclose(getattr(together, name), getattr(whole, name), rtol=1e-11, atol=1e-9)


def test_a_batch_gives_what_its_windows_give_alone() -> None:
    world = World(40, 3, windows=4)
    together = world.moments(torch.float32)
    for place in range(4):
        alone = World(40, 3, windows=4)
        for name in ("states", "rhythm", "scores", "surface"):
            setattr(alone, name, getattr(world, name)[[place]])
        one = alone.moments(torch.float32)
        for name in ("gram_row", "gram_within", "cross_row", "cross_within"):
            torch.testing.assert_close(
                getattr(one, name)[0], getattr(together, name)[place], rtol=1e-4, atol=1e-3
            )


def test_moments_of_different_runs_do_not_add() -> None:
    one, other = Moments.empty(columns_of(40, 3), 2, 4), Moments.empty(columns_of(40, 3), 2, 5)
    with pytest.raises(ValueError, match="cannot be added"):
        _ = one + other
    with pytest.raises(ValueError, match="cannot be added"):
        _ = one + Moments.empty(columns_of(48, 3), 2, 4)


@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: np.full_like(x, -3.4e38)], ids=["as is", "minimum"]
)
def test_what_is_masked_is_never_read(change: Callable[[np.ndarray], np.ndarray]) -> None:
    world = World(40, 3)
    hidden = ~world.support.mask.numpy()
    scores = np.where(hidden, change(world.scores), world.scores)
    before, after = world.moments(), world.moments(scores=scores)
    torch.testing.assert_close(before.cross_row, after.cross_row)
    torch.testing.assert_close(before.square_within, after.square_within)


def test_keys_receive_what_the_row_centred_arrays_hold() -> None:
    world = World(40, 3, windows=1)
    algebra = WindowAlgebra(world.support, 3)
    arguments = (
        torch.tensor(world.states),
        torch.tensor(world.rhythm),
        world.basis,
        torch.tensor(world.scores),
        torch.tensor(world.surface),
    )
    columns, heads = algebra.received(*arguments)
    mask = world.support.mask.numpy()
    arrays = oracle.dense_columns(world.states[0], world.rhythm[0], world.centres, 3.0, world.columns.bins)
    arrays = [*arrays, *(world.surface[0] - world.scores[0])]
    seen = np.maximum(mask.sum(0), 1)
    expected = np.stack([oracle.center_rows(array, mask).sum(0) / seen for array in arrays], -1)
    np.testing.assert_allclose(torch.cat([columns, heads], -1)[0].numpy(), expected, atol=1e-10)
