"""The result file: opened, saved, read as tidy tables and in words, exported."""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray

from infodyn_interp.errors import RequestError, RunError, brief, one_line
from infodyn_interp.observe.words import describe_output

FILE = "result.nc"
MEASURES = ("fidelity", "stability", "action", "jumps", "maps")  # groups of quantities, each with its nulls
TABLES = (
    *("verdicts", "terms", "carry", "nulls", "reference", "energy", "precisions", "ablation", "groups"),
    *MEASURES,
    "cost",
)
OBSERVED = ("coupling",)  # tables of replies
CONTRASTS = "contrasts"  # the one table of a comparison
GROUPS = {"nulls": "verdicts"}  # of a table that is not named after its group
CELL = {"temperature", "layer", "series", "proxy"}  # of the coupling
# What a term has of its own, beyond what all terms share.
OWN = {
    "rhythm": ("gain_without_state", "rhythm_tail"),
    "track": ("track_coefficient", "width_chosen", "tau_chosen", "width_stable"),
}
# What each verdict row is about, for someone who never saw the theory.
MEANING = {
    "prosody": "what a token attracts by itself, whichever token asks (rhythm and state together)",
    "rhythm": "the part of it that punctuation, word starts and distance from a break decide",
    "state": "the part of it that the token's hidden state decides",
    "track": "tokens like those that earlier tokens were like: a path worn by the text so far",
    "carry": "what each query keeps of the query before it, key by key",
}
# What is lost below a number of fitted documents.
FEW = (
    (
        20,
        "Fewer than 20 documents: no swap gate, so nothing shows that a document's own columns beat another's.",
    ),
    (8, "Fewer than 8 documents: intervals are wide and cover less than they say; take verdicts as hints."),
)
COORDINATES = {
    "layer": ("1", "layer of the model"),
    "head": ("1", "attention head"),
    "term": ("1", "term of the energy"),
    "part": ("1", "part of the energy"),
    "pair": ("1", "pair of fields"),
    "stage": ("1", "stage of the run"),
    "fold": ("1", "fold of documents"),
    "width": ("1", "kernel width w"),
    "tau": ("tokens", "decay length of the track"),
    "position": ("tokens", "position in the window"),
    "column": ("1", "column of the fit"),
    "block": ("1", "block the column belongs to"),
    "component": ("1", "principal component of the attention input"),
    "centre": ("1", "radial basis function"),
    "direction": ("1", "direction of the attention input"),
    "null": ("1", "null model or null text"),
    "group": ("1", "group of documents"),
    "lag": ("tokens", "queries between two rows"),
    "injected": ("1", "injected share of energy variance"),
    "rank": ("1", "rank of the nuisance's bilinear block"),
    "query": ("tokens", "position of the query in the window"),
    "document": ("1", "document by rank"),
    "point": ("1", "point of a profile"),
    "measure": ("1", "what is read off the outputs"),
    "unit": ("1", "unit of the measure"),
    "kind": ("1", "kind of placebo, or of action"),
    "quantity": ("1", "what is measured"),
    "target": ("1", "layer whose energies are foretold"),
    "lens": ("1", "how a stream is read out"),
    "potential": ("1", "whose rise is counted"),
    "geometry": ("1", "growth of distances, or of angles"),
    "vector": ("1", "direction of a frame, fastest growing first"),
    "dtype": ("1", "precision of the weights and of the forward pass"),
    "temperature": ("1", "temperature that replies were drawn at"),
    "prompt_text": ("text", "prompt"),
    "series": ("1", "internal series"),
    "functional": ("1", "Helpful, Harmless or Honest: whose multiplier it is, or what is left of it"),
    "test": ("1", "test of the law of jumps"),
    "bin": ("1", "bin of |M|"),
    "statistic": (
        "1",
        "mean in units of the proxy, trend per step, autocorrelation without unit; participation ratio in directions,"
        " step size in units of the states",
    ),
    "alpha": ("1", "share of the deviation that the equilibrium takes up at each step"),
    "reference": ("1", "replies without structure"),
    "other": ("1", "temperature that is compared with the first"),
    "proxy": ("1", "what is read off the embedded reply"),
    "condition": ("1", "what stands before a trial: nothing, the prompt, or its chat template"),
    "instance": ("1", "condition that is compared with the first"),
    "weights": ("1", "who reads the trials: the trained model, or a twin"),
}

