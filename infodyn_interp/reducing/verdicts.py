"""Groups `carry` and `verdicts`: the carry-over with its ladder and null, and what may be believed of each term."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray
from jaxtyping import Float

from infodyn_interp.energy.carry import Carry, Variogram, fit_pooled, per_token
from infodyn_interp.energy.fitting import Estimate, fit
from infodyn_interp.energy.gauge import support_of
from infodyn_interp.identify import verdict as rules
from infodyn_interp.identify.evidence import ROWS, Evidence, weigh
from infodyn_interp.identify.interference import LEAST_SLOPE
from infodyn_interp.identify.limits import Limits, detection_limits
from infodyn_interp.identify.swaps import swap_p
from infodyn_interp.identify.verdict import judge
from infodyn_interp.reducing.labels import GRID, interval, label, of_layers
from infodyn_interp.reducing.layers import of_each
from infodyn_interp.reducing.sources import label_interference

if TYPE_CHECKING:
    from infodyn_interp.sweeping import Gathered, Settings

TERM_GRID = ("layer", "term", "head")
THRESHOLDS = (
    "SWAP_LEVEL", "LEAST_GAIN", "LEAST_SPLIT_HALF", "LEAST_TRACK_LEFT", "RHO_BELOW", "MOST_MISFIT", "LEAST_SILL",
    "MOST_RHO_SHIFT", "LEAST_SILL_NINE", "LEAST_SILL_LADDER", "DISCOVERY", "SMALL",
)  # fmt: skip


def label_verdicts(
    gathered: "Gathered",
    evidence: Sequence[Evidence],
    nulls: Mapping[str, "Gathered"],
    settings: "Settings",
    layers: Sequence[int],
) -> dict[str, xarray.Dataset]:
    """Groups `/verdicts`, of the model and of each null beside it, and `/limits` where limits were asked for."""
    judged, limits = judge(evidence), None
    groups = {}
    if settings.limits:

        def limits_of(layer: int) -> Limits:
            return detection_limits(
                gathered.moments[layer],
                gathered.fits[layer],
                judged.cutoff,
                seed=settings.seed + layer,
                carry=gathered.injections.get(layer),
            )

        found = dict(zip(settings.limits, of_each(limits_of, settings.limits), strict=True))
        limits = np.full(judged.q.shape, np.nan)
        for layer, one in found.items():
            limits[layers.index(layer)] = one.share
        judged = judge(evidence, limits)
        groups["/limits"] = _label_limits(found, limits, layers)
    heads = evidence[0].heads

    def stacked(name: str) -> np.ndarray:
        return np.stack([getattr(one, name) for one in evidence])

    variables = {
        "verdict": label(TERM_GRID, judged.words, "verdict", "what may be said of the term"),
        "reason": label(TERM_GRID, judged.reason, "text", "what decided"),
        "confounder": label(TERM_GRID, judged.confounder, "text", "with what, where CONFOUNDED"),
        "gain": label(
            TERM_GRID, stacked("gain"), "1", "held-out share of energy variance; carry: log(V(long) / V(1))"
        ),
        "bound": label(
            TERM_GRID, stacked("bound"), "1", "one-sided lower 95 % bound of the gain over documents"
        ),
        "p": label(TERM_GRID, stacked("p"), "1", "one-sided p of a gain of 0 over documents"),
        "q": label(TERM_GRID, judged.q, "1", "p adjusted for all heads and layers (Benjamini-Hochberg)"),
        "marginal_bound": label(
            TERM_GRID, stacked("marginal_bound"), "1", "lower bound of the marginal gain"
        ),
        "split_half": label(
            TERM_GRID, stacked("split_half"), "1", "correlation of the fields fitted to two halves"
        ),
        "swap_p": label(TERM_GRID, stacked("swap_p"), "1", "p of the swap gate; NaN where there was none"),
        "track_left": label(
            GRID,
            stacked("track_left"),
            "1",
            "share of the track's energy left after key effects and nuisance",
        ),
        "tests": label(("term",), judged.tests, "1", "tests of the term's family"),
        "cutoff": label(("term",), judged.cutoff, "1", "largest p that counts as discovered"),
    }
    contrasts = _contrasts(gathered, nulls, settings.nulls, evidence, layers)
    if contrasts:
        dims = ("null", *TERM_GRID)
        named = {
            "null_verdict": ("verdict", "verdict of the null"),
            "null_gain": ("1", "gain of the null"),
            "contrast": ("1", "gain of the model minus that of the null, on the same documents"),
            "contrast_low": ("1", "lower end of its 95 % interval over documents"),
            "contrast_high": ("1", "upper end of its 95 % interval over documents"),
        }
        for name, (unit, words) in named.items():
            values = np.stack([contrast[name] for contrast in contrasts.values()])
            variables[name] = label(dims, values, unit, words)
    coords: dict[str, object] = {"term": list(ROWS), "head": np.arange(heads)}
    if contrasts:
        coords["null"] = list(contrasts)
    advice = {verdict.value: verdict.advice for verdict in rules.Verdict}
    thresholds = {name.lower(): getattr(rules, name) for name in THRESHOLDS}
    attrs = {"thresholds": json.dumps(thresholds), "advice": json.dumps(advice)}
    if limits is not None:
        variables["limit"] = label(
            TERM_GRID, limits, "1", "detection limit: inf beyond .5, NaN where not computed"
        )
    verdicts = xarray.Dataset(variables, coords=coords, attrs=attrs).transpose("layer", "head", ...)
    return groups | {"/verdicts": verdicts}


def _label_limits(found: Mapping[int, Limits], limits: np.ndarray, layers: Sequence[int]) -> xarray.Dataset:
    shares = next(iter(found.values())).shares
    rate = np.full((len(layers), len(ROWS), len(shares), limits.shape[2]), np.nan)
    for layer, one in found.items():
        rate[layers.index(layer)] = one.rate
    return xarray.Dataset(
        {
            "share": label(
                TERM_GRID, limits, "1", "share of energy variance that is identified half the time"
            ),
            "rate": label(
                ("layer", "term", "injected", "head"),
                rate,
                "1",
                "rate of IDENTIFIED among resampled data sets",
            ),
        },
        coords={"term": list(ROWS), "injected": shares},
    ).transpose("layer", "head", ...)


def weigh_gathered(gathered: "Gathered", layer: int) -> Evidence:
    """The evidence of one layer of a run or of its null."""
    gains = gathered.swap_gains.get(layer)
    return weigh(
        gathered.moments[layer],
        None if gathered.variograms is None else gathered.variograms[layer],
        None if gains is None else swap_p(gains),
        gathered.fits[layer],
    )


def _contrasts(
    gathered: "Gathered",
    nulls: Mapping[str, "Gathered"],
    asked: Sequence[str],
    evidence: Sequence[Evidence],
    layers: Sequence[int],
) -> dict[str, dict[str, np.ndarray]]:
    """By null: its verdicts and gains, and the model's gains less the null's on the same documents."""
    out = {}
    folds = {null.fits[layers[0]].gain_by_fold.shape[0] for null in nulls.values()}

    # the model's gains on the nulls' documents, from as many documents
    def gain_of(count: int, layer: int) -> np.ndarray:
        return fit(gathered.moments[layer].part(count)).gain_by_fold

    own = {count: of_each(partial(gain_of, count), layers) for count in folds}
    for name, null in nulls.items():
        theirs = of_each(partial(weigh_gathered, null), layers)
        differences = []
        for place, (mine, other) in enumerate(zip(evidence, theirs, strict=True)):
            count = other.moments.folds
            carry = _carry_difference(mine, other, count)
            differences.append(np.concatenate([own[count][place] - other.fit.gain_by_fold, carry], 1))
        out[name] = _contrast(differences, judge(theirs).words, np.stack([one.gain for one in theirs]))
    permuted = gathered.permuted if "permuted_queries" in asked else None
    if permuted is not None and all(_estimable(one.chosen) for one in permuted.values()):
        theirs = [mine.of_carry(permuted[layer]) for layer, mine in zip(layers, evidence, strict=True)]
        differences = []
        for mine, other in zip(evidence, theirs, strict=True):
            missing = np.full(mine.fit.gain_by_fold.shape, np.nan)
            carry = _carry_difference(mine, other, mine.moments.folds)
            differences.append(np.concatenate([missing, carry], 1))
        gains, words = np.stack([one.gain for one in theirs]), judge(theirs).words
        words[:, :-1] = ""
        out["permuted_queries"] = _contrast(differences, words, gains)
    if gathered.swap_gains and "swapped_documents" in asked:
        swapped = np.stack(
            [gathered.swap_gains[layer] for layer in layers]
        )  # [layer, shift, document, row, head]
        null = swapped[:, 1:].mean(1)
        difference = np.concatenate([swapped[:, 0] - null, np.full_like(null[:, :, :1], np.nan)], 2)
        gains = np.concatenate([null.mean(1), np.full_like(null[:, 0, :1], np.nan)], 1)
        out["swapped_documents"] = _contrast(list(difference), np.full(gains.shape, "", object), gains)
    return out


def _estimable(variogram: Variogram) -> bool:
    return bool((variogram.weights > 0).all())


def _carry_difference(mine: Evidence, other: Evidence, folds: int) -> Float[np.ndarray, "fold one head"]:
    """The carry-over's gain less another's, by fold; NaN where either was not fitted."""
    if mine.carry is None or other.carry is None:
        return np.full((folds, 1, mine.heads), np.nan)
    return (mine.carry.gain_by_fold[:folds] - other.carry.gain_by_fold)[:, None]


def _contrast(
    differences: Sequence[np.ndarray], words: np.ndarray, gains: np.ndarray
) -> dict[str, np.ndarray]:
    estimates = [Estimate.of_folds(one) for one in differences]
    return {
        "null_verdict": words,
        "null_gain": gains,
        "contrast": np.stack([one.value for one in estimates]),
        "contrast_low": np.stack([one.low for one in estimates]),
        "contrast_high": np.stack([one.high for one in estimates]),
    }


def label_carry(
    gathered: "Gathered",
    evidence: Sequence[Evidence],
    layers: Sequence[int],
    keep_series: bool,
    seed: int = 0,
) -> xarray.Dataset:
    """The carry-over of every head: fit, variogram with its null, ladder, interference, |M_t| along the window."""
    found = gathered.variograms or {}
    permuted = gathered.permuted or {}
    chosen = [one.carry for one in evidence if one.carry is not None]
    nine = [one.carry_nine for one in evidence if one.carry_nine is not None]
    square = np.stack([gathered.fits[layer].rms ** 2 for layer in layers])
    lags = sorted({lag for layer in layers for lag in found[layer].chosen.lags})
    columns = gathered.fits[layers[0]].columns
    stride = columns.query_stride

    def token_rho(carry: Carry) -> Estimate:
        one = carry.rho_interval
        value, low, high = (per_token(rho, stride) for rho in (one.value, one.low, one.high))
        return Estimate(value, low, high, one.t)

    def of(carries: Sequence[Carry], name: str) -> np.ndarray:
        return np.stack([getattr(carry, name) for carry in carries])

    variables = {
        **interval(
            "rho",
            of_layers([token_rho(carry) for carry in chosen]),
            GRID,
            "1",
            "what one token keeps of the carry-over",
        ),
        **interval(
            "gain", of_layers([carry.gain for carry in chosen]), GRID, "1", "log(V(long) / V(1))", t=True
        ),
        "gain_by_fold": label(
            ("layer", "fold", "head"), of(chosen, "gain_by_fold"), "1", "log(V(long) / V(1)) of each fold"
        ),
        "sill": label(GRID, of(chosen, "sill"), "nats^2", "stationary variance of the carry-over"),
        "nugget": label(GRID, of(chosen, "nugget"), "nats^2", "variance of what no step keeps"),
        "sill_share": label(
            GRID,
            np.stack([one.sill_share for one in evidence]),
            "1",
            "sill over row-centred energy variance",
        ),
        "misfit": label(
            GRID, of(chosen, "misfit"), "1", "RMS of variogram minus fit over RMS of the variogram"
        ),
        "rho_nine": label(
            GRID, per_token(of(nine, "rho"), stride), "1", "rho with all nine tracks taken out"
        ),
        "sill_nine": label(GRID, of(nine, "sill"), "nats^2", "sill with all nine tracks taken out"),
        "variogram": label(
            ("layer", "lag", "head"),
            np.stack([_at_lags(found[layer].chosen, lags) for layer in layers]),
            "nats^2",
            "half the squared difference of rows a lag apart",
        ),
    }
    if all(_estimable(permuted[layer].chosen) for layer in layers):
        variables["variogram_permuted"] = label(
            ("layer", "lag", "head"),
            np.stack([_at_lags(permuted[layer].chosen, lags) for layer in layers]),
            "nats^2",
            "the same with the later half's queries in random order",
        )
    coords: dict[str, object] = {
        "lag": [lag * stride for lag in lags],
        "query": support_of(columns.window, query_stride=stride).queries.numpy(),
        "fold": np.arange(len(chosen[0].gain_by_fold)),
    }
    ranks = list(found[layers[0]].ladder)
    if ranks:
        coords["rank"] = ranks
        for suffix, name in (("", "ladder"), ("_nine", "ladder_nine")):
            rungs = [[fit_pooled(getattr(found[layer], name)[rank]) for rank in ranks] for layer in layers]
            words = "with all nine tracks" if suffix else "with the chosen track"
            for what, unit, place in (("rho", "1", 0), ("sill", "nats^2", 2)):
                values = np.stack([[rung[place] for rung in layer] for layer in rungs])
                values = per_token(values, stride) if what == "rho" else values
                variables[f"ladder_{what}{suffix}"] = label(
                    ("layer", "rank", "head"),
                    values,
                    unit,
                    f"{what} by rank of the bilinear nuisance, {words}",
                )
    if gathered.series:
        variables |= _magnitudes(gathered, layers, np.sqrt(square), keep_series)
        variables |= label_interference(
            gathered.series,
            [
                support_of(columns.window, gathered.checked.reach[layer], stride).counts.numpy()
                for layer in layers
            ],
            layers,
            seed,
        )
    attrs = {"discovery": rules.DISCOVERY, "least_interference": LEAST_SLOPE}
    return xarray.Dataset(variables, coords=coords, attrs=attrs).transpose("layer", "head", ...)


def _at_lags(variogram: Variogram, lags: Sequence[int]) -> np.ndarray:
    """Values at these lags, NaN where a layer's sliding window has none."""
    out = np.full((len(lags), variogram.sums.shape[2]), np.nan)
    out[[lags.index(lag) for lag in variogram.lags]] = variogram.value
    return out


