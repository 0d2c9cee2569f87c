"""Do the verdicts tell the truth? Rates of each verdict over many draws of worlds whose truth is known."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infodyn_interp.energy.carry import Variogram, lagged_products, shared_keys
from infodyn_interp.energy.fitting import Fit, fit
from infodyn_interp.energy.gauge import Support, support_of
from infodyn_interp.energy.ladder import SUPER_FOLDS, LadderMoments, ranks_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.reference import fit_basis
from infodyn_interp.energy.terms import Basis, Columns, columns_of, pair_fields, rhythm_columns
from infodyn_interp.errors import RequestError
from infodyn_interp.identify.evidence import ROWS, Evidence, Variograms, weigh
from infodyn_interp.identify.resample import lower_bound
from infodyn_interp.identify.swaps import BLOCK, cross_documents, swap_p, swapped_gains
from infodyn_interp.identify.verdict import DISCOVERY, Verdict, judge
from infodyn_interp.planted.worlds import (
    COMPONENTS,
    FIRST_KEY,
    FITTED,
    WORLDS,
    Draw,
    World,
    choose_worlds,
    draw,
)

REFERENCE_DOCUMENTS = 16  # of the centres, drawn apart
FOLDS = 24
RUN_TESTS = 270  # heads of the demo model: the family of a real run
VERDICTS = [verdict.value for verdict in Verdict]
Progress = Callable[[str, int, int], None]


def weigh_draw(worlds: Sequence[World], documents: int, window: int, seed: int) -> Evidence:
    """Draw worlds on common documents and weigh each as one head of a layer."""
    generator = np.random.default_rng(seed)
    basis = survey_basis(worlds[0], window, seed, generator)
    return weigh_energies(draw(worlds, documents, window, generator), basis)


def survey_basis(
    world: World,
    window: int,
    seed: int,
    generator: np.random.Generator,
    shared: np.random.Generator | None = None,
) -> Basis:
    """The components that worlds are made of, with centres and width found on other documents, as in a survey."""
    states = draw([world], REFERENCE_DOCUMENTS, window, generator, shared).states[:, FIRST_KEY:, :FITTED]
    found = fit_basis(states.reshape(-1, FITTED), FITTED, seed)
    return Basis(torch.zeros(COMPONENTS), torch.eye(COMPONENTS), found.centres, found.width)


def weigh_energies(drawn: Draw, basis: Basis, query_stride: int = 1) -> Evidence:
    """The evidence of energies as they are: what a sweep does with a layer, on arrays."""
    documents, heads, window, _ = drawn.energies.shape
    support = support_of(window, query_stride=query_stride)
    folds = np.arange(documents) % min(documents, FOLDS)
    states = basis.states(torch.from_numpy(drawn.states), COMPONENTS)
    z = states[..., :FITTED].contiguous()
    rhythm = rhythm_columns(torch.from_numpy(drawn.flags))
    energies = torch.from_numpy(drawn.energies)
    algebra = WindowAlgebra(support, FITTED)
    moments = Moments.empty(algebra.columns, heads, int(folds.max()) + 1)
    moments.add(algebra(z, rhythm, basis, -energies, None), folds)
    fitted = fit(moments)
    gate = None
    if documents >= BLOCK:
        first = slice(0, BLOCK)
        crossed = cross_documents(algebra, z[first], rhythm[first], basis, -energies[first], None)
        gate = swap_p(swapped_gains(crossed, algebra.columns, lower_bound(fitted.gain_by_fold) > 0))
    return weigh(moments, _carry_pass(states, energies, fitted, support, folds), gate, fitted)


def _carry_pass(
    states: Tensor, energies: Tensor, fitted: Fit, support: Support, folds: np.ndarray
) -> Variograms:
    ranks, stride = (FITTED, max(ranks_of(COMPONENTS))), support.query_stride
    own, wide = (columns_of(support.window, FITTED, rank, query_stride=stride) for rank in ranks)
    ladder = LadderMoments.empty(wide, energies.shape[1])
    products, _ = WindowAlgebra(support, FITTED, bilinear_rank=max(ranks)).pair_products(
        states, -energies, None
    )
    ladder.add(products, folds)
    rungs, parts = ladder.coefficients(fitted.chosen, ranks), folds % SUPER_FOLDS

    def variogram(coefficient: np.ndarray, columns: Columns, of: np.ndarray) -> Variogram:
        out = Variogram.empty(support, energies.shape[1], int(of.max()) + 1)
        field = pair_fields(states, torch.from_numpy(coefficient[of]), columns, support)
        out.add(lagged_products(energies[:, :, support.rows] - field, support), shared_keys(support), of)
        return out

    return Variograms(
        variogram(fitted.pair_without, own, folds),
        variogram(fitted.nine_without, own, folds),
        {rank: variogram(rungs["chosen"][:, rung], wide, parts) for rung, rank in enumerate(ranks)},
        {},
    )


def calibrate(
    runs: int = 400,
    documents: Sequence[int] = (16, 24),
    window: int = 64,
    worlds: Sequence[str] | None = None,
    *,
    seed: int = 0,
    processes: int = 1,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Draw every world many times, judge each draw, and count (science: calibration).

    Below 20 documents there is no swap gate. Each head is a family of its own; `identified_run` is the rate where it is
    one of 270 tests of which no other is a discovery, the hardest case of a run.

    Args:
        runs: draws of each world at each number of documents.
        documents: one window each; at least 4.
        window: tokens in a window.
        worlds: names of `WORLDS`; all by default.
        seed: of the first draw; the same table for any number of processes.
        processes: at once.
        out: a folder that keeps each finished draw, so that a later call goes on where this one stopped.
        progress: called with stage, draws done, draws in all.

    Returns:
        A row a world, term and number of documents: `world term present documents runs`, rates `identified weak
        confounded absent not_estimable`, and `identified_run`.

    Raises:
        RequestError: no such world, or sizes that make no draw.
    """
    chosen = choose_worlds(worlds)
    if runs < 1 or processes < 1 or not documents or min(documents) < 4:
        raise RequestError("calibrate: at least one run, one process and 4 documents are needed")
    groups = [
        tuple(name for name, world in chosen.items() if world.persistent == persistent)
        for persistent in (False, True)
    ]
    jobs = [
        (group, count, window, seed + run)
        for count in documents
        for group in groups
        if group
        for run in range(runs)
    ]
    found: dict[tuple, list] = {}
    folder = None if out is None else Path(out)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        found = {job: kept for job in jobs if (kept := _kept(folder, job)) is not None}
    waiting = [job for job in jobs if job not in found]
    for job, verdicts in _work(waiting, processes):
        found[job] = verdicts
        if folder is not None:
            _keep(folder, job, verdicts)
        if progress is not None:
            progress("calibrate", len(found), len(jobs))
    return _count(found, runs)


