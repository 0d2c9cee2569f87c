"""Data sets with a term injected, known by their second moments alone (science: detection limit).

Columns stay. Per fold `y* = X k + s e + a t`: what the other folds' coefficients k predict without the term, their
residual e with a random sign for the whole fold (wild cluster bootstrap: Cameron, Gelbach and Miller, 2008), and a
made-up term t of strength a. The sign's size is sqrt(1 - 1 / folds): an out-of-fold residual has the noise of the fit
in its products with columns as the jackknife's variance has, and is shrunk as that one is; its own square is not.
Products of columns with y* are lines in (s, a), its square is a quadratic: the factors of a training set serve every
head, resample and strength. Folds are never drawn with replacement: copies of the fold left
out would sit among those it is predicted from.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.fitting import System

CONSTANT, SLOPE = 0, 1  # orders of a line in the strength


@dataclass(frozen=True)
class Injected:
    """Products of columns with y* in one gauge, by fold: `kept + s * residual + a * field`; rows share the residual.

    Args:
        coefficient: b, each fold left out (nats per unit).
        remaining: k, by verdict row: b with the row's term taken out.
        term: t by row; one a resample (`draw`) for all heads, or one a head (`own`), the other dimension being 1.
        kept: `G k`.
        residual: `X'e = X'y - G b`.
        field: `G t`.
    """

    coefficient: Float[np.ndarray, "fold column head"]
    remaining: Float[np.ndarray, "row fold column head"]
    term: Float[np.ndarray, "row column draw own"]
    kept: Float[np.ndarray, "row fold column head"]
    residual: Float[np.ndarray, "fold column head"]
    field: Float[np.ndarray, "row fold column draw own"]

    @classmethod
    def of(
        cls,
        grams: Float[np.ndarray, "fold column column"],
        cross: Float[np.ndarray, "fold column head"],
        coefficient: Float[np.ndarray, "fold column head"],
        removed: Bool[np.ndarray, "row column"],
        term: Float[np.ndarray, "row column draw own"],
    ) -> "Injected":
        """Take each row's columns `removed` out of the prediction and put its `term` in."""
        remaining = np.where(removed[:, None, :, None], 0.0, coefficient)
        field = grams @ term.reshape(len(term), 1, term.shape[1], -1)
        return cls(
            coefficient,
            remaining,
            term,
            grams @ remaining,
            cross - grams @ coefficient,
            field.reshape(*field.shape[:3], *term.shape[2:]),
        )

    def stacked(self, members: Bool[np.ndarray, " fold"]) -> Float[np.ndarray, "column stack"]:
        """All vectors that the products of some folds are combined from (`combine`), side by side."""
        kept, field = self.kept[:, members].sum(1), self.field[:, members].sum(1)
        by_row = np.concatenate([kept, field.reshape(*field.shape[:2], -1)], -1).transpose(1, 0, 2)
        count = by_row.shape[0]
        return np.concatenate(
            [by_row.reshape(count, -1), self.residual.transpose(1, 0, 2).reshape(count, -1)], 1
        )

    def combine(
        self, stacked: Float[np.ndarray, "part stack"], weights: Float[np.ndarray, "fold resample"]
    ) -> Float[np.ndarray, "part order row cell"]:
        """Lines in a from linear images of `stacked`; a cell is a resample of a head, `weights` its signs (or 0)."""
        part, (rows, folds, _, heads) = len(stacked), self.kept.shape
        resamples = weights.shape[1]
        noise = stacked[:, stacked.shape[1] - folds * heads :].reshape(part, folds, heads)
        by_row = stacked[:, : stacked.shape[1] - folds * heads].reshape(part, rows, -1)
        signed = (weights.T @ noise)[:, None]
        out = np.empty((part, 2, rows, resamples, heads))
        out[:, CONSTANT] = by_row[:, :, None, :heads] + signed
        out[:, SLOPE] = by_row[:, :, heads:].reshape(part, rows, *self.term.shape[2:])
        return out.reshape(part, 2, rows, -1)


@dataclass(frozen=True)
class Squares:
    """`y*'y*` by fold in the row gauge: `plain + 2 s mixed + 2 a (with_kept + s with_residual) + a^2 alone`."""

    plain: Float[np.ndarray, "fold row one head"]
    mixed: Float[np.ndarray, "fold row one head"]
    with_kept: Float[np.ndarray, "fold row draw head"]
    with_residual: Float[np.ndarray, "fold row draw head"]
    alone: Float[np.ndarray, "fold row draw own"]

    @classmethod
    def of(
        cls,
        injected: Injected,
        cross: Float[np.ndarray, "fold column head"],
        square: Float[np.ndarray, "fold head"],
    ) -> "Squares":
        """From the products of y* and those of the energies, in the row gauge."""
        b = injected.coefficient
        left = square - (b * (cross + injected.residual)).sum(1)
        predicted = (injected.remaining * injected.kept).sum(2) + left
        mixed = (injected.remaining * injected.residual).sum(2)
        term = injected.term[:, None]
        with_kept = (injected.kept[:, :, :, None] * term).sum(2)
        with_residual = (injected.residual[:, :, None] * term).sum(2)
        alone = (term * injected.field).sum(2)
        rows_first = predicted[:, :, None], mixed[:, :, None], with_kept, with_residual, alone
        return cls(*(part.swapaxes(0, 1) for part in rows_first))

    @property
    def clean(self) -> Float[np.ndarray, "row head"]:
        """Squares of the data sets without a term, mean over signs, sum over folds."""
        return self.plain.sum(0)[:, 0]

    def at(
        self, signs: Float[np.ndarray, "fold resample"], strength: Float[np.ndarray, "row head"]
    ) -> Float[np.ndarray, "fold row cell"]:
        """Squares of every data set at one strength a row and head."""
        s, a = signs[:, None, :, None], strength[:, None]
        squares = self.plain + 2 * s * self.mixed
        squares = squares + 2 * a * (self.with_kept + s * self.with_residual) + a**2 * self.alone
        return squares.reshape(*squares.shape[:2], -1)


