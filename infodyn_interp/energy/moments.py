"""Second moments of `[columns | heads]` by fold, in the row and the two-way gauge, from one look at the scores.

Everything a fit needs is a sum over windows, so moments of folds, shards and machines merge by `+`. No dense array is
formed but kernels, tracks and the heads' energies, in causal blocks of rows; distance columns are Toeplitz, bilinear
ones separable, key-only ones need key sums alone. Products inside a block are float32 (float64 where the scores are),
sums over blocks float64.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.gauge import DENSE_WINDOW, Support
from infodyn_interp.energy.terms import (
    NINE,
    Basis,
    Columns,
    Grid,
    bin_sums,
    choose_tile,
    columns_of,
    row_blocks,
    state_columns,
)

if TYPE_CHECKING:
    from infodyn_interp.hooks import Scores


@dataclass(frozen=True)
class Moments:
    """One layer's second moments by fold; immutable, merged by `+`.

    `gram_row`, `gram_within`: packed upper triangles over all columns, and over those of the two-way gauge;
    `cross_row`, `cross_within`: columns with heads; `square_row`, `square_within`: heads with themselves. Energies in
    nats, so squares in nats^2; sums, not means.
    """

    columns: Columns
    gram_row: Float[np.ndarray, "fold packed"]
    gram_within: Float[np.ndarray, "fold packed_within"]
    cross_row: Float[np.ndarray, "fold column head"]
    cross_within: Float[np.ndarray, "fold column_within head"]
    square_row: Float[np.ndarray, "fold head"]
    square_within: Float[np.ndarray, "fold head"]
    pairs: Float[np.ndarray, " fold"]

    @classmethod
    def empty(cls, columns: Columns, heads: int, folds: int) -> "Moments":
        """No data yet."""
        p, q = columns.count, columns.within
        return cls(
            columns,
            np.zeros((folds, p * (p + 1) // 2)),
            np.zeros((folds, q * (q + 1) // 2)),
            np.zeros((folds, p, heads)),
            np.zeros((folds, q, heads)),
            np.zeros((folds, heads)),
            np.zeros((folds, heads)),
            np.zeros(folds),
        )

    _arrays = ("gram_row", "gram_within", "cross_row", "cross_within", "square_row", "square_within", "pairs")

    def __add__(self, other: "Moments") -> "Moments":
        if self.columns != other.columns or self.cross_row.shape != other.cross_row.shape:
            raise ValueError("moments of different windows, ranks, folds or heads cannot be added")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in self._arrays})

    def add(self, window: "WindowMoments", folds: Int[np.ndarray, " window"]) -> None:
        """Add each window's moments to its fold, in place (the one mutation: a sweep holds millions of entries)."""
        for name in self._arrays:
            sums, added = getattr(self, name), getattr(window, name).cpu().numpy()
            for place, fold in enumerate(folds):
                sums[fold] += added[place]

    @property
    def folds(self) -> int:
        """Folds."""
        return len(self.pairs)

    def part(self, folds: int | slice) -> "Moments":
        """The first folds alone, or a slice of them."""
        kept = folds if isinstance(folds, slice) else slice(folds)
        return replace(self, **{name: getattr(self, name)[kept] for name in self._arrays})

    @cached_property
    def total(self) -> "Moments":
        """All folds as one."""
        return replace(self, **{name: getattr(self, name).sum(0, keepdims=True) for name in self._arrays})

    def gram(self, fold: int, gauge: str = "row") -> Float[np.ndarray, "column column"]:
        """One fold's column products as a full matrix."""
        packed = (self.gram_row if gauge == "row" else self.gram_within)[fold]
        return unpack(packed, self.columns.count if gauge == "row" else self.columns.within)

    def cross(self, fold: int, gauge: str = "row") -> Float[np.ndarray, "column head"]:
        """One fold's products of columns with heads."""
        return (self.cross_row if gauge == "row" else self.cross_within)[fold]

    def square(self, fold: int, gauge: str = "row") -> Float[np.ndarray, " head"]:
        """One fold's squared energies."""
        return (self.square_row if gauge == "row" else self.square_within)[fold]