Heads = str | Sequence[str] | None


def open_result(path: str | os.PathLike[str]) -> xarray.DataTree:
    """Read a result into memory.

    Args:
        path: the folder of a run, or its `result.nc`.
    Raises:
        RequestError: nothing is there, or it is not a result.
    """
    file = _file(path)
    if not file.exists():
        raise RequestError(f"{path}: no {FILE} there; `infodyn sweep --out {path}` would write one")
    try:
        with xarray.open_datatree(file, engine="h5netcdf") as tree:
            result = tree.load()
    except (OSError, ValueError, KeyError) as reason:
        raise RequestError(
            f"{file}: not a readable result file ({one_line(reason)}); run the sweep again"
        ) from None
    if "run_digest" not in result.attrs:
        raise RequestError(f"{file}: a netCDF file, but not a result of this package (no run_digest)")
    return result


def join(sweep: xarray.DataTree, measured: xarray.DataTree) -> xarray.DataTree:
    """A sweep's result with the groups of measures that belong to it; as it is where they belong to another."""
    if json.loads(measured.attrs["run"]).get("inside") != sweep.attrs["run_digest"]:
        return sweep
    groups = {node.path: node.to_dataset(inherit=False) for node in sweep.subtree}
    groups |= {
        node.path: node.to_dataset(inherit=False)
        for name in MEASURES
        if name in measured.children
        for node in measured[name].subtree
    }
    about = {name: measured.attrs[name] for name in ("left_out",) if name in measured.attrs}
    groups["/"] = groups["/"].assign_attrs(about)
    return xarray.DataTree.from_dict(groups)


def save(result: xarray.DataTree, folder: str | os.PathLike[str]) -> Path:
    """Write `folder/result.nc`, whole or not at all, and return its path.

    Every group carries its own coordinates, so each can be read alone by any netCDF reader.

    Raises:
        RunError: a variable has no units, or the disk refuses.
    """
    labelled = _label_coordinates(result)
    for place, variable in _variables(labelled):
        if not variable.attrs.get("units"):
            raise RunError(f"{place}: a variable without units is not saved; give it attrs['units']")
    file = Path(folder) / FILE
    with whole_file(file) as beside:
        labelled.to_netcdf(beside, engine="h5netcdf", write_inherited_coords=True)
    return file


def matching(folder: str | os.PathLike[str], run: Mapping[str, object]) -> xarray.DataTree | None:
    """The result that already lies in `folder`, or None where there is none.

    Args:
        run: settings of the run about to start; those that are None, or that the stored run does not have,
            are not compared, so that the command line can ask before it has loaded a model.
    Raises:
        RequestError: the result there comes from another run; the first setting that differs is named.
    """
    if not _file(folder).exists():
        return None
    result = open_result(folder)
    stored = json.loads(result.attrs["run"])
    for name, value in run.items():
        if value is not None and name in stored and stored[name] != (asked := _plain(value)):
            raise RequestError(
                f"{folder}: holds the result of another run"
                f" ({name} was {brief(stored[name])}, now {brief(asked)});"
                " name another folder or remove this one"
            )
    return result


def refuse_other(folder: str | os.PathLike[str], result: xarray.DataTree) -> None:
    """Refuse a folder that holds another result than this one; raises `RequestError`."""
    if _file(folder).exists() and open_result(folder).attrs["run_digest"] != result.attrs["run_digest"]:
        raise RequestError(f"{folder}: holds another result; name another folder or remove this one")


