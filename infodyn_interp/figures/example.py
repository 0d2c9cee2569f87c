"""One head's energy landscape on the example window, with the text on the axis."""

import re
from functools import lru_cache

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.patches import Patch

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.plates import (
    DARK,
    MISSING,
    RULE,
    TYPE,
    WARM,
    Plate,
    inches,
    new_plate,
    points,
    printed,
)
from infodyn_interp.figures.selection import choose_heads, count, find_group, most_gain, write_caption

# Families that hold East Asian text as TrueType; the first installed one stands in for what DejaVu lacks.
EAST_ASIAN = (
    "IPAGothic",
    "IPAexGothic",
    "TakaoGothic",
    "MS Gothic",
    "Yu Gothic",
    "NanumGothic",
    "WenQuanYi Zen Hei",
)
WHITESPACE = str.maketrans({" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"})
LONGEST_PIECE = 11
LINE = 7.9 / 72  # inches from one token to the next
MOST_TOKENS = 84


@printed
def landscape(
    result: xarray.DataTree,
    head: str | None = None,
    start: int | None = None,
    tokens: int = 48,
    width: str = "column",
    style: str = "paper",
) -> Plate:
    """The mean energy that each token of the example window receives as key from one head, by part (nats).

    `head` None takes the head whose prosody gains most, `start` None the first token that any query sees.
    As many tokens as fit stand along x; more run down the page, at most 84.
    Raises RequestError for a head, start, width or group `example` that is not there. Source: seed 1.1.1.
    """
    data = find_group(result, "example")
    chosen = choose_heads(data, [head or most_gain(result)])
    shown = _shown(data, start, tokens)
    received = chosen.pick(data["received"].transpose(..., "part", "position"))[0][:, shown]
    pieces = [show_piece(str(piece)) for piece in data["piece"].values[shown]]
    parts = [str(part) for part in data["part"].values]

    across = points(len(shown) * LINE + 0.6) <= inches(width, style)
    if across:
        plate, axes = new_plate(len(parts), 1, 0.5, width, style, words=1.1)
    else:
        plate, axes = new_plate(1, len(parts), len(shown) * LINE, width, style, words=0.75)
    words, energy = (axes[-1].xaxis, axes[0].yaxis) if across else (axes[0].yaxis, axes[-1].xaxis)
    words.set_ticks(np.arange(len(pieces)), pieces, rotation=90 if across else 0)
    for text in words.get_ticklabels():
        text.set(fontfamily=list(token_fonts()), parse_math=False)
    top = float(np.nanmax(np.abs(received), initial=1e-6))
    tick = float(f"{0.8 * top:.0e}")
    energy.set_ticks([-tick, 0, tick], [f"−{tick:g}", "0", f"{tick:g}"])
    for ax, part, values in zip(axes, parts, received, strict=True):
        _draw_terrain(ax, values, 1.1 * top, across)
        ax.set_title(part, fontsize=points(TYPE), loc="left" if across else "center")
        if not across and len(f"{tick:g}") > 2:
            ax.tick_params("x", rotation=90)
    (plate.supylabel if across else plate.supxlabel)("mean energy received (nats)")
    plate.legend(
        handles=[
            Patch(color=DARK, label="below 0: draws attention"),
            Patch(color=WARM, label="above 0: repels it"),
        ],
        title=f"head {chosen.heads[0]}, tokens {shown[0]} to {shown[-1]}",
        loc="outside upper center",
        ncols=2,
        handlelength=1,
        columnspacing=1,
        borderpad=0.2,
    )
    missing = np.flatnonzero(np.isnan(received).any(axis=0))
    sizes = np.ma.sqrt(np.ma.masked_invalid(received**2).mean(axis=1)).filled(np.nan)
    plate.caption = write_caption(
        result,
        chosen,
        f"Energy landscape of head {chosen.heads[0]} on tokens {shown[0]} to {shown[-1]} of the example "
        "window: the mean energy that each token receives as key from the queries that see it, and the parts "
        "it is the sum of (nats, one scale for all panels). Low energy attracts attention: below 0 a token "
        "draws more of it than its rows' average, above 0 less. One window, so no intervals. ␣ is a space, "
        "⏎ a line break, ∅ no text, × a count of repeats, □ a character that the figure's fonts lack.",
        "Root mean square over these tokens (nats): "
        f"{', '.join(f'{part} {size:.2g}' for part, size in zip(parts, sizes, strict=True))}.",
        f"Hatched, not estimable: {count(missing, 'token')} that no query sees." if len(missing) else "",
    )
    return plate


def _shown(data: xarray.Dataset, start: int | None, tokens: int) -> np.ndarray:
    window, covered = data.sizes["position"], np.flatnonzero(data["coverage"].values > 0)
    first = int(covered[0] if start is None and len(covered) else start or 0)
    if not 0 <= first < window:
        raise RequestError(f"start {first} lies outside the example window: take 0 to {window - 1}")
    if not 1 <= tokens <= MOST_TOKENS:
        raise RequestError(f"a landscape of {tokens} tokens does not fit a page: take 1 to {MOST_TOKENS}")
    return np.arange(first, min(first + tokens, window))


def _draw_terrain(ax: Axes, values: np.ndarray, top: float, across: bool) -> None:
    """A bar for each token from zero, along x or down the page; hatched where no query sees the token."""
    place, known = np.arange(len(values)), np.isfinite(values)
    bars, zero, span = (ax.bar, ax.axhline, ax.axvspan) if across else (ax.barh, ax.axvline, ax.axhspan)
    set_words, set_energy = (ax.set_xlim, ax.set_ylim) if across else (ax.set_ylim, ax.set_xlim)
    bars(place[known], values[known], 0.8, color=np.where(values[known] < 0, DARK, WARM), linewidth=0)
    zero(0, color=RULE, linewidth=points(0.6))
    for gap in place[~known]:
        span(gap - 0.5, gap + 0.5, **MISSING, zorder=0, gid="not estimable")
    set_energy(-top, top)
    set_words(*((-0.7, len(place) - 0.3) if across else (len(place) - 0.3, -0.7)))
    ax.grid(axis="x" if across else "y", color=".92", linewidth=points(0.4))
    ax.tick_params("x" if across else "y", length=0)
    seaborn.despine(ax=ax, bottom=across, left=not across)


@lru_cache
def token_fonts() -> dict[str, frozenset[int]]:
    """The families that tokens are set in, in order of preference, with the characters that each has."""
    installed = [name for name in EAST_ASIAN if name in fontManager.get_font_names()]
    families = ["DejaVu Sans Mono", "DejaVu Sans", *installed[:1]]
    return {name: frozenset(get_font(findfont(name)).get_charmap()) for name in families}


def show_piece(piece: str) -> str:
    """A token as it can be printed: whitespace by signs, long runs and pieces cut, □ for what no font has."""
    text = re.sub(r"(.)\1{3,}", lambda run: f"{run[1]}×{len(run[0])}", piece or "∅", flags=re.DOTALL)
    text = text.translate(WHITESPACE)
    if len(text) > LONGEST_PIECE:
        text = text[: LONGEST_PIECE - 1] + "…"
    drawable = frozenset[int]().union(*token_fonts().values())
    return "".join(char if char.isprintable() and ord(char) in drawable else "□" for char in text)