def unpack(packed: Float[np.ndarray, " packed"], size: int) -> Float[np.ndarray, "column column"]:
    """A symmetric matrix from its packed upper triangle."""
    return packed[_places(size)]


@lru_cache(maxsize=8)
def _places(size: int) -> Int[np.ndarray, "column column"]:
    """Where each entry of a symmetric matrix lies in its packed upper triangle."""
    upper = np.triu_indices(size)
    places = np.empty((size, size), np.intp)
    places[upper] = places.T[upper] = np.arange(len(upper[0]))
    places.setflags(write=False)
    return places


@dataclass(frozen=True)
class WindowMoments:
    """Moments of each window of a batch, before they are added to folds; fields as in `Moments`."""

    gram_row: Float[Tensor, "window packed"]
    gram_within: Float[Tensor, "window packed_within"]
    cross_row: Float[Tensor, "window column head"]
    cross_within: Float[Tensor, "window column_within head"]
    square_row: Float[Tensor, "window head"]
    square_within: Float[Tensor, "window head"]
    pairs: Float[Tensor, " window"]


class WindowAlgebra:
    """The moments of a window length and state rank; what depends on these alone is made once.

    Args:
        support: the pairs that count.
        state_rank: components of z.
        device: where the scores are.
        bilinear_rank: components of the bilinear block; those of z by default.
        grid: widths and memories of kernels and tracks.
        tile: queries whose maps are held at once; as `choose_tile` has it by default.
    """

    def __init__(
        self,
        support: Support,
        state_rank: int,
        device: torch.device | str = "cpu",
        bilinear_rank: int | None = None,
        grid: Grid = NINE,
        tile: int | None = None,
    ) -> None:
        self.support, self.tile = support, choose_tile(support.window, tile)
        self.columns = columns_of(support.window, state_rank, bilinear_rank, grid, support.query_stride)
        self._memory: Tensor | None = None
        mask = support.mask
        start, stop = self.columns.bin_bounds(support)
        counts = (stop - start).double()
        self._bin_counts = counts.to(device)
        self._inverse_counts = support.inverse_counts.to(device)
        ends = torch.zeros(2, support.window + 1, len(self.columns.bins), dtype=torch.float64)
        ends[0].scatter_add_(0, start, torch.ones_like(counts))
        ends[1].scatter_add_(0, stop, torch.ones_like(counts))
        members = (ends[0] - ends[1]).cumsum(0)[:-1]  # rows that have each key in each bin
        means = counts * support.inverse_counts[:, None]
        dense = support.window <= DENSE_WINDOW
        of_means = mask.double().T @ means if dense else support.key_sums(means)
        self._bin_key_sums = (members - of_means).to(device)
        self._bin_gram = (torch.diag(counts.sum(0)) - counts.T @ means).to(device)
        lags = torch.zeros(support.window, len(self.columns.bins), dtype=torch.float64)
        for index, (low, high) in enumerate(self.columns.bins):
            lags[low : high + 1, index] = 1
        self._lag_bins = lags.to(device)
        self._mask = mask.to(device)
        self._made: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(
        self,
        states: Float[Tensor, "window key component"],
        rhythm: Float[Tensor, "window key column"],
        basis: Basis,
        scores: Float[Tensor, "window head query key"],
        reference: "Scores | None",
    ) -> WindowMoments:
        """Moments of `energy = reference - scores` (reference None: `-scores`) with every column.

        Args:
            states: z of each key (`Basis.states`).
            rhythm: rhythm block of each key (`Prosody.columns`).
            basis: the layer's frozen basis, for the state block.
            scores: attention logits as the softmax receives them, in nats; finite.
            reference: surface scores at the same positions, in nats; an array, or its factors.
        """
        full, key_sums, _ = self._products(states, rhythm, basis, scores, reference)
        p, q = self.columns.count, self.columns.within
        projected = self.whitened(key_sums)
        seen = (projected.transpose(1, 2) @ projected).double()
        return WindowMoments(
            _pack(full[:, :p, :p]),
            _pack(full[:, :q, :q] - seen[:, :q, :q]),
            full[:, :p, p:],
            full[:, :q, p:] - seen[:, :q, q:],
            full.diagonal(dim1=1, dim2=2)[:, p:],
            full.diagonal(dim1=1, dim2=2)[:, p:] - seen.diagonal(dim1=1, dim2=2)[:, q:],
            torch.full((len(full),), float(self.support.pairs), dtype=torch.float64),
        )

    def received(
        self,
        states: Float[Tensor, "window key component"],
        rhythm: Float[Tensor, "window key column"],
        basis: Basis,
        scores: Float[Tensor, "window head query key"],
        reference: "Scores | None",
    ) -> tuple[Float[Tensor, "window key received"], Float[Tensor, "window key head"]]:
        """Mean over the queries that see it of what each key receives, row-centred: every column, every head's energy.

        Arguments as for a call; keys that no query sees are 0.
        """
        _, key_sums, key_only = self._products(states, rhythm, basis, scores, reference)
        within = self.columns.within
        seen = self.support.seen.clamp(min=1).to(key_sums.device)[:, None]
        fields = self.key_products(key_only)
        return torch.cat([key_sums[..., :within], fields], -1).double() / seen, key_sums[
            ..., within:
        ].double() / seen

    def _products(
        self,
        states: Float[Tensor, "window key component"],
        rhythm: Float[Tensor, "window key column"],
        basis: Basis,
        scores: Float[Tensor, "window head query key"],
        reference: "Scores | None",
    ) -> tuple[
        Float[Tensor, "window both both"],
        Float[Tensor, "window key either"],
        Float[Tensor, "window key field"],
    ]:
        """Row-gauge products of `[columns | heads]` (upper triangle), key sums, and the key-only columns."""
        heads, columns = scores.shape[1], self.columns
        pairs, key_sums = self.pair_products(states, scores, reference)
        z = states.double()
        key_only = torch.cat([rhythm.to(z), state_columns(z, basis)], -1)
        # a column's mean is pure row gauge; without it what follows keeps its digits in single precision
        key_only = (key_only - key_only.mean(1, keepdim=True)).to(key_sums)
        with_field = (key_sums.transpose(1, 2) @ key_only).to(z)
        field, own = slice(columns.within, columns.count), slice(columns.count, columns.count + heads)
        full = z.new_zeros(len(z), own.stop, own.stop)
        full[:, : columns.within, : columns.within] = pairs[:, : columns.within, : columns.within]
        full[:, : columns.within, own] = pairs[:, : columns.within, columns.within :]
        full[:, own, own] = pairs[:, columns.within :, columns.within :]
        full[:, : columns.within, field] = with_field[:, : columns.within]
        full[:, field, own] = with_field[:, columns.within :].transpose(1, 2)
        full[:, field, field] = key_only.transpose(1, 2) @ self.key_products(key_only)
        return full, key_sums, key_only

    def key_products(self, values: Float[Tensor, "window key column"]) -> Float[Tensor, "window key column"]:
        """Key sums of key-only columns in the row gauge: `K values`, by the matrix in short windows."""
        if self.support.window > DENSE_WINDOW:
            return self.support.key_products(values).to(values)
        return self._square("key_gram", values) @ values

    def whitened(self, sums: Float[Tensor, "window key column"]) -> Float[Tensor, "window direction column"]:
        """`R sums` with `R' R = K+`, by the factor in short windows and under a sliding one, else in closed form."""
        if self.support.window > DENSE_WINDOW and self.support.nested:
            return self.support.whiten_keys(sums)
        return self._square("key_root", sums) @ sums

    def _square(self, name: str, like: Tensor) -> Float[Tensor, "row key"]:
        """One of the support's matrices beside a tensor, made once."""
        if (name, like.dtype) not in self._made:
            self._made[name, like.dtype] = getattr(self.support, name).to(like)
        return self._made[name, like.dtype]

    def pair_products(
        self,
        states: Float[Tensor, "window key component"],
        scores: Float[Tensor, "window head query key"],
        reference: "Scores | None",
    ) -> tuple[Float[Tensor, "window both both"], Float[Tensor, "window key pair"]]:
        """Row-gauge products (upper triangle) and key sums of `[pair columns | heads]`.

        Args:
            states: components of each key, as many as z or the bilinear block has.
            scores, reference: as for a call.
        """
        columns, blocks, heads = self.columns, self.columns.blocks, scores.shape[1]
        gram, sums = self._dense(
            states[..., : columns.state_rank], states[..., : columns.bilinear_rank], scores, reference
        )
        z = states[..., : columns.bilinear_rank].double()
        bilinear_sums, bilinear_gram, bilinear_bins = self._bilinear(z)
        distance, kernel, bilinear = blocks["distance"], blocks["kernels"], blocks["bilinear"]
        place = torch.arange(columns.within + heads, device=z.device)
        dense = torch.cat([place[kernel], place[blocks["track"].start :]])
        full = z.new_zeros(len(z), len(place), len(place))
        full[:, dense[:, None], dense] = gram.products
        full[:, distance, dense] = gram.bins.transpose(1, 2)
        full[:, distance, distance] = self._bin_gram
        full[:, distance, bilinear] = bilinear_bins
        full[:, bilinear, bilinear] = bilinear_gram
        # rows are centred to rounding: the key factor's mean would multiply what is left
        key = z - z[:, self.support.first_key :].mean(1, keepdim=True)
        with_bilinear = (sums[:, :, :-1] @ key[:, None]).flatten(2)
        full[:, bilinear, dense] = with_bilinear.transpose(1, 2)
        full[:, kernel, bilinear] = with_bilinear[:, : kernel.stop - kernel.start]
        dtype = torch.promote_types(scores.dtype, torch.float32)
        key_sums = z.new_empty(len(z), self.support.window, len(place), dtype=dtype)
        key_sums[..., distance] = self._bin_key_sums
        key_sums[..., bilinear] = bilinear_sums
        key_sums[..., dense] = sums[:, :, -1].transpose(1, 2).to(dtype)
        return full, key_sums

    def _dense(
        self,
        states: Float[Tensor, "window key component"],
        wide: Float[Tensor, "window key wide"],
        scores: Float[Tensor, "window head query key"],
        reference: "Scores | None",
    ) -> tuple["_DenseGram", Float[Tensor, "window map wide1 key"]]:
        """Products of the dense maps with each other, with distance, and their sums against `[wide(query), 1]`."""
        windows, heads, _, length = scores.shape
        grid = self.columns.grid
        similar, shared = len(grid.widths), grid.maps  # dense maps a layer's heads share
        maps = shared + heads
        dtype = torch.promote_types(scores.dtype, torch.float32)
        z = states.to(dtype).contiguous()
        left = torch.cat([wide.to(dtype), torch.ones_like(z[..., :1])], -1).transpose(1, 2)
        components = left.shape[1]
        products = z.new_zeros(windows, maps, maps, dtype=torch.float64)
        lag_sums = z.new_zeros(windows, maps, length, dtype=torch.float64)
        sums = z.new_zeros(windows, maps, components, length, dtype=torch.float64)
        for block in row_blocks(z, self.support, grid, self.tile):
            rows, keys = block.rows, slice(0, block.last)
            queries = self.support.queries_of(rows)
            here = self._mask[rows, keys].to(dtype)
            guarded = self._room(z, windows, maps, rows.stop - rows.start + 1, block.last)
            guarded[:, :, 0] = 0  # a diagonal read past a row's first key lands in the row before
            dense = guarded[:, :, 1:]
            torch.mul(block.kernels, here, out=dense[:, :similar])
            torch.mul(block.tracks, here, out=dense[:, similar:shared])
            energy = dense[:, shared:]
            live = scores[:, :, queries, keys].to(dtype)
            if reference is None:
                torch.mul(live, -here, out=energy)
            else:
                torch.sub(reference[:, :, queries, keys].to(dtype), live, out=energy)
                energy.mul_(here)
            mean = dense.sum(-1) * self._inverse_counts[rows].to(dtype)
            dense.addcmul_(mean[..., None], here, value=-1)
            flat = guarded.flatten(2)
            products += flat @ flat.transpose(1, 2)
            # the guard row takes part with weight 0: without it the product would copy every map
            weights = torch.nn.functional.pad(left[..., queries], (1, 0))[:, None].expand(-1, maps, -1, -1)
            weighed = weights.flatten(0, 1) @ guarded.flatten(0, 1)
            sums[..., keys] += weighed.view(windows, maps, components, block.last)
            lag_sums[..., keys] += _diagonal_sums(guarded, queries.start, queries.step)
        return _DenseGram(products, lag_sums @ self._lag_bins), sums

    def _room(self, like: Tensor, *shape: int) -> Tensor:
        """Uninitialised memory that is used again: fresh pages would cost as much as the arithmetic on them."""
        size = math.prod(shape)
        if self._memory is None or self._memory.dtype != like.dtype or len(self._memory) < size:
            self._memory = like.new_empty(size)
        return self._memory[:size].view(shape)

    def _bilinear(
        self, z: Float[Tensor, "window key component"]
    ) -> tuple[
        Float[Tensor, "window key product"],
        Float[Tensor, "window product product"],
        Float[Tensor, "window bin product"],
    ]:
        """Key sums of the columns `z_a(t) z_b(j)`, their products with each other, and with distance."""
        rank, query = z.shape[-1], z[:, self.support.rows]
        # the key factor's mean is pure row gauge; without it the sums below lose no digits
        key = z - z[:, self.support.first_key :].mean(1, keepdim=True)
        mean = self.support.row_sums(key) * self._inverse_counts[:, None]
        through_mean = _outer(query, mean)
        key_sums = _outer(self.support.key_sums(query), key) - self.support.key_sums(through_mean)
        # products of two factors are symmetric in them: each pair of components is multiplied once
        place, first, second = _component_pairs(rank)
        spread = self.support.row_sums(key[..., first] * key[..., second])
        spread -= self.support.counts[:, None].to(z) * mean[..., first] * mean[..., second]
        products = (query[..., first] * query[..., second]).transpose(1, 2) @ spread
        ordered = products[:, place[:, None, :, None], place[:, None, :]]
        in_bins = torch.einsum("wta,wtkb->wkab", query, bin_sums(key, self.columns, self.support))
        bins = in_bins.flatten(2) - self._bin_counts.T @ through_mean
        return key_sums, ordered.flatten(3).flatten(1, 2), bins


