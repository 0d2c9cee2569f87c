"""The columns of the prosody field P, the inference track T and the nuisance N (seed 1.2).

Key-only columns (P) are arrays `[window, key, column]`; pair columns are never all formed at once: kernels and
tracks come in causal blocks of rows, distance and bilinear columns stay in closed form (see `moments`).
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.gauge import Support, interval_sums

WIDTHS = (0.1, 0.4, 1.6)  # kernel widths of the fitted tracks
TAUS = (2.0, 8.0, 32.0)  # memory of the track, in tokens
CENTRES = 16  # radial basis functions of the state block
SINGLE_LAGS = 23  # one dummy per lag up to here, then bins that widen by half octaves
RHYTHM = (
    "punctuation", "newline", "word_start", "short_piece", "log_since_break",
    "sin_4", "cos_4", "sin_8", "cos_8",
)  # fmt: skip
SHORT_PIECE = 3  # letters
ROW_BLOCKS = 4  # causal blocks of rows: 63 % of the square is touched
WHOLE_WINDOW = 512  # tokens: up to here no tiles of queries are needed
QUERY_TILE = 128  # queries in a tile of a longer window


@dataclass(frozen=True)
class Grid:
    """Kernel widths, and memories of the tracks in tokens; a track's index runs over memories first.

    Raises:
        ValueError: a width that is not 2, 4, 8, .. times the one before: a kernel is the next one's square, or its
            square's square, so that one exponential serves all.
    """

    widths: tuple[float, ...] = WIDTHS
    taus: tuple[float, ...] = TAUS

    def __post_init__(self) -> None:
        doubled = np.log2(np.divide(self.widths[1:], self.widths[:-1]))
        if (doubled < 0.5).any() or not np.allclose(doubled, doubled.round()):
            raise ValueError(f"widths: {self.widths} do not grow by powers of two")

    @property
    def squarings(self) -> tuple[int, ...]:
        """How often the kernel of each width but the first is squared to make the one before."""
        return tuple(int(times) for times in np.log2(np.divide(self.widths[1:], self.widths[:-1])).round())

    @property
    def maps(self) -> int:
        """Kernels and tracks together."""
        return len(self.widths) * (1 + len(self.taus))


NINE = Grid()  # the tracks that are fitted
FINE = Grid((0.1, 0.2, 0.4, 0.8, 1.6), (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0))  # those of their profiles


@dataclass(frozen=True)
class Basis:
    """One layer's frozen coordinates, from reference documents (science: components, centres and width).

    Args:
        mean: mean attention input.
        components: whitening directions, leading first; `z = (x - mean) @ components[:, :rank]` has unit variance per
            component. Those beyond z serve the ladder of the carry-over alone.
        centres: centres of the radial basis functions, in z.
        width: their width, the median distance between states, in z.
    """

    mean: Float[Tensor, " direction"]
    components: Float[Tensor, "direction kept"]
    centres: Float[Tensor, "centre component"]
    width: float

    @property
    def rank(self) -> int:
        """Components of z."""
        return self.centres.shape[1]

    def states(
        self, attention_input: Float[Tensor, "*batch key direction"], rank: int | None = None
    ) -> Float[Tensor, "*batch key component"]:
        """The whitened leading components of a layer's attention input: z, or the first `rank` of those kept."""
        states = attention_input.to(torch.promote_types(attention_input.dtype, torch.float32))
        components = self.components[:, : self.rank if rank is None else rank]
        return (states - self.mean.to(states)) @ components.to(states)


