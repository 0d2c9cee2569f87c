"""What the texts can tell apart: the Fisher spectrum of a layer's columns, and its aliases with their evidence.

Least squares estimates each direction with a variance inversely proportional to its eigenvalue: stiff directions are
known, sloppy ones are not (Brown and Sethna, 2003). Eigenvalues below a floor are named and counted, never inverted.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from infodyn_interp.energy.fitting import RIDGE
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.terms import TAUS, WIDTHS, Columns

CONSTANT = 1e-12  # row-gauge variance, in a column's own unit (all are of order one): below it only rounding moves it
ROUNDING = (
    1e-6  # of the moments, relative to the columns' sizes: times the largest eigenvalue it is the floor
)
LOST = 1e-4  # squared loading on floored directions: with more, the coefficient is open by what nobody sees
MEMBER = 0.02  # entry of a combination, relative to its largest, above which a column takes part
LIKENESS = 0.99  # squared cosine with the sum of the distance bins above which a combination is that sum
SLOW = 0.15  # of a track's energy: with less left it is not told from what took it
SAME = 0.95  # correlation of tracks of neighbouring widths: above it the width changes the amplitude and little else
TERM_BLOCKS = {"prosody": ("rhythm", "state"), "nuisance": ("distance", "kernels", "bilinear")}


@dataclass(frozen=True)
class Alias:
    """Columns that the texts do not tell apart, with the number that says so.

    Args:
        kind: `row constant`: a combination that softmax cannot see; `collinear`: columns that add up to nothing;
            `slow track`: a track that is the same for every query; `similar track`: one that N explains; `width`: two
            tracks of which one is the other with another amplitude.
        columns: their names.
        evidence: row constant, collinear: row-gauge square of the scaled combination over the largest eigenvalue, of
            one floored direction each; slow track: share of its energy left after key effects; similar track: after N
            too; width: correlation of the two within keys after N.
    """

    kind: Literal["row constant", "collinear", "slow track", "similar track", "width"]
    columns: tuple[str, ...]
    evidence: float


@dataclass(frozen=True)
class Spectrum:
    """Fisher information of one layer's columns in the row gauge, per pair and unit noise variance (seed 1.2).

    Args:
        columns: names and places of the columns.
        pairs: query-key pairs; the information of all texts is this many times an eigenvalue over the noise variance.
        constant: columns that the texts never move; left out, their loadings are 0.
        eigenvalue: of the columns scaled to unit row-gauge variance, largest first; they sum to the columns' number.
        loading: unit eigenvectors over scaled columns, the largest entry positive.
        floored: eigenvalues below the floor, which are never inverted.
        lost_loading: squared loading of each column on the floored directions; 1 for a constant column.
        lost: directions of each block, and of `prosody` and `nuisance`, that the texts do not show beside all others.
        row_constant: row-gauge square of the distance bins' sum over the sum of their squares: 0 where the bins cover
            every row.
        track_within: share of each track's row-gauge energy left after key effects.
        track_left: the same after key effects and N.
        width_correlation: of tracks of neighbouring widths and the same tau, within keys after N.
        aliases: what these numbers name.
    """

    columns: Columns
    pairs: float
    constant: Bool[np.ndarray, " column"]
    eigenvalue: Float[np.ndarray, " direction"]
    loading: Float[np.ndarray, "direction column"]
    floored: Bool[np.ndarray, " direction"]
    lost_loading: Float[np.ndarray, " column"]
    lost: dict[str, int]
    row_constant: float
    track_within: Float[np.ndarray, "width tau"]
    track_left: Float[np.ndarray, "width tau"]
    width_correlation: Float[np.ndarray, "neighbour tau"]
    aliases: tuple[Alias, ...]

    @property
    def estimable(self) -> Bool[np.ndarray, " column"]:
        """Columns whose coefficients the texts decide."""
        return self.lost_loading <= LOST

    @property
    def block_share(self) -> Float[np.ndarray, "direction block"]:
        """Squared loading of each direction on each block; rows sum to 1."""
        return np.stack([(self.loading[:, block] ** 2).sum(1) for block in self.columns.blocks.values()], 1)

    def leading(self, direction: int, count: int = 5) -> list[tuple[str, str, float]]:
        """A direction in words: column, block and loading of its `count` largest loadings (direction -1: sloppiest)."""
        block_of = {
            place: name
            for name, block in self.columns.blocks.items()
            for place in range(block.start, block.stop)
        }
        loading = self.loading[direction]
        order = np.argsort(-np.abs(loading), kind="stable")[:count]
        return [(self.columns.names[place], block_of[int(place)], float(loading[place])) for place in order]


@threadpool_limits.wrap(limits=1, user_api="blas")
def fisher_spectrum(moments: Moments) -> Spectrum:
    """Eigenvalues, directions and aliases of one layer's columns; heads share them (science: structure).

    Args:
        moments: any number of folds, taken together.

    Raises:
        ValueError: no pairs, no column that moves, or moments that are not finite.
    """
    total, columns = moments.total, moments.columns
    pairs = float(total.pairs[0])
    gram = total.gram(0)
    if not pairs > 0:
        raise ValueError("a spectrum needs at least one window")
    if not (np.isfinite(gram).all() and np.isfinite(total.gram_within).all()):
        raise ValueError("moments are not finite")
    information = gram / pairs
    variance = information.diagonal()
    constant = variance <= CONSTANT
    alive = np.flatnonzero(~constant)
    if not len(alive):
        raise ValueError("no column moves: the texts are too short or all alike")
    deviation = np.sqrt(variance[alive])
    scaled = information[np.ix_(alive, alive)] / np.outer(deviation, deviation)
    values, vectors = (part[..., ::-1] for part in scipy.linalg.eigh(scaled))
    floor = ROUNDING * values[0]
    floored = values < floor
    largest = vectors[np.abs(vectors).argmax(0), np.arange(len(values))]
    loading = np.zeros((len(values), columns.count))
    loading[:, alive] = (vectors * np.sign(largest)).T
    tracks = _tracks(total)
    return Spectrum(
        columns=columns,
        pairs=pairs,
        constant=constant,
        eigenvalue=values,
        loading=loading,
        floored=floored,
        lost_loading=np.where(constant, 1.0, (loading[floored] ** 2).sum(0)),
        lost=_lost(scaled, alive, columns, floor),
        row_constant=_row_constant(gram, columns),
        track_within=tracks[0],
        track_left=tracks[1],
        width_correlation=tracks[2],
        aliases=(
            *_combinations(loading[floored][:, alive], scaled / values[0], deviation, alive, columns),
            *_tracks_alike(columns, *tracks),
        ),
    )


def _lost(scaled: np.ndarray, alive: np.ndarray, columns: Columns, floor: float) -> dict[str, int]:
    """Of each group of columns: its number, less what the rank gains by it beside all others."""
    blocks = {name: (name,) for name in columns.blocks} | TERM_BLOCKS
    rank = _rank(scaled, floor)
    lost = {}
    for name, parts in blocks.items():
        member = np.zeros(columns.count, bool)
        for part in parts:
            member[columns.blocks[part]] = True
        others = ~member[alive]
        lost[name] = int(member.sum()) - (rank - _rank(scaled[np.ix_(others, others)], floor))
    return lost


def _rank(scaled: np.ndarray, floor: float) -> int:
    return int((scipy.linalg.eigvalsh(scaled) >= floor).sum()) if len(scaled) else 0


def _row_constant(gram: np.ndarray, columns: Columns) -> float:
    distance = gram[columns.blocks["distance"], columns.blocks["distance"]]
    return float(abs(distance.sum()) / distance.trace())


def _tracks(total: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of each track left after key effects, after N too, and correlations of neighbouring widths there."""
    columns, within = total.columns, total.gram(0, "within")
    track, nuisance = columns.blocks["track"], columns.nuisance
    row = total.gram(0).diagonal()
    base = within[nuisance, nuisance] + np.diag(RIDGE * np.where(row > 0, row, 1)[nuisance])
    half = scipy.linalg.solve_triangular(
        scipy.linalg.cholesky(base, lower=True), within[nuisance, track], lower=True
    )
    left = within[track, track] - half.T @ half
    shape = len(WIDTHS), len(TAUS)
    square = np.maximum(left.diagonal(), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (left / np.sqrt(np.outer(square, square))).reshape(*shape, *shape)
        shares = [(part.diagonal() / row[track]).reshape(shape) for part in (within[track, track], left)]
    pair, tau = np.arange(len(WIDTHS) - 1)[:, None], np.arange(len(TAUS))
    return shares[0], shares[1], correlation[pair, tau, pair + 1, tau]


def _combinations(
    floored: Float[np.ndarray, "floored alive"],
    scaled: Float[np.ndarray, "alive alive"],
    deviation: Float[np.ndarray, " alive"],
    alive: np.ndarray,
    columns: Columns,
) -> list[Alias]:
    """One alias a floored direction.

    Eigenvectors of equal eigenvalues turn into each other freely. Their span has one basis in which each vector holds
    one column that the others do not, and there aliases that have nothing in common lie apart.
    """
    lost = len(floored)
    if not lost:
        return []
    pivots = scipy.linalg.qr(floored, mode="r", pivoting=True)[1][:lost]
    combined = scipy.linalg.solve(floored[:, pivots], floored)
    distance = columns.blocks["distance"]
    bins = np.where((distance.start <= alive) & (alive < distance.stop), deviation, 0.0)
    aliases = []
    for combination in combined:
        unit = combination / np.linalg.norm(combination)
        taking_part = np.abs(combination) > MEMBER * np.abs(combination).max()
        is_bins = (unit @ bins) ** 2 > LIKENESS * (bins @ bins)
        aliases.append(
            Alias(
                "row constant" if is_bins else "collinear",
                tuple(columns.names[place] for place in alive[taking_part]),
                float(abs(unit @ scaled @ unit)),
            )
        )
    return aliases


def _tracks_alike(
    columns: Columns, within: np.ndarray, left: np.ndarray, correlation: np.ndarray
) -> list[Alias]:
    """Tracks that are hard to tell from P or from N, and amplitudes that are hard to tell from a width."""
    names = np.array(columns.names[columns.blocks["track"]]).reshape(left.shape)
    aliases = []
    for at in np.ndindex(left.shape):
        if within[at] < SLOW:
            aliases.append(Alias("slow track", (str(names[at]),), float(within[at])))
        elif left[at] < SLOW:
            aliases.append(Alias("similar track", (str(names[at]),), float(left[at])))
    for pair, tau in np.ndindex(correlation.shape):
        if correlation[pair, tau] > SAME:
            both = str(names[pair, tau]), str(names[pair + 1, tau])
            aliases.append(Alias("width", both, float(correlation[pair, tau])))
    return aliases
