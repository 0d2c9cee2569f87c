"""Do contrasts cover 0 where nothing differs, and find what does? Splits of planted corpora, and pairs of models.

    python analyses/q04_contrasts.py --splits 400 --processes 2      # writes analyses/data/contrasts.csv

Documents differ in how strong each term is. `halves`: a model reads two halves of a corpus, one run each (`compare`,
not paired); `paired`: two models whose energies differ in noise alone read the same documents, drawn anew each time
(`compare`, paired); `groups` and `few`: one run of a corpus whose documents have labels at random, in equal parts or a
quarter of them (`by`). Then one side has so much more of a term that gains differ by twice the detection limit, and it
is counted how often the interval lies above 0. The limit of a contrast is the difference that half of the contrasts
find: as large as the reach of its own interval, which grows with the term.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from infodyn_interp.energy.carry import Variogram, fit_carry, lagged_products, shared_keys
from infodyn_interp.energy.fitting import Fit, fit, fit_groups
from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra, WindowMoments
from infodyn_interp.energy.terms import Basis, pair_fields, rhythm_columns
from infodyn_interp.identify.contrasting import Contrast, Mean
from infodyn_interp.identify.evidence import ROWS
from infodyn_interp.planted.calibration import survey_basis
from infodyn_interp.planted.worlds import FITTED, WORLDS, World, draw
from infodyn_interp.reducing.groups import group_gains, less_others

HERE, WINDOW, HEADS, DOCUMENTS, FOLDS = Path(__file__).parent, 64, 4, 24, 12
SPLITS_OF_ONE = 50
SHARES = {
    "key_effects": 0.1,
    "distance": 0.05,
    "similarity": 0.05,
    "rhythm": 0.08,
    "state": 0.08,
    "track": 0.04,
}
SHARES |= {"carry": 0.2}
SPREAD = 0.3  # of the logarithm of a term's strength over documents
DESIGNS = ("halves", "groups", "few", "paired")
PLANTED = ("rhythm", "state", "track", "carry")
SUPPORT = support_of(WINDOW)
ALGEBRA = WindowAlgebra(SUPPORT, FITTED)


@dataclass(frozen=True)
class Corpus:
    """Documents and unit fields of every ingredient, of which energies of any strength are made."""

    states: torch.Tensor
    rhythm: torch.Tensor
    basis: Basis
    fields: dict[str, np.ndarray]
    strength: dict[str, np.ndarray]

    @classmethod
    def drawn(cls, documents: int, generator: np.random.Generator, seed: int) -> "Corpus":
        """`noise`, `key_effects` and `carry` come twice, for a second model."""
        names = [*SHARES, "noise", "other key_effects", "other carry", "other noise"]
        worlds = [
            World({} if name.endswith("noise") else {name.removeprefix("other "): 1.0})
            for name in names
            for _ in range(HEADS)
        ]
        basis = survey_basis(WORLDS["noise"], WINDOW, seed, generator)
        found = draw(worlds, documents, WINDOW, generator)
        fields = {
            name: found.energies[:, HEADS * place : HEADS * (place + 1)] for place, name in enumerate(names)
        }
        strength = {
            name: np.exp(SPREAD * generator.standard_normal((documents, HEADS)) - SPREAD**2 / 2)
            for name in SHARES
        }
        states = torch.from_numpy(np.ascontiguousarray(found.states[..., :FITTED]))
        return cls(states, rhythm_columns(torch.from_numpy(found.flags)), basis, fields, strength)

    def energies(self, more: dict[str, float], other: bool = False) -> np.ndarray:
        """Energies of variance 1 whose shares are SHARES and `more`; of the second model."""
        total, left = 0.0, 1.0
        for name, share in SHARES.items():
            kept = (share + more.get(name, 0)) * self.strength[name]
            field = self.fields.get(f"other {name}", self.fields[name]) if other else self.fields[name]
            total, left = total + np.sqrt(kept)[..., None, None] * field, left - kept
        noise = self.fields["other noise" if other else "noise"]
        return total + np.sqrt(np.maximum(left, 0.02))[..., None, None] * noise

    def read(self, energies: np.ndarray) -> "Reading":
        """Moments of every document with these energies."""
        values = torch.from_numpy(energies)
        return Reading(self.states, ALGEBRA(self.states, self.rhythm, self.basis, -values, None), values)


@dataclass(frozen=True)
class Reading:
    """Every document of a corpus as one model, or one label of it, has it."""

    states: torch.Tensor
    window: WindowMoments
    energies: torch.Tensor

    def mixed(self, other: "Reading", theirs: np.ndarray) -> "Reading":
        """The same with some documents as another has them."""
        kept = torch.from_numpy(theirs)

        def choose(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
            return torch.where(kept.view(-1, *[1] * (one.dim() - 1)), two, one)

        parts = ([getattr(one.window, part.name) for part in fields(self.window)] for one in (self, other))
        window = WindowMoments(*(choose(one, two) for one, two in zip(*parts, strict=True)))
        return Reading(self.states, window, choose(self.energies, other.energies))

    def run(self, documents: np.ndarray, folds: int) -> "RunOfCorpus":
        """What one run of some documents leaves."""
        fold = np.arange(len(documents)) % folds
        window = WindowMoments(*(getattr(self.window, part.name)[documents] for part in fields(self.window)))
        moments = Moments.empty(ALGEBRA.columns, HEADS, folds)
        moments.add(window, fold)
        fitted = fit(moments)
        beta = torch.from_numpy(fitted.pair_without[fold])
        field = pair_fields(self.states[documents], beta, ALGEBRA.columns, SUPPORT)
        lagged = lagged_products(self.energies[documents] - field, SUPPORT)
        return RunOfCorpus(window, moments, fitted, lagged, fold)


@dataclass(frozen=True)
class RunOfCorpus:
    """Moments and lagged squares of each document, with the fit of all."""

    window: WindowMoments
    moments: Moments
    fitted: Fit
    lagged: torch.Tensor
    fold: np.ndarray

    def variogram(self, of: np.ndarray, count: int) -> Variogram:
        """Of the documents, by fold or by cell."""
        out = Variogram.empty(SUPPORT, HEADS, count)
        out.add(self.lagged, shared_keys(SUPPORT), of)
        return out

    def by_fold(self) -> np.ndarray:
        """Gains of every verdict row, as a result has them."""
        carry = fit_carry(self.variogram(self.fold, self.moments.folds)).gain_by_fold
        return np.concatenate([self.fitted.gain_by_fold, carry[:, None]], 1)

    def between(self, group: np.ndarray) -> Contrast:
        """Contrast of two groups of its documents."""
        cells = group * self.moments.folds + self.fold
        grouped = Moments.empty(ALGEBRA.columns, HEADS, 2 * self.moments.folds)
        grouped.add(self.window, cells)
        means = group_gains(
            fit_groups(self.moments, grouped, self.fitted), self.variogram(cells, grouped.folds), 2
        )
        return less_others(means)[1]


def contrasts_of(
    design: str, sets: Sequence[Mapping[str, float]], splits: int, seed: int
) -> list[list[Contrast]]:
    """Contrasts of splits of one corpus, for each set of what one side has more of: that side less the other."""
    torch.set_num_threads(1)
    generator = np.random.default_rng([seed, DESIGNS.index(design)])
    found = []
    for more in sets:
        found.append([])
        for split in range(splits):
            if (
                split == 0 or design == "paired"
            ):  # of one corpus, two models differ by the noise they have there
                corpus = Corpus.drawn(DOCUMENTS // (2 if design == "paired" else 1), generator, seed)
                base = corpus.read(corpus.energies({}))
                raised = corpus.read(corpus.energies(more, other=design == "paired"))
            found[-1].append(_contrast(design, base, raised, generator))
    return found


def _contrast(design: str, base: Reading, raised: Reading, generator: np.random.Generator) -> Contrast:
    order, half = generator.permutation(len(base.energies)), DOCUMENTS // 2
    if design == "halves":
        sides = raised.run(order[:half], half), base.run(order[half:], half)
        return Contrast.of([Mean.of_folds(side.by_fold()) for side in sides], [1, -1])
    if design == "paired":
        sides = raised.run(order, half), base.run(order, half)
        return Contrast.of([Mean.of_folds(sides[0].by_fold() - sides[1].by_fold())], [1])
    label = np.arange(DOCUMENTS) < (half if design == "groups" else DOCUMENTS // 4)
    ranked = np.empty(DOCUMENTS, bool)
    ranked[order] = label
    return base.mixed(raised, ranked).run(order, FOLDS).between(label.astype(int))


def count(
    design: str, splits: int, seeds: Sequence[int], pool: ProcessPoolExecutor | None = None
) -> list[dict]:
    """Rates of one design: intervals that cover 0 where nothing differs, or lie above it where one side has more."""
    run = map if pool is None else pool.map

    def gather(sets: Sequence[Mapping[str, float]], splits: int) -> list[list[Contrast]]:
        drawn = list(run(partial(contrasts_of, design, sets, splits), seeds))
        return [[one for found in drawn for one in found[place]] for place in range(len(sets))]

    (nothing,) = gather([{}], splits)
    reach = dict(zip(ROWS, _middle(nothing)[1].tolist(), strict=True))
    rows = [_row(design, row, nothing, reach[row], 0.0) for row in ROWS]
    return rows + plant(design, reach, lambda more, part: gather(more, max(splits // part, 1)))


def plant(design: str, reach: Mapping[str, float], gather: Callable[..., list[list[Contrast]]]) -> list[dict]:
    """Rates where one side has more: a pilot finds how intervals grow with what is planted, then twice the limit is.

    Args:
        reach: of an interval where nothing differs, by verdict row.
        gather: contrasts for each set of what one side has more of, from one split in so many.
    """
    tried = {name: 2 * reach[name] for name in PLANTED}
    limits, shares = {}, {}
    for pilot, names in zip(gather(_sets(tried), 2), map(list, _sets(tried)), strict=True):
        gained, reached = (dict(zip(ROWS, part.tolist(), strict=True)) for part in _middle(pilot))
        for name in names:
            limits[name] = reach[name] / (1 - (reached[name] - reach[name]) / gained[name])
            shares[name] = tried[name] * 2 * limits[name] / gained[name]
    found = gather(_sets(shares), 1)
    return [_row(design, name, found[name == "carry"], limits[name], share) for name, share in shares.items()]


def _sets(shares: Mapping[str, float]) -> list[dict[str, float]]:
    """The carry-over apart from the others, which take their part of the white noise that it is told from."""
    return [{name: shares[name] for name in PLANTED if (name == "carry") == carry} for carry in (False, True)]


def _middle(found: Sequence[Contrast]) -> tuple[np.ndarray, np.ndarray]:
    """Mean contrast and median reach of an interval, by verdict row."""
    return (
        np.mean([one.value for one in found], (0, 2)),
        np.median([(one.high - one.low) / 2 for one in found], (0, 2)),
    )


def _row(
    design: str, term: str, found: Sequence[Contrast], limit: float, planted: float
) -> dict[str, object]:
    value, low, high = (
        np.array([getattr(one, end)[ROWS.index(term)] for one in found]) for end in ("value", "low", "high")
    )
    rate = (low > 0).mean() if planted else ((low <= 0) & (high >= 0)).mean()
    told = {
        "design": design,
        "term": term,
        "limit": limit,
        "planted_share": planted,
        "contrast": value.mean(),
    }
    return told | {
        "said": "above 0" if planted else "covers 0",
        "rate": rate,
        "splits": len(found),
        "contrasts": low.size,
    }


def main() -> None:
    """Draw, count, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--splits", type=int, default=400)
    ask.add_argument("--designs", default=",".join(DESIGNS), help="the others stay as the table has them")
    ask.add_argument("--processes", type=int, default=1)
    asked = ask.parse_args()
    seeds = range(-(-asked.splits // SPLITS_OF_ONE))
    file = HERE / "data" / "contrasts.csv"
    file.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(asked.processes, get_context("spawn")) as pool:
        for design in asked.designs.split(","):
            rows = pd.DataFrame(count(design, SPLITS_OF_ONE, seeds, pool)).round(4)
            print(rows.to_string(index=False), flush=True)
            kept = pd.read_csv(file) if file.exists() else rows[:0]
            table = pd.concat([kept[kept["design"] != design], rows]) if len(kept) else rows
            order = table["design"].map(DESIGNS.index)
            table.iloc[np.argsort(order, kind="stable")].to_csv(file, index=False)


if __name__ == "__main__":
    main()