@dataclass(frozen=True)
class Columns:
    """Names, blocks and places of all columns for one window length and state rank.

    The order is distance, kernels, bilinear, track (these four live in both gauges), then rhythm, state (key-only:
    they vanish in the two-way gauge).

    Args:
        window: tokens in a window.
        state_rank: components of z.
        bilinear_rank: components that the bilinear block multiplies; those of z by default (the ladder of the
            carry-over asks for fewer and for more).
        grid: widths of the kernels, widths and memories of the tracks.
        query_stride: of the support that they are read on; it changes no column.
    """

    window: int
    state_rank: int
    bilinear_rank: int
    grid: Grid = NINE
    query_stride: int = 1

    @cached_property
    def bins(self) -> tuple[tuple[int, int], ...]:
        """Distance bins as inclusive lag ranges: 1, 2, .. 23, 24-31, 32-47, 48-63, 64-95, .. to the window's end."""
        lags = [(lag, lag) for lag in range(1, min(SINGLE_LAGS, self.window - 1) + 1)]
        low, octave = SINGLE_LAGS + 1, 16
        while low < self.window:
            high = octave + octave // 2 - 1 if low < octave + octave // 2 else 2 * octave - 1
            lags.append((low, min(high, self.window - 1)))
            low = high + 1
            octave = 2 * octave if low == 2 * octave else octave
        return tuple(lags)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One readable name a column."""
        rank, widths, taus = range(self.bilinear_rank), self.grid.widths, self.grid.taus
        return (
            *(f"lag {low}" if low == high else f"lag {low}-{high}" for low, high in self.bins),
            *(f"kernel w={width:g}" for width in widths),
            *(f"z{a} z{b}" for a in rank for b in rank),
            *(f"track w={width:g} tau={tau:g}" for width in widths for tau in taus),
            *RHYTHM,
            *(f"z{a}" for a in range(self.state_rank)),
            *(f"rbf {centre}" for centre in range(CENTRES)),
        )

    @cached_property
    def blocks(self) -> dict[str, slice]:
        """Block name -> its columns."""
        sizes = {
            "distance": len(self.bins),
            "kernels": len(self.grid.widths),
            "bilinear": self.bilinear_rank**2,
            "track": len(self.grid.widths) * len(self.grid.taus),
            "rhythm": len(RHYTHM),
            "state": self.state_rank + CENTRES,
        }
        edges = np.cumsum([0, *sizes.values()])
        return {name: slice(int(a), int(b)) for name, a, b in zip(sizes, edges[:-1], edges[1:], strict=True)}

    @property
    def nuisance(self) -> slice:
        """The columns of N."""
        return slice(0, self.blocks["track"].start)

    @property
    def within(self) -> int:
        """Columns that live in the two-way gauge; they come first."""
        return self.blocks["rhythm"].start

    @property
    def count(self) -> int:
        """All columns."""
        return self.blocks["state"].stop

    def bin_bounds(self, support: Support) -> tuple[Int[Tensor, "query bin"], Int[Tensor, "query bin"]]:
        """First key and one past the last key of each distance bin in each row of the support."""
        low, high = torch.tensor(self.bins).T
        query = support.queries[:, None]
        start = torch.clamp(query - high, min=support.start[:, None], max=support.stop[:, None])
        stop = torch.clamp(query - low + 1, min=support.start[:, None], max=support.stop[:, None])
        return start, torch.maximum(start, stop)


@lru_cache(maxsize=16)
def columns_of(
    window: int,
    state_rank: int,
    bilinear_rank: int | None = None,
    grid: Grid = NINE,
    query_stride: int = 1,
) -> Columns:
    """The columns of a window length and state rank, made once; bilinear ones of the state's rank by default."""
    rank = state_rank if bilinear_rank is None else bilinear_rank
    return Columns(window, state_rank, rank, grid, query_stride)


