"""Do innovations of the carry-over follow what the prosody field left of the step before (seed 1.2.3)?

The seed lets M come from steps that missed their attractor because HHH and the prosody field interfered. Tested is the
part that can be seen: the log size of M's innovation at t on the log size of the prosody residual at t - 1, within
documents. Held fixed is everything else that foretells a size: the keys of row t, |M| at t - 1, the innovations of the
steps around t, and the residual at t as it was foreseen. Not the residual at t itself: it contains the innovation, and
to hold it fixed turns a world without a cause into a brake (planted: false in .37 to .97 of heads).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from infodyn_interp.energy.fitting import Estimate

BEFORE, AFTER = 4, 2  # innovations around t: a spell of large sizes has both sides, a cause only one
LEAST_SHIFT = 16  # queries between a regressor and where it belongs: beyond the memory of either series
SHIFTS = 1999  # so that the smallest p outlives Benjamini-Hochberg over a few hundred heads
LEAST_DOCUMENTS = 4
LEAST_SLOPE = 0.1  # of a finding: sizes of whole rows that persist move it by .03 without a cause (planted)


@dataclass(frozen=True)
class Sizes:
    """Sizes of each row in the first window of each document, RMS over keys, nats; NaN where a query has no keys.

    Args:
        magnitude: |M_t|, the filtered carry-over.
        innovation: of its innovation; the sign does not count.
        foreseen: of what is foretold of the energy at t before its scores are seen: nuisance, track and rho m_{t-1}.
    """

    magnitude: Float[np.ndarray, "document head query"]
    innovation: Float[np.ndarray, "document head query"]
    foreseen: Float[np.ndarray, "document head query"]


@dataclass(frozen=True)
class Interference:
    """How the innovations of each head follow a cause at the step before; NaN where there is no telling.

    Args:
        slope: deviations of the innovation's log size by one of the cause's, with the interval of the
            delete-one-document jackknife.
        r2: share of the innovations' variance, after all that is held fixed, that the cause explains.
        p: two-sided, of circular shifts of the cause within documents; NaN where windows are too short for one.
    """

    slope: Estimate
    r2: Float[np.ndarray, " head"]
    p: Float[np.ndarray, " head"]


def regress_innovations(
    sizes: Sizes,
    cause: Float[np.ndarray, "document #head query"],
    keys: Float[np.ndarray, " query"],
    generator: np.random.Generator,
) -> Interference:
    """Regress innovations on the size of a cause at the step before (science: M).

    A head that carries nothing in some document has no innovations there and gets NaN.

    Args:
        sizes: of the rows of one layer.
        cause: what may drive them, 0 or more: of each head, the RMS over keys of the row-centred energy less the
            prosody field (nats, by coefficients of other folds), or anything else that a step has.
        keys: keys of each row.
        generator: of the shifts.

    Raises:
        ValueError: fewer than four documents.
    """
    documents, heads, _ = sizes.innovation.shape
    if documents < LEAST_DOCUMENTS:
        raise ValueError(f"{documents} documents: an interval needs at least {LEAST_DOCUMENTS}")
    columns = _columns(sizes, cause, keys)
    able = np.isfinite(columns).all((0, 2, 3))
    # the log of a size over n keys has variance 1 / 2n: weighted by n, rows are alike and may be shifted
    weights = keys[_steps(keys)][:, None]
    columns = columns[:, able] - np.average(
        columns[:, able], 2, np.broadcast_to(weights, columns[:, able].shape), keepdims=True
    )
    columns *= np.sqrt(weights)
    grams = columns.swapaxes(-1, -2) @ columns
    total = grams.sum(0)
    slope, r2 = _slope(total)
    found = Estimate.of_jackknife(slope, _slope(total - grams)[0])
    p = _shift_p(columns, total, generator)

    def spread(values: np.ndarray) -> np.ndarray:
        out = np.full(heads, np.nan)
        out[able] = values
        return out

    estimate = Estimate(*(spread(part) for part in (found.value, found.low, found.high, found.t)))
    return Interference(estimate, spread(r2), spread(p))


def _columns(
    sizes: Sizes, cause: Float[np.ndarray, "document #head query"], keys: Float[np.ndarray, " query"]
) -> Float[np.ndarray, "document head step column"]:
    """Log sizes of the steps that have all neighbours: response, regressor, then what is held fixed."""
    steps = _steps(keys)
    with np.errstate(divide="ignore", invalid="ignore"):
        innovation, driving, magnitude, foreseen = (
            np.log(np.abs(one).astype(float))
            for one in (sizes.innovation, cause, sizes.magnitude, sizes.foreseen)
        )
    driving = np.broadcast_to(driving, innovation.shape)
    around = [shift for shift in range(-BEFORE, AFTER + 1) if shift]
    columns = [
        innovation[..., steps],
        driving[..., steps - 1],
        np.broadcast_to(np.log(keys[steps]), (*innovation.shape[:2], len(steps))),
        magnitude[..., steps - 1],
        foreseen[..., steps],
        *(innovation[..., steps + shift] for shift in around),
    ]
    return np.stack(columns, -1)


def _steps(keys: Float[np.ndarray, " query"]) -> Int[np.ndarray, " step"]:
    return np.arange(int((keys > 0).argmax()) + BEFORE, len(keys) - AFTER)


def _slope(
    gram: Float[np.ndarray, "*batch column column"],
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Standardised coefficient of the regressor and its partial R2."""
    rest = np.linalg.pinv(gram[..., 2:, 2:], rcond=1e-10, hermitian=True)
    pair = gram[..., :2, :2] - gram[..., :2, 2:] @ rest @ gram[..., 2:, :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = pair[..., 0, 1] / pair[..., 1, 1] * np.sqrt(gram[..., 1, 1] / gram[..., 0, 0])
        return slope, pair[..., 0, 1] ** 2 / (pair[..., 0, 0] * pair[..., 1, 1])


def _shift_p(
    columns: Float[np.ndarray, "document head step column"],
    total: Float[np.ndarray, "head column column"],
    generator: np.random.Generator,
) -> Float[np.ndarray, " head"]:
    """p of the regressor's partial product with the response among its circular shifts, one draw a document.

    The statistic is the products' sum over the root of their sum of squares, by document: where the same rows vary more
    in both, the true product is wider than the shifted ones, and its sum alone would beat them too often.
    """
    steps = columns.shape[2]
    if steps <= 2 * LEAST_SHIFT:
        return np.full(columns.shape[1], np.nan)
    rest = np.linalg.pinv(total[:, 2:, 2:], rcond=1e-10, hermitian=True)
    left = columns[..., :2] - columns[..., 2:] @ (rest @ total[:, 2:, :2])
    spectra = np.fft.rfft(left, axis=2)
    products = np.fft.irfft(spectra[..., 0] * spectra[..., 1].conj(), steps, axis=2)
    sums, squares = np.zeros((2, 1 + SHIFTS, columns.shape[1]))
    for of_document in products:
        drawn = generator.integers(LEAST_SHIFT, steps - LEAST_SHIFT + 1, SHIFTS)
        values = of_document[:, np.concatenate([[0], drawn])].T  # the first is where it belongs
        sums += values
        squares += values**2
    size = np.abs(sums) / np.sqrt(squares)
    return np.asarray((size >= size[0]).mean(0))
