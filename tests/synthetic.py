"""A result with the schema of a real sweep and plausible numbers, made in milliseconds, without a model."""

import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import xarray
from scipy import stats

from infodyn_interp import measures, observe
from infodyn_interp.observing.instances import compare
from infodyn_interp.planted import REPLY_WORLDS, draw_replies

TERMS = ("prosody", "rhythm", "state", "track")
ROWS = (*TERMS, "carry")
VERDICTS = ("IDENTIFIED", "WEAK", "CONFOUNDED", "ABSENT", "NOT_ESTIMABLE")
NULLS = ("untrained", "permuted_weights", "shuffled_tokens", "permuted_queries", "swapped_documents")
LAGS = (1, 2, 3, 4, 6, 8, 12, 16)
RANKS = (0, 4, 8, 16, 32)
BLOCKS = {"distance": 30, "kernels": 3, "bilinear": 64, "track": 9, "rhythm": 9, "state": 24}
PARTS = ("energy", "rhythm", "state", "track", "nuisance", "residual")
PAIRS = ("prosody-track", "prosody-nuisance", "track-nuisance")
STAGES = ("count", "survey", "fit", "reduce")
WIDTHS = (0.1, 0.4, 1.6)
TAUS = (2.0, 8.0, 32.0)
FINE_WIDTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
FINE_TAUS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
RHYTHM = (
    "punctuation",
    "newline",
    "word_start",
    "short_piece",
    "since_mark",
    "sin_4",
    "cos_4",
    "sin_8",
    "cos_8",
)
SENTENCE = "The quick brown fox jumps over the lazy dog , and then it sleeps .\n"


def make_result(
    layers: int = 6, heads: int = 4, folds: int = 8, window: int = 64, seed: int = 0
) -> xarray.DataTree:
    """A DataTree like the one `sweep` returns: every group, variable, unit and attribute of the schema."""
    draw = np.random.default_rng(seed)
    layer = np.arange(layers) * 2
    head = np.arange(heads)
    grid = {"layer": layer, "head": head}
    return xarray.DataTree.from_dict(
        {
            "/": xarray.Dataset(coords=grid, attrs=_run(layer, folds, window, seed)),
            "/basis": _basis(draw, grid, window),
            "/example": _example(draw, grid, window),
            "/reference": _reference(draw, grid),
            "/energy": _energy(draw, grid),
            "/terms": _terms(draw, grid, folds),
            "/verdicts": _verdicts(draw, grid),
            "/carry": _carry(draw, grid, window, folds),
            "/spectrum": _spectrum(draw, grid),
            "/profile": _profile(draw, grid),
            "/limits": _limits(draw, grid),
            "/precisions": _precisions(grid, folds),
            "/groups": _groups(grid, folds, seed),
            "/ablation": _ablation(draw, grid, folds),
            "/cost": _cost(),
        }
    )


def variable(dims: tuple[str, ...], values: object, units: str, long_name: str) -> xarray.Variable:
    return xarray.Variable(dims, np.asarray(values), {"units": units, "long_name": long_name})


def _run(layer: np.ndarray, folds: int, window: int, seed: int) -> dict[str, object]:
    settings = {
        "model_digest": "5b" * 8,
        "twin": "trained",
        "dtype": "float32",
        "device": "cpu",
        "texts_digest": "c3" * 16,
        "window": window,
        "documents": 3 * folds,
        "reference_documents": 4 * folds,
        "folds": folds,
        "layers": layer.tolist(),
        "reference": "lexical",
        "state_rank": 8,
        "seed": seed,
        "micro_batch": 4,
        "threads": 2,
    }
    return {
        "package_version": "0.1.0",
        "dependency_versions": json.dumps({"torch": "2.13.0", "transformer-lens": "4.3.0"}),
        "model": "demo",
        "model_digest": "5b" * 8,
        "model_revision": "",
        "run": json.dumps(settings),
        "run_digest": f"{(0xA7 + seed) % 256:02x}" * 8,
        "seed": seed,
        "tokens_fitted": 3 * folds * 8 * window,
        "tokens_reference": 4 * folds * 8 * window,
        "documents": 3 * folds,
        "reference_documents": 4 * folds,
        "folds": folds,
        "window": window,
        "tokenizer_digest": "7e" * 16,
        "census": json.dumps(
            {"documents": 7 * folds + 3, "too_short": 2, "duplicates": 1, "tokens_lost": 811}
        ),
        "parity_logits": 1.9e-5,
        "parity_logits_relative": 3.1e-7,
        "parity_pattern": 2.4e-7,
        "zero_share": 0.0,
        "score_source": json.dumps(["scores"] * len(layer)),
    }


