"""Jumps of a model on texts: change points of its states beside |M_t|, layer by layer (seed 1.4)."""

from collections.abc import Mapping

import numpy as np
import xarray
from jaxtyping import Bool, Float

from infodyn_interp.energy.gauge import FIRST_QUERY
from infodyn_interp.errors import RequestError
from infodyn_interp.measures.jumps import find_jumps
from infodyn_interp.measures.ratios import Found, Quantity, Ratio
from infodyn_interp.measures.threshold import AFTER, LEAST_DOCUMENTS, LEAST_STEPS, RUNNING, Law

LEAST_WINDOW = (
    1 + FIRST_QUERY + LEAST_STEPS + RUNNING + AFTER
)  # the first token is no step: attention sinks there
SERIES = ("|M|", "innovation", "track")
QUANTITIES = {
    "change_points": Quantity(("layer",), "1", "share of tokens at which the state's level changes"),
    "before": Quantity(
        ("layer", "series"), "1", "mean of a series one token before a change point, in deviations"
    ),
    "at": Quantity(
        ("layer", "series"), "1", "the same at the change point, the first token of the new level"
    ),
}
LIFTED = {"verdict": "law"} | {
    name: name
    for name in (
        "e_crit",
        "e_crit_low",
        "e_crit_high",
        "height",
        "slope",
        "slope_low",
        "slope_high",
        "slope_p",
    )
}  # of what was found, beside the quantities
UNITS = {
    "verdict": ("text", "what ties steps to |M|: THRESHOLD, SMOOTH, NONE, VOLATILITY_CONFOUNDED; or NOT_ESTIMABLE"),
    "advice": ("text", "what to do about it"),
    "bin_carry": ("1", "mean |M| in a bin"),
    "p": ("1", "of each test, by shifts within documents"),
    "height": ("1", "rise of the log step length at E_crit, deviations"),
    "critical": ("1", "where a step in |M| fits best, whatever the law"),
    "e_crit": ("1", "E_crit where the law is a THRESHOLD: |M|, RMS over heads in units of each head's own energy"),
    "size": ("1", "log length of the prewhitened step to the next token"),
    "carry": ("1", "|M|, RMS over heads in units of each head's own energy"),
    "jump": ("1", "whether the state's level changes here"),
    "aligned": ("1", "mean around change points, deviations within documents"),
    "null": ("1", "the same around change points shifted within documents, 95 % of them"),
    "aligned_p": ("1", "of the largest deviation over lags from shifted change points"),
    "slope": ("1/token", "of |M| on position between change points"),
    "slope_p": ("1", "of the slope against shifted change points, two-sided"),
    "curve": ("1", "standardised step length by |M|"),
    "curve_error": ("1", "its standard error over documents"),
}  # fmt: skip


def measure_jumps(
    trails: Mapping[int, Mapping[str, np.ndarray]] | None, documents: int, layers: tuple[int, ...], seed: int
) -> Found:
    """`QUANTITIES` by document, and by layer what `find_jumps` finds.

    Args:
        trails: by layer, `state` and `SERIES` of each of the first documents; None where they were not read.
        documents: of the texts.
        layers: that are read.
        seed: of the shuffles.
    """
    out = {
        "change_points": Ratio.empty(documents, len(layers)),
        "before": Ratio.empty(documents, len(layers), len(SERIES)),
        "at": Ratio.empty(documents, len(layers), len(SERIES)),
    }
    if trails is None or documents < LEAST_DOCUMENTS:
        return Found(out)
    every: list[xarray.Dataset | str] = []  # the reason, where a layer says nothing
    for place, layer in enumerate(layers):
        trail = trails[layer]
        known = np.isfinite(trail["|M|"]).all(0)
        moves = [name for name in SERIES if (trail[name][:, known].std(1) > 0).all()]
        try:
            found = find_jumps(
                trail["state"],
                trail["|M|"],
                {name: trail[name] for name in moves if name != "|M|"},
                seed=seed,
            )
        except RequestError as reason:
            every.append(str(reason))
            continue
        jump = found["jump"].values
        ranks = np.arange(len(jump))
        out["change_points"].add(ranks, place, jump.mean(1))
        for name in moves:
            around = _around(jump[:, known], trail[name][:, known])
            for side, (above, below) in around.items():
                out[side].add(ranks, (place, SERIES.index(name)), above, below)
        every.append(_of_layer(found))
    like = next((one for one in every if isinstance(one, xarray.Dataset)), None)
    if like is None:
        return Found(out)
    filled = [_unread(like, one) if isinstance(one, str) else one for one in every]
    details = xarray.concat(filled, "layer", join="outer", combine_attrs="override")
    return Found(out, details.assign_coords(layer=list(layers)).reindex(series=list(SERIES)))


def _of_layer(found: xarray.Dataset) -> xarray.Dataset:
    """What was found, with what differs between layers as variables."""
    numbered = found.assign_coords(bin=np.arange(found.sizes["bin"]))
    stepped = found["verdict"] == str(Law.THRESHOLD)
    numbered = numbered.assign(
        {f"e_crit{end}": found[f"critical{end}"].where(stepped) for end in ("", "_low", "_high")}
    )
    numbered = numbered.assign(bin_carry=("bin", found["bin"].values), advice=((), found.attrs["advice"]))
    return numbered.drop_attrs().assign_attrs(null=found.attrs["null"], steps=found.attrs["steps"])


def _unread(like: xarray.Dataset, reason: str) -> xarray.Dataset:
    """A layer whose series say nothing: the reason in the place of its law."""
    empty = xarray.full_like(like, np.nan, dtype=float)
    return empty.assign(
        verdict=((), "NOT_ESTIMABLE"), advice=((), reason), jump=xarray.zeros_like(like["jump"])
    )


def _around(
    jump: Bool[np.ndarray, "document step"], series: Float[np.ndarray, "document step"]
) -> dict[str, tuple[Float[np.ndarray, " document"], Float[np.ndarray, " document"]]]:
    """Sums of a standardised series before and at change points, and how many those are."""
    unit = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
    marked = jump[:, 1:].astype(float)
    count = marked.sum(1)
    return {"before": ((marked * unit[:, :-1]).sum(1), count), "at": ((marked * unit[:, 1:]).sum(1), count)}
