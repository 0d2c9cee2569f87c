"""The stage `reduce`: gathered moments become the labelled groups of a result, each variable with its unit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray
from jaxtyping import Float

from infodyn_interp.energy.fitting import PAIRS, TERMS, Estimate, Fit
from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.reference import SurfaceFit
from infodyn_interp.energy.terms import TAUS, WIDTHS, rhythm_of_codes
from infodyn_interp.reducing.ablation import label_ablation as label_ablation
from infodyn_interp.reducing.groups import label_groups
from infodyn_interp.reducing.labels import GRID, interval, of_layers
from infodyn_interp.reducing.labels import label as label
from infodyn_interp.reducing.layers import of_each
from infodyn_interp.reducing.sources import label_precisions
from infodyn_interp.reducing.structure import label_profile, label_spectrum
from infodyn_interp.reducing.verdicts import label_carry, label_verdicts, weigh_gathered

if TYPE_CHECKING:
    from infodyn_interp.sweeping import Gathered, Settings

PARTS = ("energy", "rhythm", "state", "track", "nuisance", "residual")
TAIL = (0.99, 0.5)  # the barrier of seed 1.2.1: how far the rhythm field's upper end stands above its middle


def reduce(
    gathered: "Gathered",
    pieces: Sequence[str],
    head_width: int,
    reference: str,
    nulls: Mapping[str, "Gathered"],
    settings: "Settings",
) -> dict[str, xarray.Dataset]:
    """Label what was gathered: groups `basis example reference energy terms verdicts spectrum profile carry groups`.

    Args:
        gathered: from `sweeping.gather`.
        pieces: text of each token id, for the example's axis.
        head_width: of the model, for the seed's unit (`U` is sqrt(d) times the energy in nats).
        reference: the name of the surface.
        nulls: what was gathered of each null.
        settings: of the run: the nulls, the limits and the series that are wanted.
    """
    layers = sorted(gathered.moments)
    fits = gathered.fits
    heads = next(iter(fits.values())).rms.shape[0]
    grid = {"layer": layers, "head": np.arange(heads)}
    surfaces = _surfaces(gathered, layers)
    groups = {
        "/basis": label_basis(gathered),
        "/example": _example(gathered, fits, layers, pieces),
        "/reference": _reference(
            surfaces,
            {name: found for name, null in nulls.items() if (found := _surfaces(null, layers)) is not None},
            gathered.unseen,
            reference,
            (len(layers), heads),
        ),
        "/energy": _energy(fits, layers, surfaces, head_width, reference),
        "/terms": _terms(gathered, fits, layers),
    }
    evidence = of_each(partial(weigh_gathered, gathered), layers)
    groups |= label_verdicts(gathered, evidence, nulls, settings, layers)
    structure = {"/spectrum": label_spectrum(gathered, layers), "/profile": label_profile(gathered, layers)}
    if gathered.variograms is not None:
        groups["/carry"] = label_carry(gathered, evidence, layers, settings.series, settings.seed)
    if gathered.groups:
        groups["/groups"] = label_groups(gathered, layers)
    if gathered.precisions:
        groups["/precisions"] = label_precisions(gathered.precisions, layers, settings.query_stride)
    return {name: group.assign_coords(grid) for name, group in groups.items()} | structure


def _terms(gathered: "Gathered", fits: Mapping[int, Fit], layers: Sequence[int]) -> xarray.Dataset:
    dims = ("layer", "term", "head")
    codes = gathered.rhythm.sum(0).nonzero()[:, 0]
    columns = rhythm_of_codes(codes).numpy()
    counts = gathered.rhythm[:, codes].numpy()
    tracks = (len(layers), len(WIDTHS), len(TAUS), -1)
    grid = np.stack([fits[layer].track_gain_by_fold.mean(0) for layer in layers]).reshape(tracks)
    chosen = np.stack([fits[layer].chosen for layer in layers])
    agree = np.stack([(fits[layer].chosen_without == fits[layer].chosen).mean(0) for layer in layers])
    by_fold = np.stack([fits[layer].gain_by_fold for layer in layers])
    variables = {
        "share": label(
            dims,
            np.stack([fits[layer].share for layer in layers]),
            "1",
            "variance of the fitted term over the row-centred energy variance (the track's within keys)",
        ),
        **interval(
            "gain",
            of_layers([fits[layer].gain for layer in layers]),
            dims,
            "1",
            "share of held-out energy variance the term explains over its base",
            t=True,
        ),
        **interval(
            "marginal_gain",
            of_layers([fits[layer].marginal_gain for layer in layers]),
            dims,
            "1",
            "held-out share over nothing (track: over distance)",
            t=True,
        ),
        "gain_by_fold": label(("layer", "fold", "term", "head"), by_fold, "1", "held-out gain of each fold"),
        **interval(
            "gain_without_state",
            of_layers([Estimate.of_folds(fits[layer].gain_alone_by_fold) for layer in layers]),
            GRID,
            "1",
            "rhythm's held-out share over nuisance and track alone",
        ),
        **interval(
            "rhythm_tail",
            of_layers([_tail(fits[layer], columns, counts) for layer in layers]),
            GRID,
            "nats",
            "rhythm field's energy at tokens, 99 % quantile minus median",
        ),
        **interval(
            "track_coefficient",
            of_layers(
                [Estimate.of_jackknife(fits[layer].track, fits[layer].track_without) for layer in layers]
            ),
            GRID,
            "nats per unit of track",
            "within-key coefficient of the chosen track; below 0 a well",
        ),
        "track_gain": label(
            ("layer", "width", "tau", "head"), grid, "1", "held-out share of each track over nuisance"
        ),
        "width_chosen": label(
            GRID, np.array(WIDTHS)[chosen // len(TAUS)], "1", "kernel width of the chosen track"
        ),
        "tau_chosen": label(GRID, np.array(TAUS)[chosen % len(TAUS)], "tokens", "memory of the chosen track"),
        "width_stable": label(GRID, agree, "1", "share of folds that choose the same width and memory"),
    }
    named = {
        "term": list(TERMS),
        "fold": np.arange(by_fold.shape[1]),
        "width": list(WIDTHS),
        "tau": list(TAUS),
    }
    return xarray.Dataset(variables, coords=named).transpose("layer", "head", ...)


def _tail(
    fitted: Fit, columns: Float[np.ndarray, "code column"], counts: Float[np.ndarray, "fold code"]
) -> Estimate:
    """Upper tail of the rhythm field over the tokens read, with the jackknife over folds of documents."""
    block = fitted.columns.blocks["rhythm"]
    total = counts.sum(0)
    whole = _spread(columns @ fitted.coefficient[:, block].T, total)
    without = [
        _spread(columns @ fitted.coefficient_without[fold][:, block].T, total - counts[fold])
        for fold in range(len(counts))
    ]
    return Estimate.of_jackknife(whole, np.stack(without))


def _spread(
    values: Float[np.ndarray, "code head"], counts: Float[np.ndarray, " code"]
) -> Float[np.ndarray, " head"]:
    """Difference of two quantiles of values that occur `counts` times."""
    order = values.argsort(0)
    share = counts[order].cumsum(0) / counts.sum()
    ordered = np.take_along_axis(values, order, 0)
    ends = [np.take_along_axis(ordered, (share >= level).argmax(0)[None], 0)[0] for level in TAIL]
    return np.asarray(ends[0] - ends[1])


def _surfaces(gathered: "Gathered", layers: Sequence[int]) -> SurfaceFit | None:
    """All layers' fits of the reference as one, layer last but one."""
    if not gathered.surfaces:
        return None
    return SurfaceFit(
        torch.stack([gathered.surfaces[layer].products for layer in layers], 2),
        torch.stack([gathered.surfaces[layer].bending for layer in layers], 2),
        gathered.surfaces[layers[0]].pairs,
    )