@dataclass(frozen=True)
class Trained:
    """One training set after the nuisance: normal equations of the other columns, and the same on the fold left out.

    Args:
        gram, cross: of the columns behind the nuisance, after it; `cross` as lines in the strength.
        left_gram, left_cross: on the fold left out, after what the nuisance's training coefficients predict there, so
            that coefficients c explain `2 c'left_cross - c'left_gram c` more than the nuisance alone; empty where no
            fold was left out.
    """

    gram: Float[np.ndarray, "part part"]
    cross: Float[np.ndarray, "part order row cell"]
    left_gram: Float[np.ndarray, "left left"]
    left_cross: Float[np.ndarray, "left order row cell"]


def train(
    grams: Float[np.ndarray, "fold column column"],
    injected: Injected,
    signs: Float[np.ndarray, "fold resample"],
    members: Bool[np.ndarray, " fold"],
    scale: Float[np.ndarray, " column"],
    nuisance: int,
    left: int | None = None,
) -> Trained:
    """Eliminate the nuisance from every data set at once.

    Args:
        grams: of the gauge of `injected`.
        members: folds to train on.
        scale: what the ridge of each column is relative to.
        nuisance: number of nuisance columns, which come first.
        left: the fold left out, where there is one.
    """
    system = System.of(grams[members].sum(0), injected.stacked(members), nuisance, scale)
    gram, reduced = system.reduced(np.arange(nuisance, grams.shape[1]))
    weights = np.where(members[:, None], signs, 0.0)
    cross = injected.combine(reduced, weights)
    if left is None:
        return Trained(gram, cross, gram[:0, :0], cross[:0])
    here, own = grams[left], np.arange(len(grams)) == left
    through = scipy.linalg.solve_triangular(system.factor, system.whitened[:, nuisance:], lower=True, trans=1)
    turned = here[nuisance:, :nuisance] - through.T @ here[:nuisance, :nuisance]
    left_gram = here[nuisance:, nuisance:] - through.T @ here[:nuisance, nuisance:] - turned @ through
    stacked = injected.stacked(own)
    seen = injected.combine(
        stacked[nuisance:] - through.T @ stacked[:nuisance], np.where(own[:, None], signs, 0.0)
    )
    back = scipy.linalg.solve_triangular(system.factor, turned.T, lower=True).T
    return Trained(gram, cross, left_gram, seen - injected.combine(back @ system.whitened_cross, weights))


def product(
    left: Float[np.ndarray, "part order row cell"], right: Float[np.ndarray, "part order row cell"]
) -> Float[np.ndarray, "power row cell"]:
    """Inner products of two lines in the strength: coefficients of powers 0, 1, 2."""
    constant = (left[:, CONSTANT] * right[:, CONSTANT]).sum(0)
    linear = (left[:, CONSTANT] * right[:, SLOPE] + left[:, SLOPE] * right[:, CONSTANT]).sum(0)
    return np.stack([constant, linear, (left[:, SLOPE] * right[:, SLOPE]).sum(0)])


def apply(
    gram: Float[np.ndarray, "part part"], lines: Float[np.ndarray, "part order row cell"]
) -> Float[np.ndarray, "part order row cell"]:
    """A matrix times lines in the strength."""
    return (gram @ lines.reshape(len(lines), -1)).reshape(lines.shape)


def solve_with_tracks(
    trained: Trained, chosen: Int[np.ndarray, " cell"], places: Int[np.ndarray, " place"], rows: slice
) -> Float[np.ndarray, "part order row cell"]:
    """Coefficients of each cell's chosen track and the columns at `places`, of some rows, as lines in the strength."""
    cross = trained.cross[:, :, rows]
    out = np.zeros_like(cross)
    orders, count = (np.arange(size) for size in cross.shape[1:3])
    for track in np.unique(chosen):
        kept = np.concatenate([[track], places]).astype(int)
        here = np.ix_(kept, orders, count, np.flatnonzero(chosen == track))
        right = cross[here]
        gram = trained.gram[np.ix_(kept, kept)]
        found = scipy.linalg.solve(gram, right.reshape(len(kept), -1), assume_a="pos")
        out[here] = found.reshape(right.shape)
    return out
