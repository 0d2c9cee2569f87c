"""Two results side by side: two models, two checkpoints or two corpora, contrasted head by head.

On the same texts both see the same documents, so they are paired: what a document does to both is no difference.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from jaxtyping import Float

from infodyn_interp.errors import RequestError
from infodyn_interp.identify.contrasting import Contrast, Mean
from infodyn_interp.identify.evidence import ROWS
from infodyn_interp.identify.verdict import DISCOVERY, discoveries
from infodyn_interp.reducing.labels import interval, label
from infodyn_interp.results import FILE, open_result, span
from infodyn_interp.run import digest_of

LEAST_PAIRS = 4  # folds in common; fewer leave no interval
SIDES = ("a", "b")
GRID = ("layer", "term", "head")
# Settings that decide what an energy is, or what its terms are made of.
ALIKE = ("reference", "state_rank", "window")
ABOUT = ("model", "model_digest", "documents", "folds", "window", "tokens_fitted", "run_digest")

Result = xarray.DataTree | str | os.PathLike[str]


def compare(a: Result, b: Result) -> xarray.DataTree:
    """Contrast the gains of two results, term by term: those of `a` less those of `b`.

    Both must have been read from the same documents by the same tokenizer in the same windows to be paired, by document
    where each fold is one, else by fold of documents. What cannot be paired is contrasted as independent documents, and
    the result says so.

    Args:
        a, b: results of `sweep`, or their folders.

    Returns:
        Group `contrasts`: by layer, head and verdict row `gain_a gain_b contrast` with 95 % intervals over documents,
        `contrast_p contrast_q verdict_a verdict_b`, and `layer_contrast`, of the mean over heads. Where the models'
        heads do not match there is the mean alone. Gains are shares of held-out row-centred energy variance; the
        carry-over's is log(V(long) / V(1)). Attribute `notes` holds what was paired and what was not.

    Raises:
        RequestError: a result is not there, not finished or of another kind; both are the same run; no layer in common.
    """
    both = [_read(one, side) for one, side in zip((a, b), SIDES, strict=True)]
    if both[0].attrs["run_digest"] == both[1].attrs["run_digest"]:
        raise RequestError("a and b are of the same run, which differs from itself in nothing; name another")
    layers = _common_layers(both)
    gains = [_gains(one, layers) for one in both]
    heads = [gain.shape[3] for gain in gains]
    pairs, paired = _pair(both)
    notes = [paired, *_apart(both, layers, heads)]
    if pairs is not None:
        gains = [gain[:, list(folds)] for gain, folds in zip(gains, zip(*pairs, strict=True), strict=True)]
    variables = interval(
        "layer_contrast",
        _contrast([gain.mean(3) for gain in gains], pairs is not None),
        ("layer", "term"),
        "1",
        "mean gain of the heads of a less that of b's",
    )
    coords: dict[str, object] = {"layer": layers, "term": list(ROWS)}
    if heads[0] == heads[1]:
        variables |= _by_head(both, gains, layers, pairs is not None)
        coords["head"] = both[0]["terms"]["head"].values
    attrs = {"paired": int(pairs is not None), "discovery": DISCOVERY}
    about = {
        f"{name}_{side}": one.attrs[name] for one, side in zip(both, SIDES, strict=True) for name in ABOUT
    }
    made = xarray.Dataset(variables, coords=coords, attrs=attrs)
    return xarray.DataTree.from_dict(
        {
            "/": xarray.Dataset(
                attrs=about
                | {
                    "notes": json.dumps(notes),
                    "run_digest": digest_of({"compare": [one.attrs["run_digest"] for one in both]}),
                }
            ),
            "/contrasts": made.transpose("layer", ..., "term"),
        }
    )


def _read(one: Result, side: str) -> xarray.DataTree:
    """A finished result of a sweep."""
    if not isinstance(one, xarray.DataTree):
        folder = Path(one)
        if folder.is_dir() and not (folder / FILE).exists():
            from infodyn_interp.sweeping import read_state

            if read_state(folder) is not None:
                raise RequestError(
                    f"{folder}: its run is not finished; infodyn show {folder} says how far it is"
                )
        name, one = str(one), open_result(one)
    else:
        name = side
    if "terms" not in one.children or "gain_by_fold" not in one["terms"] or "run_digest" not in one.attrs:
        raise RequestError(
            f"{name}: not the result of a sweep (no gains by fold), and only those are compared"
        )
    return one


def _common_layers(both: Sequence[xarray.DataTree]) -> list[int]:
    own = [one["terms"].coords["layer"].values.tolist() for one in both]
    layers = [layer for layer in own[0] if layer in own[1]]
    if not layers:
        raise RequestError(
            f"a holds layers {span(own[0])}, b layers {span(own[1])}: none in common; sweep some layers of both"
        )
    return layers


def _gains(one: xarray.DataTree, layers: Sequence[int]) -> Float[np.ndarray, "layer fold row head"]:
    """Of every verdict row; the carry-over's are NaN where it was not fitted."""
    terms = one["terms"]["gain_by_fold"].sel(layer=list(layers)).transpose("layer", "fold", "term", "head")
    carry = np.full_like(terms.values[:, :, :1], np.nan)
    if "carry" in one.children and "gain_by_fold" in one["carry"]:
        found = one["carry"]["gain_by_fold"].sel(layer=list(layers))
        carry = found.transpose("layer", "fold", "head").values[:, :, None]
    return np.concatenate([terms.values, carry], 2)