def _reference(
    surfaces: SurfaceFit | None,
    nulls: Mapping[str, SurfaceFit],
    unseen: float,
    reference: str,
    shape: tuple[int, int],
) -> xarray.Dataset:
    words = {
        "r2": ("1", "squared correlation of row-centred scores with the reference, every 16th query"),
        "slope": ("1", "slope of row-centred scores on the reference, every 16th query"),
        "kl": ("nats", "KL(pattern || softmax(reference)) over all keys, every 16th query"),
        "kl_support": ("nats", "the same over the support's keys, which leave out the first"),
        "top_changed": ("1", "share of those queries whose first key is another, over all keys"),
        "top_changed_support": ("1", "the same over the support's keys"),
    }
    variables: dict[str, xarray.Variable] = {}
    for name, (unit, long_name) in words.items():
        if surfaces is None:
            nothing = np.full(shape, np.nan)
            estimate = Estimate(nothing, nothing, nothing, nothing)
        else:
            estimate = Estimate.of_jackknife(*_without_folds(surfaces, name))
        variables |= interval(name, estimate, GRID, unit, long_name)
    variables["unseen_share"] = label(
        GRID, np.full(shape, unseen), "1", "share of fitted tokens whose type the survey never saw"
    )
    coords = {}
    if surfaces is not None and nulls:
        coords["null"] = list(nulls)
        own, contrast = (of_layers(some) for some in zip(*_beside(surfaces, nulls.values()), strict=True))
        variables |= interval("null_r2", own, ("null", *GRID), "1", "r2 of the null by its own reference")
        variables |= interval(
            "r2_contrast", contrast, ("null", *GRID), "1", "r2 of the model minus the null's, same documents"
        )
    return xarray.Dataset(variables, coords=coords, attrs={"reference": reference}).transpose(*GRID, ...)


