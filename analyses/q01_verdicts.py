"""Do the verdicts tell the truth? Rates on worlds whose truth is known, 400 draws of each, at 16 and 24 documents.

python analyses/q01_verdicts.py --processes 2     # hours; goes on where it stopped
python analyses/q01_verdicts.py --redraw          # seconds: the figure of the table that lies in analyses/data
"""

import argparse
from pathlib import Path

import pandas as pd
from study import publish

from infodyn_interp import figures, planted

HERE = Path(__file__).parent


def main() -> None:
    """Draw, count, write the table and the figure."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--runs", type=int, default=400)
    ask.add_argument("--processes", type=int, default=1)
    ask.add_argument("--kept", type=Path, default=HERE.parent / "out" / "calibration")
    ask.add_argument("--redraw", action="store_true")
    asked = ask.parse_args()
    table = (
        pd.read_csv(HERE / "data" / "verdicts.csv")
        if asked.redraw
        else planted.calibrate(asked.runs, (16, 24), processes=asked.processes, out=asked.kept).round(4)
    )
    publish("verdicts", table, figures.calibration(table, width="page"))


if __name__ == "__main__":
    main()
