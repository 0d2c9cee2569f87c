"""The swap gate: do a document's own columns explain its scores better than another document's would?

Inside a block of 20 documents every document takes the columns of one term from its partner, by 19 cyclic shifts; its
energies and its nuisance stay its own. Columns are built once and crossed with the other documents' scores (science:
verdicts, swap gate).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from infodyn_interp.energy.fitting import ALIAS, RIDGE, scale_of, share_of, stiffness
from infodyn_interp.energy.moments import WindowAlgebra
from infodyn_interp.energy.terms import WIDTHS, Basis, Columns, row_blocks, state_columns

if TYPE_CHECKING:
    from infodyn_interp.hooks import Scores

BLOCK = 20  # documents: the true columns must beat 19 shifts
BLOCKS = 5  # at most
ROWS = ("prosody", "rhythm", "state", "track")


@dataclass(frozen=True)
class Crossed:
    """Products of every document's energies and columns with every document's columns, one window each.

    The first dimension is the document whose energies, nuisance and base are taken, `partner` the one whose columns
    are.

    Args:
        own_row, own_within: `[pair columns | heads]` of each document with itself, by gauge, symmetric.
        tracks_within: pair columns and heads with the partner's tracks, within keys.
        fields: pair columns and heads with the partner's key-only columns.
        field: key-only columns with the partner's key-only columns, at the partner's place in the row gauge.
        pairs: on the support of one document.
    """

    own_row: Float[np.ndarray, "document both both"]
    own_within: Float[np.ndarray, "document both both"]
    tracks_within: Float[np.ndarray, "document partner both track"]
    fields: Float[np.ndarray, "document partner both field"]
    field: Float[np.ndarray, "document partner field field"]
    pairs: int


class Crossing:
    """One window of each document of a block, crossed with every other; their scores come in one batch or in several.

    Args:
        algebra: of the windows.
        states, rhythm, basis: of all documents of the block, as for a call of `WindowAlgebra`.
    """

    def __init__(
        self,
        algebra: WindowAlgebra,
        states: Float[Tensor, "document key component"],
        rhythm: Float[Tensor, "document key column"],
        basis: Basis,
    ) -> None:
        self._algebra, self._states, self._rhythm, self._basis = algebra, states, rhythm, basis
        self._own: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._tracks: list[Tensor] = []

    @property
    def missing(self) -> int:
        """Documents whose scores are still to come."""
        return len(self._states) - sum(map(len, self._own))

    def add(
        self,
        scores: Float[Tensor, "part head query key"],
        reference: "Scores | None",
    ) -> None:
        """The next documents' scores, and surface scores, as for `WindowAlgebra`."""
        first = len(self._states) - self.missing
        part = slice(first, first + len(scores))
        own, sums = self._algebra.pair_products(self._states[part], scores, reference)
        self._own.append(torch.triu(own) + torch.triu(own, 1).transpose(1, 2))
        self._sums.append(sums.double())
        self._tracks.append(_with_tracks(self._algebra, self._states, part, scores, reference))

    def crossed(self) -> Crossed:
        """What the swap gate reads, once no document is missing."""
        algebra, basis = self._algebra, self._basis
        blocks, within = algebra.columns.blocks, algebra.columns.within
        own, sums, tracks = (torch.cat(parts) for parts in (self._own, self._sums, self._tracks))
        projected = algebra.whitened(sums)
        key_only = torch.cat(
            [self._rhythm.to(sums), state_columns(self._states[..., : basis.rank].double(), basis)], -1
        )
        key_only = key_only - key_only.mean(1, keepdim=True)
        theirs = slice(blocks["track"].start, within)
        tracks[:, :, blocks["distance"]] = own[None, :, blocks["distance"], theirs]
        tracks -= torch.einsum("idc,jdk->ijck", projected, projected[..., theirs])
        return Crossed(
            own.cpu().numpy(),
            (own - projected.transpose(1, 2) @ projected).cpu().numpy(),
            tracks.cpu().numpy(),
            torch.einsum("ikc,jkf->ijcf", sums, key_only).cpu().numpy(),
            torch.einsum("ikf,jkg->ijfg", key_only, algebra.key_products(key_only)).cpu().numpy(),
            algebra.support.pairs,
        )


def cross_documents(
    algebra: WindowAlgebra,
    states: Float[Tensor, "document key component"],
    rhythm: Float[Tensor, "document key column"],
    basis: Basis,
    scores: Float[Tensor, "document head query key"],
    reference: Float[Tensor, "document head query key"] | None,
) -> Crossed:
    """A block of documents in one batch, crossed; arguments as for `WindowAlgebra`."""
    crossing = Crossing(algebra, states, rhythm, basis)
    crossing.add(scores, reference)
    return crossing.crossed()


