"""Do the verdicts tell the truth? Rates on worlds whose truth is known, 400 draws of each, at 16 and 24 documents.

python analyses/q01_verdicts.py --processes 2      # goes on where it stopped; the table lies in analyses/data
"""

import argparse
from pathlib import Path

from infodyn_interp import figures, planted

HERE = Path(__file__).parent


def main() -> None:
    """Draw, count, write the table and the figure."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--runs", type=int, default=400)
    ask.add_argument("--processes", type=int, default=1)
    ask.add_argument("--kept", type=Path, default=HERE.parent / "out" / "calibration")
    asked = ask.parse_args()
    table = planted.calibrate(asked.runs, (16, 24), processes=asked.processes, out=asked.kept)
    (HERE / "data").mkdir(exist_ok=True)
    table.round(4).to_csv(HERE / "data" / "verdicts.csv", index=False)
    (HERE / "figures").mkdir(exist_ok=True)
    figures.calibration(table, width="page").savefig(HERE / "figures" / "verdicts.png", dpi=200)


if __name__ == "__main__":
    main()
