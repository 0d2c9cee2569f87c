"""Helpful (seed 1.3.1): does a path take less action than it might have, and how straight does it close its gap?

What cannot discriminate is not offered as evidence. Kinetic action does not see the order of increments, and straight
lines always win it; a potential or a drift fitted to the path itself explains anything. So both are fitted on other
documents, and the realised path is ranked among exchangeable trials of its prompt, or, on texts alone, among paths of
its own increments in random order: these keep both ends and the kinetic action.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.stats
import xarray
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.errors import RequestError

KINDS = ("kinetic", "potential", "onsager_machlup")
FOLDS = 8  # of documents; a path's potential and drift come from the other folds
REORDERED = 99  # paths that a text's own increments make
RIDGE = 1e-6  # of the fitted states' mean square
LEAST_STEPS = 4


@dataclass(frozen=True)
class Well:
    """A harmonic potential `V(z) = (z - centre)' stiffness (z - centre) / 2`, or its force, a step's time being 1."""

    centre: Float[np.ndarray, " direction"]
    stiffness: Float[np.ndarray, "direction direction"]

    def __call__(self, path: Float[np.ndarray, "*path step direction"]) -> Float[np.ndarray, "*path step"]:
        """Energy at every state."""
        away = path - self.centre
        return (away @ self.stiffness * away).sum(-1) / 2


@dataclass(frozen=True)
class Drift:
    """`z_{t+1} - z_t = offset + matrix z_t + noise` and the noise's covariance; `interval` of the matrix."""

    offset: Float[np.ndarray, " direction"]
    matrix: Float[np.ndarray, "direction direction"]
    covariance: Float[np.ndarray, "direction direction"]
    interval: Estimate

    def action(self, path: Float[np.ndarray, "*path step direction"]) -> Float[np.ndarray, " *path"]:
        """Onsager-Machlup action: half the squares of what the drift leaves of each step, in its noise's deviations."""
        left = np.diff(path, axis=-2) - self.offset - path[..., :-1, :] @ self.matrix.T
        return np.asarray((left @ np.linalg.pinv(self.covariance, hermitian=True) * left).sum((-1, -2)) / 2)


def lagrangian_action(
    path: Float[np.ndarray, "*path step direction"],
    potential: Float[np.ndarray, "*path step"],
    interval: float = 1.0,
    mass: float = 1.0,
) -> Float[np.ndarray, " *path"]:
    """Discrete action: kinetic less potential energy, by steps and by trapezoids, summed over time (seed 1.3).

    Args:
        path: states.
        potential: energy at each of them, in mass times state squared over time squared.
        interval: time between steps.
        mass: of the state.
    """
    kinetic = mass / 2 * (np.diff(path, axis=-2) ** 2).sum((-1, -2)) / interval
    return np.asarray(kinetic - interval * (potential[..., 1:] + potential[..., :-1]).sum(-1) / 2)


def fit_well(paths: Float[np.ndarray, "document step direction"]) -> Well:
    """The harmonic potential whose force best tells the accelerations of paths: inertia, and no friction."""
    here, push = _accelerations(paths)
    offset, matrix = _regress(here, push)
    stiffness = -(matrix + matrix.T) / 2
    return Well(np.linalg.pinv(stiffness, rcond=1e-8, hermitian=True) @ offset, stiffness)


def fit_drift(paths: Float[np.ndarray, "document step direction"]) -> Drift:
    """The linear drift of paths, as a process of Ornstein and Uhlenbeck has, by least squares over all documents."""
    here, step = paths[:, :-1], np.diff(paths, axis=1)
    offset, matrix = _regress(here, step)
    left = step - offset - here @ matrix.T
    covariance = np.einsum("nti,ntj->ij", left, left) / left[..., 0].size
    whole, sums = _grams(here, step)
    without = np.stack([_solve(whole - one)[1] for one in sums])
    return Drift(offset, matrix, covariance, Estimate.of_jackknife(matrix, without))


