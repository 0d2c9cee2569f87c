"""Long windows: tiles of queries, closed forms and strided queries give what whole arrays give, and hold less."""

import math

import numpy as np
import oracle
import pytest
import torch
from made_up import HEADS, World, gram
from torch.utils._python_dispatch import TorchDispatchMode

from infodyn_interp.energy import moments as room
from infodyn_interp.energy.carry import (
    CarryFilter,
    Trail,
    UnitCarry,
    filter_carry,
    lagged_products,
    later_rows,
    shared_keys,
    unit_carry,
)
from infodyn_interp.energy.gauge import Support, center_rows
from infodyn_interp.energy.moments import WindowAlgebra, WindowMoments
from infodyn_interp.energy.terms import (
    Basis,
    choose_tile,
    columns_of,
    pair_field_tiles,
    pair_fields,
    row_blocks,
)
from infodyn_interp.identify.swaps import Crossing, cross_documents

WINDOW, TILE = 90, 32  # the last tile is a short one


def moments_of(world: World, support: Support, tile: int | None = None) -> WindowMoments:
    algebra = WindowAlgebra(support, world.columns.state_rank, tile=tile)
    return algebra(
        torch.tensor(world.states),
        torch.tensor(world.rhythm),
        world.basis,
        torch.tensor(world.scores),
        torch.tensor(world.surface),
    )


def require_same(world: World, one: WindowMoments, other: WindowMoments, bound: float = 1e-9) -> None:
    for place in range(len(world.states)):
        squares = np.diag(gram(world, one, place, "row"))
        for gauge in ("row", "within"):
            found, expected = gram(world, other, place, gauge), gram(world, one, place, gauge)
            columns = world.columns.count if gauge == "row" else world.columns.within
            own = np.concatenate([squares[:columns], squares[world.columns.count :]])
            scale = np.sqrt(np.outer(own, own)) + 1e-30
            assert np.nanmax(np.abs(found - expected) / scale) <= bound


@pytest.mark.parametrize(("reach", "stride"), [(None, 1), (20, 1), (None, 4), (20, 3), (None, 40)])
def test_tiles_give_the_moments_of_the_whole_window(reach: int | None, stride: int) -> None:
    world, support = World(WINDOW, 3), Support(WINDOW, reach, query_stride=stride)
    require_same(world, moments_of(world, support), moments_of(world, support, TILE))


@pytest.mark.parametrize("reach", [None, 24])
@pytest.mark.parametrize("stride", [2, 4, 5])
def test_strided_moments_are_those_of_the_rows_that_are_used(stride: int, reach: int | None) -> None:
    world, support = World(44, 2, windows=1), Support(44, reach, query_stride=stride)
    mask = oracle.support(44, reach)
    unused = np.ones(44, bool)
    unused[12::stride] = False
    mask[unused] = False
    np.testing.assert_array_equal(support.mask.numpy(), mask[12::stride])
    arrays = oracle.dense_columns(world.states[0], world.rhythm[0], world.centres, 3.0, world.columns.bins)
    arrays = [*arrays, *(world.surface[0] - world.scores[0])]
    found = moments_of(world, support, 16)
    rows = np.stack([oracle.center_rows(array, mask) for array in arrays]).reshape(len(arrays), -1)
    scale = np.sqrt(np.outer((rows**2).sum(1), (rows**2).sum(1))) + 1e-30
    assert np.nanmax(np.abs(gram(world, found, 0, "row") - rows @ rows.T) / scale) <= 1e-12
    kept = [*range(world.columns.within), *range(world.columns.count, len(arrays))]
    keys = np.stack([oracle.center_rows(np.tile(one, (44, 1)), mask).ravel() for one in np.eye(44)])
    both = rows[kept] - rows[kept] @ np.linalg.pinv(keys, rcond=1e-10) @ keys
    difference = np.abs(gram(world, found, 0, "within") - both @ both.T) / scale[np.ix_(kept, kept)]
    assert np.nanmax(difference) <= 1e-9


