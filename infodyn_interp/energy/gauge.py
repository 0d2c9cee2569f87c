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
DENSE_WINDOW = 1024  # tokens: in longer windows key-only products and projections take their closed forms
NULL_EIGENVALUE = 1e-9  # of the largest: below it a direction of the key projection is null


@dataclass(frozen=True)
class Support:
    """The query-key pairs `first_key <= j <= t - gap`, `t >= first_query` of one window, within the layer's reach.

    Arrays on a support have a row for every query, or with a stride one for each query that is used (`rows`).

    Args:
        window: tokens in a window.
        reach: keys a query can see, itself included, where the layer has a sliding window; None: all before it.
        query_stride: every so many queries from `first_query` on are used.
    """

    window: int
    reach: int | None = None
    first_key: int = FIRST_KEY
    gap: int = GAP
    first_query: int = FIRST_QUERY
    query_stride: int = 1

    @property
    def rows(self) -> slice:
        """The queries of a window that have a row; those before `first_query`, where they have one, see no key."""
        return slice(0 if self.query_stride == 1 else self.first_query, self.window, self.query_stride)

    def rows_of(self, first: int, last: int) -> slice:
        """Places of the rows of queries `first <= t < last`."""
        low, high = (max(0, -(-(t - self.rows.start) // self.query_stride)) for t in (first, last))
        return slice(low, high)

    def queries_of(self, rows: slice) -> slice:
        """The queries of a range of rows."""
        first, last = (self.rows.start + row * self.query_stride for row in (rows.start, rows.stop - 1))
        return slice(first, last + 1, self.query_stride)

    @cached_property
    def queries(self) -> Int[Tensor, " query"]:
        """Position of each row's query."""
        return torch.arange(self.window)[self.rows]

    @cached_property
    def stop(self) -> Int[Tensor, " query"]:
        """One past the last key of each query's row; equal to `start` where the row is empty."""
        stop = (self.queries - self.gap + 1).clamp(min=0)
        return torch.where(self.queries >= self.first_query, torch.maximum(stop, self.start), self.start)

    @cached_property
    def start(self) -> Int[Tensor, " query"]:
        """First key of each query's row."""
        lowest = torch.full_like(self.queries, self.first_key)
        if self.reach is None:
            return lowest
        return torch.maximum(lowest, self.queries - self.reach + 1)

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
    def query_bounds(self) -> tuple[Int[Tensor, " key"], Int[Tensor, " key"]]:
        """First row that sees each key and one past the last; equal where none does."""
        first = self.mask.to(torch.int8).argmax(0)
        return first, first + self.seen

    @cached_property
    def seen(self) -> Int[Tensor, " key"]:
        """Rows that see each key."""
        return self.mask.sum(0)

    def key_sums(self, values: Float[Tensor, "*batch query column"]) -> Float[Tensor, "*batch key column"]:
        """Sum query-only values over the queries that see each key: `mask.T @ values`, by prefix sums."""
        return interval_sums(values, *self.query_bounds)

    @cached_property
    def key_gram(self) -> Float[Tensor, "key key"]:
        """`K = diag(mask' 1) - mask' diag(1/n) mask`: inner products of key-only columns in the row gauge."""
        mask = self.mask.double()
        return torch.diag(self.seen.double()) - mask.T @ (self.inverse_counts[:, None] * mask)

    @cached_property
    def key_root(self) -> Float[Tensor, "direction key"]:
        """`R` with `R' R = K+`, the pseudo-inverse of `key_gram`: `<a, b>_within = <a, b> - (R s_a)' (R s_b)`."""
        values, vectors = torch.linalg.eigh(self.key_gram)
        kept = values > NULL_EIGENVALUE * values[-1]
        return (vectors[:, kept] / values[kept].sqrt()).T.contiguous()

    @property
    def nested(self) -> bool:
        """Every row sees all keys of the rows before it: there is no sliding window."""
        return bool((self.start == self.first_key).all())

    def key_products(self, values: Float[Tensor, "*batch key column"]) -> Float[Tensor, "*batch key column"]:
        """`key_gram @ values` by prefix sums (float64): key sums of key-only columns in the row gauge."""
        values = values.double()
        means = self.row_sums(values) * self.inverse_counts.to(values.device)[:, None]
        return self.seen.to(values.device)[:, None] * values - self.key_sums(means)

    def whiten_keys(
        self, sums: Float[Tensor, "*batch key column"]
    ) -> Float[Tensor, "*batch direction column"]:
        """`R sums` with `R' R = K+`, as `key_root` but in a basis of its own and without a square array (float64).

        Rows that see nested sets of keys have commuting projections. Their common directions are each key's contrast
        with all keys before it, and the eigenvalue of one is the number of rows that see its key.

        Args:
            sums: key sums of row-centred columns.
        """
        keys = slice(self.first_key, int(self.stop.max()))
        own = sums[..., keys, :].double()
        before = own.cumsum(-2) - own
        place = torch.arange(own.shape[-2], dtype=torch.float64, device=own.device)
        seen = self.seen[keys].to(own)
        size = (place * (place + 1) * seen)[1:, None].rsqrt()
        return (before - place[:, None] * own)[..., 1:, :] * size


@lru_cache(maxsize=16)
def support_of(window: int, reach: int | None = None, query_stride: int = 1) -> Support:
    """The default support of a window, made once for each length, reach and stride."""
    return Support(
        window, None if reach is not None and reach >= window else reach, query_stride=query_stride
    )


def interval_sums(
    values: Float[Tensor, "*batch place column"], start: Int[Tensor, "*place"], stop: Int[Tensor, "*place"]
) -> Float[Tensor, "..."]:
    """Sums of `values` over places `start <= j < stop`, one for each entry of `start`."""
    prefix = torch.nn.functional.pad(values.cumsum(-2), (0, 0, 1, 0))
    return prefix[..., stop, :] - prefix[..., start, :]


def center_rows(
    values: Float[Tensor, "*batch query key"], support: Support, rows: slice = slice(None)
) -> Float[Tensor, "*batch query key"]:
    """Zero off the support and take each row's mean over the support away (a copy; seed 1.1).

    Args:
        values: scores or energies, in nats; must be finite on and off the support. Keys past the last that a row sees
            may be left out.
        support: the pairs that count.
        rows: of the support, that the values are of.
    """
    mask = support.mask[rows, : values.shape[-1]].to(values)
    kept = values * mask
    mean = kept.sum(-1, keepdim=True) * support.inverse_counts[rows].to(values)[:, None]
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