def helpful(
    path: Float[np.ndarray, "document step direction"],
    trials: Float[np.ndarray, "documents trial steps directions"] | None = None,
    seed: int = 0,
) -> xarray.Dataset:
    """Rank a path's action among its trials, and measure how it closes its gap (science: functionals).

    Args:
        path: the realised path of each document; over steps of a text, or over layers.
        trials: others of the same prompt that might as well have been realised; without them each path stands among
            its own increments in random order.
        seed: of those orders.

    Returns:
        `action` and `rank` by kind and document (share of the paths with less action, ties by half: 0 is the least),
        mean rank with its 95 % interval over documents and its p against chance, two-sided; `r2`, held out, of the
        accelerations by the potential and of the steps by the drift; `straightness` (chord over arc length) and
        `gap_closed`, the share of the first distance to the last state that each step closes.

    Raises:
        RequestError: one document, paths too short, states that do not move or are not finite, or trials of another
            shape.
    """
    documents, steps, directions = path.shape
    if documents < 2 or steps < LEAST_STEPS:
        raise RequestError(
            f"action: {documents} documents of {steps} steps; potential and drift need 2 documents and "
            f"{LEAST_STEPS} steps"
        )
    if trials is not None and (
        trials.shape[1] < 1 or trials.shape[::2] != (documents, steps) or trials.shape[3] != directions
    ):
        raise RequestError(f"action: trials of shape {trials.shape} for paths of shape {path.shape}")
    if not all(np.isfinite(one).all() for one in (path, trials) if one is not None):
        raise RequestError("action: states are not finite")
    if not (np.abs(np.diff(path, axis=1)).sum((1, 2)) > 0).all():
        raise RequestError("action: the path of a document is constant: leave it out")
    others = _reordered(path, np.random.default_rng(seed)) if trials is None else trials
    every = np.concatenate([path[:, None], others], 1)
    action, left = _held_out(path, every)
    less = (action[..., 1:] < action[..., :1] * (1 - 1e-12)).sum(-1)
    same = np.isclose(action[..., 1:], action[..., :1], rtol=1e-9, atol=0).sum(-1)
    less = np.minimum(less, others.shape[1] - same)
    rank = (less + same / 2) / others.shape[1]
    mean = Estimate.of_folds(rank.T)
    deviation = np.sqrt((1 / 12 + 1 / (6 * others.shape[1])) / documents)  # of a uniform place among all
    p = 2 * scipy.stats.norm.sf(np.abs(mean.value - 0.5) / deviation)
    arc = np.linalg.norm(np.diff(path, axis=1), axis=-1).sum(1)
    gap = np.linalg.norm(path - path[:, -1:], axis=-1)
    closed = np.divide(
        -np.diff(gap, axis=1), gap[:, :1], where=gap[:, :1] > 0, out=np.full((documents, steps - 1), np.nan)
    )
    return xarray.Dataset(
        {
            "action": (("kind", "document"), action[..., 0]),
            "rank": (("kind", "document"), rank),
            "mean_rank": ("kind", mean.value),
            "mean_rank_low": ("kind", mean.low),
            "mean_rank_high": ("kind", mean.high),
            "p": ("kind", p),
            "r2": ("kind", np.array([np.nan, *left])),
            "straightness": ("document", gap[:, 0] / arc),
            "gap_closed": (("document", "step"), closed),
        },
        {"kind": list(KINDS)},
        {
            "paths": others.shape[1],
            "among": "its own increments in random order: no trials were given, and kinetic action is the same for all"
            if trials is None
            else "exchangeable trials of its prompt",
            "cannot_discriminate": "kinetic action: the straightest path wins whatever the law",
        },
    )


def settle_depth(
    top: Int[np.ndarray, "*position layer"], final: Int[np.ndarray, " *position"]
) -> Int[np.ndarray, " *position"]:
    """First layer from which a lens keeps the final top token; the number of layers where the last does not.

    Args:
        top: the lens's top token at each layer.
        final: the model's own.
    """
    return np.asarray(top.shape[-1] - (top == final[..., None])[..., ::-1].cumprod(-1).sum(-1))