def _beside(surfaces: SurfaceFit, nulls: Iterable[SurfaceFit]) -> Iterator[tuple[Estimate, Estimate]]:
    """R2 of each null, and the model's less it, over the documents that the null read."""
    for null in nulls:
        value, without = _without_folds(null, "r2")
        of_model, of_model_without = _without_folds(surfaces, "r2", len(null.pairs))
        yield (
            Estimate.of_jackknife(value, without),
            Estimate.of_jackknife(of_model - value, of_model_without - without),
        )


def _without_folds(
    surfaces: SurfaceFit, name: str, folds: int | None = None
) -> tuple[Float[np.ndarray, "layer head"], Float[np.ndarray, "fold layer head"]]:
    """A quality of the reference over the first folds of documents, and without each of them."""
    products, bending = surfaces.products[:folds], surfaces.bending[:folds]
    of_products, of_bending = products.sum(0), bending.sum(0)
    without = [
        _quality(of_products - one, of_bending - other)[name]
        for one, other in zip(products, bending, strict=True)
    ]
    return _quality(of_products, of_bending)[name], np.stack(without)


def _quality(products: torch.Tensor, bending: torch.Tensor) -> dict[str, np.ndarray]:
    score, declared, both = products.numpy()
    kl, kl_support, moved, moved_support, rows = bending.numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "r2": both**2 / (score * declared),
            "slope": both / declared,
            "kl": kl / rows,
            "kl_support": kl_support / rows,
            "top_changed": moved / rows,
            "top_changed_support": moved_support / rows,
        }


def _energy(
    fits: Mapping[int, Fit],
    layers: Sequence[int],
    surfaces: SurfaceFit | None,
    head_width: int,
    reference: str,
) -> xarray.Dataset:
    rms = np.stack([fits[layer].rms for layer in layers])
    score = (
        rms if surfaces is None else (surfaces.products[:, 0].sum(0) / surfaces.pairs.sum()).sqrt().numpy()
    )
    return xarray.Dataset(
        {
            "rms": label(GRID, rms, "nats", "root mean square of the row-centred energy"),
            "score_rms": label(GRID, score, "nats", "root mean square of the row-centred score"),
            "covariance_share": label(
                ("layer", "pair", "head"),
                np.stack([fits[layer].covariance_share for layer in layers]),
                "1",
                "twice the covariance of two fitted terms over the row-centred energy variance",
            ),
        },
        coords={"pair": list(PAIRS)},
        attrs={"seed_unit_factor": float(np.sqrt(head_width)), "reference": reference},
    ).transpose("layer", "head", ...)


