"""A result in words: the finding in five sentences, one head explained, what could not be told."""

import re
from collections import Counter

import numpy as np
import pandas as pd
import xarray

from infodyn_interp.results import MEANING, choose_heads, table

SENTENCES = (("prosody",), ("rhythm", "state"), ("track",), ("carry",))
MOST_NAMED = 12  # heads that a reason is given with


def tell_finding(result: xarray.DataTree) -> list[str]:
    """The finding in five sentences: prosody, its parts, the track, the carry-over, and what the nulls leave."""
    verdicts = table(result, "verdicts")
    strongest = _strongest(result, verdicts)
    said = []
    for terms in SENTENCES:
        parts = "; ".join(_found(verdicts[verdicts["term"] == term], term, strongest) for term in terms)
        said.append(f"{parts[0].upper()}{parts[1:]}.")
    return [*said, _beside_nulls(result)]


def _found(rows: pd.DataFrame, term: str, strongest: dict[str, str]) -> str:
    name = f"{term} – {MEANING[term]} –"
    if rows.empty:
        return f"{name} was not asked for"
    counts = Counter(rows["verdict"])
    found = counts.pop("IDENTIFIED", 0)
    if found:
        return f"{name} is identified in {found} of {len(rows)} heads, most clearly in {strongest[term]}"
    named = []
    for verdict, number in counts.most_common():
        with_what = Counter(rows.loc[rows["verdict"] == verdict, "confounder"]).most_common(1)
        mostly = f" (mostly with {with_what[0][0]})" if verdict == "CONFOUNDED" else ""
        named.append(f"{verdict} in {number}{mostly}")
    return f"{name} is identified in none of {len(rows)} heads: {', '.join(named)}"


def _strongest(result: xarray.DataTree, verdicts: pd.DataFrame) -> dict[str, str]:
    """The identified head of each term with the largest gain, and that gain with its interval."""
    low, high = gain_intervals(result)
    named = {}
    for row in verdicts[verdicts["verdict"] == "IDENTIFIED"].sort_values("gain").itertuples():
        place = {"layer": row.layer, "head": row.head, "term": row.term}
        interval = f"{row.gain:.3f} [{float(low.sel(place)):.3f}, {float(high.sel(place)):.3f}]"
        unit = "log V(long)/V(1)" if row.term == "carry" else "of held-out energy variance"
        named[row.term] = f"{row.layer}.{row.head} ({interval} {unit})"
    return named


def gain_intervals(result: xarray.DataTree) -> tuple[xarray.DataArray, xarray.DataArray]:
    """Lower and upper ends of the 95 % interval of the gain behind every verdict; NaN where there is none."""
    rows = result["verdicts"].to_dataset()["gain"]
    ends = []
    for end in ("gain_low", "gain_high"):
        values = result["terms"].to_dataset()[end].reindex(term=rows["term"])
        if "carry" in result.children and end in result["carry"]:
            of_carry = result["carry"].to_dataset()[end]
            values = values.where(values["term"] != "carry", of_carry)
        ends.append(values.transpose(*rows.dims))
    return ends[0], ends[1]


def _beside_nulls(result: xarray.DataTree) -> str:
    verdicts = result["verdicts"].to_dataset()
    documents = f"{result.attrs['documents']:,} documents"
    if "null" not in verdicts.dims:
        return f"All of it rests on {documents} and stands beside no null."
    parts = []
    for null in verdicts["null"].values:
        one = verdicts.sel(null=null)
        known, clear = one["contrast"].notnull(), one["contrast_low"] > 0
        identified = (one["verdict"] == "IDENTIFIED") & known
        total, above = int(identified.sum()), int((identified & clear).sum())
        if total:
            parts.append(f"{above} of {total} times ({str(null).replace('_', ' ')})")
    if not parts:
        return f"All of it rests on {documents}, and no identified term could be held against a null."
    return (
        "Where a term is identified, its gain lies above its null's on the same documents, with the 95 % interval, "
        f"{', '.join(parts)}; {documents} in all."
    )


