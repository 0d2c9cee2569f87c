"""What of the inside shows outside: internal series of a model against proxies of its replies (science: output side).

Replies to one prompt are exchangeable: under no coupling, the internals of one reply go with the proxies of another as
well as with its own. Series are taken less their prompt's mean at each step, prewhitened and freed of nuisances before
the trials of a prompt are shuffled; the statistic is the largest |r| over lags, and tests of a whole table are judged
at one false discovery rate, apart with all controls (A) and without surprisal and entropy (B).
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln

from infodyn_interp.errors import RequestError
from infodyn_interp.identify.verdict import DISCOVERY, Advised, discoveries
from infodyn_interp.observe.pairings import LAGS, draw_shuffles, pair_up
from infodyn_interp.observe.ragged import REPLY, Series, read_series, require_trials
from infodyn_interp.observe.residuals import MEMORY, bend, demean, innovations

SHUFFLES = 999  # at the least: more where the table has more tests than they could tell apart
INJECTIONS = 200
LIKE_THE_TWIN = 0.5  # of |r|: a twin that shows half of it, with the same sign, explains the cell
THROUGH = ("surprisal", "entropy")  # the controls that test B leaves out
CONTROLS = (
    *THROUGH,
    "log_frequency",
    "repeats",
)  # position goes with the mean of a prompt's trials at each step
CAVEAT = (
    "VISIBLE means: not through surprisal and entropy as measured. A confounder that is measured badly is taken out "
    "badly: measured with reliability .8 it leaves enough for most tests at no effect to reject."
)


class Visibility(Advised):
    """Whether an internal series shows in a proxy; the text is what to do about it."""

    VISIBLE = (
        "VISIBLE",
        "the proxy follows the internal series beyond surprisal: read r and its lag, and ask what else they share",
    )
    ONLY_THROUGH_SURPRISAL = (
        "ONLY_THROUGH_SURPRISAL",
        "what shows is what surprisal and entropy show already: read those, which need no inside",
    )
    NOT_VISIBLE = (
        "NOT_VISIBLE",
        "a coupling of the limit would have been seen in half the cases: more trials would see smaller ones",
    )
    ALSO_UNTRAINED = (
        "ALSO_UNTRAINED",
        "an untrained twin shows it too: it comes with the architecture and the tokens, not with what was learned",
    )


@dataclass(frozen=True)
class _Test:
    """One test of every cell: r by lag, p of the largest, and what the nulls, in standard deviations, say of others.

    `scale` is the standard deviation of r at lag 0; `planted` holds r there and the largest |r| elsewhere.
    """

    r: Float[np.ndarray, "lag cell proxy"]
    p: Float[np.ndarray, "cell proxy"]
    null: Float[np.ndarray, "shuffle cell proxy"]
    planted: Float[np.ndarray, "injection two cell proxy"]
    scale: float

    @property
    def lag(self) -> np.ndarray:
        """Index of the lag with the largest |r|."""
        return np.where(np.isfinite(self.r), np.abs(self.r), -1).argmax(0)

    @property
    def peak(self) -> np.ndarray:
        """r at that lag."""
        return np.take_along_axis(self.r, self.lag[None], 0)[0]

    def limit(self, cutoff: float) -> Float[np.ndarray, "cell proxy"]:
        """|r| at lag 0 that beats the null at this p in half of the injections; infinite where none can."""
        place = int(np.floor(cutoff * (len(self.null) + 1) + 1e-9)) - 1
        if place < 0:
            return np.full(self.p.shape, np.inf)
        critical = -np.partition(-self.null, place, 0)[place] * self.scale
        r, elsewhere = self.planted[:, 0], self.planted[:, 1]
        # planted as sin(a) of the internal series beside cos(a) of the proxy: what r is then, solved for a
        with np.errstate(invalid="ignore"):
            needed = np.sin(np.arcsin(critical / np.hypot(1, r)) - np.arctan(r))
        needed = np.where(np.isnan(needed), np.inf, np.maximum(needed, 0))
        limit = np.median(np.where(elsewhere >= critical, 0, needed), 0)
        return np.where(np.isfinite(self.p), limit, np.nan)


def couple(
    seen: Series,
    inside: Series,
    controls: Series | None = None,
    twin: Series | None = None,
    *,
    generator: np.random.Generator | None = None,
    shuffles: int | None = None,
) -> xarray.Dataset:
    """Which internal series show in which proxies, and in what sense (science: output side).

    Args:
        seen: proxies `(prompt, trial, step, proxy)`, or a Dataset of them as `track_equilibrium` gives.
        inside: internal series `(prompt, trial, step, layer, series)`, or a Dataset of them; mean over a step's tokens.
        controls: `(prompt, trial, step, control)`, an unlabelled array in the order of `CONTROLS`, or a Dataset; None
            takes those variables of `inside` that are named in `CONTROLS`. They are the trained model's.
        twin: as `inside`, of an untrained twin that read the same tokens.
        generator: of the shuffles; None begins one at 0.
        shuffles: of trials within prompts; None takes 999, or as many as let one cell alone be discovered.
    Returns:
        By layer, series and proxy: `r` (at the largest |r| over lags), `peak_lag` (steps by which the proxy follows),
        `p` and `q` of test A; `r_without`, `p_without`, `q_without` of test B; `verdict`; `limit`, the |r| seen in half
        of 200 injections, infinite where none could be; `r_by_lag`. With a twin, its test A: `r_untrained`,
        `p_untrained`, `q_untrained`. A series that does not vary has NaN and is not visible. Attributes say how many
        tests, shuffles and steps, what each verdict advises, and what a badly measured confounder does.
    Raises:
        RequestError: fewer than two trials, in all or of one prompt; too few trials for any shuffle to reject; no
            surprisal or entropy among the controls; a twin of other layers; NaN inside a reply; replies too short for a
            past of three steps.
    """
    if controls is None:
        controls, inside = _split(inside)
    proxies = _name_last(read_series(seen, ("proxy",), "proxies"), ())
    series = read_series(inside, ("layer", "series"), "internals")
    held = _name_last(read_series(controls, ("control",), "controls"), CONTROLS)
    read = [series, proxies, held] + (
        [] if twin is None else [read_series(twin, ("layer", "series"), "twin")]
    )
    for one, name in zip(read, ("internals", "proxies", "controls", "twin"), strict=False):
        require_trials(one, name)
        _require_same_replies(one, series, name)
    if twin is not None and read[-1].shape != series.shape:
        raise RequestError(f"twin: {read[-1].shape[3:]} layers and series; the model has {series.shape[3:]}")
    names = held["control"].values.tolist()
    if missing := [name for name in THROUGH if name not in names]:
        raise RequestError(
            f"controls: no {' and no '.join(missing)}; without them no cell can be called visible"
        )
    known, (internal, outside, nuisances, *untrained) = _align(read)
    grid = (series.sizes["layer"], series.sizes["series"], proxies.sizes["proxy"])
    tests = int(np.prod(grid))
    shuffles = max(SHUFFLES, int(np.ceil(tests / DISCOVERY)) - 1) if shuffles is None else shuffles
    trials = known.any(2).sum(1)
    pairings = np.exp(gammaln(trials + 1).sum())
    if min(pairings, shuffles + 1) * DISCOVERY < 1:
        raise RequestError(
            f"{len(trials)} prompts of {trials.max()} trials and {shuffles} shuffles: no test could reject at "
            f"{DISCOVERY}; take more trials"
        )
    generator = np.random.default_rng(0) if generator is None else generator
    partners = draw_shuffles(trials, known.shape[1], shuffles, generator)
    few = nuisances[..., [name not in THROUGH for name in names]]
    asked = [(internal, nuisances), (internal, few), *((one, nuisances) for one in untrained)]
    found = [_test(one, outside, controlled, known, partners) for one, controlled in asked]
    out = _judge(found, grid)
    out = out.assign_coords(
        {
            dim: one[dim]
            for one, dim in ((series, "layer"), (series, "series"), (proxies, "proxy"))
            if dim in one.coords
        }
    )
    return out.assign_attrs(
        trials=int(trials.sum()),
        prompts=len(trials),
        steps=int(known.sum()),
        shuffles=shuffles,
        controls=json.dumps([*names, "position"]),
        discovery=DISCOVERY,
        advice=json.dumps({one.value: one.advice for one in Visibility}),
        caveat=CAVEAT,
    )


def _test(
    inside: Float[np.ndarray, "prompt trial step cell"],
    outside: Float[np.ndarray, "prompt trial step proxy"],
    controls: Float[np.ndarray, "prompt trial step control"],
    known: Bool[np.ndarray, "prompt trial step"],
    partners: Int[np.ndarray, "prompt shuffle trial"],
) -> _Test:
    """Residuals, pairs and shuffles of every cell."""
    cells, proxies, shuffles = inside.shape[-1], outside.shape[-1], partners.shape[1]
    both = demean(np.concatenate([inside, outside], -1), known)
    left, fitted = innovations(both, demean(bend(controls), known), known)
    r, size = np.zeros((len(LAGS), cells, proxies)), np.zeros((cells, proxies))
    null = np.zeros((shuffles, cells, proxies), np.float32)
    part = min(INJECTIONS, shuffles)
    planted = np.zeros((part, 2, cells, proxies))
    middle = LAGS.index(0)
    for one in pair_up(left[..., :cells], left[..., cells:], known[:, :, MEMORY:], partners):
        pairs, few = (np.maximum(count, 1) for count in (one.pairs, one.pairs_shuffled[..., None, None]))
        free = np.sqrt(max(1 - fitted / pairs[middle], 0))  # a true pair shares the columns fitted to both
        scale = one.spread[middle] / pairs[middle]
        r[:, one.cells] = one.true / pairs[:, None, None]
        size[one.cells] = free * np.abs(one.true / one.spread[:, None, None]).max(0)
        sizes = np.abs(one.shuffled) / one.spread_shuffled[..., None, None].astype(np.float32)
        null[:, one.cells] = sizes.max(1)
        planted[:, 0, one.cells] = (one.shuffled[:part] / few[:part])[:, middle]
        planted[:, 1, one.cells] = np.delete(sizes[:part], middle, 1).max(1) * scale
    p = np.where(np.isfinite(size), (1 + (null >= size.astype(np.float32)).sum(0)) / (1 + shuffles), np.nan)
    return _Test(r, p, null, planted, float(scale / max(free, np.finfo(float).tiny)))


def _judge(tests: list[_Test], grid: tuple[int, int, int]) -> xarray.Dataset:
    """Verdicts from A and B, and the twin's A where there is one; each test's table is a family of its own."""
    families = [discoveries(test.p[:, None]) for test in tests]
    q = [found[0][:, 0] for found in families]
    seen = [one <= DISCOVERY for one in q]
    a, b, *twin = tests
    verdict = np.where(seen[1], Visibility.ONLY_THROUGH_SURPRISAL.value, Visibility.NOT_VISIBLE.value)
    verdict = np.where(seen[0], Visibility.VISIBLE.value, verdict)
    for other in twin:
        alike = (np.sign(other.peak) == np.sign(a.peak)) & (abs(other.peak) >= LIKE_THE_TWIN * abs(a.peak))
        verdict = np.where(seen[0] & seen[2] & alike, Visibility.ALSO_UNTRAINED.value, verdict)
    lags = np.where(np.isfinite(a.p), np.take(LAGS, a.lag), np.nan)
    cells = {
        "r": (a.peak, "1", "correlation at the lag where it is largest, all controls taken out"),
        "peak_lag": (lags, "steps", "steps by which the proxy follows where r is largest"),
        "p": (a.p, "1", "of test A: all controls taken out"),
        "q": (q[0], "1", "of test A, Benjamini-Hochberg over the table"),
        "r_without": (b.peak, "1", "correlation where surprisal and entropy are left in"),
        "p_without": (b.p, "1", "of test B: surprisal and entropy left in"),
        "q_without": (q[1], "1", "of test B, Benjamini-Hochberg over the table"),
        "verdict": (verdict.astype(object), "1", "what shows, and in what sense"),
        "limit": (a.limit(float(families[0][2][0])), "1", "|r| seen in half of the injections"),
    }
    for other, of_twin in zip(twin, q[2:], strict=True):
        cells["r_untrained"] = (other.peak, "1", "correlation in the untrained twin, all controls taken out")
        cells["p_untrained"] = (other.p, "1", "of the untrained twin's test A")
        cells["q_untrained"] = (
            of_twin,
            "1",
            "of the untrained twin's test A, Benjamini-Hochberg over the table",
        )
    dims = ("layer", "series", "proxy")
    out = xarray.Dataset(
        {
            name: (dims, values.reshape(grid), {"units": units, "long_name": words})
            for name, (values, units, words) in cells.items()
        }
    )
    by_lag = {"units": "1", "long_name": "correlation by lag, all controls taken out"}
    out["r_by_lag"] = (("lag", *dims), a.r.reshape(-1, *grid), by_lag)
    steps = {"units": "steps", "long_name": "steps by which the proxy follows"}
    return out.assign_coords(lag=("lag", list(LAGS), steps))


def _split(inside: Any) -> tuple[xarray.Dataset, xarray.Dataset]:
    """The controls that stand among the internal series, and the rest."""
    names = [name for name in CONTROLS if isinstance(inside, xarray.Dataset) and name in inside]
    if not names:
        raise RequestError(f"controls: none given, and none of {', '.join(CONTROLS)} among the internals")
    return inside[names], inside.drop_vars(names)


def _name_last(values: xarray.DataArray, names: tuple[str, ...]) -> xarray.DataArray:
    """The last dimension's members by name; numbers where there are none."""
    dim = values.dims[-1]
    if dim in values.coords:
        return values
    count = values.sizes[dim]
    return values.assign_coords({dim: [*names[:count], *map(str, range(len(names), count))]})