def table(result: xarray.DataTree, name: str = "terms", heads: Heads = None) -> pd.DataFrame:
    """One table of a result, tidy.

    `verdicts` has a row per layer, head and term: the verdict, its reason and what to do about it, beside the gain it
    was read from; `nulls` a row per null, layer, head and term with the model's gain less the null's on the same
    documents; `carry`, `reference` and `energy` a row per layer and head; `precisions` a row per layer, head and dtype,
    with |M_t| and the variogram's rise less those of the run's own; `ablation` a row per layer, head and term that was
    taken out, and measure of the outputs, in its own `unit`; `groups` a row per group of documents, layer, head and
    term, with the gain within the group less the other groups'; `coupling` a row per temperature, layer, internal
    series and proxy. `terms` has a row per layer, head and term (gains and shares of row-centred energy variance; the
    columns that one term has alone are NaN for the others); `cost` a row per stage. A comparison has one table,
    `contrasts`, with a row per layer, head and term. Units by column are in `.attrs["units"]`.

    Args:
        heads: keep these heads only, as "10.3,12.0" or ["10.3", "12.0"] (layer.head).
    Raises:
        RequestError: no such table, or no such head in the result.
    """
    makers: dict[str, Callable[[xarray.Dataset], xarray.Dataset]] = {
        "verdicts": _verdicts,
        "terms": _terms,
        "carry": _plain_heads,
        "nulls": lambda group: _keep(group, lambda variable: "null" in variable.dims),
        "reference": _plain_heads,
        "energy": _energy,
        "precisions": lambda group: _keep(group, lambda variable: "dtype" in variable.dims),
        "ablation": _ablation,
        "groups": lambda group: _keep(group, lambda variable: {"group", "layer"} <= set(variable.dims)),
        CONTRASTS: _contrasts,
        "coupling": lambda group: _keep(group, lambda variable: set(variable.dims) <= CELL),
        "cost": lambda group: _keep(group, lambda variable: variable.dims == ("stage",)),
    }
    if name not in (*makers, *MEASURES):
        names = ", ".join((*TABLES, *OBSERVED, CONTRASTS))
        raise RequestError(f"table {name}: there is none; the tables are {names}")
    if not _holds(result, name):
        raise RequestError(f"table {name}: this result has no group {name}")
    if name in MEASURES:
        return _quantities(result[name].to_dataset())
    made = makers[name](result[GROUPS.get(name, name)].to_dataset())
    order = [
        dim
        for dim in (
            "null",
            "group",
            "temperature",
            "layer",
            "head",
            "series",
            "proxy",
            "dtype",
            "term",
            "measure",
            "stage",
        )
        if dim in made.dims
    ]
    frame = made.to_dataframe(dim_order=order).reset_index()
    if name == "ablation":
        frame = (
            frame[frame["no_causal_effect"].notna()].astype({"no_causal_effect": bool}).reset_index(drop=True)
        )
    for key in ("null", "group", "dtype", "term", "measure", "unit", "stage", "series", "proxy"):
        if key in frame:
            frame[key] = frame[key].astype(str)
    if heads is not None and ("head" in frame or name == CONTRASTS):
        keep = pd.MultiIndex.from_tuples(choose_heads(result, heads))
        frame = frame[pd.MultiIndex.from_frame(frame[["layer", "head"]]).isin(keep)].reset_index(drop=True)
    frame.attrs = {"units": {str(key): _units(made[key]) for key in frame.columns}}
    return frame


def _holds(result: xarray.DataTree, name: str) -> bool:
    """Whether a result has what a table is made of."""
    group = GROUPS.get(name, name)
    return group in result.children and (name != "nulls" or "null" in result[group].dims)


def choose_heads(result: xarray.DataTree, heads: Heads = None) -> list[tuple[int, int]]:
    """The (layer, head) pairs named by `heads`, in that order; all of them where it is None.

    Raises:
        RequestError: not of the form layer.head, or not in the result.
    """
    coords = result[CONTRASTS if CONTRASTS in result.children else "terms"].coords
    if heads is not None and "head" not in coords:
        raise RequestError("heads: those of the two models do not match, so there is none to name")
    layers, present = coords["layer"].values.tolist(), coords["head"].values.tolist()
    if heads is None:
        return [(layer, head) for layer in layers for head in present]
    return pick_heads(heads, layers, present)


