"""What is left of a series once its prompt, its own past and the nuisances are taken out (science: output side)."""

import numpy as np
from jaxtyping import Bool, Float

MEMORY = 3  # steps: of a series' own past, and of the nuisances'
ROUNDING = 1e-7  # of a series' size: what is left below it is no more than the arithmetic's
PRIOR_STEPS = (
    2  # that a trial's variance is shrunk by towards that of all: short trials do not know their own
)


def demean(
    values: Float[np.ndarray, "prompt trial step column"], known: Bool[np.ndarray, "prompt trial step"]
) -> Float[np.ndarray, "prompt trial step column"]:
    """Less the mean over the trials of a prompt at the same step, at the variance of one trial; 0 where not known.

    Whatever all trials of a prompt share at a step goes: means of prompts, and trends with the position.
    """
    there = known[..., None]
    count = there.sum(1, keepdims=True)
    filled = np.where(there, values, 0)
    left = filled - filled.sum(1, keepdims=True) / np.maximum(count, 1)
    left = np.where(there, left * np.sqrt(count / np.maximum(count - 1, 1)), 0)
    moved = (left**2).sum((0, 1, 2)) > ROUNDING**2 * (filled**2).sum((0, 1, 2))
    return np.where(moved, left, 0)


def bend(
    values: Float[np.ndarray, "prompt trial step control"],
) -> Float[np.ndarray, "prompt trial step bent"]:
    """Standardised nuisances, their absolute values and squares."""
    over = (0, 1, 2)
    spread = np.nanstd(values, over)
    z = (values - np.nanmean(values, over)) / np.where(spread > 0, spread, 1)
    return np.concatenate([z, np.abs(z), z**2], -1)


def innovations(
    values: Float[np.ndarray, "prompt trial step column"],
    nuisances: Float[np.ndarray, "prompt trial step nuisance"],
    known: Bool[np.ndarray, "prompt trial step"],
) -> tuple[Float[np.ndarray, "prompt trial later column"], int]:
    """Prewhitened and residualised: less what the series' own last steps and the nuisances at lags 0..3 foretell.

    Both are fitted at once, so that a nuisance's memory is not taken for the series' own; each trial is then set to
    variance 1. Steps without a whole past are dropped.

    Args:
        values: demeaned, 0 where not known; `nuisances` likewise.
        known: the steps of each trial, which begin at the first.
    Returns:
        The residuals, 0 where not known, and the number of columns that were fitted.
    """
    use = known[:, :, MEMORY:]
    fixed = _with_past(nuisances)[use].reshape(use.sum(), -1)
    own = _with_past(values)[use]
    gram = fixed.T @ fixed
    scale = np.sqrt(np.maximum(gram.diagonal(), np.finfo(float).tiny))
    inverse = np.linalg.pinv(gram / np.outer(scale, scale), rcond=1e-10, hermitian=True) / np.outer(
        scale, scale
    )
    flat = own.reshape(len(own), -1)
    own = (flat - fixed @ (inverse @ (fixed.T @ flat))).reshape(own.shape)
    now, past = own[..., 0], own[..., 1:]
    squares = np.einsum("ncl,ncm->clm", past, past)
    memory = (
        np.linalg.pinv(squares, rcond=1e-10, hermitian=True) @ np.einsum("ncl,nc->cl", past, now)[..., None]
    )
    left = np.zeros((*use.shape, values.shape[-1]))
    left[use] = now - np.einsum("ncl,cl->nc", past, memory[..., 0])
    fitted = int(np.linalg.matrix_rank(gram / np.outer(scale, scale), tol=1e-10, hermitian=True)) + MEMORY
    left[..., (left**2).sum((0, 1, 2)) <= ROUNDING**2 * (values**2).sum((0, 1, 2))] = np.nan
    return _standardise(left, use), fitted


def _with_past(
    values: Float[np.ndarray, "prompt trial step column"],
) -> Float[np.ndarray, "prompt trial later column lag"]:
    steps = values.shape[2]
    return np.stack([values[:, :, MEMORY - lag : steps - lag] for lag in range(MEMORY + 1)], -1)


def _standardise(
    left: Float[np.ndarray, "prompt trial later column"], use: Bool[np.ndarray, "prompt trial later"]
) -> Float[np.ndarray, "prompt trial later column"]:
    """Variance 1 in each trial and in all: trials whose inside and outside are both wild would pass for coupled."""
    count = use.sum(2)[..., None]
    squares = (left**2).sum(2)
    whole = squares.sum((0, 1)) / count.sum()
    variance = (squares + PRIOR_STEPS * whole) / (count + PRIOR_STEPS)
    left = left / np.sqrt(variance)[:, :, None]
    return left / np.sqrt((left**2).sum((0, 1, 2)) / count.sum())
