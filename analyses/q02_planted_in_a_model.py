"""Are terms planted in a real model's own scores identified, and is the clean model itself again once they are gone?

    python analyses/q02_planted_in_a_model.py      # SmolLM2, layers 3, 10, 20, shares of 10 %

Each head's own fitted term of that kind is taken out first. Writes analyses/data/planted_in_a_model.csv.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from study import read_manual

from infodyn_interp import identify, planted, sweeping
from infodyn_interp.hooks import bent_scores, check
from infodyn_interp.identify.limits import detection_limits

HERE = Path(__file__).parent
LAYERS, SHARE, WINDOWS = (3, 10, 20), 0.10, 2


def main() -> None:
    """Sweep clean, plant each term in each layer, sweep again, and once more with the planted term taken back."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    model, read = read_manual(windows_per_document=WINDOWS)
    checked = check(model, next(read.batches(4)))
    clean = sweeping.sweep(model, read, layers=LAYERS, nulls=(), limits=())
    rows = []
    for layer in LAYERS:
        settings = sweeping.Settings((layer,), carry=False)
        own = sweeping.gather(model, read, settings, checked=checked)
        limits = detection_limits(own.moments[layer], own.fits[layer], np.full(5, 0.05), seed=layer)
        for term in ("rhythm", "state", "track"):
            arguments = {"layer": layer, "term": term, "seed": layer, "checked": checked}
            with planted.planted_term(model, read, clean, share=SHARE, **arguments) as energy:
                bent = sweeping.gather(model, read, settings, checked=checked)
                with bent_scores(model, [layer], lambda *live, planted=energy: -planted(*live)):
                    back = sweeping.gather(model, read, settings, checked=checked)
            found = identify.verdicts(bent.moments).sel(term=term)
            again = identify.verdicts(back.moments).sel(term=term)
            place = ("prosody", "rhythm", "state", "track").index(term)
            before = identify.verdicts(own.moments).sel(term=term)
            rows += [
                {
                    "layer": layer,
                    "head": head,
                    "term": term,
                    "limit": limits.share[place, head],
                    "verdict": str(found["verdict"].values[0, head]),
                    "reason": str(found["reason"].values[0, head]),
                    "gain": float(found["gain"].values[0, head]),
                    "clean": str(before["verdict"].values[0, head]),
                    "taken_back": str(again["verdict"].values[0, head]),
                }
                for head in range(model.heads)
            ]
    table = pd.DataFrame(rows)
    (HERE / "data").mkdir(exist_ok=True)
    table.to_csv(HERE / "data" / "planted_in_a_model.csv", index=False)
    for term, part in table.groupby("term"):
        fair = part[part["limit"] <= 0.05]
        print(
            f"{term}: IDENTIFIED in {(part['verdict'] == 'IDENTIFIED').sum()} of {len(part)} heads, in"
            f" {(fair['verdict'] == 'IDENTIFIED').sum()} of {len(fair)} with a limit of .05 or less;"
            f" ABSENT in {(part['verdict'] == 'ABSENT').sum()}; taken back, the clean model's verdict in"
            f" {(part['taken_back'] == part['clean']).sum()}"
        )


if __name__ == "__main__":
    main()