def _with_tracks(
    algebra: WindowAlgebra, states: Tensor, part: slice, scores: Tensor, reference: "Scores | None"
) -> Float[Tensor, "part partner both track"]:
    """Row-gauge products of kernels, bilinear columns and heads with every partner's tracks; distance is left 0."""
    support, blocks = algebra.support, algebra.columns.blocks
    documents, own, heads, within = len(states), len(scores), scores.shape[1], algebra.columns.within
    dtype = torch.promote_types(scores.dtype, torch.float32)
    narrow, wide = states[..., : algebra.columns.state_rank].to(dtype).contiguous(), states[part].to(dtype)
    rank, kernels = algebra.columns.bilinear_rank, len(WIDTHS)
    count = blocks["track"].stop - blocks["track"].start
    products = states.new_zeros(own * (kernels + heads), documents * count, dtype=torch.float64)
    weighed = wide.new_zeros(own * rank, documents * count, support.window)
    # a block has several times the windows of a batch
    tile = algebra.tile and max(algebra.tile // 4, 1)
    for block in row_blocks(narrow, support, tile=tile):
        rows, keys = block.rows, slice(0, block.last)
        here = (slice(None), slice(None), support.queries_of(rows), keys)
        mask = support.mask[rows, keys].to(wide)
        inverse = support.inverse_counts[rows].to(wide)[:, None]
        live = scores[here].to(dtype)
        energy = -live if reference is None else reference[here].to(dtype) - live
        tracks = block.tracks * mask
        tracks = (tracks - tracks.sum(-1, keepdim=True) * inverse * mask).flatten(0, 1)
        mine = (torch.cat([block.kernels[part], energy], 1) * mask).flatten(2).flatten(0, 1)
        products += (mine @ tracks.flatten(1).T).double()
        left = wide[:, support.queries_of(rows), :rank].transpose(1, 2).flatten(0, 1)
        weighed[..., keys] += (left @ tracks.transpose(0, 1).flatten(1)).view(len(left), -1, block.last)
    out = states.new_zeros(own, documents, within + heads, count, dtype=torch.float64)
    by_pair = products.view(own, -1, documents, count).transpose(1, 2)
    out[:, :, blocks["kernels"]] = by_pair[:, :, :kernels]
    out[:, :, within:] = by_pair[:, :, kernels:]
    bilinear = weighed.view(own, -1, support.window) @ wide[..., :rank]
    bilinear = bilinear.view(own, rank, documents, count, rank).permute(0, 2, 1, 4, 3)
    out[:, :, blocks["bilinear"]] = bilinear.flatten(2, 3).double()
    return out


@threadpool_limits.wrap(limits=1, user_api="blas")
def swapped_gains(
    crossed: Crossed, columns: Columns, wanted: Bool[np.ndarray, "row head"] | None = None
) -> Float[np.ndarray, "shift document row head"]:
    """Held-out gain of each fitted row on each document when all take the columns of their shift's partner.

    Shift 0 is the documents' own columns. Bases and gains are those of `fit`; every document is left out once, and the
    track that enters the field's base is chosen from the documents' own.

    Args:
        crossed: from `cross_documents`.
        columns: of the algebra that crossed them.
        wanted: rows and heads to compute, all by default; the others are NaN.
    """
    documents = len(crossed.own_row)
    at = np.arange(documents)
    partner = (at[:, None] + at) % documents  # [document, shift]
    by_document = _track_gains(crossed, columns, partner)
    out = np.zeros((documents, documents, len(ROWS), crossed.own_row.shape[1] - columns.within))
    out[:, :, 3] = np.stack([gains for gains, _ in by_document], 1)
    chosen = np.stack([choice for _, choice in by_document])
    wanted = np.ones(out.shape[2:], bool) if wanted is None else wanted
    rows = [row for row in range(3) if wanted[row].any()]

    def of_row(row: int) -> np.ndarray:
        return _field_gains(crossed, columns, partner, np.where(wanted[row], chosen, -1), ROWS[row])

    with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), 3))) as pool:
        for row, gains in zip(rows, pool.map(of_row, rows), strict=True):
            out[:, :, row] = gains
    out[:, :, ~wanted] = np.nan
    return out


def swap_p(gains: Float[np.ndarray, "shift document row head"]) -> Float[np.ndarray, "row head"]:
    """(1 + shifts whose mean gain is no less than the true one's) / shifts; NaN where not computed."""
    mean = gains.mean(1)
    return np.where(np.isnan(mean[0]), np.nan, (1 + (mean[1:] >= mean[0]).sum(0)) / len(mean))


