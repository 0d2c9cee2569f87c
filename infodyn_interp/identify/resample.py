"""Folds split and bases grown: does a fitted field come back in other documents, and what takes its gain away?"""

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
    _, chosen, c = choose_track(inside, tracks, scale[: columns.within])
    row = System.of(gram, cross, n, scale)
    track = np.zeros_like(cross_within)
    track[tracks[chosen], np.arange(len(c))] = c
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
def growing_base(
    moments: Moments,
    row: str,
    chosen_without: Int[np.ndarray, "fold head"],
    wanted: Bool[np.ndarray, " head"],
) -> Float[np.ndarray, "stage fold wanted"]:
    """Gain of one fitted row over its marginal base and over that base with each of `STAGES` added in turn.

    The first stage is the marginal gain: over nothing for the field's rows, over distance for the track, whose base
    grows by kernels and bilinear columns alone.

    Args:
        row: of `FITTED_ROWS`.
        chosen_without: (width, tau) that enters the field's base, each fold left out.
        wanted: the heads to do it for.
    """
    columns, total = moments.columns, moments.total
    blocks, heads = columns.blocks, np.arange(int(wanted.sum()))
    chosen_without = chosen_without[:, wanted]
    gauge = "within" if row == "track" else "row"
    stops = [blocks[name].stop for name in ("distance", "kernels", "bilinear")]
    out = []
    for fold in range(moments.folds):
        left, left_cross = moments.gram(fold, gauge), moments.cross(fold, gauge)[:, wanted]
        gram, cross = total.gram(0, gauge) - left, total.cross(0, gauge)[:, wanted] - left_cross
        scale = scale_of(total.gram(0) - moments.gram(fold))
        scale = (scale * stiffness(columns, total.pairs[0] - moments.pairs[fold]))[: len(gram)]
        square = moments.square(fold)[wanted]

        explained = partial(explained_share, left, left_cross, square)
        gains = []
        if row == "track":
            tracks = np.arange(len(gram))[blocks["track"]]
            for stop in stops:
                system = System.of(gram, cross, stop, scale)
                fits, chosen, _ = choose_track(system, tracks, scale)
                mine = np.stack(fits)[chosen, :, heads].T
                gains.append(explained(mine) - explained(system.solve(np.arange(0))))
        else:
            part = places_of(moments.columns, row)
            for stop in (0, *stops):
                system = System.of(gram, cross, stop, scale)
                gains.append(explained(system.solve(part)) - explained(system.solve(np.arange(0))))
            base = np.arange(0)
            for name in ("", OTHER.get(row, "")):
                base = places_of(moments.columns, name) if name else base
                with_part = np.concatenate([base, part])
                fits = [
                    solve_with_track(system, places, blocks["track"].start, chosen_without[fold])
                    for places in (with_part, base)
                ]
                gains.append(explained(fits[0]) - explained(fits[1]))
        out.append(np.stack(gains))
    return np.stack(out, 1)
