"""Is there a rhythm field? The rhythm's unique gain by layer with intervals, its nulls, and verdicts.

    python analyses/q12_rhythm.py      # SmolLM2; writes analyses/data/rhythm.csv, analyses/figures/rhythm.png

Rhythm is judged over nuisance, track and what the state of a key decides (seed 1.2.1).
"""

import xarray
from panels import count_beside, draw_gains, draw_verdicts, explain, gains_table
from study import listen, publish, read_study

from infodyn_interp.figures.plates import Plate, new_plate, print_settings

TERM = "rhythm"


@print_settings("paper")
def draw(result: xarray.DataTree, said: str, nulls: list[str]) -> Plate:
    """Gains beside nulls, above verdicts."""
    plate, (above, below) = new_plate(2, 1, 1.25, "column", "paper", words=0.8, sharey=False)
    draw_gains(above, result, TERM)
    above.set_ylabel("gain (share of variance)")
    draw_verdicts(below, result["verdicts"].to_dataset()["verdict"].sel(term=TERM))
    explain(plate, nulls)
    terms = result["terms"].to_dataset()
    unique, alone = (
        float(one.median()) for one in (terms["gain"].sel(term=TERM), terms["gain_without_state"])
    )
    tail = terms["rhythm_tail"]
    plate.caption = (
        "Held-out gain of the rhythm over nuisance, track and state (share of row-centred energy variance, linear to"
        " .01): heads with 95 % intervals over documents, medians by layer of the model and of its nulls; below, heads"
        f" by verdict. {said} Median gain {unique:.2g}, without the state in the base {alone:.2g}; upper tail of the"
        f" field (99 % less 50 %) {float(tail.median()):.2g} nats, above 0 in"
        f" {int((terms['rhythm_tail_low'] > 0).sum())} heads."
        f" n = {result.attrs['documents']} documents of {result.attrs['window']} tokens."
    )
    return plate


def main() -> None:
    """Read the study, draw, write."""
    result = read_study(listen(__doc__).parse_args().study)
    table = gains_table(result, TERM)
    publish(TERM, table, draw(result, count_beside(result, table), table["null"].unique().tolist()))


if __name__ == "__main__":
    main()