def pick_heads(
    heads: str | Sequence[str], layers: Sequence[int], present: Sequence[int], name: str = "heads"
) -> list[tuple[int, int]]:
    """The (layer, head) pairs named by `heads` among `layers` and, in each, the heads that are `present`.

    Args:
        name: what the request calls them.
    Raises:
        RequestError: not of the form layer.head, or not among them.
    """
    chosen = []
    for one in heads.split(",") if isinstance(heads, str) else heads:
        parts = re.fullmatch(r"\s*(\d+)\.(\d+)\s*", one)
        if parts is None:
            raise RequestError(f"{name}: {one.strip()!r} is not layer.head; write them as 10.3,12.0")
        layer, head = int(parts[1]), int(parts[2])
        if layer not in layers:
            raise RequestError(f"{name}: {layer}.{head} asked, the layers are {span(layers)}")
        if head not in present:
            raise RequestError(f"{name}: {layer}.{head} asked, the heads are {span(present)}")
        chosen.append((layer, head))
    return chosen


def summary(result: xarray.DataTree) -> str:
    """What was fitted, on what, and what stands out, in words; of replies what was seen, of two what differs."""
    if CONTRASTS in result.children:
        return _about_contrasts(result)
    if "output" in result.children:
        return describe_output(result)
    if "terms" not in result.children:
        return "\n".join(_about_measures(result))
    about, heads = result.attrs, len(choose_heads(result))
    layers = result["terms"].coords["layer"].values.tolist()
    reference = result["reference"].to_dataset()
    known = reference["r2"].values[np.isfinite(reference["r2"].values)]
    fits = (
        f"R2 {np.median(known):.2f} (heads from {known.min():.2f} to {known.max():.2f})"
        if known.size
        else "no R2"
    )
    lines = [
        f"Model {about['model']} (weights {about['model_digest'][:12]}):"
        f" layers {span(layers)}, {heads} heads.",
        f"Fitted on {about['tokens_fitted']:,} tokens of {about['documents']:,} documents in {about['folds']}"
        f" folds, windows of {about['window']} tokens.",
        f"Reference {reference.attrs.get('reference', '?')} from {about['tokens_reference']:,} tokens of"
        f" {about['reference_documents']:,} other documents:"
        f" {fits}.",
        *_left_out(json.loads(about.get("census", "{}"))),
        "Question: what makes a head look where it looks, beyond what the words alone would ask for?",
        "Gain: the share of held-out row-centred energy variance that a term explains beyond its base.",
        *(words for least, words in FEW if about["documents"] < least),
        "",
    ]
    verdicts = table(result, "verdicts")
    terms = table(result, "terms")
    for term in dict.fromkeys(verdicts["term"]):
        lines += _about_term(term, verdicts[verdicts["term"] == term], terms[terms["term"] == term])
    lines += _about_interference(result) + _about_nulls(result) + _about_groups(result)
    lines += _about_ablation(result)
    if any(_holds(result, name) for name in MEASURES):
        lines += ["", *_about_measures(result)]
    return "\n".join(lines)


def _left_out(census: Mapping[str, int]) -> list[str]:
    """What of the texts was not read, where there was such."""
    counts = {
        "exact duplicates": census.get("duplicates", 0),
        "too short for a window": census.get("too_short", 0),
    }
    said = [f"{what} {count:,}" for what, count in counts.items() if count]
    return [f"Documents left out: {', '.join(said)}."] if said else []


def _about_term(term: str, rows: pd.DataFrame, terms: pd.DataFrame) -> list[str]:
    """What was found of a term, how sure, what would have been seen, and what to do next."""
    heads, counts = len(rows), rows["verdict"].value_counts()
    said = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items())
    lines = [f"{term}: {MEANING.get(term, term)}.", f"  {said} of {heads} heads."]
    found = rows[rows["verdict"] == "IDENTIFIED"]
    if len(found) and term in set(terms["term"]):
        strongest = terms.merge(found[["layer", "head"]]).nlargest(3, "gain").itertuples()
        named = "; ".join(
            f"{row.layer}.{row.head}: gain {row.gain:.3f} [{row.gain_low:.3f}, {row.gain_high:.3f}]"
            for row in strongest
        )
        lines.append(f"  Strongest (95 % interval over documents): {named}.")
    elif len(found):
        best = found.nlargest(1, "gain").iloc[0]
        lines.append(f"  Strongest {best['layer']}.{best['head']}: {best['reason']}.")
    confounders = rows.loc[rows["verdict"] == "CONFOUNDED", "confounder"].value_counts()
    if len(confounders):
        lines.append(
            "  Confounded with " + ", ".join(f"{name} ({count})" for name, count in confounders.items()) + "."
        )
    if "limit" in rows and (limits := rows["limit"].dropna()).size:
        middle = limits.median()
        size = f"a share of {middle:.3f}" if np.isfinite(middle) else "not even a share of .5"
        lines.append(f"  Would have been seen in half the heads: {size} of energy variance.")
    common = counts.index[0]
    lines.append(f"  Next: {rows.loc[rows['verdict'] == common, 'advice'].iloc[0]}.")
    return lines


