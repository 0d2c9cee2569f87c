"""What was observed, in words."""

import json

import numpy as np
import xarray


def describe_output(result: xarray.DataTree) -> str:
    """What was drawn, how it moves, what is known to move so without cause, and what of the inside shows."""
    about, out = result.attrs, result["output"].to_dataset()
    run, has_model = json.loads(about["run"]), "model" in about
    known = out["tension"].notnull().any("step")
    lines = []
    if has_model:
        lines.append(
            f"Model {about['model']} (weights {about['model_digest'][:12]}): {out.sizes['prompt']} prompts,"
            f" {run['trials']} replies each at temperature {', '.join(f'{one:g}' for one in run['temperature'])},"
            f" {int(out['tokens'].sum()):,} tokens; {int(out['ended'].sum())} of {out['ended'].size} replies were ended"
            " by the model."
        )
    else:
        lines.append(f"{int(known.sum())} replies to {out.sizes['prompt']} prompts, without a model.")
    if short := int((~known).sum()) if has_model else 0:
        lines.append(f"Replies of fewer than two steps have no motion and are left out: {short}.")
    lines.append(
        f"Steps: {run['step']}. Embedder: {about['embedder']}. Floating equilibrium: alpha {run['alpha']:g}, half-life"
        f" {out.attrs['half_life']:.1f} steps."
    )
    if about.get("warning"):
        lines.append(f"Warning: {about['warning']}.")
    lines.append(
        "Tension and kinetic energy are one degree of freedom (K = tension^2 / 2); the moving average alone makes"
        " tension persist, and tie with speed, where nothing else does."
    )
    lines += _about_conditions(result)
    lines += _about_instantiation(result)
    if has_model:
        lines += _about_inside(result, run)
    return "\n".join(lines)


def _about_conditions(result: xarray.DataTree) -> list[str]:
    """Means over prompts with their intervals, and what temperatures differ in."""
    out = result["output"].to_dataset()
    if reason := out.attrs.get("no_conditions"):
        return [f"No intervals over prompts: {reason}."]
    found = result["output/conditions"].to_dataset().sel(statistic="mean")
    lines = ["Means over prompts (95 % interval):"]
    for name in ("tension", "speed", "curvature"):
        of, unit = found.sel(proxy=name), out[name].attrs["units"].removeprefix("1").strip()
        ends = (np.atleast_1d(of[f"value{end}"].values) for end in ("", "_low", "_high"))
        said = [
            f"{value:.3g} [{low:.3g}, {high:.3g}] {unit}".rstrip()
            for value, low, high in zip(*ends, strict=True)
        ]
        if "difference" in of:
            value, low, high = (of[f"difference{end}"].values for end in ("", "_low", "_high"))
            heats = zip(of["other"].values, value, low, high, strict=True)
            apart = [f"at {heat:g} {one:+.3g} [{less:.3g}, {more:.3g}]" for heat, one, less, more in heats]
            said = [f"{said[0]} at temperature {found['temperature'].values[0]:g}", *apart]
        lines.append(f"  {name}: {', '.join(said)}.")
    return lines


BEFORE = {"none": "no prompt", "prompt": "the prompt alone", "chat": "the prompt in its chat template"}


def _about_instantiation(result: xarray.DataTree) -> list[str]:
    """How freely trials differ by what stands before them, in the middle layer."""
    if reason := result["output"].attrs.get("no_instantiation"):
        return [f"Prior and instantiation are not compared: {reason}."]
    if "instantiation" not in result["output"].children:
        return []
    found = result["output/instantiation"].to_dataset().isel(temperature=0)
    middle = int(found["layer"].values[found.sizes["layer"] // 2])
    found = found.sel(layer=middle)
    own = found.sel(weights="trained")
    lines = [
        f"Prior and instantiation: first {found.attrs['tokens']} tokens of trials, layer {middle}, temperature"
        f" {float(found['temperature']):g}, {found.sizes['prompt']} prompts (95 % interval). Directions"
        " that the states of trials differ in, and size of a step, after"
    ]
    base = own["condition"].values[0]
    for name in own["condition"].values:
        of = own.sel(condition=name)
        directions, step = (of.sel(statistic=one) for one in ("participation_ratio", "step_size"))
        said = f"  {BEFORE[name]}: {_interval(directions, 'value')} directions, steps of {_interval(step, 'value')}"
        if name != base:
            more = own.sel(instance=name, statistic="participation_ratio")
            said += f"; against {BEFORE[base]} {_interval(more, 'difference', '+')} directions"
        if "untrained" in found["weights"]:
            twin = found.sel(weights="untrained", condition=name, statistic="participation_ratio")
            said += f"; the untrained twin, on the same tokens: {_interval(twin, 'value')} directions"
        lines.append(said + ".")
    return lines


def _interval(of: xarray.Dataset, name: str, sign: str = "") -> str:
    value, low, high = (float(of[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{value:{sign}.3g} [{low:.3g}, {high:.3g}]"


def _about_inside(result: xarray.DataTree, run: dict[str, object]) -> list[str]:
    out = result["output"].to_dataset()
    lines = [
        "Inside: by the frozen terms of a sweep (reference {}).".format(result.attrs["reference"])
        if run["inside"]
        else "Inside: without a sweep (--inside), the whole energy from reference zero and steps of the states alone."
    ]
    if reason := out.attrs.get("no_coupling"):
        return [*lines, f"No coupling: {reason}."]
    coupling = result["coupling"].to_dataset()
    counts = zip(*np.unique(coupling["verdict"].values.astype(str), return_counts=True), strict=True)
    said = ", ".join(f"{verdict} in {count}" for verdict, count in sorted(counts, key=lambda one: -one[1]))
    return [
        *lines,
        f"What of the inside shows, of {coupling['verdict'].size} cells (layer, series, proxy): {said}.",
        _seen_at_least(coupling),
        str(coupling.attrs["caveat"]),
    ]


def _seen_at_least(coupling: xarray.Dataset) -> str:
    """What size of coupling these replies could have shown."""
    limit = coupling["limit"].values[coupling["limit"].notnull().values]
    finite = limit[np.isfinite(limit)]
    if not finite.size:
        return "No coupling of any size could have been seen in so few replies: take more prompts, trials or tokens."
    none = f" (none at all in {limit.size - finite.size} cells)" if finite.size < limit.size else ""
    return f"A coupling of |r| = {np.median(finite):.2g} would have been seen in half the cases{none}."
