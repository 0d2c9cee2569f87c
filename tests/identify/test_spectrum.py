"""Fisher spectra of made-up columns: the laws of an information matrix, and aliases found where they were planted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from infodyn_interp.energy.gauge import Support
from infodyn_interp.energy.moments import Moments, WindowAlgebra, unpack
from infodyn_interp.energy.terms import TAUS, WIDTHS, Basis
from infodyn_interp.identify.spectrum import ROUNDING, Alias, Spectrum, fisher_spectrum

WINDOW, RANK, FOLDS, HEADS = 48, 3, 6, 1
BREADTH = 1.0  # of the radial basis functions: narrow enough that none is a sum of others


class World:
    """States, rhythm and energies of one window a fold."""

    def __init__(self, memory: float = 0.6) -> None:
        draw = np.random.default_rng(0)
        self.centres = 1.5 * draw.normal(size=(16, RANK))
        self.states = draw.normal(size=(FOLDS, WINDOW, RANK))
        for key in range(1, WINDOW):
            kept, new = memory * self.states[:, key - 1], np.sqrt(1 - memory**2) * self.states[:, key]
            self.states[:, key] = kept + new
        self.rhythm = draw.normal(size=(FOLDS, WINDOW, 9))
        self.energy = draw.normal(size=(FOLDS, HEADS, WINDOW, WINDOW))
        self.basis = Basis(torch.zeros(RANK), torch.eye(RANK), torch.tensor(self.centres), BREADTH)
        self.support = Support(WINDOW)

    def moments(self, dtype: torch.dtype = torch.float64) -> Moments:
        algebra = WindowAlgebra(self.support, RANK)
        moments = Moments.empty(algebra.columns, HEADS, FOLDS)
        moments.add(
            algebra(
                torch.tensor(self.states).to(dtype),
                torch.tensor(self.rhythm),
                self.basis,
                torch.tensor(-self.energy).to(dtype),
                None,
            ),
            np.arange(FOLDS),
        )
        return moments


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def moments(world: World) -> Moments:
    return world.moments()


@pytest.fixture(scope="module")
def spectrum(moments: Moments) -> Spectrum:
    return fisher_spectrum(moments)


def scaled_columns(moments: Moments, factor: np.ndarray) -> Moments:
    """The moments of columns multiplied by a factor each."""
    out: dict[str, Any] = {}
    for gauge, size in (("row", moments.columns.count), ("within", moments.columns.within)):
        pair = np.outer(factor[:size], factor[:size])[np.triu_indices(size)]
        out[f"gram_{gauge}"] = getattr(moments, f"gram_{gauge}") * pair
        out[f"cross_{gauge}"] = getattr(moments, f"cross_{gauge}") * factor[:size, None]
    return replace(moments, **out)


def with_copy(moments: Moments, source: int, target: int) -> Moments:
    """The moments of columns of which one is three times another."""
    out: dict[str, Any] = {}
    for gauge, size in (("row", moments.columns.count), ("within", moments.columns.within)):
        picked = np.eye(size)
        if target < size:
            picked[:, target] = 3 * picked[:, source]
        packed = getattr(moments, f"gram_{gauge}")
        full = np.stack([picked.T @ unpack(fold, size) @ picked for fold in packed])
        out[f"gram_{gauge}"] = full[:, *np.triu_indices(size)]
    return replace(moments, **out)


def named(spectrum: Spectrum, kind: str) -> list[Alias]:
    return [alias for alias in spectrum.aliases if alias.kind == kind]


def test_eigenvalues_are_squared_singular_values_of_the_columns_whatever_constant_each_row_has(
    world: World, spectrum: Spectrum
) -> None:
    draw = np.random.default_rng(1)
    mask = world.support.mask.numpy()
    stacked = []
    for states, rhythm in zip(world.states, world.rhythm, strict=True):
        columns = oracle.dense_columns(states, rhythm, world.centres, BREADTH, spectrum.columns.bins)
        constants = 1e3 * draw.normal(size=(len(columns), WINDOW, 1))
        stacked.append(
            np.stack(
                [oracle.center_rows(one + c, mask)[mask] for one, c in zip(columns, constants, strict=True)]
            )
        )
    arrays = np.concatenate(stacked, 1)
    expected = np.linalg.svd(arrays / np.linalg.norm(arrays, axis=1, keepdims=True), compute_uv=False) ** 2
    np.testing.assert_allclose(spectrum.eigenvalue, expected, rtol=1e-6, atol=1e-10)
    assert spectrum.pairs == mask.sum() * FOLDS


def test_eigenvalues_sum_to_the_number_of_columns_and_directions_are_orthonormal(spectrum: Spectrum) -> None:
    assert spectrum.eigenvalue.sum() == pytest.approx(spectrum.columns.count)
    count = len(spectrum.eigenvalue)
    np.testing.assert_allclose(spectrum.loading @ spectrum.loading.T, np.eye(count), atol=1e-10)
    np.testing.assert_allclose(spectrum.block_share.sum(1), 1)
    assert (np.diff(spectrum.eigenvalue) <= 0).all()


def test_a_constant_added_to_a_rhythm_column_changes_no_eigenvalue(world: World, spectrum: Spectrum) -> None:
    moved = World()
    moved.rhythm = world.rhythm + 100 * np.arange(9)
    other = fisher_spectrum(moved.moments())
    np.testing.assert_allclose(other.eigenvalue, spectrum.eigenvalue, rtol=1e-8, atol=1e-12)


def test_the_scale_of_a_column_changes_no_eigenvalue_and_no_share(
    moments: Moments, spectrum: Spectrum
) -> None:
    factor = np.exp(2 * np.random.default_rng(2).normal(size=moments.columns.count))
    other = fisher_spectrum(scaled_columns(moments, factor))
    np.testing.assert_allclose(other.eigenvalue, spectrum.eigenvalue, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(other.track_left, spectrum.track_left, rtol=1e-8)
    np.testing.assert_allclose(other.lost_loading, spectrum.lost_loading, atol=1e-8)
    assert other.lost == spectrum.lost
    assert [alias.columns for alias in other.aliases] == [alias.columns for alias in spectrum.aliases]


def test_folds_merged_or_turned_round_change_nothing(moments: Moments, spectrum: Spectrum) -> None:
    arrays = {name: getattr(moments, name) for name in Moments._arrays}
    merged: dict[str, Any] = {
        name: value.reshape(3, 2, *value.shape[1:]).sum(1) for name, value in arrays.items()
    }
    turned: dict[str, Any] = {name: value[::-1] for name, value in arrays.items()}
    for changed in (merged, turned):
        other = fisher_spectrum(replace(moments, **changed))
        np.testing.assert_allclose(other.eigenvalue, spectrum.eigenvalue, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(other.track_left, spectrum.track_left, rtol=1e-9)


def test_the_distance_bins_add_up_to_the_row_constant_and_to_nothing_else(spectrum: Spectrum) -> None:
    (found,) = named(spectrum, "row constant")
    distance = spectrum.columns.blocks["distance"]
    assert found.columns == spectrum.columns.names[distance]
    assert found.evidence < 1e-12
    assert spectrum.row_constant < 1e-12
    assert named(spectrum, "collinear") == []
    assert spectrum.floored.sum() == 1
    assert {name for name, lost in spectrum.lost.items() if lost} == {"distance", "nuisance"}
    assert (~spectrum.estimable == (np.arange(spectrum.columns.count) < distance.stop)).all()
    assert {block for _, block, _ in spectrum.leading(-1)} == {"distance"}


def test_a_column_three_times_another_is_an_alias_that_costs_each_its_estimate(
    moments: Moments, spectrum: Spectrum
) -> None:
    blocks = moments.columns.blocks
    source, target = blocks["rhythm"].start + 2, blocks["state"].start + 1
    doubled = fisher_spectrum(with_copy(moments, source, target))
    (found,) = named(doubled, "collinear")
    names = doubled.columns.names
    assert set(found.columns) == {names[source], names[target]}
    assert found.evidence < 1e-12
    assert doubled.floored.sum() == spectrum.floored.sum() + 1
    assert len(named(doubled, "row constant")) == 1
    np.testing.assert_allclose(doubled.lost_loading[[source, target]], 0.5, atol=1e-9)
    lost = spectrum.estimable & ~doubled.estimable
    assert np.flatnonzero(lost).tolist() == [source, target]
    assert {name: doubled.lost[name] - spectrum.lost[name] for name in doubled.lost} == {
        **dict.fromkeys(spectrum.lost, 0),
        "rhythm": 1,
        "state": 1,
        "prosody": 1,
    }


def test_three_copies_lose_two_directions_and_each_is_named(moments: Moments, spectrum: Spectrum) -> None:
    first = moments.columns.blocks["rhythm"].start
    tripled = fisher_spectrum(with_copy(with_copy(moments, first, first + 1), first, first + 4))
    found = named(tripled, "collinear")
    assert len(found) == 2
    together = {name for alias in found for name in alias.columns}
    assert together == {tripled.columns.names[first + place] for place in (0, 1, 4)}
    assert tripled.lost["rhythm"] == spectrum.lost["rhythm"] + 2


def test_a_column_the_texts_never_move_is_named_left_out_and_not_estimable(world: World) -> None:
    still = World()
    still.rhythm[..., 1] = 7.0
    spectrum = fisher_spectrum(still.moments())
    place = spectrum.columns.blocks["rhythm"].start + 1
    assert np.flatnonzero(spectrum.constant).tolist() == [place]
    assert len(spectrum.eigenvalue) == spectrum.columns.count - 1
    assert (spectrum.loading[:, place] == 0).all()
    assert not spectrum.estimable[place]
    assert spectrum.lost["rhythm"] == 1


def test_single_precision_floors_the_same_directions(world: World, spectrum: Spectrum) -> None:
    other = fisher_spectrum(world.moments(torch.float32))
    assert other.floored.sum() == spectrum.floored.sum()
    floor = ROUNDING * spectrum.eigenvalue[0]
    np.testing.assert_allclose(other.eigenvalue, spectrum.eigenvalue, rtol=1e-3, atol=floor)
    assert other.lost == spectrum.lost


def test_what_key_effects_and_nuisance_leave_of_a_track_is_the_residual_of_regressions_on_them(
    world: World, spectrum: Spectrum
) -> None:
    mask = world.support.mask.numpy()
    columns = spectrum.columns
    stacked = []
    for states, rhythm in zip(world.states, world.rhythm, strict=True):
        arrays = oracle.dense_columns(states, rhythm, world.centres, BREADTH, columns.bins)[: columns.within]
        stacked.append(
            [(oracle.center_rows(one, mask)[mask], oracle.center_both(one, mask)[mask]) for one in arrays]
        )
    row, within = (
        np.stack(
            [np.concatenate([window[place][gauge] for window in stacked]) for place in range(columns.within)]
        )
        for gauge in (0, 1)
    )
    nuisance, track = within[columns.nuisance], within[columns.blocks["track"]]
    left = track - np.linalg.lstsq(nuisance.T, track.T, rcond=1e-9)[0].T @ nuisance
    square = (row[columns.blocks["track"]] ** 2).sum(1)
    shape = len(WIDTHS), len(TAUS)
    np.testing.assert_allclose(spectrum.track_within, ((track**2).sum(1) / square).reshape(shape), rtol=1e-5)
    np.testing.assert_allclose(spectrum.track_left, ((left**2).sum(1) / square).reshape(shape), rtol=1e-2)
    correlation = np.corrcoef(left).reshape(*shape, *shape)
    for pair in range(len(WIDTHS) - 1):
        for tau in range(len(TAUS)):
            expected = correlation[pair, tau, pair + 1, tau]
            assert spectrum.width_correlation[pair, tau] == pytest.approx(expected, abs=5e-3)


def test_a_slow_track_is_told_from_prosody_less_than_a_fast_one_and_is_named() -> None:
    spectrum = fisher_spectrum(World(memory=0.0).moments())
    assert (np.diff(spectrum.track_within, axis=1) < 0).all()
    assert (np.diff(spectrum.track_left, axis=1) < 0).all()
    slow = {name for alias in named(spectrum, "slow track") for name in alias.columns}
    assert "track w=0.1 tau=32" in slow
    assert "track w=0.1 tau=2" not in slow
    names = np.array(spectrum.columns.names[spectrum.columns.blocks["track"]]).reshape(
        spectrum.track_left.shape
    )
    for alias in named(spectrum, "slow track"):
        assert alias.evidence == spectrum.track_within[names == alias.columns[0]]
        assert alias.evidence < 0.15


def test_a_track_that_is_a_kernel_is_similar_and_one_that_is_its_neighbour_is_a_width(
    moments: Moments,
) -> None:
    blocks, names = moments.columns.blocks, moments.columns.names
    kernel, track = blocks["kernels"].start, blocks["track"].start
    similar = fisher_spectrum(with_copy(moments, kernel, track))
    assert similar.track_within[0, 0] > 0.15
    assert similar.track_left[0, 0] < 1e-4
    assert names[track] in {name for alias in named(similar, "similar track") for name in alias.columns}
    close = fisher_spectrum(with_copy(moments, track + len(TAUS), track))
    found = {alias.columns: alias.evidence for alias in named(close, "width")}
    assert found[names[track], names[track + len(TAUS)]] == pytest.approx(1)
    before = {alias.columns for alias in named(fisher_spectrum(moments), "width")}
    assert (names[track], names[track + len(TAUS)]) not in before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: replace(m, pairs=0 * m.pairs), "at least one window"),
        (lambda m: replace(m, gram_row=m.gram_row * np.nan), "not finite"),
        (lambda m: replace(m, gram_row=0 * m.gram_row), "no column moves"),
    ],
)
def test_moments_without_a_spectrum_are_refused(
    moments: Moments, spoil: Callable[[Moments], Moments], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fisher_spectrum(spoil(moments))
