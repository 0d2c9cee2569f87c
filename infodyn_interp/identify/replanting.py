"""A layer as its resampled data sets need it, and the rules by which a term is identified in one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.fitting import Fit, scale_of, stiffness
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.terms import Columns
from infodyn_interp.identify.resample import PARTS, first_halves, lower_bound, one_sided_p
from infodyn_interp.identify.verdict import LEAST_GAIN, LEAST_SPLIT_HALF


@dataclass(frozen=True)
class Layer:
    """One layer's products by fold as full matrices, and its fits with each fold left out.

    Args:
        row, within: column products of the two gauges.
        by_fold: pairs of each fold.
        full: row-gauge coefficients of all columns; `pair`: within-key ones of nuisance and chosen track.
        chosen: the heads' tracks.
    """

    columns: Columns
    row: Float[np.ndarray, "fold column column"]
    within: Float[np.ndarray, "fold column_within column_within"]
    cross_row: Float[np.ndarray, "fold column head"]
    cross_within: Float[np.ndarray, "fold column_within head"]
    square: Float[np.ndarray, "fold head"]
    by_fold: Float[np.ndarray, " fold"]
    full: Float[np.ndarray, "fold column head"]
    pair: Float[np.ndarray, "fold column_within head"]
    chosen: Int[np.ndarray, " head"]

    @classmethod
    def of(cls, moments: Moments, fitted: Fit) -> "Layer":
        """Unpack a layer."""
        row, within = (
            np.stack([moments.gram(fold, gauge) for fold in range(moments.folds)])
            for gauge in ("row", "within")
        )
        return cls(
            moments.columns,
            row,
            within,
            moments.cross_row,
            moments.cross_within,
            moments.square_row,
            moments.pairs,
            fitted.coefficient_without.transpose(0, 2, 1),
            fitted.pair_without.transpose(0, 2, 1),
            fitted.chosen,
        )

    def part(self, heads: Int[np.ndarray, " part"]) -> "Layer":
        """Some heads alone."""
        by_head = ("cross_row", "cross_within", "square", "full", "pair", "chosen")
        return replace(self, **{name: getattr(self, name)[..., heads] for name in by_head})

    @cached_property
    def folds(self) -> int:
        """Folds."""
        return len(self.row)

    @property
    def pairs(self) -> float:
        """Pairs of all folds."""
        return float(self.by_fold.sum())

    @cached_property
    def deviation(self) -> Float[np.ndarray, " column"]:
        """Row-centred standard deviation of each column."""
        return np.sqrt(self.row.diagonal(axis1=1, axis2=2).sum(0) / self.pairs)

    @cached_property
    def halves(self) -> Bool[np.ndarray, "half fold"]:
        """The folds of both halves of every split, a first half before its second."""
        firsts = np.stack([np.isin(np.arange(self.folds), half) for half in first_halves(self.folds)])
        return np.stack([firsts, ~firsts], 1).reshape(-1, self.folds)

    @cached_property
    def training(self) -> Bool[np.ndarray, "set fold"]:
        """The folds of every training set: each fold left out, then the halves."""
        return np.concatenate([~np.eye(self.folds, dtype=bool), self.halves])

    def left_out(self, training: int) -> int | None:
        """The fold a training set is scored on."""
        return training if training < self.folds else None

    @cached_property
    def scales(self) -> Float[np.ndarray, "set column"]:
        """What each training set's ridge is relative to."""
        diagonal = self.row.diagonal(axis1=1, axis2=2)
        return np.stack(
            [
                scale_of(np.diag(diagonal[mine].sum(0))) * stiffness(self.columns, self.by_fold[mine].sum())
                for mine in self.training
            ]
        )


def columns_removed(columns: Columns, rows: Sequence[str]) -> Bool[np.ndarray, "row column"]:
    """Which columns each verdict row's term is made of."""
    names = {**PARTS, "track": ("track",)}
    out = np.zeros((len(rows), columns.count), bool)
    for removed, row in zip(out, rows, strict=True):
        for name in names[row]:
            removed[columns.blocks[name]] = True
    return out


def believed(
    gains: Float[np.ndarray, "fold row cell"],
    split_half: Float[np.ndarray, "row cell"],
    cutoff: Float[np.ndarray, " row"],
) -> Bool[np.ndarray, "row cell"]:
    """Whether gains and split-halves are those of an identified term, by the rules of `verdict.judge`."""
    enough = (lower_bound(gains) > 0) & (gains.mean(0) >= LEAST_GAIN)
    return enough & (one_sided_p(gains) <= cutoff[:, None]) & (split_half >= LEAST_SPLIT_HALF)
