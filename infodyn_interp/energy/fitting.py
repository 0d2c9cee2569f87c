"""From moments to coefficients, shares and held-out gains: linear algebra on a few hundred columns, no model.

Documents are the statistical unit: every fit leaves one fold of documents out and is scored there. Gains are shares of
the left-out fold's row-centred energy variance, so a term that explains nothing has a gain around or below 0.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.linalg
import scipy.stats
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.terms import Columns

RIDGE = 1e-5  # of each column's square: above the rounding of the moments (1e-6), far below any share that matters
ALIAS = (
    1e-6  # of its row-gauge square: a column with less left in the two-way gauge is an alias and is dropped
)
# Tokens that say nothing, added for the radial basis functions alone: sixteen free columns drown a linear field. Of P
# at 10 %, 16 documents of 64 tokens, .77 were IDENTIFIED without them; twice as many would take .06 off a field planted
# in 6,000 tokens of a real model.
PRIOR_TOKENS = 16
MOVED = 1e-12  # of the largest column's square: columns are of order one, below this only rounding moves them
LEVEL = 0.95  # of intervals
TERMS = ("prosody", "rhythm", "state", "track")
PAIRS = ("prosody-track", "prosody-nuisance", "track-nuisance")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over folds of documents and its t."""

    value: Float[np.ndarray, "*shape"]
    low: Float[np.ndarray, "*shape"]
    high: Float[np.ndarray, "*shape"]
    t: Float[np.ndarray, "*shape"]

    @classmethod
    def of_folds(cls, by_fold: Float[np.ndarray, "fold *shape"]) -> "Estimate":
        """Mean over folds, interval by Student's t with folds - 1 degrees of freedom."""
        return cls._around(by_fold.mean(0), by_fold.std(0, ddof=1) / np.sqrt(len(by_fold)), len(by_fold))

    @classmethod
    def of_jackknife(
        cls, value: Float[np.ndarray, "*shape"], without: Float[np.ndarray, "fold *shape"]
    ) -> "Estimate":
        """Delete-one-fold jackknife of any statistic: `without[f]` is the statistic on all folds but f."""
        folds = len(without)
        error = np.sqrt((folds - 1) / folds * ((without - without.mean(0)) ** 2).sum(0))
        return cls._around(value, error, folds)

    @classmethod
    def _around(cls, value: np.ndarray, error: np.ndarray, folds: int) -> "Estimate":
        reach = scipy.stats.t.ppf((1 + LEVEL) / 2, folds - 1) * error
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(error > 0, value / error, np.nan)
        return cls(value, value - reach, value + reach, t)


@dataclass(frozen=True)
class Fit:
    """One layer's fits; arrays by head, by fold where a fold was left out.

    Within keys the columns are those that live in both gauges: N and the tracks, in that order.

    Args:
        columns: names and places of the columns.
        coefficient: row-gauge coefficients of all columns on all folds (nats per unit); of the nine tracks only the
            chosen one's is not 0.
        coefficient_without: the same, each fold left out.
        track: within-key coefficient c of the chosen track (a well is c < 0).
        track_without: c, each fold left out.
        pair_without: within-key coefficients of N and the chosen track, each fold left out (nats per unit).
        nine_without: the same with all nine tracks at once.
        chosen: index of the chosen (width, tau) among the nine tracks; `chosen_without` inside each training fold.
        share: variance of each fitted term over the row-centred energy variance; the track's within keys.
        covariance_share: twice the covariance of two fitted terms over the same variance (seed 1.2: interference).
        gain: by term (`TERMS`), held-out, over its base: prosody over N + T, rhythm over N + T + state, state over
            N + T + rhythm, track over N within keys.
        gain_alone: rhythm over N + T, without the state block.
        marginal_gain: track over distance, the others over nothing.
        track_gain: gain of each of the nine tracks over N within keys.
        rms: row-centred energy, nats.
    """

    columns: Columns
    coefficient: Float[np.ndarray, "head column"]
    coefficient_without: Float[np.ndarray, "fold head column"]
    track: Float[np.ndarray, " head"]
    track_without: Float[np.ndarray, "fold head"]
    pair_without: Float[np.ndarray, "fold head column_within"]
    nine_without: Float[np.ndarray, "fold head column_within"]
    chosen: Int[np.ndarray, " head"]
    chosen_without: Int[np.ndarray, "fold head"]
    share: Float[np.ndarray, "term head"]
    covariance_share: Float[np.ndarray, "pair head"]
    gain_by_fold: Float[np.ndarray, "fold term head"]
    gain_alone_by_fold: Float[np.ndarray, "fold head"]
    marginal_by_fold: Float[np.ndarray, "fold term head"]
    track_gain_by_fold: Float[np.ndarray, "fold track head"]
    rms: Float[np.ndarray, " head"]

    @property
    def gain(self) -> Estimate:
        """Held-out gain by term and head, with interval over folds."""
        return Estimate.of_folds(self.gain_by_fold)

    @property
    def marginal_gain(self) -> Estimate:
        """Marginal gain by term and head, with interval over folds."""
        return Estimate.of_folds(self.marginal_by_fold)


