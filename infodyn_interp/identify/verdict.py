"""Verdicts: may a fitted term be believed, and if not, what stands in its way (science: verdicts)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy.stats
import xarray
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.carry import LAGS, per_token
from infodyn_interp.energy.moments import Moments
from infodyn_interp.errors import RequestError
from infodyn_interp.identify.evidence import ROWS, Evidence, Variograms, weigh
from infodyn_interp.identify.resample import PARTS, STAGES, growing_bases, lower_bound

SWAP_LEVEL = 0.05  # p of the swap gate: 1 / 20, so the true columns must beat all 19 shifts
LEAST_GAIN = 0.005  # of a term that is worth a name: half a percent of held-out energy variance
LEAST_SPLIT_HALF = 0.7  # half the documents must bring back half the variance of the field the others give
LEAST_TRACK_LEFT = 0.15  # below it a track is key-only to all intents and cannot be told from P
RHO_BELOW, RHO_ABOVE = (
    0.05,
    1 - 1 / max(LAGS),
)  # of a step: rho's interval lies between: else noise, or a key effect
MOST_MISFIT = 0.1  # of the variogram, RMS over RMS
LEAST_SILL = 0.05  # share of row-centred energy variance
MOST_RHO_SHIFT = 0.15  # of rho once all nine tracks are taken out
LEAST_SILL_NINE = 0.5  # of the sill that must survive all nine tracks
LEAST_SILL_LADDER = 0.5  # of the sill that must survive the ladder's highest rank
DISCOVERY = 0.05  # false discovery rate of a verdict row over the layers and heads of a run
SMALL = 0.10  # detection limit at which an absence may be called one


class Advised(StrEnum):
    """A word that may be said of a finding; each member has a text that says what to do about it."""

    advice: str

    def __new__(cls, value: str, advice: str) -> "Advised":
        """A name with its advice."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.advice = advice
        return member


class Verdict(Advised):
    """What may be said of a term in a head; the text is what to do about it."""

    IDENTIFIED = (
        "IDENTIFIED",
        "read its coefficients and fields; remove it from the live model to see whether it matters",
    )
    WEAK = (
        "WEAK",
        "there is something, but not what may be read off: take more documents before you interpret it",
    )
    CONFOUNDED = (
        "CONFOUNDED",
        "another part explains the same data: say both, or find texts in which they differ",
    )
    ABSENT = (
        "ABSENT",
        "nothing of the size of the detection limit is there: more documents would see smaller shares",
    )
    NOT_ESTIMABLE = "NOT_ESTIMABLE", "the data cannot decide: see what is missing"


@dataclass(frozen=True)
class Judgement:
    """Verdicts of a run, `[layer, row, head]`, with the reason of each and the family's numbers.

    Args:
        verdict: a `Verdict` each.
        reason: what decided, in words.
        confounder: with what, where CONFOUNDED; else empty.
        q: Benjamini-Hochberg adjusted p over the row's family.
        tests: tests of each row's family.
        cutoff: largest rejected p of each row, or .05 / tests where none is.
    """

    verdict: np.ndarray
    reason: np.ndarray
    confounder: np.ndarray
    q: Float[np.ndarray, "layer row head"]
    tests: np.ndarray
    cutoff: Float[np.ndarray, " row"]

    @property
    def words(self) -> np.ndarray:
        """Verdicts as plain strings, as files hold them."""
        return self.verdict.astype(str).astype(object)


def judge(
    layers: Sequence[Evidence],
    limits: Float[np.ndarray, "layer row head"] | None = None,
    cutoff: float | None = None,
) -> Judgement:
    """Verdicts of every layer, row and head of one run.

    Args:
        layers: evidence of each layer (`weigh`).
        limits: detection limits, share of row-centred energy variance; NaN where not computed.
        cutoff: largest p of a discovery; by default that of Benjamini-Hochberg over the layers and heads here.
    """
    shape = (len(layers), len(ROWS), layers[0].heads)
    limits = np.full(shape, np.nan) if limits is None else limits
    p = np.stack([evidence.p for evidence in layers])
    q, counts, cutoffs = discoveries(p)
    if cutoff is not None:
        cutoffs = np.full_like(cutoffs, cutoff)
    verdict, reason, confounder = (np.full(shape, "", object) for _ in range(3))
    for layer, evidence in enumerate(layers):
        for row, name in enumerate(ROWS):
            for head in range(shape[2]):
                case = _Case(evidence, row, head, float(limits[layer, row, head]))
                found, why, with_what = case.of_carry() if name == "carry" else case.of_field()
                if found is Verdict.IDENTIFIED and not p[layer, row, head] <= cutoffs[row]:
                    found = Verdict.WEAK
                    why = f"p {p[layer, row, head]:.2g} is no discovery over {counts[row]} tests"
                verdict[layer, row, head], reason[layer, row, head] = found, why
                confounder[layer, row, head] = with_what
    return Judgement(verdict, reason, confounder, q, counts, cutoffs)