def _pack(full: Float[Tensor, "window column column"]) -> Float[Tensor, "window packed"]:
    """The upper triangle, row by row, as `unpack` reads it."""
    return full.flatten(1).index_select(1, _upper(full.shape[1], full.device))


@lru_cache(maxsize=16)
def _upper(size: int, device: torch.device) -> Int[Tensor, " packed"]:
    rows, columns = torch.triu_indices(size, size, device=device)
    return rows * size + columns


@lru_cache(maxsize=16)
def _component_pairs(
    rank: int,
) -> tuple[Int[Tensor, "component component"], Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Place of each unordered pair of components, and the two of each place."""
    first, second = torch.triu_indices(rank, rank)
    place = torch.zeros(rank, rank, dtype=torch.long)
    place[first, second] = place[second, first] = torch.arange(len(first))
    return place, first, second


@dataclass(frozen=True)
class _DenseGram:
    products: Float[Tensor, "window map map"]
    bins: Float[Tensor, "window map bin"]


def _outer(
    left: Float[Tensor, "window place component"], right: Float[Tensor, "window place component"]
) -> Float[Tensor, "window place product"]:
    return (left[..., :, None] * right[..., None, :]).flatten(2)


def _diagonal_sums(
    guarded: Float[Tensor, "window map row key"], first: int, stride: int
) -> Float[Tensor, "window map lag"]:
    """Sum each lag's diagonal of a block whose row 0 is a guard of zeros.

    Lag `k` of row `i` (guard excluded), whose query is `first + i stride`, lies at key `first + i stride - k`; the view
    below steps one row down and `stride` keys right. What it reads before a row's first key is the row before, beyond
    its own query, which the mask made 0.
    """
    windows, maps, rows, keys = guarded.shape
    flat = guarded.flatten()
    size = rows * keys
    # stored order runs against the lag: position p is lag keys - 1 - p
    view = flat.as_strided(
        (windows, maps, rows - 1, keys),
        (maps * size, size, keys + stride, 1),
        keys + first - (keys - 1),
    )
    return view.sum(2).flip(-1)
