"""A result with the schema of a real sweep and plausible numbers, made in milliseconds, without a model."""

import json

import numpy as np
import xarray
from scipy import stats

TERMS = ("prosody", "rhythm", "state", "track")
PARTS = ("energy", "rhythm", "state", "track", "nuisance", "residual")
PAIRS = ("prosody-track", "prosody-nuisance", "track-nuisance")
STAGES = ("count", "reference", "fit", "reduce")
WIDTHS = (0.1, 0.4, 1.6)
TAUS = (2.0, 8.0, 32.0)
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
            "/cost": _cost(),
        }
    )


def variable(dims: tuple[str, ...], values: object, units: str, long_name: str) -> xarray.Variable:
    return xarray.Variable(dims, np.asarray(values), {"units": units, "long_name": long_name})


def _run(layer: np.ndarray, folds: int, window: int, seed: int) -> dict[str, object]:
    settings = {
        "model": "demo",
        "model_digest": "5b" * 8,
        "twin": "trained",
        "dtype": "float32",
        "device": "cpu",
        "texts": "c3" * 16,
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
        "run_digest": "a7" * 8,
        "seed": seed,
        "tokens_fitted": 3 * folds * 8 * window,
        "tokens_reference": 4 * folds * 8 * window,
        "documents": 3 * folds,
        "reference_documents": 4 * folds,
        "folds": folds,
        "window": window,
        "census": json.dumps(
            {"documents": 7 * folds + 3, "too_short": 2, "duplicates": 1, "tokens_lost": 811}
        ),
        "parity_logits": 1.9e-5,
        "parity_logits_relative": 3.1e-7,
        "parity_pattern": 2.4e-7,
        "zero_share": 0.0,
        "score_source": json.dumps(["scores"] * len(layer)),
        "verdicts": "not computed",
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
