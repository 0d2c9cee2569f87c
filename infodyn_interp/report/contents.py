"""What the page shows of each head, as compact JSON: columns over heads, layer by layer."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.selection import most_gain
from infodyn_interp.report.words import gain_intervals
from infodyn_interp.results import MEANING

DIGITS = 5  # significant ones of a number in the page
MOST_TOKENS = 256  # of the example window
STEPS = 32767  # of a token's energy, from 0 to the head's largest


def page_data(result: xarray.DataTree) -> dict[str, Any]:
    """The columns of every head; numbers that are not there are None, an infinite one is "inf".

    Raises:
        RequestError: the result lacks the verdicts, their terms or their reference.
    """
    for group in ("verdicts", "terms", "reference"):
        if group not in result.children:
            raise RequestError(f"the result has no group '{group}': a report needs a sweep that wrote it")
    verdicts = result["verdicts"].to_dataset()
    low, high = gain_intervals(result)
    terms = verdicts["term"].values.tolist()
    return {
        "layers": verdicts["layer"].values.tolist(),
        "heads": verdicts["head"].values.tolist(),
        "terms": terms,
        "first": most_gain(result),
        "meaning": {term: MEANING.get(term, term) for term in terms},
        "advice": json.loads(verdicts.attrs["advice"]),
        "verdict": _by_term(verdicts["verdict"], _letters),
        "reason": _by_term(verdicts["reason"], _texts),
        "confounder": _by_term(verdicts["confounder"], _texts),
        "gain": _by_term(verdicts["gain"]),
        "low": _by_term(low),
        "high": _by_term(high),
        "q": _by_term(verdicts["q"]) if "q" in verdicts else {},
        "limit": _by_term(verdicts["limit"]) if "limit" in verdicts else {},
        "nulls": _nulls(verdicts),
        "surface": _surface(result),
        "carry": _some(
            result, "carry", ("lag",), ("variogram", "variogram_permuted", "rho", "rho_low", "rho_high")
        ),
        "profile": _some(result, "profile", ("rho",), ("rise", "threshold", "best", "low", "high")),
        "track": _some(
            result,
            "terms",
            ("width", "tau"),
            ("track_gain", "width_chosen", "tau_chosen", "track_coefficient"),
        )
        | _some(result, "profile", ("width", "tau"), ("kept",)),
        "example": _example(result),
    }


def _surface(result: xarray.DataTree) -> dict[str, Any]:
    names = [f"{name}{end}" for name in ("r2", "slope") for end in ("", "_low", "_high")]
    return _some(result, "reference", (), names) | _some(result, "energy", (), ("rms", "score_rms"))


def _nulls(verdicts: xarray.Dataset) -> dict[str, Any]:
    if "null" not in verdicts.dims:
        return {}
    return {
        str(null): {
            "verdict": _by_term(one["null_verdict"], _letters),
            **{
                name: _by_term(one[variable])
                for name, variable in {
                    "gain": "null_gain",
                    "above": "contrast",
                    "low": "contrast_low",
                    "high": "contrast_high",
                }.items()
            },
        }
        for null in verdicts["null"].values
        for one in [verdicts.sel(null=null)]
    }


def _some(result: xarray.DataTree, group: str, axes: tuple[str, ...], names: Any) -> dict[str, Any]:
    """Axes and variables of a group that are there, a number or a list for every head."""
    if group not in result.children:
        return {}
    data = result[group].to_dataset()
    kept = {name: _numbers(_per_head(data[name])) for name in names if name in data}
    return {axis: _numbers(data[axis].values) for axis in axes if axis in data} | kept if kept else {}


def _example(result: xarray.DataTree) -> dict[str, Any]:
    """The example window: its pieces, and per head base64 of int16, part by part; the least is not estimable."""
    if "example" not in result.children:
        return {}
    data = result["example"].to_dataset().isel(position=slice(MOST_TOKENS))
    received = _per_head(data["received"].transpose(..., "part", "position"))
    top = np.nanmax(np.abs(received), axis=(1, 2), initial=1e-12)
    steps = np.round(received / top[:, None, None] * STEPS)
    codes = np.where(np.isnan(steps), -STEPS - 1, steps).astype("<i2")
    return {
        "pieces": [str(piece) for piece in data["piece"].values],
        "parts": [str(part) for part in data["part"].values],
        "window": result["example"].sizes["position"],
        "top": _numbers(top),
        "received": [base64.b64encode(head.tobytes()).decode() for head in codes],
    }


def _per_head(variable: xarray.DataArray) -> np.ndarray:
    values = variable.transpose("layer", "head", ...).values
    return values.reshape(-1, *values.shape[2:])


def _by_term(variable: xarray.DataArray, write: Any = None) -> Mapping[str, Any]:
    """A column over heads for every term."""
    return {
        str(term): (write or _numbers)(_per_head(variable.sel(term=term, drop=True)))
        for term in variable["term"].values
    }


def _letters(verdicts: np.ndarray) -> str:
    """A letter a verdict: I, W, C, A, N, or a space where none was given."""
    return "".join(str(verdict)[:1] or " " for verdict in verdicts)


def _texts(values: np.ndarray) -> list[str]:
    return [str(value) for value in values]


def _numbers(values: np.ndarray) -> Any:
    """Nested lists of numbers as JSON has them."""

    def write(value: Any) -> Any:
        if isinstance(value, list):
            return [write(one) for one in value]
        if np.isnan(value):
            return None
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else "inf"

    return write(np.asarray(values, dtype=float).tolist())
