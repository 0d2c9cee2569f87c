"""Differences between estimates from independent documents, each with its own number of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float

from infodyn_interp.energy.fitting import LEVEL, Estimate


@dataclass(frozen=True)
class Mean:
    """An estimate over documents, the variance of its error, and how well that variance is known.

    Args:
        value: the estimate.
        variance: of its error.
        freedom: degrees of freedom of the variance.
    """

    value: Float[np.ndarray, "*shape"]
    variance: Float[np.ndarray, "*shape"]
    freedom: float

    @classmethod
    def of_folds(cls, by_fold: Float[np.ndarray, "fold *shape"]) -> "Mean":
        """The mean over folds of documents."""
        folds = len(by_fold)
        return cls(by_fold.mean(0), by_fold.var(0, ddof=1) / folds, folds - 1)

    @classmethod
    def of_jackknife(
        cls,
        value: Float[np.ndarray, "*shape"],
        without: Float[np.ndarray, "part *shape"],
        weight: Float[np.ndarray, " part"],
    ) -> "Mean":
        """Any statistic, from its values without each part of the documents in turn.

        Parts that hold more than others tell less of the variance than their number says: the degrees of freedom are
        those of as many equal parts as `weight` is worth.

        Args:
            weight: what each part holds, in any unit.
        """
        parts = len(without)
        variance = (parts - 1) / parts * ((without - without.mean(0)) ** 2).sum(0)
        return cls(value, variance, float(weight.sum() ** 2 / (weight**2).sum() - 1))


@dataclass(frozen=True)
class Contrast(Estimate):
    """A sum of independent estimates with its 95 % interval, its t, and the two-sided p of 0."""

    p: Float[np.ndarray, "*shape"]

    @classmethod
    def of(cls, means: Sequence[Mean], weights: Sequence[float]) -> "Contrast":
        """Weigh and add; degrees of freedom as Welch (1947) and Satterthwaite (1946) find them."""
        value = sum(weight * mean.value for weight, mean in zip(weights, means, strict=True))
        parts = [weight**2 * mean.variance for weight, mean in zip(weights, means, strict=True)]
        variance = np.asarray(sum(parts))
        with np.errstate(divide="ignore", invalid="ignore"):
            spent = sum(part**2 / mean.freedom for part, mean in zip(parts, means, strict=True))
            freedom = variance**2 / spent
            error = np.sqrt(variance)
            reach = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom) * error
            t = np.where(error > 0, value / error, np.nan)
            p = 2 * scipy.stats.t.sf(np.abs(t), freedom)
        return cls(np.asarray(value), value - reach, value + reach, t, np.asarray(p))
