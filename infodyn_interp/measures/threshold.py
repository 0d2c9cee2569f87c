"""Does a step follow where |M_t| passes a critical value (seed 1.4.1), or only where it is larger, or in its spells?

A step of the response in |M_t| is weighed at every threshold (sup-LM) against a constant and over a smooth curve: a
smooth truth passes for a threshold wherever it is weighed against a constant alone. What foretells a step's size anyway
is held fixed. Lagged sizes cannot tell a cause from spells of large steps that |M| shares; but a spell has both sides,
a cause only one: the response must hang more on |M| before it than on |M| as far behind it.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft  # numpy's takes five times as long at lengths with a large prime
import scipy.special
import scipy.stats
from jaxtyping import Float, Int

from infodyn_interp.errors import RequestError
from infodyn_interp.identify.verdict import Advised

LAGS, RUNNING = 8, 16  # log step sizes before the response, and of how many their running deviation is taken
AFTER = 2  # steps from |M_t| to |M_{t+2}|, which lies as far behind the step to t + 1 as |M_t| lies before it
LEAST_SHIFT = 16  # steps between |M| and where it belongs, in the null of texts
SHUFFLES = 999
LOWEST, HIGHEST, THRESHOLDS = 0.1, 0.9, 33  # quantiles of |M| that may be critical, and how many are tried
LEVEL = 0.05
LIKELIHOOD_RATIO = -2 * np.log(
    1 - np.sqrt(1 - LEVEL)
)  # Hansen (2000): 95 % of the threshold's likelihood ratio
NEIGHBOURS = 0.1  # share of steps nearest the threshold that tell the residual's variance there
LEAST_DOCUMENTS = 4
LEAST_STEPS = 2 * LEAST_SHIFT + 1  # that have all neighbours
PLACES = 4  # columns of the position
BEYOND_STEPS = ("controlled_step", "controlled_step_over_smooth", "step_before_over_after")
BEYOND_CURVES = ("controlled_quadratic", "quadratic_before_over_after")
TESTS = ("step", "quadratic", "step_over_smooth", *BEYOND_STEPS, *BEYOND_CURVES)
POWERS = 5  # of the normal score of |M|, beside |M| and its square: curves that bend slowly, on any scale
SMOOTH = 2 + POWERS
TINY = 1e-10  # of a column's square: what controls leave of it is nothing


class Law(Advised):
    """What ties steps to |M_t|; the text is what to do about it."""

    THRESHOLD = (
        "THRESHOLD",
        "steps are larger where |M| has passed E_crit: look at its interval and at the jumps",
    )
    SMOOTH = "SMOOTH", "steps change with |M| without a critical value: do not read E_crit"
    NONE = "NONE", "steps do not depend on |M|: more documents would see smaller steps"
    VOLATILITY_CONFOUNDED = (
        "VOLATILITY_CONFOUNDED",
        "steps and |M| share spells of size: the order of cause cannot be told here",
    )


@dataclass(frozen=True)
class Threshold:
    """The law of one response.

    Args:
        verdict: of section 9, in its order.
        p: by test (`TESTS`), of shuffles.
        height: of the step at E_crit, deviations of the response, position held fixed.
        critical: E_crit, the threshold of least squares beside the smooth curve and all controls, units of |M|; the
            interval is of the inverted likelihood ratio (Hansen, 2000).
        tried: values of |M| that may be critical, rising; `ratio` the likelihood ratio at each.
        steps: that were weighed, over all documents.
        length: steps of a document from the first |M| on.
    """

    verdict: Law
    p: dict[str, float]
    height: float
    critical: float
    critical_low: float
    critical_high: float
    tried: Float[np.ndarray, " value"]
    ratio: Float[np.ndarray, " value"]
    steps: int
    length: int


def weigh_threshold(
    size: Float[np.ndarray, "document step"],
    carry: Float[np.ndarray, "document step"],
    generator: np.random.Generator,
    prompt: Int[np.ndarray, " document"] | None = None,
    shuffles: int = SHUFFLES,
) -> Threshold:
    """Weigh a step in |M_t| for the size of the step to t + 1 (science: jumps).

    Args:
        size: log length of the step from t to t + 1.
        carry: |M_t|; NaN where it is not known, before the first query.
        generator: of the shuffles.
        prompt: of each document, where documents are trials: |M| is then exchanged among the trials of a prompt;
            without it |M| is shifted within its document, by 16 steps at least.
        shuffles: of the null.

    Raises:
        RequestError: too few documents, steps or trials, or a series that does not vary.
    """
    sides = _Sides.of(size, carry)
    crossed = (
        _shifted(sides, shuffles, generator)
        if prompt is None
        else _exchanged(sides, prompt, shuffles, generator)
    )
    weighed = _weigh(sides, crossed)
    p = {name: float((values >= values[0] * (1 - 1e-9)).mean()) for name, (values, _) in weighed.items()}
    rises = {name: bool(rise > 0) for name, (_, rise) in weighed.items()}
    return Threshold(_verdict(p, rises), p, *_locate(sides), sides.fixed.shape[1] + RUNNING + AFTER)


def _verdict(p: dict[str, float], rises: dict[str, bool]) -> Law:
    """Section 9 in its order; what is found counts where it outlives lagged sizes and is not mirrored in |M| after."""
    found = {name: value <= LEVEL and rises[name] for name, value in p.items()}
    if min(p["step"], p["quadratic"]) > LEVEL:
        return Law.NONE
    stepped = found["step"] and found["step_over_smooth"]
    if all(found[name] for name in (BEYOND_STEPS if stepped else BEYOND_CURVES)):
        return Law.THRESHOLD if stepped else Law.SMOOTH
    return Law.VOLATILITY_CONFOUNDED


@dataclass(frozen=True)
class _Sides:
    """Columns of the steps that have all neighbours, centred within documents.

    Args:
        fixed: log step size, standardised within documents; position; log sizes before and their running deviation.
        moving: what moves in the null: smooth curves of |M| before and after, the sums and differences of their first
            two, then indicators before and after.
    """

    fixed: Float[np.ndarray, "document step fixed"]
    moving: Float[np.ndarray, "document step moving"]
    carry: Float[np.ndarray, "document step"]
    tried: Float[np.ndarray, " threshold"]

    @classmethod
    def of(cls, size: np.ndarray, carry: np.ndarray) -> "_Sides":
        if size.shape != carry.shape:
            raise RequestError(
                f"jumps: step sizes {size.shape} and |M| {carry.shape} are not of the same steps"
            )
        known = np.isfinite(carry).all(0) & np.isfinite(size).all(0)
        first = int(known.argmax()) if known.any() else size.shape[1]
        size, carry = size[:, first:], carry[:, first:]
        documents, length = size.shape
        steps = np.arange(RUNNING, length - AFTER)
        if documents < LEAST_DOCUMENTS or len(steps) < LEAST_STEPS:
            raise RequestError(
                f"jumps: {documents} documents of {length} steps; a threshold needs {LEAST_DOCUMENTS} documents and "
                f"{LEAST_STEPS + RUNNING + AFTER} steps"
            )
        if not known[first:].all():
            raise RequestError("jumps: step sizes or |M| are missing within a document: give whole series")
        if not ((size.std(1) > 0).all() and (carry.std(1) > 0).all()):
            raise RequestError("jumps: step sizes or |M| of a document are constant: leave it out")
        size = (size - size.mean(1, keepdims=True)) / size.std(1, keepdims=True)
        lagged = np.lib.stride_tricks.sliding_window_view(size, RUNNING, 1)[:, : len(steps)]
        position = (1 + np.arange(first, first + length))[steps] / (first + length)
        place = np.stack([position, position**2, np.log(position), np.log(position) ** 2], -1)
        fixed = np.concatenate(
            [
                size[:, steps, None],
                np.broadcast_to(place, (documents, *place.shape)),
                lagged[..., -LAGS:],
                lagged.std(-1, keepdims=True),
            ],
            -1,
        )
        before, after = carry[:, steps], carry[:, steps + AFTER]
        tried = np.unique(np.quantile(before, np.linspace(LOWEST, HIGHEST, THRESHOLDS)))
        curves = _smooth(np.concatenate([before, after], 1))
        smooth = [curves[:, : len(steps)], curves[:, len(steps) :]]
        indicators = [(one[..., None] > tried).astype(float) for one in (before, after)]
        first, second = (curve[..., :2] for curve in smooth)
        moving = np.concatenate([*smooth, first + second, first - second, *indicators], -1)
        fixed -= fixed.mean(1, keepdims=True)
        moving -= moving.mean(1, keepdims=True)
        return cls(fixed, moving, before, tried)


def _smooth(carry: Float[np.ndarray, "document step"]) -> Float[np.ndarray, "document step curve"]:
    """|M| and its square, then powers of its normal score."""
    unit = (carry - carry.mean()) / carry.std()
    score = scipy.special.ndtri((scipy.stats.rankdata(carry).reshape(carry.shape) - 0.5) / carry.size)
    return np.concatenate(
        [unit[..., None] ** np.arange(1, 3), score[..., None] ** np.arange(1, 1 + POWERS)], -1
    )


def _shifted(
    sides: _Sides, shuffles: int, generator: np.random.Generator
) -> Float[np.ndarray, "shuffle moving fixed"]:
    """Products of what moves with what stays, summed over documents: as it is, then shifted within each document."""
    steps = sides.fixed.shape[1]
    out = np.zeros((1 + shuffles, sides.moving.shape[2], sides.fixed.shape[2]))
    for moving, fixed in zip(sides.moving, sides.fixed, strict=True):
        spectra = scipy.fft.rfft(moving, axis=0)[:, :, None].conj() * scipy.fft.rfft(fixed, axis=0)[:, None]
        drawn = generator.integers(LEAST_SHIFT, steps - LEAST_SHIFT + 1, shuffles)
        out += scipy.fft.irfft(spectra, steps, axis=0)[np.concatenate([[0], drawn])]
    return out


def exchange(
    prompt: Int[np.ndarray, " document"], shuffles: int, generator: np.random.Generator
) -> Int[np.ndarray, "shuffle document"]:
    """Orders of trials, each prompt's among themselves; the first is the order they stand in.

    Raises:
        RequestError: a prompt with one trial.
    """
    orders = np.tile(np.arange(len(prompt)), (1 + shuffles, 1))
    for one in np.unique(prompt):
        trials = np.flatnonzero(prompt == one)
        if len(trials) < 2:
            raise RequestError(f"jumps: prompt {one} has one trial: give two of each at least")
        orders[1:, trials] = generator.permuted(orders[1:, trials], axis=1)
    return orders


def _exchanged(
    sides: _Sides, prompt: Int[np.ndarray, " document"], shuffles: int, generator: np.random.Generator
) -> Float[np.ndarray, "shuffle moving fixed"]:
    """The same, with |M| exchanged among the trials of each prompt."""
    if len(prompt) != len(sides.fixed):
        raise RequestError(f"jumps: prompts of {len(prompt)} trials given for {len(sides.fixed)}")
    orders = exchange(prompt, shuffles, generator)
    out = np.zeros((1 + shuffles, sides.moving.shape[2], sides.fixed.shape[2]))
    for one in np.unique(prompt):
        trials = np.flatnonzero(prompt == one)
        products = np.einsum("itm,jtf->ijmf", sides.moving[trials], sides.fixed[trials], optimize=True)
        for place, trial in enumerate(trials):
            out += products[np.searchsorted(trials, orders[:, trial]), place]
    return out


def _weigh(
    sides: _Sides, crossed: Float[np.ndarray, "shuffle moving fixed"]
) -> dict[str, tuple[Float[np.ndarray, " shuffle"], float]]:
    """Each test's statistic, largest over thresholds, of every shuffle, and the true step's sign there."""
    smooth, count = np.arange(SMOOTH), len(sides.tried)
    before = 2 * SMOOTH + 4 + np.arange(count)
    sums = 2 * SMOOTH + np.arange(2)
    plain = _Held.of(sides, crossed, PLACES)
    controlled = _Held.of(sides, crossed, sides.fixed.shape[2] - 1)
    over, both = controlled.over(smooth), controlled.over(sums)
    gain, mirrored = (controlled.square - controlled.over(start + smooth[:2]).square for start in (0, SMOOTH))
    return {
        "step": plain.step(before),
        "quadratic": (plain.square - plain.over(smooth[:2]).square, 1.0),
        "step_over_smooth": plain.over(smooth).step(before),
        "controlled_step": controlled.step(before),
        "controlled_step_over_smooth": over.step(before),
        "step_before_over_after": over.over(smooth + SMOOTH).contrast(before, before + count),
        "controlled_quadratic": (gain, 1.0),
        "quadratic_before_over_after": (
            both.square - both.over(sums + 2).square,
            float(gain[0] - mirrored[0]),
        ),
    }


@dataclass(frozen=True)
class _Held:
    """What is left once columns are held fixed, of every shuffle.

    Args:
        moving: products of what moves, nothing held.
        explained: what is held, as orthonormal columns, along what moves.
        response: the response's products with what moves, and its square.
    """

    moving: Float[np.ndarray, "moving moving"]
    explained: Float[np.ndarray, "shuffle moving held"]
    response: Float[np.ndarray, "shuffle moving"]
    square: Float[np.ndarray, " shuffle"]

    @classmethod
    def of(cls, sides: _Sides, crossed: np.ndarray, controls: int) -> "_Held":
        """With the first controls held fixed."""
        moving, fixed = (values.reshape(-1, values.shape[2]) for values in (sides.moving, sides.fixed))
        fixed = fixed[:, : 1 + controls]
        nothing = cls(
            moving.T @ moving,
            crossed[..., :0],
            crossed[..., 0],
            np.full(len(crossed), float(fixed[:, 0] @ fixed[:, 0])),
        )
        products = fixed.T @ fixed
        return nothing._without(crossed[..., 1 : 1 + controls], products[1:, 1:], products[1:, 0])

    def over(self, columns: Int[np.ndarray, " column"]) -> "_Held":
        """With moving columns held fixed too."""
        along = self.moving[:, columns] - self.explained @ self.explained[:, columns].mT
        return self._without(along, along[:, columns], self.response[:, columns])

    def _without(self, along: np.ndarray, square: np.ndarray, response: np.ndarray) -> "_Held":
        floor = TINY * np.maximum(np.trace(square, axis1=-2, axis2=-1), 1)[..., None, None]
        root = np.linalg.inv(np.linalg.cholesky(square + floor * np.eye(square.shape[-1])))
        onto = np.broadcast_to((root @ response[..., None])[..., 0], (len(along), response.shape[-1]))
        columns = along @ root.mT
        return _Held(
            self.moving,
            np.concatenate([self.explained, columns], -1),
            self.response - (columns @ onto[..., None])[..., 0],
            self.square - (onto**2).sum(-1),
        )

    def step(self, at: Int[np.ndarray, " threshold"]) -> tuple[Float[np.ndarray, " shuffle"], float]:
        """Largest Lagrange multiplier of a step."""
        onto = self.response[:, at]
        return self._largest(onto, self._left(at, at), self.moving[at, at])

    def contrast(
        self, before: Int[np.ndarray, " threshold"], after: Int[np.ndarray, " threshold"]
    ) -> tuple[Float[np.ndarray, " shuffle"], float]:
        """The same for the step before less the step after, both in one regression."""
        pairs = (before, before), (after, after), (before, after)
        aa, bb, ab = (self._left(*pair) for pair in pairs)
        difference = self.response[:, before] * (bb + ab) - self.response[:, after] * (aa + ab)
        return self._largest(
            difference, (aa + bb + 2 * ab) * (aa * bb - ab**2), self.moving[before, before] ** 3
        )

    def _left(self, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "shuffle threshold"]:
        return self.moving[x, y] - np.einsum("sxh,sxh->sx", self.explained[:, x], self.explained[:, y])

    def _largest(
        self, onto: np.ndarray, square: np.ndarray, unit: np.ndarray
    ) -> tuple[Float[np.ndarray, " shuffle"], float]:
        able = square > TINY * unit
        value = np.where(able, onto**2 / np.where(able, square, 1), 0) / self.square[:, None]
        return value.max(1), float(onto[0, value[0].argmax()])


def _locate(
    sides: _Sides,
) -> tuple[float, float, float, float, Float[np.ndarray, " value"], Float[np.ndarray, " value"], int]:
    """Height of the step, E_crit with interval, and the likelihood ratio at every value of |M| that may be critical."""
    documents, steps = sides.carry.shape
    order = np.argsort(sides.carry, axis=None, kind="stable")[::-1]
    carry = sides.carry.ravel()[order]
    document = np.repeat(np.arange(documents), steps)[order]
    fixed = sides.fixed.reshape(-1, sides.fixed.shape[2])[order]
    smooth = sides.moving[..., :SMOOTH].reshape(-1, SMOOTH)[order]
    # a split lies below each value that differs from the next one
    splits = np.flatnonzero(np.diff(carry) < 0)
    share = 1 - (splits + 1) / carry.size
    splits = splits[(share >= LOWEST) & (share <= HIGHEST)]
    counts = np.cumsum(document[:, None] == np.arange(documents), 0)[splits]
    square = (counts - counts**2 / steps).sum(1)

    def explain(base: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        basis, triangle = np.linalg.qr(base)
        basis = basis[:, np.abs(np.diag(triangle)) > TINY * np.abs(triangle).max()]
        left = fixed[:, 0] - basis @ (basis.T @ fixed[:, 0])
        rest = square - (np.cumsum(basis, 0)[splits] ** 2).sum(1)
        rest = np.where(rest > TINY * square, rest, np.inf)
        return left, np.cumsum(left)[splits], rest

    left, onto, rest = explain(np.concatenate([fixed[:, 1:], smooth], 1))
    gain = onto**2 / rest
    best = int(gain.argmax())
    unexplained = left @ left - gain[best]
    above = np.arange(carry.size) <= splits[best]
    column = above - (counts[best] / steps)[document]
    residual = (
        left - onto[best] / rest[best] * column
    )  # what the base explains of the column does not matter here
    near = np.argsort(np.abs(np.arange(carry.size) - splits[best]))[: max(int(NEIGHBOURS * carry.size), 2)]
    spread = (residual[near] ** 2).mean() / (residual**2).mean()
    curve = carry.size * (gain[best] - gain) / (unexplained * spread)
    inside = splits[curve <= LIKELIHOOD_RATIO]
    _, plain, of_plain = explain(fixed[:, 1 : 1 + PLACES])
    return (
        float(plain[best] / of_plain[best]),
        float(carry[splits[best] + 1]),
        float(carry[inside.max() + 1]),
        float(carry[inside.min()]),
        carry[splits + 1][::-1],
        curve[::-1],
        carry.size,
    )