def verdicts(
    moments: Moments | Mapping[int, Moments],
    variogram: Variograms | Mapping[int, Variograms] | None = None,
    swap_p: Float[np.ndarray, "row head"] | Mapping[int, np.ndarray] | None = None,
) -> xarray.Dataset:
    """Verdicts on anyone's moments, labelled (science: verdicts).

    Args:
        moments: of one layer, or by layer; the family of discoveries is all that is given.
        variogram: of the carry pass, alike; without it the carry-over is NOT_ESTIMABLE and says so.
        swap_p: of the swap gate, alike; without it there is none, and reasons say so.

    Returns:
        `verdict`, `reason`, `advice`, `confounder`, `gain`, `bound` and `q` by layer, term and head.

    Raises:
        RequestError: fewer than two folds, an empty one, or moments that are not finite.
    """
    by_layer = moments if isinstance(moments, Mapping) else {0: moments}
    of_carry = variogram if isinstance(variogram, Mapping) else dict.fromkeys(by_layer, variogram)
    of_swaps = swap_p if isinstance(swap_p, Mapping) else dict.fromkeys(by_layer, swap_p)
    try:
        evidence = [weigh(one, of_carry.get(layer), of_swaps.get(layer)) for layer, one in by_layer.items()]
    except ValueError as reason:
        raise RequestError(f"moments: {reason}") from None
    judged = judge(evidence)
    dims = ("layer", "term", "head")
    advice = np.vectorize(lambda verdict: verdict.advice, otypes=[object])(judged.verdict)
    return xarray.Dataset(
        {
            "verdict": (dims, judged.words),
            "reason": (dims, judged.reason),
            "advice": (dims, advice),
            "confounder": (dims, judged.confounder),
            "gain": (dims, np.stack([one.gain for one in evidence])),
            "bound": (dims, np.stack([one.bound for one in evidence])),
            "q": (dims, judged.q),
        },
        coords={"layer": list(by_layer), "term": list(ROWS), "head": np.arange(evidence[0].heads)},
    )