def _require_same_replies(one: xarray.DataArray, other: xarray.DataArray, name: str) -> None:
    if one.dims[:3] != REPLY or one.shape[:3] != other.shape[:3]:
        raise RequestError(
            f"{name}: ({', '.join(map(str, one.dims))}) of {one.shape}; give the same prompts, trials and steps as the "
            f"internals, {other.shape[:3]}"
        )


def _align(
    read: list[xarray.DataArray],
) -> tuple[Bool[np.ndarray, "prompt trial step"], list[Float[np.ndarray, "prompt trial step column"]]]:
    """The steps that all series know, from the first that is known of every trial, trials without any last.

    A step that only one trial of a prompt reaches says nothing, nor does a trial too short for a past.
    """
    columns = [one.values.reshape(*one.shape[:3], -1) for one in read]
    known = np.logical_and.reduce([np.isfinite(one).all(-1) for one in columns])
    start = int(np.where(known.any(2), known.argmax(2), 0).max())
    known = known[:, :, start:].copy()
    known[known.sum(2) <= MEMORY + 1] = False
    known &= known.sum(1, keepdims=True) > 1
    if (short := known[:, :, MEMORY + 1 :].any(2).sum(1) < 2).any():
        raise RequestError(
            f"prompt {int(short.argmax())}: fewer than two trials have the {start + MEMORY + 2} steps that a coupling "
            "needs; take longer replies or smaller steps"
        )
    order = np.argsort(~known.any(2), axis=1, kind="stable")
    known = np.take_along_axis(known, order[..., None], 1)
    cut = [np.take_along_axis(one[:, :, start:], order[..., None, None], 1) for one in columns]
    return known, [np.where(known[..., None], one, np.nan) for one in cut]