def _about_interference(result: xarray.DataTree) -> list[str]:
    """In how many heads innovations of the carry-over follow what the prosody field left of the step before."""
    if not _holds(result, "carry") or "interference_q" not in result["carry"]:
        return []
    carry = result["carry"].to_dataset()
    known = carry["interference_q"].notnull()
    if not known.any():
        return []
    least = carry.attrs["least_interference"]
    slopes = carry["interference"].where(carry["interference_q"] <= carry.attrs["discovery"], 0)
    grow, shrink = int((slopes >= least).sum()), int((slopes <= -least).sum())
    return [
        f"  Innovations follow the prosody residual of the step before in {grow + shrink} of {int(known.sum())} heads"
        f" ({grow} grow with it, {shrink} shrink; slope of {least} or more, q <= {carry.attrs['discovery']})."
    ]


def _about_nulls(result: xarray.DataTree) -> list[str]:
    if not _holds(result, "nulls"):
        return []
    nulls = table(result, "nulls")
    lines = [
        "",
        "Beside the nulls, on the same documents: heads whose gain lies above the null's, interval over documents.",
    ]
    for null in dict.fromkeys(nulls["null"]):
        parts = []
        for term in dict.fromkeys(nulls["term"]):
            rows = nulls[(nulls["null"] == null) & (nulls["term"] == term) & nulls["contrast"].notna()]
            if len(rows):
                said = f"{term} {int((rows['contrast_low'] > 0).sum())} of {len(rows)}"
                identified = int((rows["null_verdict"] == "IDENTIFIED").sum())
                parts.append(said + (f" (IDENTIFIED in the null: {identified})" if identified else ""))
        lines.append(f"  {null}: {', '.join(parts)}.")
    return lines


def _about_groups(result: xarray.DataTree) -> list[str]:
    """In how many heads a group's gain stands apart from the others'."""
    if not _holds(result, "groups"):
        return []
    data = result["groups"].to_dataset()
    lines = [
        "",
        "Groups of documents: heads whose gain within the group lies above or below the other groups' (one field for"
        f" all; q <= {data.attrs['discovery']}).",
    ]
    for group in data["group"].values:
        found = data.sel(group=group)
        said = (_count_apart(found.sel(term=term), term) for term in data["term"].values)
        lines.append(f"  {group} ({int(found['documents'])} documents): {', '.join(filter(None, said))}.")
    return lines


def _count_apart(found: xarray.Dataset, term: str, above: str = "above", below: str = "below") -> str:
    """How many heads stand apart in one term; empty where it has no contrast."""
    known = found["contrast"].notnull()
    if not known.any():
        return ""
    apart = known & (found["contrast_q"] <= found.attrs["discovery"])
    high, low = (int((apart & side).sum()) for side in (found["contrast"] > 0, found["contrast"] < 0))
    return f"{term} {high} {above}, {low} {below} of {int(known.sum())}"