def explain_head(result: xarray.DataTree, head: str) -> str:
    """One head in words: of each term the verdict, why, how sure, and what to do.

    Args:
        head: as 10.3 (layer.head).
    Raises:
        RequestError: no such head in the result.
    """
    (place,) = choose_heads(result, [head])
    at = dict(zip(("layer", "head"), place, strict=True))
    reference = table(result, "reference", heads=[head]).iloc[0]
    lines = [
        f"Head {place[0]}.{place[1]} of {result.attrs['model']}, on {result.attrs['documents']:,} documents.",
        f"Its scores follow the surface reference with R2 {reference['r2']:.2f}"
        f" [{reference['r2_low']:.2f}, {reference['r2_high']:.2f}]; the rest is the energy that is explained here.",
    ]
    low, high = gain_intervals(result)
    nulls = table(result, "nulls", heads=[head]) if "null" in result["verdicts"].dims else None
    for row in table(result, "verdicts", heads=[head]).to_dict("records"):
        term = str(row["term"])
        ends = [float(end.sel(at | {"term": term})) for end in (low, high)]
        beside = (
            [] if nulls is None else nulls[nulls["term"] == term].dropna(subset="contrast").to_dict("records")
        )
        lines += ["", f"{term}: {row['verdict']}", f"  What it is: {MEANING.get(term, term)}.", _why(row)]
        lines.append(f"  How sure: {_how_sure(row, ends)}.")
        lines += (
            [f"  Beside nulls, on the same documents: {'; '.join(map(_above, beside))}."] if beside else []
        )
        lines.append(f"  What to do: {row['advice']}.")
    return "\n".join([*lines, *_removed(result, head)])


def _why(row: dict[str, object]) -> str:
    confounder = f" (with {row['confounder']})" if row["confounder"] else ""
    return f"  Why: {row['reason']}{confounder}."


def _how_sure(row: dict[str, object], ends: list[float]) -> str:
    interval = "" if np.isnan(ends).any() else f" [{ends[0]:z.3f}, {ends[1]:z.3f}], 95 % over documents"
    q = _number(row.get("q"))
    chance = "" if np.isnan(q) else f"; q {q:.2g} over all heads"
    return f"gain {row['gain']:z.3f}{interval}{chance}; {_say_limit(_number(row.get('limit')))}"


def _above(null: dict[str, object]) -> str:
    ends = f"[{null['contrast_low']:z.3f}, {null['contrast_high']:z.3f}]"
    return f"{null['contrast']:z.3f} {ends} above {str(null['null']).replace('_', ' ')}"


def _say_limit(limit: float) -> str:
    """A detection limit (share of energy variance) in words."""
    if np.isnan(limit):
        return "its detection limit was not computed"
    return (
        f"a share of {limit:.3f} would have been seen"
        if np.isfinite(limit)
        else "not even a share of .5 would be seen"
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, float | int) else np.nan


def _removed(result: xarray.DataTree, head: str) -> list[str]:
    if "ablation" not in result.children:
        return []
    rows = table(result, "ablation", heads=[head])
    rows = rows[(rows["measure"] == "loss") & rows["difference"].notna()]
    lines = [
        f"  {row.term}: {row.difference:.3g} [{row.difference_low:.3g}, {row.difference_high:.3g}] nats"
        for row in rows.itertuples()
    ]
    return (
        ["", "Taken out of the live scores, loss of the next token less that of placebos:", *lines]
        if lines
        else []
    )


def unresolved(result: xarray.DataTree) -> list[dict[str, object]]:
    """What was not estimable: a row per term and kind of reason, with how many heads and the first of them."""
    rows = table(result, "verdicts")
    rows = rows[rows["verdict"] == "NOT_ESTIMABLE"]
    kinds = rows["reason"].map(_kind_of_reason)
    return [
        {
            "term": term,
            "reason": kind,
            "count": len(of_kind),
            "heads": ", ".join(f"{row.layer}.{row.head}" for row in of_kind.head(MOST_NAMED).itertuples())
            + (" …" if len(of_kind) > MOST_NAMED else ""),
        }
        for (term, kind), of_kind in rows.groupby([rows["term"], kinds], sort=False)
    ]


def _kind_of_reason(reason: str) -> str:
    """A reason without the numbers that differ from head to head."""
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "·", reason)