class Prosody:
    """Rhythm columns of tokens, from the text of each vocabulary piece (seed 1.2.1).

    Args:
        pieces: text of every token id as it stands in running text, with its leading space.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        stripped = [piece.strip() for piece in pieces]
        newline = np.array(["\n" in piece or "\r" in piece for piece in pieces])
        punctuation = np.array([_is_punctuation(text) for text in stripped])
        spaced = np.array([piece[:1].isspace() for piece in pieces])
        worded = np.array([text[:1].isalnum() for text in stripped])
        short = np.array([text.isalpha() and len(text) <= SHORT_PIECE for text in stripped])
        ends_open = np.array([piece[-1:].isspace() or not piece for piece in pieces])
        self._tables = torch.from_numpy(np.stack([punctuation, newline, spaced, worded, short, ends_open]))

    def flags(self, tokens: Int[Tensor, "window key"]) -> Int[Tensor, "window key flag"]:
        """Punctuation, newline, starts a word, short piece as 0 / 1, then tokens since the last break."""
        punctuation, newline, spaced, worded, short, ends_open = self._tables[:, tokens.cpu()]
        after_open = torch.nn.functional.pad(ends_open[:, :-1], (1, 0), value=True)
        starts = worded & (spaced | after_open)
        place = torch.arange(tokens.shape[1]).expand(tokens.shape)
        last_break = torch.where(punctuation | newline, place, 0).cummax(1).values
        return torch.stack([punctuation, newline, starts, starts & short, place - last_break], -1).long()

    def columns(self, tokens: Int[Tensor, "window key"]) -> Float[Tensor, "window key column"]:
        """The rhythm block (float64), in the order of `RHYTHM`; each from tokens up to the key only."""
        return rhythm_columns(self.flags(tokens))


def rhythm_columns(flags: Int[Tensor, "*batch flag"]) -> Float[Tensor, "*batch column"]:
    """The rhythm block from `Prosody.flags`: a function of four flags and the distance since the last break."""
    since = flags[..., 4].double()
    waves = [wave(2 * torch.pi * since / period) for period in (4, 8) for wave in (torch.sin, torch.cos)]
    return torch.stack([*flags[..., :4].double().unbind(-1), since.log1p(), *waves], -1)


def rhythm_code(flags: Int[Tensor, "*batch flag"]) -> Int[Tensor, "*batch"]:
    """One number for everything the rhythm block knows of a token: at most 16 codes a token of the window."""
    return (flags * flags.new_tensor([1, 2, 4, 8, 16])).sum(-1)


def rhythm_of_codes(codes: Int[Tensor, " code"]) -> Float[Tensor, "code column"]:
    """The rhythm block of each code."""
    return rhythm_columns(torch.stack([*(codes >> bit & 1 for bit in range(4)), codes >> 4], -1))


def _is_punctuation(text: str) -> bool:
    return any(unicodedata.category(letter).startswith("P") for letter in text)


def state_columns(
    states: Float[Tensor, "*batch key component"], basis: Basis
) -> Float[Tensor, "*batch key column"]:
    """The state block of P (float64): z linear, then the radial basis functions."""
    z = states.double()
    squares = _square_distances(z, basis.centres.to(z))
    return torch.cat([z, (-squares / (2 * basis.width**2)).exp()], -1)


def choose_tile(window: int, asked: int | None = None) -> int | None:
    """Queries whose maps are held at once; None for all of a short window."""
    tile = asked or (None if window <= WHOLE_WINDOW else QUERY_TILE)
    return None if tile is None or tile >= window else tile


def kernels(
    states: Float[Tensor, "*batch key component"], grid: Grid = NINE, rows: slice = slice(None)
) -> Float[Tensor, "*batch width row key"]:
    """`K_w(z_i, z_j) = exp(-|z_i - z_j|^2 / (2 w 2r))` for every width, smallest first, of some i (seed 1.2.2)."""
    rank = states.shape[-1]
    squares = _square_distances(states[..., rows, :], states)
    out = squares.new_empty(*squares.shape[:-2], len(grid.widths), *squares.shape[-2:])
    *narrower, wider = out.unbind(-3)
    torch.exp(squares.mul_(-1 / (4 * grid.widths[-1] * rank)), out=wider)
    for level, times in zip(reversed(narrower), reversed(grid.squarings), strict=True):
        torch.square(wider, out=level)
        for _ in range(times - 1):
            level.square_()
        wider = level
    return out


def _square_distances(
    left: Float[Tensor, "*batch place component"], right: Float[Tensor, "*other component"]
) -> Float[Tensor, "*batch place other"]:
    squares = (left.square().sum(-1)[..., :, None] + right.square().sum(-1)[..., None, :]).sub_(
        2 * (left @ right.transpose(-2, -1))
    )
    return squares.clamp_(min=0)


@dataclass(frozen=True)
class RowBlock:
    """Queries `first <= t < last` with keys `0 <= j < last`; kernels by width, tracks by width and tau there.

    Maps have a row for each of these queries that has one on the support: its `rows`. Off the support they are not what
    their names say: a position's kernel with itself is 0.
    """

    first: int
    last: int
    rows: slice
    kernels: Float[Tensor, "window width query key"]
    tracks: Float[Tensor, "window track query key"]


def row_blocks(
    states: Float[Tensor, "window key component"],
    support: Support,
    grid: Grid = NINE,
    tile: int | None = None,
) -> Iterator[RowBlock]:
    """Kernel and track maps in causal blocks of rows: those of a tile, or a quarter of the whole window each.

    A track is `T[t, j] = sum over first_key <= i < t, i != j of exp(-(t - i) / tau) K_w(z_j, z_i)` (seed 1.2.2): within
    a block one matrix product with the decays, and what earlier blocks left is one more row a tau. All i count,
    whatever queries the support uses.

    Args:
        states: z of each key.
        support: whose queries get rows.
        grid: widths of the kernels, widths and memories of the tracks.
        tile: queries of a block, as `choose_tile` has it; None makes the kernels of the whole window at once.
    """
    windows, length, _ = states.shape
    left = states.new_zeros(windows, len(grid.widths), len(grid.taus), length)
    size, span = tile or -(-length // ROW_BLOCKS), tile or length
    for top in range(0, length, span):
        past = kernels(states, grid, slice(top, top + span))
        past.diagonal(top, dim1=-2, dim2=-1).zero_()
        past[..., : max(support.first_key - top, 0), :] = 0
        for first in range(top, min(top + span, length), size):
            last = min(first + size, length)
            rows, own = support.rows_of(first, last), slice(first - top, last - top)
            queries = support.queries_of(rows)
            within, onward, fading = _decays(last - first, grid.taus, past.dtype, past.device)
            used = slice(queries.start - first, last - first, queries.step)
            within = within.view(len(grid.taus), last - first, -1)[:, used].flatten(0, 1)
            known = torch.cat([past[..., own, :last], left[..., :last]], -2)
            tracks = _each(within, known).view(
                windows, len(grid.widths) * len(grid.taus), rows.stop - rows.start, last
            )
            kept = past[..., queries.start - top : last - top : queries.step, :last]
            yield RowBlock(first, last, rows, kept, tracks)
            left = _each(onward, past[..., own, :]).add_(fading[:, None] * left)


def _each(
    matrix: Float[Tensor, "out inner"], maps: Float[Tensor, "window width inner key"]
) -> Float[Tensor, "window width out key"]:
    """`matrix @ maps` as one batched product: torch would fold the maps into one matrix and copy them twice."""
    batch = maps.reshape(-1, *maps.shape[2:])
    return torch.bmm(matrix.expand(len(batch), -1, -1), batch).view(
        *maps.shape[:2], len(matrix), maps.shape[-1]
    )


@lru_cache(maxsize=32)
def _decays(
    rows: int, memories: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Decay of a block's rows and of what was left before it: for the block's queries, and for the block after."""
    taus = torch.tensor(memories, dtype=torch.float64)
    step = torch.arange(rows, dtype=torch.float64)
    lag = step[:, None] - step
    within = torch.where(lag > 0, (-lag / taus[:, None, None]).exp(), 0.0)
    before = torch.diag_embed((-step / taus[:, None]).exp().T).permute(2, 0, 1)
    left = torch.cat([within, before], -1).flatten(0, 1)
    onward = (-(rows - step) / taus[:, None]).exp()
    fading = (-rows / taus).exp()
    return left.to(device, dtype), onward.to(device, dtype), fading.to(device, dtype)


