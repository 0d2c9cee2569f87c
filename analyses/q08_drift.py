"""Does the interval of a drift cover the drift of an Ornstein-Uhlenbeck process?

    python analyses/q08_drift.py --draws 2000      # writes analyses/data/drift.csv

Two directions that pull each other, sampled exactly at times 1 apart: the drift of a step is `exp(-pull) - 1`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.linalg import expm

from infodyn_interp.measures.action import fit_drift

HERE = Path(__file__).parent
PULL = np.array([[0.5, 0.2], [0.2, 0.8]])
STEPS = 256


def covers(documents: int, seed: int) -> np.ndarray:
    """Whether each entry of the drift is covered in one draw."""
    generator = np.random.default_rng([documents, seed])
    keep = expm(-PULL)
    noise = np.linalg.cholesky(np.eye(2) - keep @ keep.T)
    state = generator.standard_normal((documents, STEPS, 2))
    for t in range(1, STEPS):
        state[:, t] = state[:, t - 1] @ keep.T + state[:, t] @ noise.T
    found = fit_drift(state).interval
    truth = keep - np.eye(2)
    return (found.low <= truth) & (truth <= found.high)


def main() -> None:
    """Draw, count, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--draws", type=int, default=2000)
    asked = ask.parse_args()
    rows = []
    for documents in (8, 24):
        covered = np.mean([covers(documents, seed) for seed in range(asked.draws)], 0)
        rows += [
            {"documents": documents, "steps": STEPS, "draws": asked.draws, "entry": f"{row}{column}"}
            | {"covered": covered[row, column]}
            for row in range(2)
            for column in range(2)
        ]
    table = pd.DataFrame(rows).round(4)
    (HERE / "data").mkdir(exist_ok=True)
    table.to_csv(HERE / "data" / "drift.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
