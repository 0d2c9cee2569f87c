"""Affine maps by ridge, in closed form from second moments that are gathered as a stream."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = (
    1e-3  # of each direction's own variance: rare directions are not drowned by the few that hold most of it
)


@dataclass(frozen=True)
class Affine:
    """`y = x @ weight + bias`, fitted where y has the mean `centre`."""

    weight: Float[Tensor, "source target"]
    bias: Float[Tensor, " target"]
    centre: Float[Tensor, " target"]

    def part(self, targets: slice) -> "Affine":
        """The map to some of the targets."""
        return Affine(self.weight[:, targets], self.bias[targets], self.centre[targets])

    def __call__(self, x: Float[Tensor, "*batch source"]) -> Float[Tensor, "*batch target"]:
        """The map's value, in the precision of `x`."""
        return x @ self.weight.to(x) + self.bias.to(x)


class Regression:
    """Second moments of what is explained from and what is explained, in float64 around the first rows' mean.

    Args:
        source, target: directions of either.
    """

    def __init__(self, source: int, target: int) -> None:
        self.count = 0
        self._square = torch.zeros(source, source, dtype=torch.float64)
        self._cross = torch.zeros(source, target, dtype=torch.float64)
        self._sums = [torch.zeros(width, dtype=torch.float64) for width in (source, target)]
        self._shifts: tuple[Tensor, Tensor] | None = None

    def add(self, x: Float[Tensor, "*row source"], y: Float[Tensor, "*row target"]) -> None:
        """Add rows."""
        x, y = (part.flatten(0, -2) for part in (x, y))
        if self._shifts is None:
            self._shifts = x.mean(0), y.mean(0)
        x, y = (part - shift for part, shift in zip((x, y), self._shifts, strict=True))
        self.count += len(x)
        self._square += (x.mT @ x).double().cpu()
        self._cross += (x.mT @ y).double().cpu()
        for total, part in zip(self._sums, (x, y), strict=True):
            total += part.double().sum(0).cpu()

    @property
    def mean(self) -> Float[Tensor, " source"]:
        """Of what is explained from."""
        return self._sums[0] / self.count + self._shift(0)

    @property
    def target_mean(self) -> Float[Tensor, " target"]:
        """Of what is explained."""
        return self._sums[1] / self.count + self._shift(1)

    @property
    def covariance(self) -> Float[Tensor, "source source"]:
        """Of what is explained from."""
        return (self._square - torch.outer(self._sums[0], self._sums[0]) / self.count) / self.count

    def solve(self, ridge: float = RIDGE) -> Affine:
        """The map with least squared error; its penalty is `ridge` times each source direction's own variance."""
        square = self.covariance
        cross = (self._cross - torch.outer(self._sums[0], self._sums[1]) / self.count) / self.count
        scale = square.diagonal()
        # a direction that never moves explains nothing
        penalty = torch.where(scale > 0, ridge * scale, 1.0)
        weight = torch.linalg.solve(square + penalty.diag(), cross)
        return Affine(weight, self.target_mean - self.mean @ weight, self.target_mean)

    def components(self, rank: int) -> Float[Tensor, "source component"]:
        """Leading principal directions of what is explained from, scaled to unit variance."""
        sizes, directions = torch.linalg.eigh(self.covariance)
        kept = slice(-rank, None)
        return (directions[:, kept] / sizes[kept].clamp(min=torch.finfo(sizes.dtype).tiny).sqrt()).flip(-1)

    def _shift(self, side: int) -> Tensor:
        return self._shifts[side].double().cpu() if self._shifts is not None else torch.zeros(1).double()