def _about_contrasts(result: xarray.DataTree) -> str:
    """What two results were, what was paired, and in how many heads they differ."""
    about, data = result.attrs, result[CONTRASTS].to_dataset()
    lines = [
        f"{side}: model {about[f'model_{side}']} (weights {about[f'model_digest_{side}'][:12]}),"
        f" {about[f'documents_{side}']:,} documents in {about[f'folds_{side}']} folds."
        for side in ("a", "b")
    ]
    lines += json.loads(about["notes"])
    lines += ["Contrast: the gain in a less the gain in b, with its 95 % interval over documents."]
    for term in data["term"].values:
        found = data.sel(term=term)
        if "contrast" in found:
            said = _count_apart(found, "", "higher in a", "higher in b").strip()
            reach = float(((found["contrast_high"] - found["contrast_low"]) / 2).median())
            if said:
                lines.append(
                    f"  {term}: {said} heads (q <= {data.attrs['discovery']});"
                    f" half of the heads would show a difference of {reach:.2g}."
                )
        else:
            known = found["layer_contrast"].notnull()
            high, low = (
                int((found[f"layer_contrast_{end}"] * sign > 0).sum())
                for end, sign in (("low", 1), ("high", -1))
            )
            if known.any():
                lines.append(f"  {term}: higher in a in {high}, in b in {low} of {int(known.sum())} layers.")
    return "\n".join(lines)


def _about_ablation(result: xarray.DataTree) -> list[str]:
    """What the model loses without each term, and which IDENTIFIED ones it loses nothing without."""
    if not _holds(result, "ablation"):
        return []
    removals = table(result, "ablation")
    removals = removals[removals["measure"] == "loss"]
    documents = result["ablation"].attrs["documents"]
    lines = [
        "",
        f"Taken out of the live scores, on {documents} documents: loss of the next token less that of placebos.",
    ]
    for term, rows in removals.groupby("term"):
        named = "; ".join(
            f"{row.layer}.{row.head}: {row.difference:.3g} [{row.difference_low:.3g}, {row.difference_high:.3g}] nats"
            for row in rows.itertuples()
        )
        lines.append(f"  {term}: {named}.")
    found = table(result, "verdicts").merge(
        removals[removals["no_causal_effect"]], on=["layer", "head", "term"]
    )
    found = found[found["verdict"] == "IDENTIFIED"]
    if len(found):
        named = ", ".join(f"{row.term} of {row.layer}.{row.head}" for row in found.itertuples())
        lines.append(f"  IDENTIFIED, but without causal effect (the interval covers 0): {named}.")
    return lines


def _about_measures(result: xarray.DataTree) -> list[str]:
    """Each quantity over the layers, and whether it tells the model from its nulls."""
    about = result.attrs
    lines = [
        f"Model {about['model']} (weights {about['model_digest'][:12]}), measured on {about['documents']:,} documents"
        f" in windows of {about['window']} tokens; medians over layers, intervals over documents.",
    ]
    for name in (name for name in MEASURES if _holds(result, name)):
        rows, verdicts = table(result, name), result[name].to_dataset().get("verdict")
        rows = rows[rows["quantity"] != "unfinished"]  # of each head: told below
        lines += ["", f"{name}:"]
        pairs = rows["quantity"] == "transfer"  # of too many layers to name each
        for (quantity, of), some in rows.assign(of=rows["of"].mask(pairs, "")).groupby(
            ["quantity", "of"], sort=False
        ):
            middles = some.groupby("null", sort=False)["value"].median().dropna()
            if not len(middles):
                continue
            said = ", ".join(f"{null} {value:.3g}" for null, value in middles.items())
            what, unit = f"{quantity} ({of})" if of else str(quantity), some["unit"].iloc[0]
            lines.append(f"  {what}{'' if unit == '1' else f', {unit}'}: {said}.")
        lines += _about_laws(result[name].to_dataset()) + _about_unfinished(result.children[name])
        if verdicts is None:
            lines.append("  No nulls: nothing here tells this model from any other.")
            continue
        for null in verdicts["null"].values[1:]:
            told = {
                str(one): str(verdicts.sel(null=null, quantity=one).values)
                for one in verdicts["quantity"].values
            }
            same = [quantity for quantity, one in told.items() if one.startswith("LOOKS THE SAME")]
            if all(one.startswith("not estimable") for one in told.values()):
                lines.append(f"  {null} was not read: there is nothing to read it by.")
            else:
                lines.append(f"  Looks the same as {null}: {', '.join(same) if same else 'nothing'}.")
    if "left_out" in about:
        lines += ["", f"Left out: {about['left_out']}."]
    return lines