@dataclass(frozen=True)
class _Left:
    """Something of each document, and of all others."""

    of_each: np.ndarray
    total: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "_Left":
        return cls(values, values.sum(0))

    def without(self, document: int) -> np.ndarray:
        return self.total - self.of_each[document]


def _track_gains(
    crossed: Crossed, columns: Columns, partner: np.ndarray
) -> list[tuple[Float[np.ndarray, "shift head"], Int[np.ndarray, " head"]]]:
    """By document, the gain of each shift's best track, and the documents' own choice."""
    at, place = np.arange(len(partner)), slice(columns.nuisance.stop, columns.within)
    own = _Left.of(crossed.own_within)
    diagonal = _Left.of(crossed.own_row.diagonal(axis1=1, axis2=2))
    tracks = _Left.of(crossed.tracks_within[at[:, None], partner])  # [document, shift, both, track]
    square = _Left.of(own.of_each.diagonal(axis1=1, axis2=2)[:, place][partner])  # [document, shift, track]
    size = _Left.of(diagonal.of_each[:, place][partner])
    return [_track_gain(own, diagonal, tracks, square, size, columns, document) for document in at.tolist()]


def _track_gain(
    own: _Left, diagonal: _Left, tracks: _Left, square: _Left, size: _Left, columns: Columns, document: int
) -> tuple[Float[np.ndarray, "shift head"], Int[np.ndarray, " head"]]:
    """Gain on one document of each shift's best track, and the documents' own choice.

    Args:
        own: pair columns and heads with themselves within keys; `diagonal` their squares in the row gauge.
        tracks: by shift, pair columns and heads with the partner's tracks within keys.
        square, size: by shift, the partner's tracks' squares within keys and in the row gauge.
        document: the one left out.
    """
    n, within = columns.nuisance.stop, columns.within
    gram, here, trained = own.without(document), own.of_each[document], tracks.without(document)
    shifts, heads = len(trained), len(gram) - within
    scale = scale_of(np.diag(diagonal.without(document)[:within]))
    ridge = RIDGE * size.without(document)
    factor = scipy.linalg.cholesky(gram[:n, :n] + np.diag(RIDGE * scale[:n]), lower=True)
    right = np.concatenate([gram[:n, within:], trained[:, :n].transpose(1, 0, 2).reshape(n, -1)], 1)
    whitened = scipy.linalg.solve_triangular(factor, right, lower=True)
    back = scipy.linalg.solve_triangular(factor, whitened, lower=True, trans=1)
    base, through = back[:, :heads], back[:, heads:].reshape(n, shifts, -1)
    w_heads, w_tracks = whitened[:, :heads], whitened[:, heads:].reshape(n, shifts, -1)
    left = square.without(document) + ridge - (w_tracks**2).sum(0)
    cross = trained[:, within:].transpose(0, 2, 1) - np.einsum("nst,nh->sth", w_tracks, w_heads)
    alive = left > ALIAS * ridge / RIDGE
    c = np.where(alive[..., None], cross / np.where(alive, left, 1)[..., None], 0)
    chosen = (c * cross).argmax(1)  # [shift, head]
    c = np.take_along_axis(c, chosen[:, None], 1)[:, 0]
    # on the document left out: the track's column less what the nuisance predicts of it
    theirs = tracks.of_each[document]
    with_n = theirs[:, :n] - np.einsum("nm,mst->snt", here[:n, :n], through)
    a = (
        theirs[:, within:].transpose(0, 2, 1)
        - np.einsum("nst,nh->sth", through, here[:n, within:])
        - np.einsum("snt,nh->sth", with_n, base)
    )
    b = (
        square.of_each[document]
        - np.einsum("nst,snt->st", through, theirs[:, :n])
        - np.einsum("nst,snt->st", through, with_n)
    )
    a = np.take_along_axis(a, chosen[:, None], 1)[:, 0]
    b = np.take_along_axis(b, chosen, 1)
    energy = diagonal.of_each[document, within:]
    return np.stack([share_of(2 * c[s] * a[s] - c[s] ** 2 * b[s], energy) for s in range(shifts)]), chosen[0]