@dataclass(frozen=True)
class FieldTile:
    """Row-centred energies of some rows of a support with keys `0 <= j < last`; 0 off the support."""

    rows: slice
    last: int
    energies: Float[Tensor, "window field query key"]


def pair_field_tiles(
    states: Float[Tensor, "window key component"],
    coefficient: Float[Tensor, "window field column"],
    columns: Columns,
    support: Support,
    tile: int | None = None,
) -> Iterator[FieldTile]:
    """Energies of the pair columns with given coefficients, a tile of queries after the other.

    Args:
        states: components of each key, as many as z or the bilinear block has.
        coefficient: of the pair columns, by field (a head, or a head in one of several fits); nats per unit.
        columns: what the coefficients stand for.
        support: the pairs that count.
        tile: queries of a tile; as `choose_tile` has it by default.
    """
    windows, length, _ = states.shape
    blocks, beta, rank = columns.blocks, coefficient.to(states), columns.bilinear_rank
    fields, tile = beta.shape[1], choose_tile(length, tile)
    wide, narrow = states[..., :rank], states[..., : columns.state_rank].contiguous()
    query = wide[:, None] @ beta[..., blocks["bilinear"]].unflatten(-1, (rank, rank))
    # a band of lags, read backwards one row further each time
    by_lag = torch.nn.functional.pad(beta[..., blocks["distance"]], (1, 0))[
        ..., _bin_of_offset(columns).to(beta.device)
    ].unfold(-1, length, 1)
    dense = torch.cat([beta[..., blocks["kernels"]], beta[..., blocks["track"]]], -1)
    blocks_of_rows = row_blocks(narrow, support, columns.grid, tile)
    for first in range(0, length, tile or length):
        last = min(first + (tile or length), length)
        rows = support.rows_of(first, last)
        used = support.queries_of(rows)
        left = query[:, :, used].flatten(1, 2) @ wide[:, :last].transpose(1, 2)
        out = left.view(windows, fields, rows.stop - rows.start, last)
        out += by_lag[..., length - used.stop : length - used.start : used.step, :last].flip(-2)
        for block in blocks_of_rows:
            maps = torch.cat([block.kernels, block.tracks], 1)
            here = slice(block.rows.start - rows.start, block.rows.stop - rows.start)
            out[:, :, here, : block.last] += (dense @ maps.flatten(2)).view(windows, fields, *maps.shape[2:])
            if block.last == last:
                break
        mask = support.mask[rows, :last].to(out)
        out *= mask
        mean = out.sum(-1, keepdim=True) * support.inverse_counts[rows].to(out)[:, None]
        if rows.start < rows.stop:
            yield FieldTile(rows, last, out.sub_(mean).mul_(mask))