def _magnitudes(
    gathered: "Gathered", layers: Sequence[int], rms: np.ndarray, keep_series: bool
) -> dict[str, xarray.Variable]:
    """|M_t| and innovations along the first window of each document: mean over documents, and by document."""
    dims = ("layer", "head", "query")
    magnitude, innovation = (
        torch.stack([torch.cat(getattr(gathered.series[layer], name)) for layer in layers]).numpy()
        for name in ("magnitude", "innovation")
    )  # [layer, document, head, query]
    with np.errstate(invalid="ignore"):  # a head without energy carries nothing
        relative = np.sqrt(((magnitude / rms[:, None, :, None]) ** 2).mean(2))
    out = {
        "magnitude": label(
            dims, magnitude.mean(1), "nats", "|M_t|: RMS over keys of the filtered carry-over, mean"
        ),
        "innovation": label(
            dims,
            innovation.mean(1),
            "nats",
            "RMS of the innovation, below 0 where it undoes the carry-over, mean",
        ),
        **interval(
            "layer_magnitude",
            Estimate.of_folds(relative.transpose(1, 0, 2)),
            ("layer", "query"),
            "1",
            "RMS over heads of |M_t| over the head's energy RMS",
        ),
    }
    if keep_series:
        long = ("layer", "document", "head", "query")
        out["magnitude_series"] = label(long, magnitude, "nats", "|M_t| in the first window of each document")
        out["innovation_series"] = label(long, innovation, "nats", "its innovation there, signed as above")
    return out
