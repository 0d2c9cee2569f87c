"""Statistics of proxies by condition: each reply's own, what prompts differ in, and what conditions differ in."""

import numpy as np
import xarray
from jaxtyping import Float, Int

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.errors import RequestError
from infodyn_interp.observe.ragged import Series, read_series, require_trials

STATISTICS = ("mean", "trend", "autocorrelation")
UNITS = "by statistic"  # of the proxy, of the proxy per step, 1


def describe(seen: Series) -> xarray.Dataset:
    """Mean, trend and lag-one autocorrelation of each proxy by reply and prompt, with what prompts differ in.

    Args:
        seen: proxies `(..., prompt, trial, step, proxy)`, or a Dataset of them; conditions such as `temperature` are
            dimensions in front.
    Returns:
        `by_trial` and `by_prompt`, the mean over its trials; `value`, the mean over prompts, with its 95 % interval;
        `between` and `within`, variances of replies between prompts and between the trials of a prompt (the
        first is unbiased and can be below 0), and `between_share`, with intervals by the delete-one-prompt jackknife.
        The autocorrelation is corrected for the mean that each reply loses (Kendall, 1954).
    Raises:
        RequestError: one prompt, fewer than two trials, in all or of one prompt, or what `read_series` refuses.
    """
    series = read_series(seen, ("proxy",), "proxies")
    require_trials(series, "proxies")
    _require_prompts(series, 2)
    values, steps = series.values, np.arange(series.sizes["step"], dtype=float)[:, None]
    known = np.isfinite(values)
    count = np.where((sizes := known.sum(-2)) > 1, sizes, np.nan)
    place = (
        np.where(known, steps, np.nan)
        - np.nansum(np.where(known, steps, 0), -2, keepdims=True) / count[..., None, :]
    )
    mean = np.where(known, values, 0).sum(-2) / count
    slope = np.nansum(place * values, -2) / np.where(sizes > 1, np.nansum(place**2, -2), np.nan)
    parts = [mean, slope, autocorrelation(np.moveaxis(values, -1, -2)[..., None])]
    dims = [dim for dim in series.dims if dim != "step"]
    by_trial = xarray.DataArray(
        np.stack(parts, -1),
        {name: one for name, one in series.coords.items() if "step" not in one.dims}
        | {"statistic": [*STATISTICS]},
        [*dims, "statistic"],
    )
    out = summarise(by_trial.mean("trial"), UNITS)
    out["by_trial"] = by_trial.assign_attrs(units=UNITS)
    return out.merge(_spread(by_trial))


def summarise(by_prompt: xarray.DataArray, units: str) -> xarray.Dataset:
    """The mean over prompts with its 95 % interval, beside what it is the mean of."""
    found = Estimate.of_folds(by_prompt.transpose("prompt", ...).values)
    return _name(by_prompt.isel(prompt=0, drop=True), {"value": found}, units).assign(
        by_prompt=by_prompt.assign_attrs(units=units)
    )


def contrast(described: xarray.Dataset, dim: str = "temperature", base: object = None) -> xarray.Dataset:
    """What each condition differs in from one of them, paired by prompt.

    Args:
        described: as `describe` or `compare_instantiations` give, with the condition as a dimension.
        dim: the condition's.
        base: its value that the others are compared with; None takes the first.
    Returns:
        `difference` with its 95 % interval over prompts, for the other values of `dim`.
    Raises:
        RequestError: no such dimension, or fewer than two values of it.
    """
    if dim not in described.dims or described.sizes[dim] < 2:
        raise RequestError(f"contrast: no two values of {dim}; describe conditions of which there are two")
    by_prompt = described["by_prompt"]
    if dim not in by_prompt.coords:
        by_prompt = by_prompt.assign_coords({dim: np.arange(by_prompt.sizes[dim])})
    every = by_prompt[dim].values.tolist()
    base = every[0] if base is None else base
    if base not in every:
        raise RequestError(f"contrast: {base} is no {dim}; take one of {', '.join(map(str, every))}")
    rest = by_prompt.sel({dim: [one for one in every if one != base]}) - by_prompt.sel({dim: base}, drop=True)
    found = Estimate.of_folds(rest.transpose("prompt", ...).values)
    return _name(
        rest.isel(prompt=0, drop=True), {"difference": found}, str(by_prompt.attrs.get("units", "1"))
    ).assign_attrs(base=str(base))


def autocorrelation(values: Float[np.ndarray, "*reply step direction"]) -> Float[np.ndarray, "*reply"]:
    """At lag one, all directions together, of each reply less its own mean, without the bias that mean brings.

    NaN where a reply has five steps or fewer, or does not vary.
    """
    known = np.isfinite(values).all(-1, keepdims=True)
    count = known.sum(-2, keepdims=True)
    filled = np.where(known, values, 0)
    left = np.where(known, filled - filled.sum(-2, keepdims=True) / np.maximum(count, 1), 0)
    square = (left**2).sum((-2, -1))
    n = count[..., 0, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = (left[..., 1:, :] * left[..., :-1, :]).sum((-2, -1)) / square
        return np.where((n > 5) & (square > 0), (n * raw + 1) / (n - 4), np.nan)


def _spread(by_trial: xarray.DataArray) -> xarray.Dataset:
    """Variance between prompts and within them."""
    means = by_trial.mean("trial").transpose("prompt", ...).values
    count = by_trial.notnull().sum("trial")
    apart = by_trial.var("trial", ddof=1)
    noise = (apart / count).transpose("prompt", ...).values
    inside = apart.transpose("prompt", ...).values

    def variances(kept: Int[np.ndarray, " prompt"]) -> np.ndarray:
        between = means[kept].var(0, ddof=1) - noise[kept].mean(0)
        within = inside[kept].mean(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([between, within, between / (between + within)])

    every = np.arange(len(means))
    if len(every) > 2:
        without = np.stack([variances(np.delete(every, one)) for one in every])
        found = Estimate.of_jackknife(variances(every), without)
    else:
        value = variances(every)
        found = Estimate(value, value * np.nan, value * np.nan, value * np.nan)
    like = by_trial.isel(prompt=0, trial=0, drop=True)
    names = {"between": "squared", "within": "squared", "between_share": "1"}
    parts = [
        _name(
            like, {name: Estimate(*(getattr(found, end)[k] for end in ("value", "low", "high", "t")))}, units
        )
        for k, (name, units) in enumerate(names.items())
    ]
    return xarray.merge(parts)


def _name(like: xarray.DataArray, found: dict[str, Estimate], units: str) -> xarray.Dataset:
    """Estimates as variables with their ends."""
    return xarray.Dataset(
        {
            f"{name}{end}": like.copy(data=values).assign_attrs(units=units)
            for name, one in found.items()
            for end, values in (("", one.value), ("_low", one.low), ("_high", one.high))
        }
    )


def _require_prompts(values: xarray.DataArray, least: int) -> None:
    if values.sizes["prompt"] < least:
        raise RequestError(
            f"{values.sizes['prompt']} prompts: an interval over prompts needs {least} or more"
        )
