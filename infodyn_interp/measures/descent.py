"""Harmless, from a path alone (seed 1.3.1): how often and how long does V rise, against a path that only remembers?

An equilibrium that floats after the path lets V rise in half of all steps whatever the model, so a share stands beside
that of autoregressions with the memory and the noise of the path.
"""

from collections.abc import Callable, Mapping

import numpy as np
import scipy.signal
import xarray
from jaxtyping import Float, Int

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.errors import RequestError

FOLDS = 8
TWINS = 99  # autoregressive twins of every path
BURN_IN = 100
LEAST_STEPS = 8
LEAST_DOCUMENTS = 2
TAILS = 0.025, 0.975

Energy = Callable[[np.ndarray], np.ndarray]


def measure_descent(
    path: Float[np.ndarray, "document step direction"],
    energies: Mapping[str, Energy] | None = None,
    seed: int = 0,
) -> xarray.Dataset:
    """Share and longest run of steps at which V rises, for a fitted quadratic form and any other V.

    Args:
        path: over steps of a text, or over layers.
        energies: V as functions of a path `[document, step, direction]`, giving `[document, step]`, as K.
        seed: of the twins.

    Returns:
        `share` and `run` by V and document, their means over documents with 95 % intervals, and what twins give:
        `*_null` with `*_null_low`, `*_null_high`, and the two-sided p. Attribute `quadratic`: V is half the squared
        distance of other documents' covariance.

    Raises:
        RequestError: one document, a path too short, constant, or not finite.
    """
    documents, steps, _ = path.shape
    if documents < LEAST_DOCUMENTS or steps < LEAST_STEPS:
        raise RequestError(
            f"descent: {documents} documents of {steps} steps; give {LEAST_DOCUMENTS} documents of {LEAST_STEPS}"
        )
    if not np.isfinite(path).all() or not (path.std(1) > 0).any(1).all():
        raise RequestError("descent: the path of a document is constant or not finite: leave it out")
    every = {"quadratic": fit_quadratic, **{name: _fixed(one) for name, one in (energies or {}).items()}}
    twins = _twins(path, np.random.default_rng(seed))
    counted = [[count_rises(of(path)(one)) for one in (path, *twins)] for of in every.values()]
    out: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for place, name in enumerate(("share", "run")):
        values = np.stack([[one[place] for one in of] for of in counted]).astype(float)  # V, path, document
        own, means = Estimate.of_folds(values[:, 0].T), values.mean(2)
        far = np.abs(means - means[:, 1:].mean(1, keepdims=True))
        low, high = np.quantile(means[:, 1:], TAILS, axis=1)
        out[name] = (("energy", "document"), values[:, 0])
        for end, part in (
            ("mean", own.value), ("low", own.low), ("high", own.high), ("null", means[:, 1:].mean(1)),
            ("null_low", low), ("null_high", high), ("p", (far >= far[:, :1] * (1 - 1e-12)).mean(1)),
        ):  # fmt: skip
            out[f"{name}_{end}"] = (("energy",), part)
    return xarray.Dataset(out, {"energy": list(every)}, {"twins": TWINS})


def count_rises(
    values: Float[np.ndarray, "*batch step"],
) -> tuple[Float[np.ndarray, " *batch"], Int[np.ndarray, " *batch"]]:
    """Share of steps at which a series rises, and the longest run of them."""
    rises = np.diff(values, axis=-1) > 0
    count = rises.cumsum(-1)
    before = np.maximum.accumulate(np.where(rises, 0, count), -1)  # rises up to the last step that was none
    return rises.mean(-1), (count - before).max(-1)


def fit_quadratic(path: Float[np.ndarray, "document step direction"]) -> Energy:
    """V of each document by the mean and covariance of the other folds' states."""
    fold = np.arange(len(path)) % min(FOLDS, len(path))

    def energy(paths: np.ndarray) -> np.ndarray:
        out = np.empty(paths.shape[:2])
        for one in range(fold.max() + 1):
            rest = path[fold != one].reshape(-1, path.shape[2])
            form = np.linalg.pinv(np.atleast_2d(np.cov(rest.T)), rcond=1e-10, hermitian=True)
            away = paths[fold == one] - rest.mean(0)
            out[fold == one] = (away @ form * away).sum(-1) / 2
        return out

    return energy


def _fixed(energy: Energy) -> Callable[[np.ndarray], Energy]:
    return lambda path: energy


def _twins(
    path: Float[np.ndarray, "document step direction"], generator: np.random.Generator
) -> list[np.ndarray]:
    """Autoregressions with each direction's memory, by document and pooled, and its noise's covariance."""
    centre = path.mean(1, keepdims=True)
    away = path - centre
    square = (away[:, :-1] ** 2).sum((0, 1))
    memory = np.divide(
        (away[:, 1:] * away[:, :-1]).sum((0, 1)), square, out=np.zeros_like(square), where=square > 0
    )
    memory = np.clip(memory, -0.99, 0.99)
    left = away[:, 1:] - memory * away[:, :-1]
    values, vectors = np.linalg.eigh(np.einsum("nti,ntj->ij", left, left) / left[..., 0].size)
    root = vectors * np.sqrt(np.maximum(values, 0))
    out = []
    for _ in range(TWINS):
        noise = generator.standard_normal((len(path), path.shape[1] + BURN_IN, path.shape[2])) @ root.T
        for place, rho in enumerate(memory):
            noise[..., place] = scipy.signal.lfilter([1.0], [1.0, -rho], noise[..., place], axis=1)
        out.append(centre + noise[:, BURN_IN:])
    return out