def label_basis(gathered: "Gathered") -> xarray.Dataset:
    """Components, centres and coefficients: enough to compute any fitted term on any text."""
    fits = gathered.fits
    layers = sorted(fits)
    columns = fits[layers[0]].columns
    support = support_of(columns.window, query_stride=columns.query_stride)
    bases = [gathered.bases[layer] for layer in layers]
    chosen = np.stack([fits[layer].chosen for layer in layers])
    block = [name for name, places in columns.blocks.items() for _ in range(places.stop - places.start)]
    reach = [gathered.checked.reach[layer] or columns.window for layer in layers]
    return xarray.Dataset(
        {
            "mean": label(
                ("layer", "direction"), np.stack([b.mean.numpy() for b in bases]), "1", "mean attention input"
            ),
            "components": label(
                ("layer", "direction", "component"),
                np.stack([b.components[:, : b.rank].numpy() for b in bases]),
                "1",
                "whitening directions: z = (attention input - mean) @ components",
            ),
            "centres": label(
                ("layer", "centre", "component"),
                np.stack([b.centres.numpy() for b in bases]),
                "1",
                "centres of the radial basis functions, in z",
            ),
            "rbf_width": label(("layer",), [b.width for b in bases], "1", "their width, in z"),
            "coefficient": label(
                ("layer", "head", "column"),
                np.stack([fits[layer].coefficient for layer in layers]),
                "nats per unit of column",
                "row-gauge coefficients of all documents; of the tracks only the chosen one's is not 0",
            ),
            "coefficient_without": label(
                ("fold", *GRID, "column"),
                np.stack([fits[layer].coefficient_without for layer in layers], 1).astype(np.float32),
                "nats per unit of column",
                "the same without each fold of documents in turn, and with the track chosen there",
            ),
            "track_coefficient": label(
                GRID,
                np.stack([fits[layer].track for layer in layers]),
                "nats per unit of track",
                "within-key coefficient of the chosen track",
            ),
            "width_chosen": label(GRID, np.array(WIDTHS)[chosen // len(TAUS)], "1", "kernel width"),
            "tau_chosen": label(GRID, np.array(TAUS)[chosen % len(TAUS)], "tokens", "memory of the track"),
            "reach": label(("layer",), reach, "tokens", "keys a query can see, itself included"),
            "bin_edge": label(
                ("edge",),
                [low for low, _ in columns.bins] + [columns.window],
                "tokens",
                "first lag of each distance bin, and the window's end",
            ),
        },
        coords={
            "layer": layers,
            "head": np.arange(len(fits[layers[0]].coefficient)),
            "fold": np.arange(len(fits[layers[0]].coefficient_without)),
            "column": list(columns.names),
            "block": ("column", block),
            "width": list(WIDTHS),
            "tau": list(TAUS),
        },
        attrs={
            "first_key": support.first_key,
            "gap": support.gap,
            "first_query": support.first_query,
            "query_stride": support.query_stride,
            "state_rank": columns.state_rank,
            "window": columns.window,
        },
    )


def _example(
    gathered: "Gathered", fits: Mapping[int, Fit], layers: Sequence[int], pieces: Sequence[str]
) -> xarray.Dataset:
    received = []
    for layer in layers:
        columns, energies = (part.numpy() for part in gathered.example[layer])
        coefficient, places = fits[layer].coefficient, fits[layer].columns
        by_block = {name: columns[:, part] @ coefficient[:, part].T for name, part in places.blocks.items()}
        nuisance = by_block["distance"] + by_block["kernels"] + by_block["bilinear"]
        parts = [by_block["rhythm"], by_block["state"], by_block["track"], nuisance]
        received.append(np.stack([energies, *parts, energies - sum(parts)]))
    tokens = gathered.example_tokens
    stride = fits[layers[0]].columns.query_stride
    coverage = support_of(len(tokens), query_stride=stride).seen.numpy().copy()
    values = np.where(coverage[:, None] > 0, np.stack(received), np.nan)
    dims = ("layer", "part", "position", "head")
    return xarray.Dataset(
        {
            "piece": label(
                ("position",), [pieces[token] for token in tokens.tolist()], "text", "token as text"
            ),
            "token": label(("position",), tokens.numpy(), "id", "token id"),
            "received": label(dims, values, "nats", "mean row-centred energy a token receives as key"),
            "coverage": label(("position",), coverage, "queries", "queries that see the key"),
        },
        coords={"part": list(PARTS), "position": np.arange(len(tokens))},
        attrs={"document": 0},
    ).transpose("layer", "head", "part", "position")


def label_cost(
    seconds: Mapping[str, float], tokens: Mapping[str, int], peak_mib: Mapping[str, float]
) -> xarray.Dataset:
    """What each stage took."""
    stages = list(seconds)
    speed = [tokens[stage] / seconds[stage] if tokens[stage] else np.nan for stage in stages]
    return xarray.Dataset(
        {
            "seconds": label(("stage",), [seconds[stage] for stage in stages], "s", "wall time"),
            "tokens_per_second": label(("stage",), speed, "tokens/s", "tokens read in a second"),
            "peak_mib": label(
                ("stage",), [peak_mib[s] for s in stages], "MiB", "peak resident memory of the process so far"
            ),
        },
        coords={"stage": stages},
    )