@dataclass(frozen=True)
class System:
    """Normal equations of one training set in one gauge, with N eliminated: everything else is small."""

    gram: Float[np.ndarray, "column column"]
    cross: Float[np.ndarray, "column head"]
    nuisance: int
    whitened: Float[np.ndarray, "nuisance column"]
    whitened_cross: Float[np.ndarray, "nuisance head"]
    factor: Float[np.ndarray, "nuisance nuisance"]

    @classmethod
    def of(
        cls, gram: np.ndarray, cross: np.ndarray, nuisance: int, scale: Float[np.ndarray, " column"]
    ) -> "System":
        """Factor N's block; the ridge is relative to each column's row-gauge square `scale`."""
        regular = gram + np.diag(RIDGE * scale)
        factor = scipy.linalg.cholesky(regular[:nuisance, :nuisance], lower=True, check_finite=False)
        solved = scipy.linalg.solve_triangular(
            factor, np.hstack([regular[:nuisance], cross[:nuisance]]), lower=True, check_finite=False
        )
        return cls(regular, cross, nuisance, solved[:, : len(gram)], solved[:, len(gram) :], factor)

    def reduced(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gram and cross of some columns after N."""
        whitened = self.whitened[:, places]
        gram = self.gram[np.ix_(places, places)] - whitened.T @ whitened
        return gram, self.cross[places] - whitened.T @ self.whitened_cross

    def of_heads(self, heads: np.ndarray) -> "System":
        """The same for some heads alone."""
        return replace(self, cross=self.cross[:, heads], whitened_cross=self.whitened_cross[:, heads])

    def solve(self, places: np.ndarray) -> Float[np.ndarray, "column head"]:
        """Coefficients of N and the columns at `places`, zero elsewhere."""
        out = np.zeros_like(self.cross)
        right = self.whitened_cross
        if len(places):
            gram, cross = self.reduced(places)
            out[places] = scipy.linalg.solve(gram, cross, assume_a="pos", check_finite=False)
            right = right - self.whitened[:, places] @ out[places]
        out[: self.nuisance] = scipy.linalg.solve_triangular(
            self.factor, right, lower=True, trans=1, check_finite=False
        )
        return out


@threadpool_limits.wrap(
    limits=1, user_api="blas"
)  # thousands of small factorisations: threads would only wait
def fit(moments: Moments) -> Fit:
    """Fit P, T and N to one layer's moments, on all folds and with each left out (seed 1.2; science: terms, verdicts).

    Args:
        moments: at least two folds, none empty.

    Raises:
        ValueError: fewer than two folds, an empty fold, or moments that are not finite.
    """
    if moments.folds < 2 or not (moments.pairs > 0).all():
        raise ValueError("a fit leaves folds out: it needs at least two, none empty")
    if not np.isfinite(moments.square_row).all():
        raise ValueError("moments are not finite")
    columns, heads = moments.columns, moments.square_row.shape[1]
    total = moments.total
    whole = _fit_without(
        total.gram(0),
        total.cross(0),
        total.gram(0, "within"),
        total.cross(0, "within"),
        columns,
        total.pairs[0],
    )
    folds = []
    for fold in range(moments.folds):
        train, left = _train_without(moments, fold)
        folds.append((train, _score(train, left, moments.square(fold), columns)))
    square = total.square(0)
    shares, covariances = _shares(whole.full, whole.track, whole.chosen, total)
    trained = [train for train, _ in folds]
    scored = [scores for _, scores in folds]
    return Fit(
        columns=columns,
        coefficient=whole.full.T,
        coefficient_without=np.stack([train.full.T for train in trained]),
        track=whole.track,
        track_without=np.stack([train.track for train in trained]),
        pair_without=np.stack([train.pairs.T for train in trained]),
        nine_without=np.stack([train.nine.T for train in trained]),
        chosen=whole.chosen,
        chosen_without=np.stack([train.chosen for train in trained]),
        share=shares,
        covariance_share=covariances,
        gain_by_fold=np.stack([scores.gain for scores in scored]),
        gain_alone_by_fold=np.stack([scores.alone for scores in scored]),
        marginal_by_fold=np.stack([scores.marginal for scores in scored]),
        track_gain_by_fold=np.stack([scores.tracks for scores in scored]),
        rms=np.sqrt(square / moments.pairs.sum()).reshape(heads),
    )


@dataclass(frozen=True)
class GroupFit:
    """What one layer's fits explain of each group of documents; cells are folds within groups, groups first.

    Coefficients are those of the whole run, so groups differ neither by how many documents they were learned on nor by
    how long these are: the same field meets other texts.

    Args:
        explained: by term (`TERMS`), held-out squares that it explains over its base, nats^2.
        square: row-centred energy of each cell, nats^2.
        pairs: query-key pairs of each cell; 0 where a group has no document in a fold.
        share: variance of each fitted term over the group's row-centred energy variance.
    """

    explained: Float[np.ndarray, "cell term head"]
    square: Float[np.ndarray, "cell head"]
    pairs: Float[np.ndarray, " cell"]
    share: Float[np.ndarray, "group term head"]


@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_groups(moments: Moments, cells: Moments, fitted: Fit) -> GroupFit:
    """Score each fold's fits on each group's part of the fold they left out.

    Args:
        moments: of all documents, by fold.
        cells: the same documents by group and fold, groups first.
        fitted: of the moments.
    """
    folds, columns = moments.folds, cells.columns
    heads, explained = moments.square_row.shape[1], np.zeros((cells.folds, *fitted.gain_by_fold.shape[1:]))
    for fold in range(folds):
        train, _ = _train_without(moments, fold)
        for cell in range(fold, cells.folds, folds):
            if cells.pairs[cell] > 0:
                explained[cell] = _score(train, _products(cells, cell), np.ones(heads), columns).gain
    groups = [cells.part(slice(first, first + folds)) for first in range(0, cells.folds, folds)]
    full = fitted.coefficient.T
    shares = [_shares(full, fitted.track, fitted.chosen, group.total)[0] for group in groups]
    return GroupFit(explained, cells.square_row, cells.pairs, np.stack(shares))


@threadpool_limits.wrap(limits=1, user_api="blas")
def track_gains(
    moments: Moments,
) -> tuple[Float[np.ndarray, "fold track head"], Int[np.ndarray, " head"]]:
    """Held-out gain of each track alone over N within keys, and the track with the least squares on all folds.

    What `fit` has as `track_gain_by_fold` and `chosen`, without the rest; folds that hold nothing are left out.
    """
    columns, total = moments.columns, moments.total
    tracks = np.arange(columns.within)[columns.blocks["track"]]
    row, within, cross = total.gram(0), total.gram(0, "within"), total.cross(0, "within")

    def train(
        row: np.ndarray, within: np.ndarray, cross: np.ndarray
    ) -> tuple[System, np.ndarray, np.ndarray]:
        scale = scale_of(row)[: columns.within]
        system = System.of(within, cross, columns.nuisance.stop, scale)
        return system, *pick_track(*system.reduced(tracks), scale[tracks])

    gains = []
    for fold in np.flatnonzero(moments.pairs).tolist():
        left, crossed = moments.gram(fold, "within"), moments.cross(fold, "within")
        system, c, _ = train(row - moments.gram(fold), within - left, cross - crossed)
        alone = np.eye(columns.within)[:, tracks]  # one of each track, less what N has of it
        alone[: system.nuisance] = -scipy.linalg.solve_triangular(
            system.factor, system.whitened[:, tracks], lower=True, trans=1, check_finite=False
        )
        slope = alone.T @ (crossed - left @ system.solve(np.arange(0)))
        bend = (alone * (left @ alone)).sum(0)[:, None]
        square = moments.square(fold)
        gains.append((2 * c * slope - c**2 * bend) / np.where(square > 0, square, np.nan))
    return np.stack(gains), train(row, within, cross)[2]


def _products(moments: Moments, fold: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Gram and cross of one fold in both gauges."""
    return {gauge: (moments.gram(fold, gauge), moments.cross(fold, gauge)) for gauge in ("row", "within")}


def _train_without(
    moments: Moments, fold: int
) -> tuple["_Trained", dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Coefficients of all folds but one, and the products of that one."""
    whole, left = _products(moments.total, 0), _products(moments, fold)
    (gram, cross), (gram_within, cross_within) = (
        tuple(all_of - part for all_of, part in zip(whole[gauge], left[gauge], strict=True))
        for gauge in ("row", "within")
    )
    pairs = moments.total.pairs[0] - moments.pairs[fold]
    return _fit_without(gram, cross, gram_within, cross_within, moments.columns, pairs), left


@dataclass(frozen=True)
class _Trained:
    """Coefficients of one training set; `[column, head]` unless said."""

    full: np.ndarray  # N + T + rhythm + state, row gauge
    without: dict[str, np.ndarray]  # block left out -> N + T + the rest, row gauge
    chosen: np.ndarray
    track: np.ndarray
    nuisance_within: np.ndarray
    tracks_within: list[np.ndarray]  # N + each track, within keys
    nine: np.ndarray  # N + all tracks, within keys
    marginal: dict[str, np.ndarray]
    marginal_track: tuple[np.ndarray, np.ndarray]  # distance alone, distance + its own chosen track

    @property
    def pairs(self) -> np.ndarray:
        """N and the chosen track, within keys."""
        return np.stack(self.tracks_within)[self.chosen, :, np.arange(len(self.chosen))].T


def solve_with_track(
    row: System, places: Int[np.ndarray, " part"], first_track: int, chosen: Int[np.ndarray, " head"]
) -> Float[np.ndarray, "column head"]:
    """Coefficients of N, each head's chosen track and the columns at `places`, in the row gauge."""
    out = np.zeros_like(row.cross)
    for track in np.unique(chosen):
        mine = chosen == track
        out[:, mine] = row.of_heads(mine).solve(np.concatenate([[first_track + track], places]))
    return out


def scale_of(gram: Float[np.ndarray, "column column"]) -> Float[np.ndarray, " column"]:
    """Each column's square, which its ridge is relative to; the largest where only rounding moves it: it gets 0."""
    square = gram.diagonal()
    largest = float(square.max(initial=0)) or 1.0
    return np.where(square > MOVED * largest, square, largest)


def stiffness(columns: Columns, pairs: float) -> Float[np.ndarray, " column"]:
    """How many times the usual ridge each column of the row gauge gets from a training set of so many pairs.

    1 but for the radial basis functions, whose coefficients have a prior worth `PRIOR_TOKENS` tokens: it fades as texts
    grow, and a bend of the field has to earn its place.
    """
    out = np.ones(columns.count)
    support = support_of(columns.window, query_stride=columns.query_stride)
    prior = PRIOR_TOKENS * support.pairs / support.window
    out[columns.blocks["state"].start + columns.state_rank :] += prior / pairs / RIDGE
    return out


def _fit_without(
    gram: np.ndarray,
    cross: np.ndarray,
    gram_within: np.ndarray,
    cross_within: np.ndarray,
    columns: Columns,
    pairs: float,
) -> _Trained:
    blocks = columns.blocks
    scale = scale_of(gram) * stiffness(columns, pairs)
    within_scale = scale[: columns.within]
    places = {name: np.arange(columns.count)[block] for name, block in blocks.items()}
    n = columns.nuisance.stop

    within = System.of(gram_within, cross_within, n, within_scale)
    tracks_within, chosen, c = choose_track(within, places["track"], within_scale)
    heads = np.arange(cross.shape[1])

    d = blocks["distance"].stop
    keep = np.concatenate([np.arange(d), places["track"]])
    near = System.of(gram_within[np.ix_(keep, keep)], cross_within[keep], d, within_scale[keep])
    near_tracks, near_chosen, _ = choose_track(near, np.arange(d, len(keep)), within_scale[keep])
    alone, with_track = np.zeros_like(cross_within), np.zeros_like(cross_within)
    alone[keep] = near.solve(np.arange(0))
    with_track[keep] = np.stack(near_tracks)[near_chosen, :, heads].T

    row = System.of(gram, cross, n, scale)
    field = np.concatenate([places["rhythm"], places["state"]])
    parts = {"": field, "rhythm": places["state"], "state": places["rhythm"], "prosody": np.arange(0)}
    solved = {
        name: solve_with_track(row, part, blocks["track"].start, chosen) for name, part in parts.items()
    }

    bare = gram + np.diag(RIDGE * scale)
    marginal = {}
    for name, part in (("prosody", field), ("rhythm", places["rhythm"]), ("state", places["state"])):
        beta = np.zeros_like(cross)
        beta[part] = scipy.linalg.solve(
            bare[np.ix_(part, part)], cross[part], assume_a="pos", check_finite=False
        )
        marginal[name] = beta
    full = solved.pop("")
    return _Trained(
        full,
        solved,
        chosen,
        c,
        within.solve(np.arange(0)),
        tracks_within,
        within.solve(places["track"]),
        marginal,
        (alone, with_track),
    )


def choose_track(
    system: System, places: np.ndarray, scale: Float[np.ndarray, " column"]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Each track's fit after the base, the track with the smallest training SSE by head, and its coefficient."""
    c, chosen = pick_track(*system.reduced(places), scale[places])
    fits = []
    for place, coefficient in zip(places, c, strict=True):
        beta = np.zeros_like(system.cross)
        beta[place] = coefficient
        right = system.whitened_cross - system.whitened[:, [place]] * coefficient
        beta[: system.nuisance] = scipy.linalg.solve_triangular(
            system.factor, right, lower=True, trans=1, check_finite=False
        )
        fits.append(beta)
    return fits, chosen, c[chosen, np.arange(c.shape[1])]


def pick_track(
    gram: Float[np.ndarray, "track track"],
    cross: Float[np.ndarray, "track head"],
    scale: Float[np.ndarray, " track"],
) -> tuple[Float[np.ndarray, "track head"], Int[np.ndarray, " head"]]:
    """Each track's coefficient alone, and which explains most, from normal equations after the base."""
    left = gram.diagonal()
    alive = left > ALIAS * scale
    c = np.where(alive[:, None], cross / np.where(alive, left, 1)[:, None], 0.0)
    return c, (c * cross).argmax(0)


def share_of(
    part: Float[np.ndarray, " head"], square: Float[np.ndarray, " head"]
) -> Float[np.ndarray, " head"]:
    """A part of the energy's squares as a share; NaN where a head has no energy at all."""
    return np.divide(part, square, out=np.full(square.shape, np.nan), where=square > 0)


def explained_share(
    gram: np.ndarray,
    cross: np.ndarray,
    square: Float[np.ndarray, " head"],
    beta: Float[np.ndarray, "column head"],
) -> Float[np.ndarray, " head"]:
    """Squares that coefficients explain of energies with these products, as a share of `square`."""
    return share_of((2 * (beta * cross) - beta * (gram @ beta)).sum(0), square)


@dataclass(frozen=True)
class _Scores:
    gain: np.ndarray
    alone: np.ndarray
    marginal: np.ndarray
    tracks: np.ndarray


def _score(
    train: _Trained, left: dict[str, tuple[np.ndarray, np.ndarray]], square: np.ndarray, columns: Columns
) -> _Scores:
    """Held-out gains of one training set on the fold it left out."""
    row, within = (partial(explained_share, *left[gauge], square) for gauge in ("row", "within"))
    full, base = row(train.full), {name: row(beta) for name, beta in train.without.items()}
    bare = within(train.nuisance_within)
    tracks = np.stack([within(beta) - bare for beta in train.tracks_within])
    gain = np.stack(
        [
            full - base["prosody"],
            full - base["rhythm"],
            full - base["state"],
            tracks[train.chosen, np.arange(len(square))],
        ]
    )
    alone, with_track = train.marginal_track
    marginal = np.stack(
        [row(train.marginal[name]) for name in TERMS[:3]] + [within(with_track) - within(alone)]
    )
    return _Scores(gain, base["state"] - base["prosody"], marginal, tracks)


def _shares(
    full: Float[np.ndarray, "column head"],
    track: Float[np.ndarray, " head"],
    chosen: Int[np.ndarray, " head"],
    total: Moments,
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the fitted terms in the energies of one fold, and the covariance shares of P, T and N."""
    columns, square = total.columns, total.square(0)
    gram, within = total.gram(0), total.gram(0, "within")
    blocks = columns.blocks
    field = slice(blocks["rhythm"].start, blocks["state"].stop)

    def together(a: slice, b: slice) -> np.ndarray:
        return share_of((full[a] * (gram[a, b] @ full[b])).sum(0), square)

    shares = [together(part, part) for part in (field, blocks["rhythm"], blocks["state"])]
    shares.append(share_of(track**2 * within.diagonal()[blocks["track"]][chosen], square))
    tracks, nuisance = blocks["track"], columns.nuisance
    pairs = [(field, tracks), (field, nuisance), (tracks, nuisance)]
    return np.stack(shares), np.stack([2 * together(a, b) for a, b in pairs])