def _field_gains(
    crossed: Crossed,
    columns: Columns,
    partner: np.ndarray,
    chosen: Int[np.ndarray, "document head"],
    name: str,
) -> Float[np.ndarray, "shift document head"]:
    """Gains of the partner's field over nuisance, the own chosen track and the own other block."""
    n, within = columns.nuisance.stop, columns.within
    rhythm = columns.blocks["rhythm"].stop - within
    first, second = slice(0, rhythm), slice(rhythm, crossed.field.shape[-1])
    part, other = {
        "prosody": (slice(0, second.stop), None),
        "rhythm": (first, second),
        "state": (second, first),
    }[name]
    at = np.arange(len(partner))
    stiff = stiffness(columns, (len(partner) - 1) * crossed.pairs)
    key_only = stiff[within:]
    extra = (
        np.concatenate([np.ones(n + 1), key_only[other] if other is not None else key_only[:0]]),
        key_only[part],
    )
    square = _Left.of(crossed.field[partner, partner][:, :, part, part])
    fields = crossed.fields[at[:, None], partner][..., part]  # [document, shift, both, part]
    heads = _Left.of(fields[:, :, within:])
    energy = crossed.own_row.diagonal(axis1=1, axis2=2)[:, within:]
    out = np.zeros((*partner.T.shape, crossed.own_row.shape[1] - within))
    for track in np.unique(chosen[chosen >= 0]):
        pairs = np.append(np.arange(n), n + track)
        base, base_heads = crossed.own_row[:, pairs[:, None], pairs], crossed.own_row[:, pairs, within:]
        cross = fields[:, :, pairs]
        if other is not None:
            own = crossed.fields[at, at]
            base = np.block(
                [
                    [base, own[:, pairs, other]],
                    [own[:, pairs, other].transpose(0, 2, 1), crossed.field[at, at][:, other, other]],
                ]
            )
            base_heads = np.concatenate([base_heads, own[:, within:, other].transpose(0, 2, 1)], 1)
            cross = np.concatenate([cross, crossed.field[at[:, None], partner][:, :, other, part]], 2)
        sums = _Left.of(base), _Left.of(base_heads), _Left.of(cross)
        for document in np.flatnonzero((chosen == track).any(1)).tolist():
            mine = np.flatnonzero(chosen[document] == track)
            found = _block_gain(*sums, heads, square, document, mine, extra)
            out[:, document, mine] = found / energy[document, mine]
    return out


def _block_gain(
    base: _Left,
    base_heads: _Left,
    cross: _Left,
    heads: _Left,
    square: _Left,
    document: int,
    mine: np.ndarray,
    stiff: tuple[Float[np.ndarray, " base"], Float[np.ndarray, " part"]],
) -> Float[np.ndarray, "shift head"]:
    """Squares on one document that a block explains over its base, by coefficients from the others.

    Args:
        base: base columns with themselves; `base_heads` with heads.
        cross: by shift, base columns with the block; `heads` heads with it; `square` the block with itself.
        document: the one left out.
        mine: the heads wanted.
        stiff: how many times the usual ridge each base column and each column of the block gets.
    """
    gram, crossed = base.without(document), cross.without(document).transpose(1, 0, 2)
    size, shifts, part = crossed.shape
    factor = scipy.linalg.cholesky(gram + np.diag(RIDGE * scale_of(gram) * stiff[0]), lower=True)
    right = np.concatenate([base_heads.without(document)[:, mine], crossed.reshape(size, -1)], 1)
    whitened = scipy.linalg.solve_triangular(factor, right, lower=True)
    back = scipy.linalg.solve_triangular(factor, whitened, lower=True, trans=1)
    count = len(mine)
    alone, through = back[:, :count], back[:, count:].reshape(size, shifts, part).transpose(1, 0, 2)
    with_block = whitened[:, count:].reshape(size, shifts, part).transpose(1, 2, 0)
    train = square.without(document)
    ridge = RIDGE * np.stack([scale_of(one) * stiff[1] for one in train])[:, :, None] * np.eye(part)
    reduced = train + ridge - with_block @ with_block.transpose(0, 2, 1)
    target = heads.without(document)[:, mine].transpose(0, 2, 1) - with_block @ whitened[:, :count]
    c = np.linalg.solve(reduced, target)
    # on the document left out: the block less what the base predicts of it
    here, theirs, turned = base.of_each[document], cross.of_each[document], through.transpose(0, 2, 1)
    left = theirs - (here @ back[:, count:]).reshape(size, shifts, part).transpose(1, 0, 2)
    a = heads.of_each[document][:, mine].transpose(0, 2, 1) - turned @ base_heads.of_each[document][:, mine]
    a = a - left.transpose(0, 2, 1) @ alone
    b = square.of_each[document] - turned @ theirs - left.transpose(0, 2, 1) @ through
    return np.asarray((2 * c * a - c * (b @ c)).sum(1))