def _basis(draw: np.random.Generator, grid: dict[str, np.ndarray], window: int) -> xarray.Dataset:
    layers, heads = len(grid["layer"]), len(grid["head"])
    rank, centres, width = 8, 16, 32
    edges = np.array([*range(1, 24), 24, 32, 48, window])
    names = {
        "distance": [f"lag {edge}" for edge in edges[:-1]],
        "kernels": [f"kernel w={w:g}" for w in WIDTHS],
        "bilinear": [f"z{a} z{b}" for a in range(rank) for b in range(rank)],
        "track": [f"track w={w:g} tau={tau:g}" for w in WIDTHS for tau in TAUS],
        "rhythm": list(RHYTHM),
        "state": [*(f"z{a}" for a in range(rank)), *(f"rbf {c}" for c in range(centres))],
    }
    column = [name for block in names.values() for name in block]
    block = [block for block, members in names.items() for _ in members]
    chosen = draw.integers(0, 3, (2, layers, heads))
    return xarray.Dataset(
        {
            "mean": variable(
                ("layer", "direction"), draw.normal(size=(layers, width)), "1", "mean attention input"
            ),
            "components": variable(
                ("layer", "direction", "component"),
                draw.normal(size=(layers, width, rank)),
                "1",
                "whitening directions of the attention input",
            ),
            "centres": variable(
                ("layer", "centre", "component"),
                draw.normal(size=(layers, centres, rank)),
                "1",
                "RBF centres",
            ),
            "rbf_width": variable(("layer",), draw.uniform(2, 4, layers), "1", "RBF width"),
            "coefficient": variable(
                ("layer", "head", "column"),
                draw.normal(scale=0.1, size=(layers, heads, len(column))),
                "nats per unit of column",
                "coefficient, row gauge",
            ),
            "track_coefficient": variable(
                ("layer", "head"),
                draw.normal(-0.05, 0.05, (layers, heads)),
                "nats per unit of track",
                "track, within key",
            ),
            "width_chosen": variable(
                ("layer", "head"), np.array(WIDTHS)[chosen[0]], "1", "chosen kernel width"
            ),
            "tau_chosen": variable(
                ("layer", "head"), np.array(TAUS)[chosen[1]], "tokens", "chosen decay length"
            ),
            "reach": variable(("layer",), np.full(layers, window), "tokens", "keys a query can see"),
            "bin_edge": variable(
                ("edge",), edges, "tokens", "first lag of each distance bin, and the window's end"
            ),
        },
        coords={
            **grid,
            "column": column,
            "block": ("column", block),
            "width": list(WIDTHS),
            "tau": list(TAUS),
        },
        attrs={"first_key": 4, "gap": 1, "first_query": 12, "state_rank": rank, "window": window},
    )


def _example(draw: np.random.Generator, grid: dict[str, np.ndarray], window: int) -> xarray.Dataset:
    layers, heads = len(grid["layer"]), len(grid["head"])
    words = ["<|endoftext|>", *(" " + word for word in (SENTENCE * window).split(" "))]
    position = np.arange(window)
    coverage = np.where(position >= 4, window - np.maximum(12, position + 1), 0)
    scale = np.array([0, 0.25, 0.35, 0.2, 0.5, 0.6])
    received = draw.normal(size=(layers, heads, len(PARTS), window)) * scale[:, None]
    received[:, :, 0] = received[:, :, 1:].sum(axis=2)
    received[..., coverage == 0] = np.nan
    return xarray.Dataset(
        {
            "piece": variable(("position",), np.array(words[:window], dtype=object), "text", "token as text"),
            "token": variable(("position",), draw.integers(0, 49152, window), "id", "token id"),
            "received": variable(
                ("layer", "head", "part", "position"), received, "nats", "mean energy a token receives as key"
            ),
            "coverage": variable(("position",), coverage, "queries", "queries that see the key"),
        },
        coords={**grid, "part": list(PARTS), "position": position},
        attrs={"document": 0},
    )


def _reference(draw: np.random.Generator, grid: dict[str, np.ndarray]) -> xarray.Dataset:
    shape = len(grid["layer"]), len(grid["head"])
    depth = np.linspace(0, 1, shape[0])[:, None]
    values = {
        "r2": (0.85 - 0.5 * depth + draw.normal(scale=0.05, size=shape), 0.03, "1", "R2 of the reference"),
        "slope": (draw.normal(1, 0.04, shape), 0.02, "1", "slope of scores on the reference"),
        "kl": (draw.gamma(2, 0.1, shape), 0.02, "nats", "KL(pattern || softmax(reference)) over all keys"),
        "kl_support": (draw.gamma(2, 0.08, shape), 0.02, "nats", "the same over the support's keys"),
        "top_changed": (
            draw.uniform(0.1, 0.5, shape),
            0.04,
            "1",
            "share of queries whose first key is another",
        ),
        "top_changed_support": (draw.uniform(0.1, 0.4, shape), 0.04, "1", "the same over the support's keys"),
    }
    data = {}
    for name, (middle, half, units, words) in values.items():
        data[name] = variable(("layer", "head"), middle, units, words)
        data[f"{name}_low"] = variable(("layer", "head"), middle - half, units, f"{words}, lower 95 %")
        data[f"{name}_high"] = variable(("layer", "head"), middle + half, units, f"{words}, upper 95 %")
    data["unseen_share"] = variable(
        ("layer", "head"), np.full(shape, 0.12), "1", "share of tokens whose type the reference never saw"
    )
    return xarray.Dataset(data, coords=grid, attrs={"reference": "lexical"})


def _energy(draw: np.random.Generator, grid: dict[str, np.ndarray]) -> xarray.Dataset:
    shape = len(grid["layer"]), len(grid["head"])
    score = draw.gamma(8, 0.2, shape)
    return xarray.Dataset(
        {
            "rms": variable(
                ("layer", "head"), score * draw.uniform(0.3, 0.8, shape), "nats", "row-centred energy RMS"
            ),
            "score_rms": variable(("layer", "head"), score, "nats", "row-centred score RMS"),
            "covariance_share": variable(
                ("layer", "head", "pair"),
                draw.normal(scale=0.05, size=(*shape, len(PAIRS))),
                "1",
                "twice the covariance of two fields over the energy's variance",
            ),
        },
        coords={**grid, "pair": list(PAIRS)},
        attrs={"reference": "lexical", "seed_unit_factor": 8.0},
    )


