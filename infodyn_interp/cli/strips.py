"""Heat strips: layers x heads by verdict, for any width of terminal, in letters that colour only repeats."""

from typing import TYPE_CHECKING

from rich.text import Text

from infodyn_interp.cli.printing import console

if TYPE_CHECKING:
    import xarray

# Ground and ink of each verdict's letter, as in the figures: darker where more may be said.
STYLES = {
    "IDENTIFIED": "white on #12466e",
    "WEAK": "black on #a3c4de",
    "CONFOUNDED": "black on #e9a13b",
    "ABSENT": "",
    "NOT_ESTIMABLE": "dim",
}
GAP = "   "
EVERY = 5  # layers from one that is named to the next


def show_strips(result: "xarray.DataTree") -> None:
    """Print the verdicts of every term: a strip each, layers from left to right and a line a head.

    Strips stand side by side where the terminal is wide enough; layers that do not fit go on below.
    """
    out = console()
    verdict = result["verdicts"].to_dataset()["verdict"].transpose("term", "head", "layer")
    margin = max(len("head"), *(len(str(head)) for head in verdict["head"].values)) + 1
    fit = max(EVERY, out.width - margin)
    blocks = [
        _strip(verdict.sel(term=term).isel(layer=slice(start, start + fit)), margin)
        for term in verdict["term"].values
        for start in range(0, verdict.sizes["layer"], fit)
    ]
    wide = max(line.cell_len for block in blocks for line in block)
    beside = max(1, (out.width + len(GAP)) // (wide + len(GAP)))
    out.print(_legend(), "", sep="\n")
    for first in range(0, len(blocks), beside):
        for lines in zip(*blocks[first : first + beside], strict=True):
            row = Text(no_wrap=True, overflow="crop")
            for line in lines:
                row.append_text(line)
                row.append(" " * (wide - line.cell_len) + GAP)
            row.rstrip()
            out.print(row)
        out.print()


def _strip(verdict: "xarray.DataArray", margin: int) -> list[Text]:
    """A strip line by line: the term, the layers, then a line a head."""
    axis = ""
    for place, layer in enumerate(verdict["layer"].values):
        if place % EVERY == 0:
            axis = axis.ljust(place) + str(layer)
    name = str(verdict["term"].values)
    lines = [Text(name, style="bold"), Text(f"{'head':>{margin - 1}} {axis}", style="dim")]
    for head, row in zip(verdict["head"].values, verdict.values, strict=True):
        line = Text(f"{head:>{margin - 1}} ")
        for one in row:
            line.append(str(one)[0], style=STYLES[str(one)])
        lines.append(line)
    return lines


def _legend() -> Text:
    legend = Text("Verdicts by layer: ")
    for place, (verdict, style) in enumerate(STYLES.items()):
        legend.append(", " if place else "").append(verdict[0], style=style).append(f" {verdict}")
    return legend