@pytest.mark.parametrize(("reach", "stride"), [(None, 1), (None, 4), (70, 1)])
def test_closed_forms_of_the_key_gauge_are_its_factor(
    reach: int | None, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, support = World(200, 2, windows=1), Support(200, reach, query_stride=stride)
    by_factor = moments_of(world, support)
    monkeypatch.setattr(room, "DENSE_WINDOW", 0)
    require_same(world, by_factor, moments_of(world, support))


@pytest.mark.parametrize(("reach", "stride"), [(None, 1), (20, 1), (None, 4), (20, 3)])
def test_fields_and_their_variograms_are_the_same_by_tiles(reach: int | None, stride: int) -> None:
    draw, support = np.random.default_rng(0), Support(WINDOW, reach, query_stride=stride)
    columns, states = columns_of(WINDOW, 3), torch.tensor(draw.normal(size=(2, WINDOW, 3)))
    beta = torch.tensor(draw.normal(size=(2, HEADS, columns.within)))
    whole = pair_fields(states, beta, columns, support)
    rows = len(support.queries)
    field = unit_carry(support, 0.6, np.random.default_rng(1))
    one = torch.ones(2, HEADS, dtype=torch.float64)
    carried = filter_carry(whole, 0.6 * one, one, one, one, support)
    crosses, own, later, seen = 0.0, 0.0, [], 0
    trail, beside = Trail(), Trail()
    drawn = UnitCarry(support, 0.6, np.random.default_rng(1))
    follow = CarryFilter(0.6 * one, one, one, one, support)
    for tile in pair_field_tiles(states, beta, columns, support, TILE):
        here = (..., tile.rows, slice(tile.last))
        torch.testing.assert_close(tile.energies, whole[here], atol=1e-10, rtol=0)
        for found, expected in zip(follow(tile.energies, tile.rows), carried, strict=True):
            torch.testing.assert_close(found, expected[here], atol=1e-10, rtol=0)
        later.append(later_rows(tile.energies, support, tile.rows.start))
        left, before = trail.join(tile.energies)
        right, _ = beside.join(drawn.rows(tile.rows, tile.last).expand_as(tile.energies))
        place = {"low": tile.rows.start - before, "first": tile.rows.start}
        own = own + lagged_products(left, support, **place)
        crosses = crosses + lagged_products(left, support, right, **place)
        seen += tile.rows.stop - tile.rows.start
    assert seen == rows
    torch.testing.assert_close(torch.cat(later, -2), later_rows(whole, support), atol=1e-10, rtol=0)
    torch.testing.assert_close(own, lagged_products(whole, support), rtol=1e-9, atol=1e-9)
    wide = field.expand_as(whole)
    torch.testing.assert_close(crosses, lagged_products(whole, support, wide), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("stride", [2, 4])
def test_lags_are_steps_between_the_queries_that_are_used(stride: int) -> None:
    draw = np.random.default_rng(2)
    values = torch.tensor(draw.normal(size=(1, 1, 64, 64)))
    dense, support = Support(64), Support(64, query_stride=stride)
    used = center_rows(values[:, :, 12::stride], support)
    found = lagged_products(used, support)[0, 0, 0]
    whole, total, keys = center_rows(values, dense)[0, 0], 0.0, 0
    for query in range(12 + stride, 64, stride):
        seen = slice(4, query - stride)
        step = whole[query, seen] - whole[query - stride, seen]
        total += float(((step - step.mean()) ** 2).sum() / 2)
        keys += len(step) - 1
    assert float(found) == pytest.approx(total, rel=1e-9)
    assert float(shared_keys(support)[0]) == keys


def test_a_block_of_the_swap_gate_may_come_in_parts() -> None:
    world, support = World(WINDOW, 2, windows=5), Support(WINDOW)
    algebra = WindowAlgebra(support, 2, tile=TILE)
    states, rhythm = torch.tensor(world.states), torch.tensor(world.rhythm)
    scores, surface = torch.tensor(world.scores), torch.tensor(world.surface)
    whole = cross_documents(WindowAlgebra(support, 2), states, rhythm, world.basis, scores, surface)
    crossing = Crossing(algebra, states, rhythm, world.basis)
    for part in (slice(0, 2), slice(2, 4), slice(4, 5)):
        assert crossing.missing
        crossing.add(scores[part], surface[part])
    parts = crossing.crossed()
    for name in ("own_row", "own_within", "tracks_within", "fields", "field"):
        expected = getattr(whole, name)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(getattr(parts, name) / scale, expected / scale, atol=1e-9)


class Largest(TorchDispatchMode):
    """Elements of the largest array of numbers that is made."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor) and one.is_floating_point() and not one._is_view():
                self.found = max(self.found, one.numel())
        return made


def test_moments_of_4096_tokens_hold_one_tile_of_maps() -> None:
    window, rank, heads = 4096, 2, 2
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(1, heads, window, window, generator=draw)
    states = torch.randn(1, window, rank, generator=draw)
    rhythm = torch.randn(1, window, 9, generator=draw, dtype=torch.float64)
    centres = torch.randn(16, rank, generator=draw, dtype=torch.float64)
    basis = Basis(torch.zeros(rank), torch.eye(rank), centres, 2.0)
    tile = choose_tile(window)
    assert tile is not None
    support = Support(window)
    with Largest() as largest:
        algebra = WindowAlgebra(support, rank)
        moments = algebra(states, rhythm, basis, scores, None)
    maps = 12 + heads
    assert largest.found <= maps * (tile + 1) * window
    assert sum(high - low + 1 for low, high in algebra.columns.bins) == window - 1
    assert bool(torch.isfinite(moments.gram_row).all())
    expected = (center_rows(-scores, support)[0] ** 2).double().sum((1, 2))
    torch.testing.assert_close(moments.square_row[0], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("window", "dtype", "bound"), [(2048, torch.float64, 1e-9), (4096, torch.float32, 1e-6)]
)
def test_products_of_distance_bins_reach_to_the_end_of_a_long_window(
    window: int, dtype: torch.dtype, bound: float
) -> None:
    support, draw = Support(window), np.random.default_rng(0)
    algebra = WindowAlgebra(support, 1)
    bins, scores = algebra.columns.bins, torch.tensor(draw.normal(size=(1, 1, window, window))).to(dtype)
    states = torch.tensor(draw.normal(size=(1, window, 1)))
    products, sums = algebra.pair_products(states, scores, None)
    low, high = bins[-1]
    assert high == window - 1
    energy = center_rows(-scores, support)[0, 0]
    lag = torch.arange(window)[:, None] - torch.arange(window)
    member = ((lag >= low) & (lag <= high) & support.mask).to(dtype)
    centred = center_rows(member, support).to(dtype)
    last, head = len(bins) - 1, algebra.columns.within
    assert float(products[0, last, last]) == pytest.approx(float((centred**2).sum()), rel=bound)
    scale = math.sqrt(float((centred**2).sum() * (energy**2).sum()))
    assert float(products[0, last, head]) == pytest.approx(float((centred * energy).sum()), abs=bound * scale)
    torch.testing.assert_close(sums[0, :, last], centred.sum(0), atol=1e3 * bound, rtol=bound)


def test_blocks_cover_every_row_once_whatever_the_tile_and_stride() -> None:
    states = torch.zeros(1, 50, 1)
    for tile in (None, 7, 16, 49):
        for stride in (1, 3, 20):
            support = Support(50, query_stride=stride)
            rows = [
                row
                for one in row_blocks(states, support, tile=tile)
                for row in range(one.rows.start, one.rows.stop)
            ]
            assert rows == list(range(len(support.queries)))
