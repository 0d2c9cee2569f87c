"""The ladder of the carry-over: nuisances whose bilinear block has rank 0, 4, 8, 16 and 32 (science: what M can mean).

Scores are bilinear in the states, so a query that persists beyond the components of the nuisance looks like carry-over.
One Gram of the widest nuisance holds all the narrower ones; it is kept in four super-folds, row gauge, packed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.fitting import System, scale_of, solve_with_track
from infodyn_interp.energy.moments import unpack
from infodyn_interp.energy.terms import Columns

RANKS = (0, 4, 8, 16, 32)
SUPER_FOLDS = 4
DOCUMENTS = 96  # at most: more sharpen no ratio and cost passes


def ranks_of(components: int) -> tuple[int, ...]:
    """The rungs that a model's states have components for."""
    return tuple(rank for rank in RANKS if rank <= components)


@lru_cache(maxsize=4)
def _upper(count: int, stride: int) -> Int[np.ndarray, " packed"]:
    """The upper triangle of the first columns of a wider matrix, row by row."""
    rows, columns = np.triu_indices(count)
    return rows * stride + columns


@dataclass(frozen=True)
class LadderMoments:
    """One layer's products of the widest pair columns with themselves (packed) and with heads, by super-fold."""

    columns: Columns
    gram: Float[np.ndarray, "fold packed"]
    cross: Float[np.ndarray, "fold column head"]

    @classmethod
    def empty(cls, columns: Columns, heads: int) -> "LadderMoments":
        """No data yet."""
        size = columns.within * (columns.within + 1) // 2
        return cls(columns, np.zeros((SUPER_FOLDS, size)), np.zeros((SUPER_FOLDS, columns.within, heads)))

    def add(self, products: Float[Tensor, "window both both"], folds: Int[np.ndarray, " window"]) -> None:
        """Add windows' row-gauge products of `[pair columns | heads]` (upper triangle) to their super-folds."""
        count = self.columns.within
        for window, fold in zip(products.cpu().numpy(), folds % SUPER_FOLDS, strict=True):
            self.gram[fold] += window.ravel().take(_upper(count, len(window)))
            self.cross[fold] += window[:count, count:]

    def coefficients(
        self, chosen: Int[np.ndarray, " head"], ranks: tuple[int, ...]
    ) -> Mapping[str, Float[np.ndarray, "fold rank head column"]]:
        """Coefficients of each rung with the chosen track and with all nine (`chosen`, `nine`), super-folds left out.

        Of all rungs the columns are the widest's, those beyond a rung's rank 0.
        """
        wide, total, crossed = self.columns, self.gram.sum(0), self.cross.sum(0)
        heads, count = self.cross.shape[2], wide.within - wide.blocks["track"].start
        shape = (SUPER_FOLDS, len(ranks), heads, wide.within)
        out = {"chosen": np.zeros(shape), "nine": np.zeros(shape)}
        for fold in range(SUPER_FOLDS):
            gram, cross = unpack(total - self.gram[fold], wide.within), crossed - self.cross[fold]
            for rung, rank in enumerate(ranks):
                kept = self._columns_at(rank)
                here = gram[np.ix_(kept, kept)]
                tracks = np.arange(len(kept) - count, len(kept))
                system = System.of(here, cross[kept], int(tracks[0]), scale_of(here))
                own = solve_with_track(system, np.arange(0), int(tracks[0]), chosen)
                out["chosen"][fold, rung][:, kept] = own.T
                out["nine"][fold, rung][:, kept] = system.solve(tracks).T
        return out

    def rungs(
        self, chosen: Int[np.ndarray, " head"], ranks: tuple[int, ...]
    ) -> Float[np.ndarray, "fold rung head column"]:
        """All of these as one array, the rungs with the chosen track before those with all nine (float32)."""
        both = np.concatenate(list(self.coefficients(chosen, ranks).values()), 1)
        return both.astype(np.float32)

    def _columns_at(self, rank: int) -> Int[np.ndarray, " column"]:
        """Places, among the widest columns, of a narrower rung's."""
        wide = self.columns
        bilinear = (
            wide.blocks["bilinear"].start
            + (np.arange(rank)[:, None] * wide.bilinear_rank + np.arange(rank)).ravel()
        )
        before = np.arange(wide.blocks["bilinear"].start)
        after = np.arange(wide.blocks["track"].start, wide.within)
        return np.concatenate([before, bilinear, after])
