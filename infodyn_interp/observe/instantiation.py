"""Prior against instantiation (the seed's opening): how many directions trials differ in, and how far they step.

The seed takes the base model for a strong prior and lets an instance add local freedom. Freedom is read as the
participation ratio of the differences between trials, `(tr C)^2 / tr C^2`, with no prompt, with the prompt alone and
with the chat template.
"""

import numpy as np
import xarray
from jaxtyping import Float

from infodyn_interp.errors import RequestError
from infodyn_interp.observe.conditions import summarise
from infodyn_interp.observe.ragged import Series, read_series, require_trials

LEAST_TRIALS = 4  # two pairs of trials that share none
STATISTICS = ("participation_ratio", "step_size")
UNITS = "by statistic"  # directions, of the states


def compare_instantiations(states: Series) -> xarray.Dataset:
    """Participation ratio of the states that trials differ by, and step sizes, by condition and prompt.

    The ratio is taken from products of differences of trials that have no trial in common, so that it does not shrink
    with their number. `contrast(found, "condition")` gives the differences paired by prompt.

    Args:
        states: `(..., prompt, trial, step, direction)`; conditions, layers and an untrained twin are dimensions in
            front. The same number of trials everywhere; steps that not all trials of a prompt reach are left out.
    Returns:
        `by_prompt` and, with its 95 % interval over prompts, `value`, by `statistic`: `participation_ratio`
        (directions) and `step_size` (units of the states).
    Raises:
        RequestError: one prompt, fewer than four trials, or what `read_series` refuses.
    """
    series = read_series(states, ("direction",), "states")
    require_trials(series, "states", LEAST_TRIALS)
    if series.sizes["prompt"] < 2:
        raise RequestError("1 prompt: an interval over prompts needs 2 or more")
    dims = [dim for dim in series.dims if dim not in ("trial", "step", "direction")]
    by_prompt = xarray.DataArray(
        measure_freedom(series.values),
        {name: one for name, one in series.coords.items() if {*one.dims} <= {*dims}}
        | {"statistic": [*STATISTICS]},
        [*dims, "statistic"],
    )
    return summarise(by_prompt, UNITS)


def measure_freedom(
    states: Float[np.ndarray, "*front trial step direction"],
) -> Float[np.ndarray, "*front statistic"]:
    """Participation ratio and mean step size of the trials of each prompt; NaN past the end of a trial."""
    size = np.nanmean(np.linalg.norm(np.diff(states, axis=-2), axis=-1), axis=(-2, -1))
    return np.stack([_participation(states), size], -1)


def _participation(values: Float[np.ndarray, "*front trial step direction"]) -> Float[np.ndarray, "*front"]:
    trials = values.shape[-3]
    apart = np.moveaxis(values - np.roll(values, 1, axis=-3), -2, -3)
    apart = np.where(np.isfinite(apart).all((-2, -1), keepdims=True), apart, 0)
    products = apart @ apart.swapaxes(-1, -2)
    distance = np.abs(np.subtract.outer(np.arange(trials), np.arange(trials)))
    free = np.minimum(distance, trials - distance) >= 2  # such differences share no trial
    own = np.diagonal(products, axis1=-2, axis2=-1)
    whole = (own[..., :, None] * own[..., None, :])[..., free].sum((-2, -1))
    with np.errstate(invalid="ignore"):
        return np.asarray(whole / (products**2)[..., free].sum((-2, -1)))