def _terms(draw: np.random.Generator, grid: dict[str, np.ndarray], folds: int) -> xarray.Dataset:
    layers, heads = len(grid["layer"]), len(grid["head"])
    strength = np.array([0.09, 0.01, 0.07, 0.02])
    truth = draw.gamma(1.0, 1.0, (layers, heads, len(TERMS))) * strength - 0.003
    by_fold = truth[..., None] + draw.normal(scale=0.01, size=(*truth.shape, folds))
    marginal = by_fold + draw.uniform(0, 0.03, truth.shape)[..., None]
    all_dims, plain = ("layer", "head", "term"), ("layer", "head")
    data = {
        "share": variable(all_dims, np.maximum(truth, 0) + 0.01, "1", "share of row-centred energy variance"),
        "gain_by_fold": variable(
            ("layer", "head", "fold", "term"), np.moveaxis(by_fold, -1, 2), "1", "held-out gain by fold"
        ),
    }
    digests = [f"{fold:032x}" for fold in range(folds)]
    data["documents_digest"] = variable(("fold",), digests, "text", "hash of the fold's documents")
    data |= _interval("gain", by_fold, all_dims, "1", "held-out gain over the base")
    data |= _interval("marginal_gain", marginal, all_dims, "1", "held-out gain over distance alone")
    rhythm, track = by_fold[:, :, 1], by_fold[:, :, 3]
    tail, coefficient = np.abs(rhythm) * 30 + 0.1, -track - 0.02
    data |= _interval("gain_without_state", rhythm * 1.4, plain, "1", "rhythm's gain over nuisance and track")
    data |= _interval("rhythm_tail", tail, plain, "nats", "rhythm field's energy, 99 % minus 50 %")
    data |= _interval(
        "track_coefficient", coefficient, plain, "nats per unit of track", "track's coefficient, within key"
    )
    for name in ("gain_without_state_t", "rhythm_tail_t", "track_coefficient_t"):
        del data[name]
    landscape = track.mean(-1)[..., None, None] * draw.uniform(
        0.3, 1, (layers, heads, len(WIDTHS), len(TAUS))
    )
    best = landscape.reshape(layers, heads, -1).argmax(-1)
    data["track_gain"] = variable((*plain, "width", "tau"), landscape, "1", "track's gain at a width and tau")
    data["width_chosen"] = variable(plain, np.array(WIDTHS)[best // 3], "1", "chosen kernel width")
    data["tau_chosen"] = variable(plain, np.array(TAUS)[best % 3], "tokens", "chosen decay length")
    data["width_stable"] = variable(
        plain,
        draw.integers(folds // 2, folds + 1, (layers, heads)) / folds,
        "1",
        "share of folds that chose the same",
    )
    coords = {**grid, "term": list(TERMS), "fold": np.arange(folds), "width": list(WIDTHS), "tau": list(TAUS)}
    return xarray.Dataset(data, coords=coords)


def _verdicts(draw: np.random.Generator, grid: dict[str, np.ndarray]) -> xarray.Dataset:
    shape = len(grid["layer"]), len(grid["head"]), len(ROWS)
    rates = np.array(
        [
            [0.7, 0.1, 0.1, 0.05, 0.05],
            [0.3, 0.3, 0.2, 0.1, 0.1],
            [0.6, 0.2, 0.1, 0.1, 0],
            [0.1, 0.2, 0.2, 0.3, 0.2],
            [0.5, 0.1, 0.2, 0.1, 0.1],
        ]
    )
    verdict = (draw.random(shape)[..., None] > rates.cumsum(-1)).sum(-1).clip(max=len(VERDICTS) - 1)
    words = np.array(VERDICTS, dtype=object)
    gain = draw.gamma(1.0, 1.0, shape) * np.array([0.09, 0.01, 0.07, 0.02, 0.3])
    kept = np.array([0.1, 0.3, 0.7, 0.05, 0.0])[:, None, None, None]
    null_gain = kept * gain + draw.normal(scale=0.003, size=(len(NULLS), *shape))
    null_gain[NULLS.index("permuted_queries"), ..., :-1] = np.nan
    null_gain[NULLS.index("swapped_documents"), ..., -1] = np.nan
    half = draw.gamma(4, 0.0015, null_gain.shape) * np.array([1, 1, 1, 1, 5])
    confounder = np.where(verdict == VERDICTS.index("CONFOUNDED"), "kernels", "").astype(object)
    null_verdict = words[np.where(draw.random(null_gain.shape) < 0.04, 0, 4)]
    null_verdict[np.isnan(null_gain)] = ""
    dims, by_null = ("layer", "head", "term"), ("null", "layer", "head", "term")
    data = {
        "verdict": variable(dims, words[verdict], "verdict", "what may be said of the term"),
        "reason": variable(dims, np.full(shape, "gain 0.0100, bound 0.0080", object), "text", "what decided"),
        "confounder": variable(dims, confounder, "text", "with what, where CONFOUNDED"),
        "gain": variable(dims, gain, "1", "held-out share; carry: log(V(long) / V(1))"),
        "bound": variable(dims, gain - 0.004, "1", "one-sided lower 95 % bound of the gain"),
        "p": variable(dims, draw.random(shape) ** 4, "1", "one-sided p of a gain of 0"),
        "q": variable(dims, draw.random(shape) ** 3, "1", "p adjusted over the row (Benjamini-Hochberg)"),
        "marginal_bound": variable(dims, gain - 0.002, "1", "lower bound of the marginal gain"),
        "split_half": variable(
            dims,
            np.where(np.arange(len(ROWS)) == 4, np.nan, draw.uniform(0.4, 1, shape)),
            "1",
            "correlation of the fields fitted to two halves",
        ),
        "swap_p": variable(dims, np.full(shape, np.nan), "1", "p of the swap gate; NaN where there was none"),
        "track_left": variable(dims[:2], draw.uniform(0.02, 0.5, shape[:2]), "1", "share of the track left"),
        "tests": variable(("term",), np.full(len(ROWS), shape[0] * shape[1]), "1", "tests of the family"),
        "cutoff": variable(("term",), np.full(len(ROWS), 0.02), "1", "largest p that counts as discovered"),
        "null_verdict": variable(by_null, null_verdict, "verdict", "verdict of the null"),
        "null_gain": variable(by_null, null_gain, "1", "gain of the null"),
        "contrast": variable(by_null, gain - null_gain, "1", "gain of the model minus that of the null"),
        "contrast_low": variable(by_null, gain - null_gain - half, "1", "lower end of its 95 % interval"),
        "contrast_high": variable(by_null, gain - null_gain + half, "1", "upper end of its 95 % interval"),
    }
    thresholds = {"small": 0.1, "least_sill": 0.05, "least_sill_ladder": 0.5}
    coords = {**grid, "term": list(ROWS), "null": _axis("null", list(NULLS), "1", "null model")}
    attrs = {
        "thresholds": json.dumps(thresholds),
        "advice": json.dumps({name: f"do something about {name}" for name in VERDICTS}),
    }
    return xarray.Dataset(data, coords=coords, attrs=attrs)


def _axis(name: str, values: object, units: str, long_name: str) -> xarray.Variable:
    return variable((name,), values, units, long_name)


def _carry(draw: np.random.Generator, grid: dict[str, np.ndarray], window: int, folds: int) -> xarray.Dataset:
    shape = len(grid["layer"]), len(grid["head"])
    plain, lag, rank = ("layer", "head"), np.array(LAGS), np.array(RANKS)
    rho, nugget, sill = draw.uniform(0.3, 0.85, shape), draw.gamma(9, 0.02, shape), draw.gamma(2, 0.04, shape)
    left = 1 - draw.uniform(0, 0.5, shape)[..., None] * rank / (rank + 8)
    noise = 1 + draw.normal(scale=0.02, size=(2, *shape, len(lag)))
    curve = nugget[..., None] + sill[..., None] * (1 - rho[..., None] ** lag)
    rising = 0.4 * (1 - np.exp(-np.arange(window) / 20)) * draw.uniform(0.5, 1.2, (shape[0], 1))
    rising[:, :12] = np.nan
    data = {
        "sill": variable(plain, sill, "nats^2", "stationary variance of the carry-over"),
        "nugget": variable(plain, nugget, "nats^2", "variance of what no step keeps"),
        "sill_share": variable(plain, sill / draw.uniform(0.4, 2, shape), "1", "sill over energy variance"),
        "misfit": variable(plain, draw.uniform(0.005, 0.05, shape), "1", "RMS of variogram minus fit"),
        "rho_nine": variable(plain, rho - 0.02, "1", "rho with all nine tracks taken out"),
        "sill_nine": variable(plain, 0.9 * sill, "nats^2", "sill with all nine tracks taken out"),
        "variogram": variable((*plain, "lag"), curve * noise[0], "nats^2", "half the squared difference"),
        "variogram_permuted": variable(
            (*plain, "lag"), (nugget + sill)[..., None] * noise[1], "nats^2", "the same, queries permuted"
        ),
        "magnitude": variable(
            (*plain, "query"), np.broadcast_to(rising[:, None], (*shape, window)), "nats", "|M_t|"
        ),
    }
    for suffix, scale in (("", 1.0), ("_nine", 0.9)):
        values = scale * sill[..., None] * left * (1 + draw.normal(scale=0.03, size=left.shape))
        data[f"ladder_sill{suffix}"] = variable((*plain, "rank"), values, "nats^2", "sill by rank")
        data[f"ladder_rho{suffix}"] = variable((*plain, "rank"), rho[..., None] * left, "1", "rho by rank")
    ends = {
        "rho": (rho, 0.08, plain),
        "gain": (np.log1p(sill / nugget), 0.05, plain),
        "layer_magnitude": (rising, 0.03, ("layer", "query")),
        "interference": (np.linspace(-0.4, 0.4, rho.size).reshape(shape), 0.1, plain),
    }
    gains = np.log1p(sill / nugget)[..., None] * np.linspace(0.9, 1.1, folds)
    data["gain_by_fold"] = variable((*plain, "fold"), gains, "1", "log(V(long) / V(1)) of each fold")
    chance = 2 * stats.norm.sf(np.abs(ends["interference"][0]) / 0.05)
    for name, values in (
        ("r2", ends["interference"][0] ** 2),
        ("p", chance),
        ("q", stats.false_discovery_control(chance, axis=None).reshape(shape)),
    ):
        data[f"interference_{name}"] = variable(plain, values, "1", f"{name} of the interference")
    for name, (middle, half, dims) in ends.items():
        data[name] = variable(dims, middle, "1", name)
        data[f"{name}_low"] = variable(dims, middle - half, "1", f"{name}, lower 95 %")
        data[f"{name}_high"] = variable(dims, middle + half, "1", f"{name}, upper 95 %")
    coords = {
        **grid,
        "lag": _axis("lag", lag, "tokens", "lag of two queries"),
        "rank": _axis("rank", rank, "1", "rank of the bilinear nuisance"),
        "query": _axis("query", np.arange(window), "tokens", "position of the query"),
        "fold": np.arange(folds),
    }
    return xarray.Dataset(data, coords=coords, attrs={"discovery": 0.05, "least_interference": 0.1})


def _precisions(grid: dict[str, np.ndarray], documents: int) -> xarray.Dataset:
    """Three dtypes, float32 the run's own, the coarsest with more of everything but rho."""
    dims, names = ("dtype", "layer", "head"), ("float32", "float64", "bfloat16")
    more = np.ones((len(grid["layer"]), len(grid["head"]))) * np.array([0, -1e-6, 1e-2])[:, None, None]
    data = {
        "magnitude": variable(dims, 0.3 + more, "nats", "|M_t|"),
        "sill": variable(dims, 0.1 + more / 10, "nats^2", "stationary variance"),
        "nugget": variable(dims, 0.2 + more, "nats^2", "variance of what no step keeps"),
        "rho": variable(dims, 0.6 + 0 * more, "1", "what one step keeps"),
    }
    for name, values, unit in (("contrast", more, "nats"), ("rise_contrast", more / 10, "nats^2")):
        for suffix, factor in (("", 1), ("_low", 0.5), ("_high", 1.5)):
            data[f"{name}{suffix}"] = variable(
                dims, factor * values, unit, "less that of the run's own dtype"
            )
    attrs = {"own": "float32", "documents": documents}
    return xarray.Dataset(data, coords={**grid, "dtype": _axis("dtype", names, "1", "dtype")}, attrs=attrs)


def _groups(grid: dict[str, np.ndarray], folds: int, seed: int) -> xarray.Dataset:
    """Kinds of text; drawn apart, so that the other groups stay what they were."""
    draw, names = np.random.default_rng([seed, 1]), ("verse", "prose", "talk")
    shape = len(names), len(grid["layer"]), len(grid["head"]), len(ROWS)
    dims = ("group", "layer", "head", "term")
    gain = draw.gamma(1.0, 1.0, shape) * np.array([0.09, 0.01, 0.07, 0.02, 0.3])
    contrast, half = gain - np.roll(gain, 1, 0), draw.gamma(4, 0.003, shape)
    p = 2 * stats.norm.sf(2 * np.abs(contrast) / half)
    data = {
        "documents": variable(("group",), np.full(len(names), folds), "1", "fitted documents"),
        "share": variable(dims, gain + 0.01, "1", "share of the group's energy variance"),
        "contrast_p": variable(dims, p, "1", "two-sided p of a contrast of 0"),
        "contrast_q": variable(dims, p, "1", "that p adjusted for all heads"),
    }
    for name, middle in (("gain", gain), ("contrast", contrast)):
        for end, sign in (("", 0), ("_low", -1), ("_high", 1)):
            data[name + end] = variable(dims, middle + sign * half, "1", name + end)
    coords = {**grid, "term": list(ROWS), "group": _axis("group", list(names), "1", "group of documents")}
    return xarray.Dataset(data, coords=coords, attrs={"discovery": 0.05})


def _spectrum(draw: np.random.Generator, grid: dict[str, np.ndarray]) -> xarray.Dataset:
    """Eigenvalues from stiff to sloppy, the last two below the floor, one column of the second layer constant."""
    layer, directions, blocks = grid["layer"], sum(BLOCKS.values()), len(BLOCKS)
    place = np.linspace(0, 1, directions)
    eigenvalue = 30 * np.exp(-9 * place - 4 * place**8) * draw.uniform(0.8, 1.25, (len(layer), 1))
    eigenvalue[:, -2:] = [1e-9, -3e-12]
    eigenvalue[1:2, -1] = np.nan
    centre = np.array([0.9, 0.2, 0.5, 0.1, 0.6, 0.3])
    share = np.exp(-8 * (place[:, None] - centre) ** 2) * draw.gamma(
        1.0, 1.0, (len(layer), directions, blocks)
    )
    share /= share.sum(-1, keepdims=True)
    share[np.isnan(eigenvalue)] = np.nan
    return xarray.Dataset(
        {
            "eigenvalue": variable(("layer", "direction"), eigenvalue, "1", "Fisher information"),
            "floored": variable(
                ("layer", "direction"),
                np.where(np.isnan(eigenvalue), np.nan, eigenvalue < 3e-5),
                "1",
                "1 below the floor",
            ),
            "block_share": variable(
                ("layer", "direction", "block"), share, "1", "squared loading on each block"
            ),
        },
        coords={"layer": layer, "block": _axis("block", list(BLOCKS), "1", "block of columns")},
    )


def _profile(draw: np.random.Generator, grid: dict[str, np.ndarray], points: int = 41) -> xarray.Dataset:
    shape = len(grid["layer"]), len(grid["head"])
    plain, rho = ("layer", "head"), np.linspace(0, 0.995, points)
    best, threshold = draw.uniform(0.3, 0.85, shape), draw.uniform(2, 6, shape)
    half = draw.uniform(0.05, 0.2, shape)
    rise = threshold[..., None] * ((rho - best[..., None]) / half[..., None]) ** 2
    kept = draw.random((shape[0], len(WIDTHS), len(TAUS), shape[1])) < 0.4
    kept[:, 1, 1] = True
    fine = (shape[0], len(FINE_WIDTHS), len(FINE_TAUS), shape[1])
    excess, allowed = draw.normal(0.004, 0.004, fine), draw.uniform(0.001, 0.006, fine)
    excess[:, 2, 3] = allowed[:, 2, 3] = 0
    excess[-1] = allowed[-1] = np.nan
    disagree = draw.random(shape) < 0.2
    data = {
        "rise": variable((*plain, "point"), rise, "1", "squares over the least, less one"),
        "threshold": variable(plain, threshold, "1", "rise up to which rho is not rejected"),
        "best": variable(plain, best, "1", "rho of the least squares"),
        "low": variable(plain, (best - half).clip(0), "1", "lower end of the profile's interval"),
        "high": variable(plain, (best + half).clip(max=0.995), "1", "upper end of the profile's interval"),
        "fisher_low": variable(plain, best - 1.1 * half, "1", "lower end of the jackknife's interval"),
        "fisher_high": variable(plain, best + 0.9 * half, "1", "upper end of the jackknife's interval"),
        "disagree": variable(plain, disagree.astype(float), "1", "1 where the two intervals differ"),
        "kept": variable(("layer", "width", "tau", "head"), kept.astype(float), "1", "1 where not rejected"),
    }
    finer = ("layer", "width_fine", "tau_fine", "head")
    data |= {
        "kept_fine": variable(
            finer, np.where(np.isnan(excess), np.nan, excess <= allowed), "1", "1 where not rejected"
        ),
        "excess_fine": variable(finer, excess, "1", "held-out squares over the chosen track's"),
        "allowed_fine": variable(finer, allowed, "1", "excess up to which a track is not rejected"),
    }
    coords = {
        **grid,
        "rho": variable(("point",), rho, "1", "what one step keeps"),
        "width": list(WIDTHS),
        "tau": list(TAUS),
        "width_fine": variable(("width_fine",), np.array(FINE_WIDTHS), "1", "kernel width w"),
        "tau_fine": variable(("tau_fine",), np.array(FINE_TAUS), "tokens", "decay length of the track"),
    }
    return xarray.Dataset(data, coords=coords)


def _limits(draw: np.random.Generator, grid: dict[str, np.ndarray]) -> xarray.Dataset:
    shape = len(grid["layer"]), len(ROWS), len(grid["head"])
    share = np.exp(draw.normal(-3, 0.8, shape)) * np.array([1, 0.3, 1, 0.5, 1.5])[:, None]
    share = share.clip(0.002)
    share[share > 0.5] = np.inf
    share[draw.random(shape) < 0.15] = np.nan
    share[:, 0] = np.nan
    dims = ("layer", "term", "head")
    return xarray.Dataset(
        {"share": variable(dims, share, "1", "share of energy variance that half of the runs identify")},
        coords={**grid, "term": list(ROWS)},
    )


def make_calibration(documents: tuple[int, ...] = (16, 24), runs: int = 60, seed: int = 0) -> pd.DataFrame:
    """A table like the one of `calibrate`: the rate of each verdict by world, term and documents."""
    draw = np.random.default_rng(seed)
    present = {
        "noise": (),
        "key_effects": (),
        "similarity": (),
        "bilinear_32_persistent": (),
        "carry": ("carry",),
        "prosody_20": ("prosody", "rhythm", "state"),
        "track_off_grid": ("track",),
        "all_three": ROWS,
    }
    rows = []
    for count in documents:
        for world, there in present.items():
            for term in ROWS:
                rate = np.array(
                    [0.95, 0.03, 0.01, 0, 0.01] if term in there else [0.01, 0.04, 0.15, 0.2, 0.6]
                )
                rates = draw.multinomial(runs, rate) / runs
                named = dict(zip((word.lower() for word in VERDICTS), rates, strict=True))
                rows.append(
                    {"world": world, "term": term, "present": term in there}
                    | named
                    | {"runs": runs, "documents": count}
                )
    return pd.DataFrame(rows)


def make_ablation(
    term: str = "track", documents: int = 12, placebos: int = 10, seed: int = 0
) -> xarray.Dataset:
    """A Dataset like the one of `ablate`: changes of the outputs where a term is removed, and under placebos."""
    draw = np.random.default_rng(seed)
    measures, kinds = (
        {"loss": "nats", "kl": "nats", "inertia": "1", "repeats": "1"},
        ("permuted", "other_document"),
    )
    scale = np.array([0.3, 0.2, 0.02, 0.004])
    removed = scale * (1.5 + draw.normal(scale=0.6, size=(documents, 4)))
    placebo = scale * (0.6 + draw.normal(scale=0.6, size=(2, placebos, documents, 4)))
    placebo[1, placebos - 1 :] = np.nan
    by_kind = removed - np.nanmean(placebo, 1)
    data = {"intact": variable(("measure",), 10 * scale, "1", "the intact model's")}
    for name, values, dims in (
        ("removed", removed, ()),
        ("placebo", placebo, ("kind", "draw")),
        ("difference", by_kind.mean(0), ()),
        ("difference_by_kind", by_kind, ("kind",)),
    ):
        middle = values.mean(-2)
        half = stats.t.ppf(0.975, documents - 1) * values.std(-2, ddof=1) / np.sqrt(documents)
        for end, part in (("", middle), ("_low", middle - half), ("_high", middle + half)):
            data[name + end] = variable((*dims, "measure"), part, "1", name + end)
        data[f"{name}_by_document"] = variable((*dims, "document", "measure"), values, "1", name)
    loss = data["difference_low"].values[0], data["difference_high"].values[0]
    data["no_causal_effect"] = variable((), not (loss[0] > 0 or loss[1] < 0), "1", "the interval covers 0")
    data["unseen_share"] = variable(("layer", "head"), [[0.1, 0.2]], "1", "share that no output can show")
    coords = {
        "measure": list(measures),
        "unit": ("measure", list(measures.values())),
        "kind": list(kinds),
        "document": np.arange(documents),
        "layer": [4],
        "head": [0, 1],
    }
    attrs = {
        "term": term,
        "windows": 2 * documents,
        "documents": documents,
        "placebos": placebos,
        "seed": seed,
    }
    return xarray.Dataset(data, coords=coords, attrs=attrs)


def _ablation(draw: np.random.Generator, grid: dict[str, np.ndarray], documents: int) -> xarray.Dataset:
    """Removals of every term of every other head."""
    one = make_ablation(documents=documents)
    dims = ("layer", "head", "term")
    shape = (len(grid["layer"]), len(grid["head"]), len(TERMS))
    there = np.ones(shape)
    there[np.add.outer(*map(np.arange, shape[:2])) % 2 == 0] = np.nan
    data = {}
    for name in ("removed", "placebo", "difference", "difference_by_kind"):
        own = one[name].dims
        size = tuple(one.sizes[dim] for dim in own)
        middle, half = draw.normal(0.2, 0.3, (*shape, *size)), draw.uniform(0.1, 0.5, (*shape, *size))
        for end, values in (("", middle), ("_low", middle - half), ("_high", middle + half)):
            kept = values * there[(..., *(None,) * len(own))]
            data[name + end] = variable((*dims, *own), kept, "see the coordinate unit", name + end)
    low, high = (data[f"difference_{end}"].values[..., 0] for end in ("low", "high"))
    data["no_causal_effect"] = variable(dims, ((low <= 0) & (high >= 0)) * there, "1", "1 where it covers 0")
    data["unseen_share"] = variable(
        dims, there * draw.uniform(0, 0.4, shape), "1", "share no output can show"
    )
    coords = {**grid, "term": list(TERMS)} | {
        name: one[name].variable for name in ("measure", "unit", "kind")
    }
    attrs = {name: value for name, value in one.attrs.items() if name != "term"}
    return xarray.Dataset(data, coords=coords, attrs=attrs)


def _interval(
    name: str, by_fold: np.ndarray, dims: tuple[str, ...], units: str, words: str
) -> dict[str, xarray.Variable]:
    folds = by_fold.shape[-1]
    middle = by_fold.mean(-1)
    error = by_fold.std(-1, ddof=1) / np.sqrt(folds)
    half = stats.t.ppf(0.975, folds - 1) * error
    return {
        name: variable(dims, middle, units, words),
        f"{name}_low": variable(dims, middle - half, units, f"{words}, lower 95 %"),
        f"{name}_high": variable(dims, middle + half, units, f"{words}, upper 95 %"),
        f"{name}_t": variable(dims, middle / error, "1", f"t of {words}"),
    }


def _cost() -> xarray.Dataset:
    return xarray.Dataset(
        {
            "seconds": variable(("stage",), [1.2, 40.0, 90.0, 2.5], "s", "wall time"),
            "tokens_per_second": variable(("stage",), [90e3, 1200.0, 550.0, np.nan], "tokens/s", "speed"),
            "peak_mib": variable(("stage",), [420.0, 1400.0, 1520.0, 1530.0], "MiB", "peak resident memory"),
        },
        coords={"stage": list(STAGES)},
    )


@cache
def make_measured(layers: int = 6, documents: int = 6, seed: int = 0) -> xarray.DataTree:
    """What `infodyn measures` gives by depth of a model and two nulls: fidelity, stability and maps."""
    draw, null = np.random.default_rng(seed), ["trained", "untrained", "shuffled_tokens"]
    layer, quantities = 2 * np.arange(layers), ["first", "second"]
    apart = np.array([0, 0.5, 0.1])

    def around(name: str, size: float, *dims: str) -> dict[str, xarray.Variable]:
        shape = 3, *(len(coords[dim]) for dim in dims)
        middle = size * (apart.reshape(3, *[1] * len(dims)) + draw.uniform(1.2, 1.6, shape))
        return {
            name + end: variable(("null", *dims), middle + 0.05 * sign * abs(size), "1", name)
            for end, sign in (("", 0), ("_low", -1), ("_high", 1))
        }

    coords: dict[str, Any] = {
        "layer": layer,
        "target": layer,
        "lens": ["logit", "affine"],
        "geometry": ["raw", "angular"],
        "vector": [0, 1],
    }
    curves = dict.fromkeys(("ffn_linear", "ffn_size", "update_size", "cosine", "growth", "embedding"), 0.3)
    curves |= {
        "ffn_angle": 30,
        "lipschitz": 2,
        "inversion_error": -1,
        "gradient": 0.5,
        "gradient_without_skip": -4,
    }
    groups = {
        "fidelity": around("kl", 2, "lens", "layer") | around("kl_unigram", 3),
        "stability": around("rate", 0.1, "vector", "geometry", "layer")
        | around("exponent", 0.1, "vector", "geometry"),
        "maps": {
            name: one for curve, size in curves.items() for name, one in around(curve, size, "layer").items()
        }
        | around("transfer", 0.2, "target", "layer"),
    }
    words = np.array([["", ""], ["DIFFERS: above it in 6", "LOOKS THE SAME: above it in 0"]] * 2)[[0, 1, 3]]
    verdict = variable(("null", "quantity"), words, "text", "does the measure tell the model from the null?")
    known = {"null": null, "quantity": quantities}
    return xarray.DataTree.from_dict(
        {"/": xarray.Dataset(attrs={"model": "demo", "documents": documents, "window": 64})}
        | {
            f"/{name}": xarray.Dataset(
                {**data, "verdict": verdict},
                {
                    dim: values
                    for dim, values in coords.items()
                    if any(dim in one.dims for one in data.values())
                }
                | known,
            )
            for name, data in groups.items()
        }
    )


@cache
def make_jumping() -> xarray.Dataset:
    """What `find_jumps` says of a state that steps further where |M_t| is large."""
    draw = np.random.default_rng(0)
    carry = np.exp(0.3 * draw.standard_normal((6, 120)))
    size = 1.0 * (carry > np.quantile(carry, 0.7))
    steps = np.exp(size)[..., None] * draw.standard_normal((6, 120, 3))
    state = steps.cumsum(1) - steps  # the step from t to t + 1 is that of |M_t|
    return measures.find_jumps(state, carry, shuffles=19)


def make_unfinished(layers: int = 6, heads: int = 9) -> xarray.DataTree:
    """A result of measures whose innovations of M follow what Helpful left, in the model and not in a null."""
    draw, functionals, nulls = (
        np.random.default_rng(2),
        ["helpful", "harmless", "honest"],
        ["trained", "untrained"],
    )
    slope = 0.02 * draw.standard_normal((2, layers, 3, heads))
    slope[0, :, 0] += 0.2
    dims = ("null", "layer", "functional", "head")
    coords = {"null": nulls, "layer": np.arange(layers), "functional": functionals, "head": np.arange(heads)}
    q = np.where(np.abs(slope) > 0.1, 0.001, 0.5)
    group = xarray.Dataset({"unfinished": (dims, slope), "unfinished_q": (dims, q)}, coords)
    tree = xarray.DataTree.from_dict({"/jumps": group, "/jumps/trained": xarray.Dataset()})
    tree["jumps"].children["trained"].attrs |= {"least_slope": 0.1, "discovery": 0.05}
    tree.attrs |= {"model": "m", "documents": 24, "window": 256}
    return tree


@cache
def make_acting() -> xarray.Dataset:
    """What `helpful` says of random walks."""
    return measures.helpful(np.random.default_rng(1).standard_normal((20, 30, 2)))


def make_instances(
    prompts: int = 6, layers: int = 6, left_out: int = 1, twin: bool = True, seed: int = 0
) -> xarray.Dataset:
    """The group of `infodyn observe --instantiation` at two temperatures: instances freer than the prior."""
    draw, free = np.random.default_rng(seed), {"none": 3.0, "prompt": 5.0, "chat": 6.0}
    freedom: dict[str, dict[str, list[np.ndarray]]] = {}
    for stage in ("study", "untrained") if twin else ("study",):
        size = np.array([1.0, 4.0]) * (1 if stage == "study" else 0.7)
        freedom[stage] = {
            name: [mean * size * draw.uniform(0.8, 1.2, (2, layers, 2)) for _ in range(prompts)]
            for name, mean in free.items()
        }
    for place in range(left_out):
        freedom["study"]["chat"][place][:] = np.nan
    tokens = {name: [draw.integers(0, 99, (2, 6, 8)) for _ in range(prompts)] for name in free}
    return compare(tokens, freedom, {"temperature": [0.7, 1.0], "layer": 3 * np.arange(layers)})


@cache
def make_observed() -> dict[str, Any]:
    """What the output side gives for replies without structure at three temperatures: a value a figure of it."""
    draw = np.random.default_rng(0)
    x = xarray.DataArray(
        draw.normal(size=(3, 6, 5, 40, 8)) * np.array([0.8, 1, 1.3])[:, None, None, None, None],
        dims=("temperature", "prompt", "trial", "step", "direction"),
        coords={"temperature": [0.4, 0.7, 1.0]},
    )
    seen = observe.track_equilibrium(x, 0.1)
    one = {"temperature": 1, "prompt": 0, "trial": 0}
    pieces = ([*SENTENCE.split(" "), "日本", "\n\n"] * 4)[:40]
    drawn = draw_replies(REPLY_WORLDS["surprisal_linear"], draw, 6, 5, 40, layers=6, effect=0.5)
    inside = drawn.inside.assign_coords(layer=[0, 3, 6, 9, 12, 15])
    return {
        "reply": seen.merge(observe.lay_in_plane(x, seen["equilibrium"]))
        .isel(one)
        .assign(text=("step", pieces)),
        "described": observe.describe(seen),
        "instances": make_instances().isel(temperature=0),
        "swept": observe.sweep_alpha(x.isel(temperature=1), draws=20),
        "coupled": observe.couple(
            drawn.seen, inside, drawn.controls, inside.where(inside["layer"] > 6, -inside)
        ),
    }
