"""Columns against their formulas, computed again by loops in `oracle`."""

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infodyn_interp.energy.gauge import Support
from infodyn_interp.energy.terms import (
    FINE,
    NINE,
    RHYTHM,
    Basis,
    Grid,
    Prosody,
    columns_of,
    kernels,
    pair_fields,
    rhythm_code,
    rhythm_of_codes,
    row_blocks,
    state_columns,
)


def test_states_are_made_where_the_model_is_in_single_precision_at_least():
    basis = Basis(torch.zeros(6), torch.eye(6), torch.zeros(16, 2), 1.0)
    there = basis.states(torch.empty(3, 6, dtype=torch.bfloat16, device="meta"))
    assert (there.device.type, there.dtype, there.shape) == ("meta", torch.float32, (3, 2))


PIECES = [
    "",
    " the",
    "cat",
    ".",
    "\n",
    " a",
    "ly",
    " \u3002",
    "don't",
    "\t",
    "42",
    "\u00e9t\u00e9",
    "  ",
    ")\n",
    " I",
]


def draw_states(window: int, rank: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.cumsum(draw.normal(size=(window, rank)), 0) / 4 + draw.normal(size=(window, rank))


@given(st.lists(st.integers(0, len(PIECES) - 1), min_size=20, max_size=60))
@settings(deadline=None, max_examples=60)
def test_rhythm_follows_its_definition_and_looks_back_only(tokens: list[int]) -> None:
    prosody = Prosody(PIECES)
    columns = prosody.columns(torch.tensor([tokens]))[0].numpy()
    np.testing.assert_allclose(columns, oracle.rhythm([PIECES[token] for token in tokens]), atol=1e-12)
    longer = prosody.columns(torch.tensor([[*tokens, 3, 1, 4]]))[0, : len(tokens)].numpy()
    np.testing.assert_array_equal(longer, columns)


@given(st.lists(st.integers(0, len(PIECES) - 1), min_size=20, max_size=60))
@settings(deadline=None, max_examples=30)
def test_a_rhythm_code_says_all_the_block_knows(tokens: list[int]) -> None:
    prosody = Prosody(PIECES)
    batch = torch.tensor([tokens])
    codes = rhythm_code(prosody.flags(batch))
    assert int(codes.max()) < 16 * len(tokens)
    torch.testing.assert_close(rhythm_of_codes(codes[0]), prosody.columns(batch)[0])


@pytest.mark.parametrize(
    ("window", "rank", "grid"), [(32, 1, NINE), (50, 3, NINE), (64, 8, NINE), (50, 3, FINE)]
)
def test_kernels_and_tracks_follow_their_formulas(window: int, rank: int, grid: Grid) -> None:
    states = draw_states(window, rank)
    similar = kernels(torch.tensor(states)[None], grid)[0].numpy()
    for place, width in enumerate(grid.widths):
        np.testing.assert_allclose(similar[place], oracle.kernel(states, width), atol=1e-12)
    for block in row_blocks(torch.tensor(states)[None], Support(window), grid):
        maps = block.tracks[0].numpy()
        for place, (width, tau) in enumerate((w, tau) for w in grid.widths for tau in grid.taus):
            expected = oracle.track(states, width, tau)[block.first : block.last, : block.last]
            np.testing.assert_allclose(maps[place], expected, atol=1e-12)


def test_the_finer_grid_holds_the_nine_tracks() -> None:
    assert set(NINE.widths) < set(FINE.widths)
    assert set(NINE.taus) < set(FINE.taus)


@pytest.mark.parametrize("widths", [(0.1, 0.3), (0.4, 0.1), (0.1, 0.1)])
def test_widths_that_no_squaring_leads_to_are_refused(widths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="powers of two"):
        Grid(widths)


def test_state_columns_follow_their_formula() -> None:
    states, centres = draw_states(40, 3), draw_states(16, 3, seed=1)
    basis = Basis(torch.zeros(3), torch.eye(3), torch.tensor(centres), 1.7)
    got = state_columns(torch.tensor(states)[None], basis)[0].numpy()
    np.testing.assert_allclose(got, oracle.state(states, centres, 1.7), atol=1e-12)


@pytest.mark.parametrize("window", [17, 24, 32, 48, 200, 256, 513])
def test_distance_bins_tile_the_lags_one_by_one_then_widening(window: int) -> None:
    bins = columns_of(window, 2).bins
    lags = [lag for low, high in bins for lag in range(low, high + 1)]
    assert lags == list(range(1, window))
    assert all(low == high for low, high in bins if low <= 23)
    sizes = [high - low + 1 for low, high in bins[23:-1]]
    assert sizes == sorted(sizes)


def test_every_column_has_a_name_and_a_block() -> None:
    columns = columns_of(64, 4)
    assert len(columns.names) == len(set(columns.names)) == columns.count
    assert columns.blocks["rhythm"].stop - columns.blocks["rhythm"].start == len(RHYTHM)


def test_every_pair_column_with_a_coefficient_of_one_is_its_formula_row_centred() -> None:
    states, support = draw_states(40, 3), Support(40)
    columns = columns_of(40, 3)
    ones = torch.eye(columns.within, dtype=torch.float64)[None]
    got = pair_fields(torch.tensor(states)[None], ones, columns, support)[0].numpy()
    expected = oracle.dense_columns(states, np.zeros((40, 9)), np.zeros((16, 3)), 1.0, columns.bins)
    for place in range(columns.within):
        centred = oracle.center_rows(expected[place], support.mask.numpy())
        np.testing.assert_allclose(got[place], centred, atol=1e-12)
