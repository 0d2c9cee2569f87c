"""Prior against instantiation: how freely trials differ and how far they step, by what stands before them."""

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.plates import (
    DARK,
    PALE,
    RULE,
    WARM,
    Plate,
    new_plate,
    points,
    printed,
)
from infodyn_interp.results import span

NAMES = {"none": "no\nprompt", "prompt": "prompt\nalone", "chat": "in a\nchat"}
# Of each statistic its title, what it is counted in, and how much more or less of it.
WORDS = {
    "participation_ratio": ("participation ratio", "directions", "directions"),
    "step_size": ("step size", "units of the states", "units"),
}
ASIDE = 0.14  # how far the twin stands beside the model
# Weights differ in colour and lightness, what stands before the trials in dashes.
COLOURS = {"trained": DARK, "untrained": WARM}
DASHES = ("-", (0, (3, 1.2)), (0, (1, 1)))


@printed
def instantiation(
    found: xarray.Dataset, layer: int | None = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Participation ratio (directions) and step size (units of the states) of trials by what stands before them.

    Above by condition in one layer, a pale line a prompt; below what an instance adds to the prior, by layer.

    Args:
        found: group `output/instantiation` of a result of `infodyn observe --instantiation`, at one temperature.
        layer: of the panels above; the middle one by default.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: more than one temperature, no contrasts, a layer that is not there, or no such width or style.
            Source: seed, the prior and its instances.
    """
    if missing := [name for name in ("value", "by_prompt", "difference") if name not in found]:
        raise RequestError(
            f"an instantiation needs {', '.join(missing)}; give the group output/instantiation"
        )
    if "temperature" in found.dims:
        raise RequestError("an instantiation is of one temperature; choose one")
    layers = found["layer"].values
    layer = int(layers[len(layers) // 2]) if layer is None else layer
    if layer not in layers:
        raise RequestError(f"layer: {layer} asked, the instantiation has {span(layers.tolist())}")
    statistics = [str(name) for name in found["statistic"].values]
    plate, axes = new_plate(2, len(statistics), 1.05, width, style, words=0.75, sharex=False, sharey=False)
    for column, name in enumerate(statistics):
        one, above, below = found.sel(statistic=name), axes[column], axes[column + len(statistics)]
        _draw_conditions(above, one.sel(layer=layer))
        _draw_layers(below, one)
        title, unit, more = WORDS[name]
        above.set(title=f"{title}, layer {layer}", ylabel=unit)
        below.set(ylabel=f"{more},\nless {_say(found.attrs['base'])}", xlabel="layer")
    named = [ax.get_legend_handles_labels() for ax in (axes[0], axes[-1])]
    plate.legend(
        *([*first, *second] for first, second in zip(*named, strict=True)),
        loc="outside upper center",
        ncols=3,
        handlelength=2,
        columnspacing=1,
        borderpad=0.2,
    )
    plate.caption = _explain(found, layer)
    return plate


def _draw_conditions(ax: Axes, found: xarray.Dataset) -> None:
    conditions = found["condition"].values.tolist()
    place = np.arange(len(conditions))
    lines = ax.plot(
        place,
        found["by_prompt"].sel(weights="trained").transpose("condition", "prompt"),
        color=PALE,
        linewidth=points(0.6),
        gid="prompt",
    )
    lines[0].set_label("a prompt")
    for name in found["weights"].values.tolist():
        one = found.sel(weights=name)
        x = place + (ASIDE if name == "untrained" else 0)
        ax.vlines(
            x,
            one["value_low"],
            one["value_high"],
            color=COLOURS[name],
            linewidth=points(1.4),
            zorder=3,
            gid=f"{name} interval",
        )
        ax.plot(
            x,
            one["value"],
            linestyle="",
            marker="D" if name == "untrained" else "o",
            color=COLOURS[name],
            markeredgecolor="black",
            markeredgewidth=points(0.4),
            markersize=points(3.4),
            zorder=4,
            label=name,
            gid=name,
        )
    ax.set_xticks(place, [NAMES[name] for name in conditions])
    ax.set_xlim(-0.4, len(place) - 0.6 + ASIDE)
    ax.set_ylim(0, None)
    seaborn.despine(ax=ax)


def _draw_layers(ax: Axes, found: xarray.Dataset) -> None:
    layers = found["layer"].values
    ax.axhline(0, color=RULE, linewidth=points(0.5), zorder=1)
    for name in found["weights"].values.tolist():
        for dashes, instance in zip(DASHES, found["instance"].values.tolist(), strict=False):
            one = found.sel(weights=name, instance=instance)
            if name == "trained":
                ax.fill_between(
                    layers,
                    one["difference_low"],
                    one["difference_high"],
                    color=PALE,
                    alpha=0.5,
                    linewidth=0,
                    gid=f"{instance} interval",
                )
            ax.plot(
                layers,
                one["difference"],
                color=COLOURS[name],
                linestyle=dashes,
                linewidth=points(1.1),
                label=_say(instance) if name == "trained" else None,
                gid=f"{name} {instance}",
            )
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    seaborn.despine(ax=ax)


def _say(condition: str) -> str:
    return NAMES[condition].replace("\n", " ")


def _explain(found: xarray.Dataset, layer: int) -> str:
    of, left_out, said = found.attrs, found.attrs["prompts_left_out"], []
    kept = found["by_prompt"].notnull().all([dim for dim in found["by_prompt"].dims if dim != "prompt"])
    trials = [int(end) for end in np.unique(found["trials"].transpose("prompt", ...).values[kept.values])]
    for instance in found["instance"].values.tolist():
        one = found.sel(weights="trained", instance=instance, layer=layer, statistic="participation_ratio")
        low, middle, high = (float(one[f"difference{end}"]) for end in ("_low", "", "_high"))
        said.append(f"{_say(instance)} {middle:+.2g} [{low:.2g}, {high:.2g}]")
    return (
        f"Prior against instantiation at temperature {float(found['temperature']):g}: the first {of['tokens']} "
        "tokens of trials that follow nothing but the token "
        "that begins a text (the prior), the prompt alone, or the prompt in its chat template. Left: participation "
        "ratio of the states that trials of a prompt differ by (directions), without the bias of few trials; right: "
        f"mean length of a step (units of the states: {of['states']}). Above, layer {layer}: mean over prompts with "
        "its 95 % interval (t, over prompts), a pale line a prompt. Below, by layer: what each instance adds, paired "
        "by prompt, bands 95 % intervals, point by point. "
        + (
            "Null drawn, orange: the untrained twin, which reads the same tokens; below without intervals. "
            if "untrained" in found["weights"]
            else "No nulls drawn: no twin was asked for. "
        )
        + f"Directions added in layer {layer}: {'; '.join(said)}. n = {found.sizes['prompt'] - left_out} prompts, "
        f"{' to '.join(map(str, trials[:: max(len(trials) - 1, 1)]))} trials each"
        + (f"; {left_out} prompts left out, whose trials end too early." if left_out else ".")
    )
