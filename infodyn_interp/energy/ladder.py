"""The ladder of the carry-over: nuisances whose bilinear block has rank 0, 4, 8, 16 and 32 (science: what M can mean).

Scores are bilinear in the states, so a query that persists beyond the components of the nuisance looks like carry-over.
One Gram of the widest nuisance holds all the narrower ones; it is kept in four super-folds, row gauge, packed.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

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


class LadderMoments:
    """One layer's products of the widest pair columns with themselves and with heads, by super-fold.

    Args:
        columns: of the widest rung.
        heads: of the layer.
        file: where the packed Gram lies while the run lasts; in memory by default.
    """

    def __init__(self, columns: Columns, heads: int, file: Path | None = None) -> None:
        self.columns = columns
        size = columns.within * (columns.within + 1) // 2
        self._file, self._shape = file, (SUPER_FOLDS, size)
        self._gram = np.zeros(self._shape) if file is None else None
        if file is not None:
            np.lib.format.open_memmap(file, "w+", np.float64, self._shape).flush()
        self.cross = np.zeros((SUPER_FOLDS, columns.within, heads))

    def _open(self, mode: str) -> np.ndarray:
        return np.load(self._file, mmap_mode=mode) if self._gram is None else self._gram  # type: ignore[arg-type]

    def add(self, products: Float[Tensor, "window both both"], folds: Int[np.ndarray, " window"]) -> None:
        """Add windows' row-gauge products of `[pair columns | heads]` (upper triangle) to their super-folds."""
        count, gram = self.columns.within, self._open("r+")
        for window, fold in zip(products.cpu().numpy(), folds % SUPER_FOLDS, strict=True):
            gram[fold] += window.ravel().take(_upper(count, len(window)))
            self.cross[fold] += window[:count, count:]

    def coefficients(
        self, chosen: Int[np.ndarray, " head"], ranks: tuple[int, ...]
    ) -> Mapping[str, Float[np.ndarray, "fold rank head column"]]:
        """Coefficients of each rung with the chosen track and with all nine (`chosen`, `nine`), super-folds left out.

        Of all rungs the columns are the widest's, those beyond a rung's rank 0.
        """
        packed, wide = self._open("r"), self.columns
        total, crossed = packed.sum(0), self.cross.sum(0)
        heads, count = self.cross.shape[2], wide.within - wide.blocks["track"].start
        shape = (SUPER_FOLDS, len(ranks), heads, wide.within)
        out = {"chosen": np.zeros(shape), "nine": np.zeros(shape)}
        for fold in range(SUPER_FOLDS):
            gram, cross = unpack(total - packed[fold], wide.within), crossed - self.cross[fold]
            for rung, rank in enumerate(ranks):
                kept = self._columns_at(rank)
                here = gram[np.ix_(kept, kept)]
                tracks = np.arange(len(kept) - count, len(kept))
                system = System.of(here, cross[kept], int(tracks[0]), scale_of(here))
                own = solve_with_track(system, np.arange(0), int(tracks[0]), chosen)
                out["chosen"][fold, rung][:, kept] = own.T
                out["nine"][fold, rung][:, kept] = system.solve(tracks).T
        return out

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
