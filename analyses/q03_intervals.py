"""Do 95 % intervals cover? Gain, track coefficient and rho at 8, 16 and 32 documents.

    python analyses/q03_intervals.py --draws 2000 --processes 2      # writes analyses/data/intervals.csv

A gain's truth is its expectation at that number of documents: the mean over all draws. Documents are drawn from one
world, whose vocabulary, directions, basis and scales are those of all draws: an interval over documents knows of no
other. Twenty draws are parts of one corpus, since an ingredient is scaled to its share over a whole corpus: scaled
within each draw it would tie its documents together (the gain of a track then varies by 1.08 of its standard error at
32 documents and 1.11 at 8, and is covered in .93).
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from infodyn_interp.energy.carry import Variogram, fit_carry, lagged_products, shared_keys
from infodyn_interp.energy.fitting import TERMS, Estimate, fit
from infodyn_interp.energy.gauge import center_rows, support_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.terms import TAUS, WIDTHS, Basis, rhythm_columns
from infodyn_interp.planted.calibration import survey_basis
from infodyn_interp.planted.worlds import FITTED, WORLDS, Draw, World, center, draw, track_map

HERE, WINDOW = Path(__file__).parent, 64
TRACK = World({"key_effects": 0.1, "track": 0.1}, ("track",))
PLANTED = WIDTHS.index(0.4) * len(TAUS) + TAUS.index(2.0)
RHOS = (0.3, 0.6, 0.9)
DRAWS = 20  # parts of one corpus
SIZES = (8, 16, 32)  # documents; those that the table holds already are not drawn again


def shared() -> np.random.Generator:
    """The same mean states of types, and directions, in every draw."""
    return np.random.default_rng(20)


def some_draws(documents: int, seed: int) -> list[dict[str, list[float]]]:
    """Of each part of one corpus, gains with their intervals, and those of the track's coefficient and of each rho."""
    torch.set_num_threads(1)
    generator = np.random.default_rng([documents, seed])
    basis = survey_basis(WORLDS["noise"], WINDOW, 0, np.random.default_rng(0), shared())
    drawn = draw([WORLDS["prosody_20"], TRACK], DRAWS * documents, WINDOW, generator, shared())
    field = center(track_map(drawn.states[..., :FITTED], 0.4, 2.0))
    pairs = field.shape[0] * support_of(WINDOW).pairs
    coefficient = -np.sqrt(TRACK.shares["track"] * pairs / (field**2).sum())
    parts = (
        Draw(*(getattr(drawn, part.name)[first : first + documents] for part in fields(drawn)))
        for first in range(0, DRAWS * documents, documents)
    )
    return [one_draw(part, basis, coefficient, generator) for part in parts]


def one_draw(
    drawn: Draw, basis: Basis, coefficient: float, generator: np.random.Generator
) -> dict[str, list[float]]:
    """Truth and interval of everything, of one part."""
    documents = len(drawn.states)
    algebra = WindowAlgebra(support_of(WINDOW), FITTED)
    moments = Moments.empty(algebra.columns, 2, documents)
    z = torch.from_numpy(np.ascontiguousarray(drawn.states[..., :FITTED]))
    rhythm = rhythm_columns(torch.from_numpy(drawn.flags))
    moments.add(algebra(z, rhythm, basis, torch.from_numpy(-drawn.energies), None), np.arange(documents))
    fitted = fit(moments)
    out: dict[str, list[float]] = {}
    for head, row in ((0, "prosody"), (0, "rhythm"), (0, "state"), (1, "track")):
        place = TERMS.index(row), head
        gain = fitted.gain
        out[f"gain of {row}"] = [float(one[place]) for one in (gain.value, gain.low, gain.high)]
    if (fitted.chosen_without[:, 1] == PLANTED).all() and fitted.chosen[1] == PLANTED:
        found = Estimate.of_jackknife(fitted.track[1:], fitted.track_without[:, 1:])
        out["coefficient of track"] = [coefficient, float(found.low[0]), float(found.high[0])]
    for rho in RHOS:
        out[f"rho {rho}"] = [rho, *_rho_interval(rho, documents, generator)]
    return out


def _rho_interval(rho: float, documents: int, generator: np.random.Generator) -> tuple[float, float]:
    """A carry-over with half its variance in noise, and key effects: sill 1 of 2.5."""
    steps = generator.standard_normal((documents, WINDOW, WINDOW))
    carried = steps.copy()
    for t in range(1, WINDOW):
        carried[:, t] = rho * carried[:, t - 1] + np.sqrt(1 - rho**2) * steps[:, t]
    carried += np.sqrt(0.5) * generator.standard_normal(steps.shape)
    carried += generator.standard_normal((documents, 1, WINDOW))
    support = support_of(WINDOW)
    variogram = Variogram.empty(support, 1, documents)
    energy = center_rows(torch.from_numpy(carried[:, None]), support)
    variogram.add(lagged_products(energy, support), shared_keys(support), np.arange(documents))
    interval = fit_carry(variogram).rho_interval
    return float(interval.low[0]), float(interval.high[0])


def main() -> None:
    """Draw, count, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--draws", type=int, default=2000)
    ask.add_argument("--processes", type=int, default=1)
    asked = ask.parse_args()
    file = HERE / "data" / "intervals.csv"
    file.parent.mkdir(exist_ok=True)
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    done = {row["documents"] for row in rows if row["draws"] == asked.draws}
    with ProcessPoolExecutor(asked.processes, get_context("spawn")) as pool:
        for documents in (size for size in SIZES if size not in done):
            rows = [row for row in rows if row["documents"] != documents]
            corpora = pool.map(partial(some_draws, documents), range(-(-asked.draws // DRAWS)))
            drawn = list(chain.from_iterable(corpora))
            for name in dict.fromkeys(name for one in drawn for name in one):
                found = np.array([one[name] for one in drawn if name in one])
                truth = found[:, 0].mean() if name.startswith("gain") else found[:, 0]
                covered = (found[:, 1] <= truth) & (truth <= found[:, 2])
                rows.append(
                    {"documents": documents, "what": name, "draws": len(found), "covered": covered.mean()}
                )
            table = pd.DataFrame(rows)
            table.round(4).to_csv(file, index=False)
    print(pd.read_csv(file).to_string(index=False))


if __name__ == "__main__":
    main()
