"""Folds split and bases grown: does a fitted field come back in other documents, and what takes its gain away?"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits

from infodyn_interp.energy.fitting import (
    ALIAS,
    System,
    choose_track,
    explained_share,
    pick_track,
    scale_of,
    solve_with_track,
    stiffness,
)
from infodyn_interp.energy.moments import Moments, unpack
from infodyn_interp.energy.terms import Columns

SPLITS = 20
ONE_SIDED = 0.95  # of the bounds a gain must keep above 0
PARTS = {"prosody": ("rhythm", "state"), "rhythm": ("rhythm",), "state": ("state",)}
OTHER = {"rhythm": "state", "state": "rhythm"}
FITTED_ROWS = (*PARTS, "track")
STAGES = ("distance", "kernels", "bilinear", "track", "other prosody block")  # of a growing base


def lower_bound(by_fold: Float[np.ndarray, "fold *shape"]) -> Float[np.ndarray, "*shape"]:
    """Mean over folds less t(.95, folds - 1) standard errors (science: verdicts)."""
    folds = len(by_fold)
    error = by_fold.std(0, ddof=1) / np.sqrt(folds)
    return by_fold.mean(0) - scipy.stats.t.ppf(ONE_SIDED, folds - 1) * error


def one_sided_p(by_fold: Float[np.ndarray, "fold *shape"]) -> Float[np.ndarray, "*shape"]:
    """p of a mean over folds that is 0 or less, by Student's t; 1 where the folds do not differ at all."""
    folds = len(by_fold)
    error = by_fold.std(0, ddof=1) / np.sqrt(folds)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, by_fold.mean(0) / error, -np.inf)
    return np.asarray(scipy.stats.t.sf(t, folds - 1))