def _work(jobs: Sequence[tuple], processes: int) -> Iterator[tuple[tuple, list]]:
    if processes == 1:
        for job in jobs:
            yield job, _judge_one(job)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _one_thread) as pool:
        futures = {pool.submit(_judge_one, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _judge_one(job: tuple) -> list:
    """By world and row of one draw: verdict, confounder, and whether its p would survive as one of 270 tests."""
    names, documents, window, seed = job
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        evidence = weigh_draw([WORLDS[name] for name in names], documents, window, seed)
    finally:
        torch.set_num_threads(threads)
    judged = judge([evidence], cutoff=DISCOVERY)
    survives = evidence.p <= DISCOVERY / RUN_TESTS
    return [
        [
            [
                str(judged.verdict[0, row, head]),
                str(judged.confounder[0, row, head]),
                bool(survives[row, head]),
            ]
            for row in range(len(ROWS))
        ]
        for head in range(len(names))
    ]


def _file(folder: Path, job: tuple) -> Path:
    names, documents, window, seed = job
    return folder / f"{documents}x{window}-{len(names)}-{seed}.json"


def _kept(folder: Path, job: tuple) -> list | None:
    file = _file(folder, job)
    if not file.exists():
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return kept["verdicts"] if kept.get("worlds") == list(job[0]) else None


def _keep(folder: Path, job: tuple, verdicts: list) -> None:
    file = _file(folder, job)
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps({"worlds": list(job[0]), "verdicts": verdicts}), encoding="utf-8")
    beside.replace(file)


def _count(found: dict[tuple, list], runs: int) -> pd.DataFrame:
    rows = []
    for names, documents in dict.fromkeys((job[0], job[1]) for job in found):
        drawn = [verdicts for job, verdicts in found.items() if job[:2] == (names, documents)]
        for place, name in enumerate(names):
            for row, term in enumerate(ROWS):
                judged = [verdicts[place][row] for verdicts in drawn]
                rates = {
                    verdict.lower(): float(np.mean([one[0] == verdict for one in judged]))
                    for verdict in VERDICTS
                }
                rows.append(
                    {"world": name, "term": term, "present": term in WORLDS[name].present}
                    | rates
                    | {
                        "identified_run": float(
                            np.mean([one[0] == Verdict.IDENTIFIED and one[2] for one in judged])
                        ),
                        "runs": runs,
                        "documents": documents,
                    }
                )
    return pd.DataFrame(rows)