def _about_laws(group: xarray.Dataset) -> list[str]:
    """In how many layers each law of jumps was found, for the model and each null that was read."""
    if "law" not in group:
        return []
    counted = {
        str(null): pd.Series(group["law"].sel(null=null).values.astype(str)).value_counts()
        for null in group["null"].values
    }
    said = (
        f"{null} {', '.join(f'{law} in {count}' for law, count in laws.items())}"
        for null, laws in counted.items()
        if "" not in laws.index
    )
    return [f"  law over {group.sizes['layer']} layers: {'; '.join(said)}."]


def _about_unfinished(group: xarray.DataTree) -> list[str]:
    """In how many heads innovations of M follow what each functional left of the step before, and does a null's too?"""
    if "unfinished" not in group:
        return []
    least, limit = (group.children["trained"].attrs[name] for name in ("least_slope", "discovery"))
    data = group.to_dataset()
    lines = [
        "  Innovations of M on what each functional left of the step before; heads with a slope of"
        f" {least} or more and q <= {limit}:"
    ]
    for functional in data["functional"].values:
        one = data.sel(functional=functional)
        known = one["unfinished_q"].notnull()
        found = known & (one["unfinished_q"] <= limit) & (abs(one["unfinished"]) >= least)
        if not known.sel(null="trained").any():
            continue
        mine = found.sel(null="trained")
        grow = int((mine & (one["unfinished"].sel(null="trained") > 0)).sum())
        said = [f"{int(mine.sum())} of {int(known.sel(null='trained').sum())}, {grow} of them grow with it"]
        same = []
        for null in (str(null) for null in data["null"].values[1:] if known.sel(null=null).any()):
            low, high = (one[f"unfinished_{end}"] for end in ("low", "high"))
            clear = (low.sel(null="trained") > high.sel(null=null)) | (
                high.sel(null="trained") < low.sel(null=null)
            )
            said.append(f"{null} {int(found.sel(null=null).sum())} of {int(known.sel(null=null).sum())}")
            same += [null] if int((mine & clear).sum()) < int(mine.sum()) / 2 else []
        verdict = f"LOOKS THE SAME as {', '.join(same)}" if same else "FOLLOWS"
        verdict = verdict if mine.any() else "DOES NOT FOLLOW"
        lines.append(f"    {functional}: {verdict}: {'; '.join(said)}.")
    return lines


def _quantities(group: xarray.Dataset) -> pd.DataFrame:
    """A row for each quantity, null, layer and whatever else it is of; intervals and contrasts in columns."""
    ends = ("", "_low", "_high", "_contrast", "_contrast_low", "_contrast_high")
    columns = ("value", "low", "high", "contrast", "contrast_low", "contrast_high")
    frames = []
    for name in (
        str(name) for name in group.data_vars if f"{name}_low" in group and "_contrast" not in str(name)
    ):
        parts = {
            column: group[name + end]
            for column, end in zip(columns, ends, strict=True)
            if name + end in group
        }
        frame = xarray.Dataset(parts).to_dataframe().reset_index()
        rest = [str(dim) for dim in group[name].dims if dim not in ("null", "layer")]
        frame["of"] = [" ".join(map(str, row)) for row in frame[rest].to_numpy()] if rest else ""
        frame = frame.assign(quantity=name, unit=_units(group[name]))
        frames.append(frame.drop(columns=rest))
    whole = pd.concat(frames, ignore_index=True)
    order = [name for name in ("quantity", "null", "layer", "of", *columns, "unit") if name in whole]
    whole = whole[order].astype({name: str for name in ("quantity", "null", "of", "unit") if name in whole})
    if "layer" in whole:
        whole["layer"] = whole["layer"].astype("Int64")  # what is of no layer has none
    whole.attrs = {"units": dict.fromkeys(columns, "see the column unit")}
    return whole


