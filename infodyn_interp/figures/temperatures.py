"""The temperature ladder: each proxy's statistics by temperature, and what they differ in within prompts."""

import numpy as np
import seaborn
import xarray

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.plates import DARK, PALE, Plate, new_plate, points, printed


@printed
def temperature_ladder(
    described: xarray.Dataset, statistic: str = "mean", width: str = "column", style: str = "paper"
) -> Plate:
    """A statistic of each proxy by temperature: a line a prompt, and the mean over prompts with its interval.

    Args:
        described: as `observe.describe` gives it, with dimension `temperature`.
        statistic: `mean`, `trend` or `autocorrelation`.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: no temperatures, no such statistic, width or style. Source: seed, observation.
    """
    names = described["statistic"].values.tolist()
    if "temperature" not in described.dims:
        raise RequestError("the description has no temperatures: sample at two or more")
    if statistic not in names:
        raise RequestError(f"no statistic '{statistic}': take {', '.join(names)}")
    data = described.sel(statistic=statistic).sortby("temperature")
    proxies = [str(name) for name in data["proxy"].values]
    beside = min(4 if width == "page" else 2, len(proxies))
    plate, axes = new_plate(-(-len(proxies) // beside), beside, 1.1, width, style, words=0.5, sharey=False)
    unit = {"mean": "mean", "trend": "trend per step", "autocorrelation": "autocorrelation"}[statistic]
    temperature, said = data["temperature"].values, []
    for ax, proxy in zip(axes, proxies, strict=False):
        one = data.sel(proxy=proxy)
        lines = ax.plot(
            temperature,
            one["by_prompt"].transpose("temperature", "prompt"),
            color=PALE,
            linewidth=points(0.6),
            gid="prompt",
        )
        lines[0].set_label("a prompt")
        ax.vlines(
            temperature,
            one["value_low"],
            one["value_high"],
            color=DARK,
            linewidth=points(1.6),
            zorder=3,
            gid="interval",
        )
        ax.plot(
            temperature,
            one["value"],
            color=DARK,
            linewidth=points(0.9),
            marker="o",
            markersize=points(3.5),
            zorder=4,
            gid="value",
        )
        ax.set_title(proxy.replace("_", " "))
        ax.set_xticks(temperature, [f"{t:g}" for t in temperature])
        span = np.ptp(temperature) or 1.0
        ax.set_xlim(temperature[0] - 0.15 * span, temperature[-1] + 0.15 * span)
        seaborn.despine(ax=ax)
        share = float(one["between_share"].mean())
        said.append(f"{proxy.replace('_', ' ')} {share:.2g}")
    for spare in axes[len(proxies) :]:
        spare.remove()
    plate.supxlabel("temperature (no unit)")
    plate.supylabel(f"{unit} (no unit)")
    plate.caption = (
        f"The {unit} of each proxy over the replies of a prompt, by temperature (units of the embedding, its square "
        "for the kinetic energy, radians for the curvature). Pale: a line a prompt; dark: mean over prompts with its "
        "95 % interval. Prompts are the same at every temperature, so lines that rise together say more than "
        "intervals that do not overlap: the contrasts are paired by prompt. Share of the replies' variance that lies "
        f"between prompts, mean over temperatures: {', '.join(said)}. No nulls drawn. n = {data.sizes['prompt']} "
        "prompts."
    )
    return plate