def split_folds(
    path: Float[np.ndarray, "document step direction"],
) -> Iterator[tuple[Bool[np.ndarray, " document"], Float[np.ndarray, "rest step direction"]]]:
    """Each fold of documents, and the paths of all others, which its laws come from."""
    fold = np.arange(len(path)) % min(FOLDS, len(path))
    for one in range(fold.max() + 1):
        yield fold == one, path[fold != one]


def _held_out(
    path: Float[np.ndarray, "document step direction"],
    every: Float[np.ndarray, "document path step direction"],
) -> tuple[Float[np.ndarray, "kind document path"], tuple[float, float]]:
    """Actions by potential and drift of other folds, and the shares of accelerations and steps these tell there."""
    action = np.empty((len(KINDS), *every.shape[:2]))
    squares = np.zeros((2, 2))
    for mine, rest in split_folds(path):
        well, drift = fit_well(rest), fit_drift(rest)
        action[0, mine] = lagrangian_action(every[mine], np.zeros(every[mine].shape[:-1]))
        action[1, mine] = lagrangian_action(every[mine], well(every[mine]))
        action[2, mine] = drift.action(every[mine])
        here, push = _accelerations(path[mine])
        step = np.diff(path[mine], axis=1)
        told = -(here - well.centre) @ well.stiffness, drift.offset + path[mine][:, :-1] @ drift.matrix.T
        means = _accelerations(rest)[1].mean((0, 1)), np.diff(rest, axis=1).mean((0, 1))
        for place, (truth, guess) in enumerate(zip((push, step), told, strict=True)):
            squares[place] += ((truth - guess) ** 2).sum(), ((truth - means[place]) ** 2).sum()
    left = 1 - squares[:, 0] / squares[:, 1]
    return action, (float(left[0]), float(left[1]))


def _reordered(
    path: Float[np.ndarray, "document step direction"], generator: np.random.Generator
) -> Float[np.ndarray, "document path step direction"]:
    increments = np.diff(path, axis=1)
    every = (len(path), REORDERED, increments.shape[1])
    order = generator.permuted(np.broadcast_to(np.arange(every[2]), every), axis=2)
    moved = increments[np.arange(every[0])[:, None, None], order].cumsum(2)
    start = np.broadcast_to(path[:, None, :1], (*moved.shape[:2], 1, path.shape[2]))
    return np.concatenate([start, start + moved], 2)


def _accelerations(
    paths: Float[np.ndarray, "document step direction"],
) -> tuple[Float[np.ndarray, "document inner direction"], Float[np.ndarray, "document inner direction"]]:
    return paths[:, 1:-1], np.diff(paths, 2, axis=1)


def _regress(
    here: Float[np.ndarray, "document step direction"], response: Float[np.ndarray, "document step direction"]
) -> tuple[Float[np.ndarray, " direction"], Float[np.ndarray, "direction direction"]]:
    return _solve(_grams(here, response)[0])


def _grams(
    here: np.ndarray, response: np.ndarray
) -> tuple[Float[np.ndarray, "row column"], Float[np.ndarray, "document row column"]]:
    """Second moments of one, state and response, of all documents and of each."""
    columns = np.concatenate([np.ones((*here.shape[:2], 1)), here, response], -1)
    sums = columns[..., : 1 + here.shape[2]].swapaxes(1, 2) @ columns
    return sums.sum(0), sums


def _solve(
    gram: Float[np.ndarray, "row column"],
) -> tuple[Float[np.ndarray, " direction"], Float[np.ndarray, "direction direction"]]:
    """Offset and matrix; the ridge is on the matrix alone."""
    rows = len(gram)
    square = gram[:, :rows].copy()
    square[1:, 1:] += RIDGE * np.trace(square[1:, 1:]) / (rows - 1) * np.eye(rows - 1)
    coefficient = np.linalg.lstsq(square, gram[:, rows:], rcond=None)[0]
    return coefficient[0], coefficient[1:].T