def export(result: xarray.DataTree, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every table as `folder/NAME.parquet` (units in the file's metadata) and return the paths."""
    files = []
    for name in (*TABLES, *OBSERVED, CONTRASTS):
        if _holds(result, name):
            files.append(Path(folder) / f"{name}.parquet")
            with whole_file(files[-1]) as beside:
                table(result, name).to_parquet(beside, engine="pyarrow")
    return files


def _terms(group: xarray.Dataset) -> xarray.Dataset:
    plain = _keep(group, lambda variable: set(variable.dims) == {"layer", "head", "term"})
    for term, names in OWN.items():
        for name in (name + end for name in names for end in ("", "_low", "_high")):
            if name in group:
                plain[name] = group[name].where(group["term"] == term).assign_attrs(group[name].attrs)
    return plain


def _verdicts(group: xarray.Dataset) -> xarray.Dataset:
    wanted = ("verdict", "confounder", "gain", "bound", "q", "split_half", "swap_p", "limit", "reason")
    kept = group[[name for name in wanted if name in group]]
    advice = json.loads(group.attrs["advice"])
    words = np.vectorize(lambda verdict: advice[verdict], otypes=[object])(kept["verdict"].values)
    return kept.assign(advice=(kept["verdict"].dims, words, {"units": "text"}))


def _contrasts(group: xarray.Dataset) -> xarray.Dataset:
    return group.drop_vars(
        [name for name in group.data_vars if "head" in group.dims and str(name).startswith("layer_")]
    )


def _plain_heads(group: xarray.Dataset) -> xarray.Dataset:
    return _keep(group, lambda variable: set(variable.dims) == {"layer", "head"})


def _energy(group: xarray.Dataset) -> xarray.Dataset:
    plain = _plain_heads(group)
    factor = group.attrs.get("seed_unit_factor")
    if factor is not None:
        plain["rms_seed"] = (plain["rms"] * factor).assign_attrs(units="nats sqrt(d)")
    for pair in group["pair"].values:
        shares = group["covariance_share"].sel(pair=pair, drop=True)
        plain[f"covariance_share_{str(pair).replace('-', '_')}"] = shares
    return plain


def _ablation(group: xarray.Dataset) -> xarray.Dataset:
    grid = {"layer", "head", "term"}
    plain = _keep(group, lambda variable: grid <= set(variable.dims) <= grid | {"measure"})
    for kind in group["kind"].values:
        for end in ("", "_low", "_high"):
            plain[f"difference_{kind}{end}"] = group[f"difference_by_kind{end}"].sel(kind=kind, drop=True)
    return plain


def _keep(group: xarray.Dataset, fits: Callable[[xarray.DataArray], bool]) -> xarray.Dataset:
    kept = group[[name for name, variable in group.data_vars.items() if fits(variable)]]
    used = {dim for variable in kept.data_vars.values() for dim in variable.dims}
    return kept.drop_dims(set(kept.dims) - used)


def _units(variable: xarray.DataArray) -> str:
    return str(variable.attrs.get("units", COORDINATES.get(str(variable.name), ("1", ""))[0]))


def _label_coordinates(result: xarray.DataTree) -> xarray.DataTree:
    def label(group: xarray.Dataset) -> xarray.Dataset:
        known = {
            name: variable.assign_attrs(
                dict(zip(("units", "long_name"), COORDINATES[str(name)], strict=True)) | variable.attrs
            )
            for name, variable in group.coords.items()
            if name in COORDINATES
        }
        return group.assign_coords(known)

    return xarray.DataTree.from_dict({node.path: label(node.to_dataset()) for node in result.subtree})


def _variables(result: xarray.DataTree) -> Iterator[tuple[str, xarray.Variable]]:
    for node in result.subtree:
        for name, variable in node.to_dataset().variables.items():
            yield f"{node.path.rstrip('/')}/{name}", variable


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path beside `file` that takes its place, on the disk itself, once the block has written it whole."""
    beside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")  # two machines may share a folder
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _sync(beside)
        os.replace(beside, file)
        _sync(file.parent)
    except OSError as reason:
        why = reason.strerror or one_line(reason)
        raise RunError(f"{file}: not written ({why}); make room or name another place") from reason
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix == ".nc" and not path.is_dir() else path / FILE


def _plain(value: object) -> Any:
    return json.loads(json.dumps(value))


def span(numbers: Iterable[int]) -> str:
    """Whole numbers in words: 0..28 by 4."""
    numbers = list(numbers)
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if len(numbers) > 2 and step > 0 and numbers == list(range(numbers[0], numbers[-1] + 1, step)):
        return f"{numbers[0]}..{numbers[-1]}" + (f" by {step}" if step > 1 else "")
    return ", ".join(str(number) for number in numbers)