def first_halves(folds: int, splits: int = SPLITS) -> list[Int[np.ndarray, " fold"]]:
    """The first halves of fixed splits of the folds."""
    generator = np.random.default_rng(folds)
    return [np.sort(generator.permutation(folds)[: folds // 2]) for _ in range(splits)]


def places_of(columns: Columns, name: str) -> Int[np.ndarray, " part"]:
    """The columns of one of `PARTS`."""
    every = np.arange(columns.count)
    return np.concatenate([every[columns.blocks[part]] for part in PARTS[name]])


@threadpool_limits.wrap(limits=1, user_api="blas")
def split_half(moments: Moments) -> Float[np.ndarray, "row head"]:
    """Correlation of the fields fitted to two halves of the folds, mean over fixed splits (science: verdicts).

    Rows are `FITTED_ROWS`: `b1' G b2 / sqrt(b1' G b1 * b2' G b2)`, G the pooled Gram in the row gauge, or within keys
    for the track, whose width and memory are chosen in each half. 0 where a half fits nothing.
    """
    total = moments.total
    gram, within = total.gram(0), total.gram(0, "within")
    out = np.zeros((len(FITTED_ROWS), moments.square_row.shape[1]))
    for first in first_halves(moments.folds):
        mine = (
            unpack(moments.gram_row[first].sum(0), len(gram)),
            unpack(moments.gram_within[first].sum(0), len(within)),
            moments.cross_row[first].sum(0),
            moments.cross_within[first].sum(0),
            moments.pairs[first].sum(),
        )
        whole = gram, within, total.cross(0), total.cross(0, "within"), total.pairs[0]
        other = tuple(all_of - part for all_of, part in zip(whole, mine, strict=True))
        (field, track), (other_field, other_track) = (_fit_half(moments, *half) for half in (mine, other))
        for place, name in enumerate(PARTS):
            part = places_of(moments.columns, name)
            out[place] += _correlation(field[part], other_field[part], gram[np.ix_(part, part)])
        out[-1] += _correlation(track, other_track, within)
    return out / SPLITS


def _fit_half(
    moments: Moments,
    gram: np.ndarray,
    within: np.ndarray,
    cross: np.ndarray,
    cross_within: np.ndarray,
    pairs: float,
) -> tuple[Float[np.ndarray, "column head"], Float[np.ndarray, "column_within head"]]:
    """Coefficients of the whole field beside nuisance and track, and of the chosen track within keys."""
    columns = moments.columns
    scale = scale_of(gram) * stiffness(columns, pairs)
    n, tracks = columns.nuisance.stop, np.arange(columns.within)[columns.blocks["track"]]
    inside = System.of(within, cross_within, n, scale[: columns.within])
    c, chosen = pick_track(*inside.reduced(tracks), scale[tracks])
    row = System.of(gram, cross, n, scale)
    track, heads = np.zeros_like(cross_within), np.arange(c.shape[1])
    track[tracks[chosen], heads] = c[chosen, heads]
    return solve_with_track(row, places_of(moments.columns, "prosody"), int(tracks[0]), chosen), track


def _correlation(
    left: Float[np.ndarray, "column head"], right: Float[np.ndarray, "column head"], gram: np.ndarray
) -> Float[np.ndarray, " head"]:
    product, squares = (
        (left * (gram @ right)).sum(0),
        (left * (gram @ left)).sum(0) * (right * (gram @ right)).sum(0),
    )
    return np.divide(product, np.sqrt(np.maximum(squares, 0)), out=np.zeros_like(product), where=squares > 0)


def track_left(moments: Moments, chosen: Int[np.ndarray, " head"]) -> Float[np.ndarray, " head"]:
    """Share of each head's chosen track's row-gauge energy that key effects and nuisance leave (science: T)."""
    total, columns = moments.total, moments.columns
    scale = scale_of(total.gram(0))
    system = System.of(
        total.gram(0, "within"), total.cross(0, "within"), columns.nuisance.stop, scale[: columns.within]
    )
    tracks = np.arange(columns.within)[columns.blocks["track"]]
    left = system.reduced(tracks)[0].diagonal() / scale[tracks]
    return np.where(left > ALIAS, left, 0.0)[chosen]


@threadpool_limits.wrap(limits=1, user_api="blas")
def growing_bases(
    moments: Moments,
    wanted: Mapping[str, Bool[np.ndarray, " head"]],
    chosen_without: Int[np.ndarray, "fold head"],
) -> dict[str, Float[np.ndarray, "stage fold _wanted"]]:
    """Gains of fitted rows over their marginal base and over that base with each of `STAGES` added in turn.

    The first stage is the marginal gain: over nothing for the field's rows, over distance for the track, whose base
    grows by kernels and bilinear columns alone.

    Args:
        wanted: the heads to do it for, by row: the track alone, or rows of the field, which share their bases.
        chosen_without: (width, tau) that enters the field's base, each fold left out.
    """
    grow = _grow_track if "track" in wanted else _grow_field
    by_fold = [grow(moments, fold, wanted, chosen_without[fold]) for fold in range(moments.folds)]
    return {row: np.stack([gains[row] for gains in by_fold], 1) for row in wanted}


def _without(
    moments: Moments, fold: int, gauge: str
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, " column"]]:
    """Gram and cross of all folds but one, and what the ridge of each column is relative to."""
    total, columns = moments.total, moments.columns
    gram = total.gram(0, gauge) - moments.gram(fold, gauge)
    scale = scale_of(total.gram(0) - moments.gram(fold))
    scale = (scale * stiffness(columns, total.pairs[0] - moments.pairs[fold]))[: len(gram)]
    return gram, total.cross(0, gauge) - moments.cross(fold, gauge), scale


def _grow_track(
    moments: Moments, fold: int, wanted: Mapping[str, np.ndarray], chosen: Int[np.ndarray, " head"]
) -> dict[str, Float[np.ndarray, "stage _wanted"]]:
    gram, cross, scale = _without(moments, fold, "within")
    mine, tracks = wanted["track"], np.arange(len(gram))[moments.columns.blocks["track"]]
    left = moments.gram(fold, "within"), moments.cross(fold, "within")[:, mine], moments.square(fold)[mine]
    explained, gains = partial(explained_share, *left), []
    for stop in _stops(moments.columns):
        system = System.of(gram, cross[:, mine], stop, scale)
        fits, best, _ = choose_track(system, tracks, scale)
        own = np.stack(fits)[best, :, np.arange(len(best))].T
        gains.append(explained(own) - explained(system.solve(np.arange(0))))
    return {"track": np.stack(gains)}


def _grow_field(
    moments: Moments, fold: int, wanted: Mapping[str, np.ndarray], chosen: Int[np.ndarray, " head"]
) -> dict[str, Float[np.ndarray, "stage _wanted"]]:
    gram, cross, scale = _without(moments, fold, "row")
    columns, left, square = moments.columns, moments.gram(fold), moments.square(fold)
    systems = [System.of(gram, cross, stop, scale) for stop in (0, *_stops(columns))]
    out = {}
    for row, mine in wanted.items():
        explained = partial(explained_share, left, moments.cross(fold)[:, mine], square[mine])
        part = places_of(columns, row)
        own = [system.of_heads(mine) for system in systems]
        gains = [explained(one.solve(part)) - explained(one.solve(np.arange(0))) for one in own]
        others = [places_of(columns, OTHER[row])] if row in OTHER else []
        for base in [np.arange(0), *others]:
            fits = [
                solve_with_track(own[-1], places, columns.blocks["track"].start, chosen[mine])
                for places in (np.concatenate([base, part]), base)
            ]
            gains.append(explained(fits[0]) - explained(fits[1]))
        out[row] = np.stack(gains)
    return out


def _stops(columns: Columns) -> list[int]:
    """Where the nuisance's blocks end, as they are added in turn."""
    return [columns.blocks[name].stop for name in ("distance", "kernels", "bilinear")]
