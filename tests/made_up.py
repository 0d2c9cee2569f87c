"""Windows of made-up states, rhythm and scores with everything an algebra needs."""

import numpy as np
import torch

from infodyn_interp.energy.gauge import Support
from infodyn_interp.energy.moments import Moments, WindowAlgebra, WindowMoments, unpack
from infodyn_interp.energy.terms import NINE, Basis, Grid, columns_of

HEADS = 3


class World:
    """A few windows."""

    def __init__(
        self,
        window: int,
        rank: int,
        reach: int | None = None,
        windows: int = 2,
        seed: int = 0,
        grid: Grid = NINE,
    ) -> None:
        draw = np.random.default_rng(seed)
        walk = np.cumsum(draw.normal(size=(windows, window, rank)), 1) / 4
        self.states = walk + draw.normal(size=(windows, window, rank)) + 0.7
        self.rhythm = draw.normal(size=(windows, window, 9))
        self.scores = 3 * draw.normal(size=(windows, HEADS, window, window))
        self.surface = draw.normal(size=(windows, HEADS, window, window))
        self.centres = draw.normal(size=(16, rank))
        self.support = Support(window, reach)
        self.columns = columns_of(window, rank, grid=grid)
        self.basis = Basis(torch.zeros(rank), torch.eye(rank), torch.tensor(self.centres), 3.0)

    def moments(self, dtype: torch.dtype = torch.float64, scores: np.ndarray | None = None) -> WindowMoments:
        scores = self.scores if scores is None else scores
        return WindowAlgebra(self.support, self.columns.state_rank, grid=self.columns.grid)(
            torch.tensor(self.states).to(dtype),
            torch.tensor(self.rhythm),
            self.basis,
            torch.tensor(scores).to(dtype),
            torch.tensor(self.surface).to(dtype),
        )

    def folded(self, window: WindowMoments, folds: list[int], count: int) -> Moments:
        moments = Moments.empty(self.columns, HEADS, count)
        moments.add(window, np.array(folds))
        return moments


def gram(world: World, window: WindowMoments, place: int, gauge: str) -> np.ndarray:
    """Packed parts as one matrix over `[columns | heads]`; heads with each other are not kept."""
    columns = world.columns.count if gauge == "row" else world.columns.within
    full = np.full((columns + HEADS, columns + HEADS), np.nan)
    full[:columns, :columns] = unpack(getattr(window, f"gram_{gauge}")[place].numpy(), columns)
    full[:columns, columns:] = getattr(window, f"cross_{gauge}")[place].numpy()
    full[range(columns, len(full)), range(columns, len(full))] = getattr(window, f"square_{gauge}")[
        place
    ].numpy()
    return full