def pair_fields(
    states: Float[Tensor, "window key component"],
    coefficient: Float[Tensor, "window field column"],
    columns: Columns,
    support: Support,
) -> Float[Tensor, "window field query key"]:
    """Energies of the pair columns with given coefficients, row-centred, 0 off the support; as `pair_field_tiles`."""
    shape = (*coefficient.shape[:2], len(support.queries), support.window)
    out = states.new_zeros(shape)
    for tile in pair_field_tiles(states, coefficient, columns, support):
        if tile.energies.shape == shape:
            return tile.energies
        out[:, :, tile.rows, : tile.last] = tile.energies
    return out


@lru_cache(maxsize=16)
def _bin_of_offset(columns: Columns) -> Int[Tensor, " offset"]:
    """One past the distance bin of query minus key, from window - 1 downward; 0 where the key is not before."""
    of_lag = torch.zeros(2 * columns.window - 1, dtype=torch.long)
    for place, (low, high) in enumerate(columns.bins):
        of_lag[columns.window - 1 - high : columns.window - low] = place + 1
    return of_lag


def bin_sums(
    values: Float[Tensor, "window key column"], columns: Columns, support: Support
) -> Float[Tensor, "window query bin column"]:
    """Sums of key-only values over each distance bin of each row: shifts for single lags, else prefix sums."""
    single = sum(low == high for low, high in columns.bins)
    start, stop = (bound[:, single:] for bound in columns.bin_bounds(support))
    shifted = torch.nn.functional.pad(values, (0, 0, single, 0)).unfold(1, single, 1)[:, :-1]
    shifted = shifted[:, support.rows].flip(-1)
    lags = shifted.transpose(2, 3) * _one_key_bins(columns, support).to(values)
    return torch.cat([lags, interval_sums(values, start, stop)], 2)


@lru_cache(maxsize=16)
def _one_key_bins(columns: Columns, support: Support) -> Float[Tensor, "query bin 1"]:
    """Where a single lag's key lies on the support."""
    single = sum(low == high for low, high in columns.bins)
    start, stop = columns.bin_bounds(support)
    return (stop - start)[:, :single, None].double()
