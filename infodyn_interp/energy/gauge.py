"""What softmax cannot see, as fixed projections (seed 1.1; energies are defined up to a constant per query).

On a fixed support both centrings are linear maps that depend on the window length alone: they are made once and
every moment is taken after them.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FIRST_KEY = 4  # the first keys hold BOS and attention sinks
GAP = 1  # a query's score with itself is not a choice between other places
FIRST_QUERY = 12  # earlier rows have too few keys to be centred
NULL_EIGENVALUE = 1e-9  # of the largest: below it a direction of the key projection is null


@dataclass(frozen=True)
class Support:
    """The query-key pairs `first_key <= j <= t - gap`, `t >= first_query` of one window, within the layer's reach.

    Args:
        window: tokens in a window.
        reach: keys a query can see, itself included, where the layer has a sliding window; None: all before it.
    """

    window: int
    reach: int | None = None
    first_key: int = FIRST_KEY
    gap: int = GAP
    first_query: int = FIRST_QUERY

    @cached_property
    def _queries(self) -> Int[Tensor, " query"]:
        return torch.arange(self.window)

    @cached_property
    def stop(self) -> Int[Tensor, " query"]:
        """One past the last key of each query's row; equal to `start` where the row is empty."""
        stop = (self._queries - self.gap + 1).clamp(min=0)
        return torch.where(self._queries >= self.first_query, torch.maximum(stop, self.start), self.start)

    @cached_property
    def start(self) -> Int[Tensor, " query"]:
        """First key of each query's row."""
        lowest = torch.full_like(self._queries, self.first_key)
        if self.reach is None:
            return lowest
        return torch.maximum(lowest, self._queries - self.reach + 1)

    @cached_property
    def mask(self) -> Bool[Tensor, "query key"]:
        """True on the support."""
        key = torch.arange(self.window)
        return (key >= self.start[:, None]) & (key < self.stop[:, None])

    @cached_property
    def counts(self) -> Float[Tensor, " query"]:
        """Keys in each row (float64)."""
        return (self.stop - self.start).double()

    @cached_property
    def inverse_counts(self) -> Float[Tensor, " query"]:
        """One over `counts`, 0 for an empty row (float64)."""
        return torch.where(self.counts > 0, 1 / self.counts.clamp(min=1), 0.0)

    @cached_property
    def pairs(self) -> int:
        """Query-key pairs in the support."""
        return int(self.counts.sum())

    def row_sums(self, values: Float[Tensor, "*batch key column"]) -> Float[Tensor, "*batch query column"]:
        """Sum key-only values over each query's keys: `mask @ values`, by prefix sums."""
        return interval_sums(values, self.start, self.stop)

    @cached_property
    def _query_bounds(self) -> tuple[Int[Tensor, " key"], Int[Tensor, " key"]]:
        seen = self.mask.to(torch.int8)
        first = seen.argmax(0)
        return first, first + seen.sum(0)

    def key_sums(self, values: Float[Tensor, "*batch query column"]) -> Float[Tensor, "*batch key column"]:
        """Sum query-only values over the queries that see each key: `mask.T @ values`, by prefix sums."""
        return interval_sums(values, *self._query_bounds)

    @cached_property
    def key_gram(self) -> Float[Tensor, "key key"]:
        """`K = diag(mask' 1) - mask' diag(1/n) mask`: inner products of key-only columns in the row gauge."""
        mask = self.mask.double()
        return torch.diag(mask.sum(0)) - mask.T @ (self.inverse_counts[:, None] * mask)

    @cached_property
    def key_root(self) -> Float[Tensor, "direction key"]:
        """`R` with `R' R = K+`, the pseudo-inverse of `key_gram`: `<a, b>_within = <a, b> - (R s_a)' (R s_b)`."""
        values, vectors = torch.linalg.eigh(self.key_gram)
        kept = values > NULL_EIGENVALUE * values[-1]
        return (vectors[:, kept] / values[kept].sqrt()).T.contiguous()


@lru_cache(maxsize=16)
def support_of(window: int, reach: int | None = None) -> Support:
    """The default support of a window, made once for each length and reach."""
    return Support(window, None if reach is not None and reach >= window else reach)


def interval_sums(
    values: Float[Tensor, "*batch place column"], start: Int[Tensor, "*place"], stop: Int[Tensor, "*place"]
) -> Float[Tensor, "..."]:
    """Sums of `values` over places `start <= j < stop`, one for each entry of `start`."""
    prefix = torch.nn.functional.pad(values.cumsum(-2), (0, 0, 1, 0))
    return prefix[..., stop, :] - prefix[..., start, :]


def center_rows(
    values: Float[Tensor, "*batch query key"], support: Support
) -> Float[Tensor, "*batch query key"]:
    """Zero off the support and take each row's mean over the support away (a copy; seed 1.1).

    Args:
        values: scores or energies, in nats; must be finite on and off the support.
        support: the pairs that count.
    """
    mask = support.mask.to(values)
    kept = values * mask
    mean = kept.sum(-1, keepdim=True) * support.inverse_counts.to(values)[:, None]
    return kept - mean * mask


def center_rows_and_keys(
    values: Float[Tensor, "*batch query key"], support: Support
) -> Float[Tensor, "*batch query key"]:
    """The two-way gauge of an array: row-centred, then freed of everything that is key-only.

    Computed in float64 by the fixed projection; the moments never form this array, figures and checks do.
    """
    rows = center_rows(values.double(), support)
    effect = (rows.sum(-2) @ support.key_root.T) @ support.key_root
    spread = effect[..., None, :].expand(rows.shape)
    return rows - center_rows(spread, support)