def discoveries(
    p: Float[np.ndarray, "layer row head"],
) -> tuple[Float[np.ndarray, "layer row head"], Int[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Benjamini-Hochberg adjusted p, number of tests and cut-off of each row's family."""
    q, counts, cutoffs = np.full(p.shape, np.nan), [], []
    for row in range(p.shape[1]):
        known = np.isfinite(p[:, row])
        size = max(int(known.sum()), 1)
        q[:, row][known] = scipy.stats.false_discovery_control(p[:, row][known]) if known.any() else np.nan
        rejected = p[:, row][known][q[:, row][known] <= DISCOVERY]
        counts.append(int(known.sum()))
        cutoffs.append(rejected.max() if len(rejected) else DISCOVERY / size)
    return q, np.array(counts), np.array(cutoffs)


def _asked_of_bases(evidence: Evidence, row: int) -> Bool[np.ndarray, " head"]:
    """The heads in which a row is CONFOUNDED, so that one asks with what."""
    unmet = ~(evidence.bound[row] > 0) | (evidence.swap_p[row] > SWAP_LEVEL)
    return unmet & (evidence.marginal_bound[row] > 0)


@dataclass(frozen=True)
class _Case:
    """One head's evidence for one row."""

    evidence: Evidence
    row: int
    head: int
    limit: float

    def _at(self, name: str) -> float:
        values = getattr(self.evidence, name)
        return float(values[self.row, self.head] if values.ndim == 2 else values[self.head])

    def of_field(self) -> tuple[Verdict, str, str]:
        """P's three rows and T."""
        name, gain, bound, swap = ROWS[self.row], self._at("gain"), self._at("bound"), self._at("swap_p")
        if not np.isfinite(gain):
            return Verdict.NOT_ESTIMABLE, "the head has no energy to explain", ""
        gated = np.isfinite(swap)
        ending = "" if gated else "; no swap gate"
        if not bound > 0 or (gated and swap > SWAP_LEVEL):
            if not self._at("marginal_bound") > 0:
                return self._absent(
                    f"gain {gain:.4f}, bound {bound:.4f} <= 0{ending}"
                    if not bound > 0
                    else f"swap p {swap:.2f}"
                )
            taker = self._taker(name)
            return Verdict.CONFOUNDED, f"explained as well by {taker}{ending}", taker
        short = []
        if gain < LEAST_GAIN:
            short.append(f"gain {gain:.4f} < {LEAST_GAIN}")
        if not (half := self._at("split_half")) >= LEAST_SPLIT_HALF:
            short.append(f"split-half {half:.2f} < {LEAST_SPLIT_HALF}")
        if name == "track":
            if (left := self._at("track_left")) < LEAST_TRACK_LEFT:
                short.append(f"{left:.2f} of it left after key effects and nuisance < {LEAST_TRACK_LEFT}")
            if not short and self._at("track_coefficient") >= 0:
                short.append("a hill, not a well")
        if short:
            return Verdict.WEAK, ", ".join(short) + ending, ""
        return Verdict.IDENTIFIED, f"gain {gain:.4f}, bound {bound:.4f}, split-half {half:.2f}{ending}", ""

    def _taker(self, name: str) -> str:
        """The first block of the base that takes the marginal gain's bound away."""
        evidence = self.evidence
        if name not in evidence.taken_by:
            rows = ("track",) if name == "track" else tuple(PARTS)
            asked = {row: _asked_of_bases(evidence, ROWS.index(row)) for row in rows}
            wanted = {row: heads for row, heads in asked.items() if heads.any()}
            grown = growing_bases(evidence.moments, wanted, evidence.fit.chosen_without)
            for row, stages in grown.items():
                bounds = np.full((len(stages), evidence.heads), np.nan)
                bounds[:, wanted[row]] = [lower_bound(stage) for stage in stages]
                evidence.taken_by[row] = bounds
        names = STAGES[1:3] if name == "track" else STAGES if name in ("rhythm", "state") else STAGES[:4]
        for stage, bounds in zip(names, evidence.taken_by[name][1:], strict=False):
            if not bounds[self.head] > 0:
                return stage
        return "any other document's columns"

    def of_carry(self) -> tuple[Verdict, str, str]:
        """M."""
        evidence, head = self.evidence, self.head
        if evidence.carry is None or evidence.carry_nine is None:
            return Verdict.NOT_ESTIMABLE, "no variogram: the carry pass was not run", ""
        gain, bound, nine = self._at("gain"), self._at("bound"), self._at("bound_nine")
        if not np.isfinite(gain):
            return Verdict.NOT_ESTIMABLE, "the head has no energy to explain", ""
        if not bound > 0:
            return self._absent(f"log V(long) / V(1) {gain:.3f}, bound {bound:.3f} <= 0")
        if not nine > 0:
            return Verdict.CONFOUNDED, f"bound {nine:.3f} <= 0 once all nine tracks are taken out", "track"
        rho = float(evidence.carry.rho[head])
        low, high = (float(getattr(evidence.carry.rho_interval, end)[head]) for end in ("low", "high"))
        # bounds are of a step; what is told is of a token
        told = per_token(
            np.array([rho, low, high, RHO_ABOVE, RHO_BELOW]), evidence.moments.columns.query_stride
        )
        interval = f"rho {told[0]:.2f} [{told[1]:.2f}, {told[2]:.2f}]"
        if not high < RHO_ABOVE:
            return (
                Verdict.CONFOUNDED,
                f"{interval} reaches {told[3]:.2f}: as good as constant",
                "key effects",
            )
        if not low > RHO_BELOW:
            why = f"{interval} reaches {told[4]:.2g}: as good as no memory"
            return Verdict.CONFOUNDED, why, "white noise"
        ladder = self._at("ladder_ratio")
        if ladder < LEAST_SILL_LADDER:
            why = f"{ladder:.2f} of its sill left at the ladder's highest rank < {LEAST_SILL_LADDER}"
            return Verdict.CONFOUNDED, why, "query autocorrelation"
        short = []
        if (misfit := float(evidence.carry.misfit[head])) > MOST_MISFIT:
            short.append(f"misfit {misfit:.2f} > {MOST_MISFIT}")
        if (sill := self._at("sill_share")) < LEAST_SILL:
            short.append(f"sill {sill:.3f} < {LEAST_SILL}")
        if (shift := abs(rho - float(evidence.carry_nine.rho[head]))) >= MOST_RHO_SHIFT:
            short.append(f"rho moves by {shift:.2f} with all nine tracks")
        if (kept := float(evidence.carry_nine.sill[head] / evidence.carry.sill[head])) < LEAST_SILL_NINE:
            short.append(f"{kept:.2f} of its sill left with all nine tracks < {LEAST_SILL_NINE}")
        ending = "" if np.isfinite(ladder) else "; no ladder"
        if short:
            return Verdict.WEAK, ", ".join(short) + ending, ""
        return Verdict.IDENTIFIED, f"{interval}, sill {sill:.3f}{ending}", ""

    def _absent(self, why: str) -> tuple[Verdict, str, str]:
        if np.isnan(self.limit):
            return Verdict.NOT_ESTIMABLE, f"{why}; no detection limit: power unknown", ""
        if self.limit <= SMALL:
            return Verdict.ABSENT, f"{why}; a share of {self.limit:.3f} would have been seen", ""
        needed = (
            f"a share of {self.limit:.2f} or more would be needed"
            if np.isfinite(self.limit)
            else "not even a share of a half would be seen"
        )
        return Verdict.NOT_ESTIMABLE, f"{why}; power: {needed}", ""