def _pair(both: Sequence[xarray.DataTree]) -> tuple[list[tuple[int, int]] | None, str]:
    """Places of the folds that hold the same documents, or None; and what to say of it."""
    unpaired = "Not paired, {}: intervals are those of independent documents."
    if any("documents_digest" not in one["terms"] for one in both):
        return None, unpaired.format("one of them does not say which documents it read")
    if both[0].attrs["tokenizer_digest"] != both[1].attrs["tokenizer_digest"]:
        return None, unpaired.format("another tokenizer")
    windows = [one.attrs["window"] for one in both]
    if windows[0] != windows[1]:
        return None, unpaired.format(f"windows of {windows[0]} and of {windows[1]} tokens")
    ours, theirs = (
        [str(one) for one in each["terms"].to_dataset()["documents_digest"].values] for each in both
    )
    pairs = [(place, theirs.index(digest)) for place, digest in enumerate(ours) if digest in theirs]
    if len(pairs) < LEAST_PAIRS:
        return None, unpaired.format("other documents")
    what = "document" if all(one.attrs["folds"] == one.attrs["documents"] for one in both) else "fold"
    if len(pairs) == len(ours) == len(theirs):
        held = "" if what == "document" else f" of {both[0].attrs['documents']} documents"
        return pairs, f"Paired by {what}: the same {len(pairs)} {what}s{held}."
    return (
        pairs,
        f"Paired on the {len(pairs)} {what}s that both hold, of {len(ours)} in a and {len(theirs)} in b.",
    )


def _apart(both: Sequence[xarray.DataTree], layers: Sequence[int], heads: Sequence[int]) -> list[str]:
    """What else is not alike, a line each."""
    out = []
    for one, side in zip(both, SIDES, strict=True):
        alone = [layer for layer in one["terms"].coords["layer"].values.tolist() if layer not in layers]
        if alone:
            out.append(f"Not compared, in {side} alone: layers {span(alone)}.")
    if heads[0] != heads[1]:
        out.append(
            f"Heads do not match ({heads[0]} a layer in a, {heads[1]} in b): means over heads are compared."
        )
    runs = [json.loads(one.attrs["run"]) for one in both]
    for name in ALIKE:
        values = [run.get(name) for run in runs]
        if values[0] != values[1]:
            out.append(
                f"Not alike: {name} {values[0]} in a, {values[1]} in b, so gains are not of the same thing."
            )
    return out


def _contrast(gains: Sequence[Float[np.ndarray, "layer fold *shape"]], paired: bool) -> Contrast:
    by_fold = [gain.swapaxes(0, 1) for gain in gains]
    if paired:
        return Contrast.of([Mean.of_folds(by_fold[0] - by_fold[1])], [1])
    return Contrast.of([Mean.of_folds(one) for one in by_fold], [1, -1])


def _by_head(
    both: Sequence[xarray.DataTree],
    gains: Sequence[Float[np.ndarray, "layer fold row head"]],
    layers: Sequence[int],
    paired: bool,
) -> dict[str, xarray.Variable]:
    found = _contrast(gains, paired)
    out = {
        f"gain_{side}": label(GRID, gain.mean(1), "1", f"gain in {side}, over the documents contrasted")
        for side, gain in zip(SIDES, gains, strict=True)
    }
    out |= interval("contrast", found, GRID, "1", "gain in a less gain in b")
    out["contrast_p"] = label(GRID, found.p, "1", "two-sided p of a contrast of 0 over documents")
    out["contrast_q"] = label(
        GRID, discoveries(found.p)[0], "1", "that p adjusted for all heads (Benjamini-Hochberg)"
    )
    for one, side in zip(both, SIDES, strict=True):
        if "verdicts" in one.children:
            words = one["verdicts"]["verdict"].sel(layer=list(layers), term=list(ROWS)).transpose(*GRID)
            out[f"verdict_{side}"] = label(
                GRID, words.values, "verdict", f"what may be said of the term in {side}"
            )
    return out
