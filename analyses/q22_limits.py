"""Are detection limits true: is a fresh planting IDENTIFIED half the time at the limit, and in >= .90 at twice it?

    python analyses/q22_limits.py     # writes analyses/data/limits.csv, a row as soon as it is there

Worlds of 16, 24 and 32 documents of 64 tokens, without a swap gate. On each data set the limit of two heads without the
term, then 20 fresh heads (noise, nuisance and term drawn anew) with it at the limit and at twice it. The last rows are
of the state block with other priors of its radial basis functions.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from infodyn_interp.energy import fitting

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "identify")]
from test_limits import ROWS, rates_at_limits  # noqa: E402 - what the tests hold to wider bounds

PRIOR = fitting.PRIOR_TOKENS
CASES = [
    *((row, documents, PRIOR) for row in ("rhythm", "state", "track") for documents in (16, 24)),
    ("state", 32, PRIOR),
    *(("state", 16, prior) for prior in (0, 4, 8, 32)),
]


def rates(row: str, documents: int, prior: int, data_sets: int) -> dict[str, object]:
    """Mean rates over data sets, each with its standard error."""
    fitting.PRIOR_TOKENS = prior
    found = [rates_at_limits(ROWS.index(row), documents, 100 + seed, heads=2) for seed in range(data_sets)]
    known = np.array([np.mean(rates, 0) for rates in found if rates])
    error = known.std(0, ddof=1) / np.sqrt(len(known))
    return {
        "term": row,
        "documents": documents,
        "prior_tokens": prior,
        "data_sets": len(known),
        "limit": known[:, 0].mean(),
        "at_limit": known[:, 1].mean(),
        "at_limit_error": error[1],
        "at_twice": known[:, 2].mean(),
        "at_twice_error": error[2],
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-sets", type=int, default=40, help="of each row")
    parser.add_argument(
        "--documents", type=int, help="only rows of so many; the others stay as the table has them"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    file = HERE / "data" / "limits.csv"
    file.parent.mkdir(exist_ok=True)
    table = {tuple(row[:3]): row for row in pd.read_csv(file).to_numpy().tolist()} if file.exists() else {}
    for case in CASES:
        if asked.documents in (None, case[1]):
            row = rates(*case, asked.data_sets)
            print(pd.DataFrame([row]).round(3).to_string(index=False), flush=True)
            table[case] = list(row.values())
            kept = [table[one] for one in CASES if one in table]
            pd.DataFrame(kept, columns=list(row)).round(4).to_csv(file, index=False)


if __name__ == "__main__":
    main()
