"""Every trial's internals against every trial's proxies of the same prompt: a shuffle of trials is a sum over pairs.

For each prompt the lagged products of all pairs of trials are made once, by matrix products; the true pairing is the
sum over pairs of a trial with itself, and each of the shuffles a sum over other pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

LAGS = tuple(range(-5, 6))  # steps by which the proxy follows the internal series
BLOCK = 2**25  # numbers in a block of shuffled sums: 128 MiB


@dataclass(frozen=True)
class Pairings:
    """Sums of lagged products of some cells under the true pairing and its shuffles.

    Divided by their spread they have variance 1 where nothing is coupled: trials that end early leave fewer pairs, and
    residuals of the same step, which sum to nothing, are not independent.

    Args:
        cells: which internal series of those given.
        true: of each trial with itself.
        shuffled: of each trial with another's, chosen at random within its prompt.
        pairs: products in the true sums, and `spread`, their standard deviation; `*_shuffled` likewise.
    """

    cells: slice
    true: Float[np.ndarray, "lag cell proxy"]
    shuffled: Float[np.ndarray, "shuffle lag cell proxy"]
    pairs: Float[np.ndarray, " lag"]
    spread: Float[np.ndarray, " lag"]
    pairs_shuffled: Float[np.ndarray, "shuffle lag"]
    spread_shuffled: Float[np.ndarray, "shuffle lag"]


def draw_shuffles(
    trials: Int[np.ndarray, " prompt"], most: int, shuffles: int, generator: np.random.Generator
) -> Int[np.ndarray, "prompt shuffle trial"]:
    """The partner of each of `most` trials of each prompt in each shuffle; those that are not there keep themselves."""
    out = np.tile(np.arange(most), (len(trials), shuffles, 1))
    for partners, count in zip(out, trials, strict=True):
        partners[:, :count] = generator.permuted(partners[:, :count], axis=1)
    return out


def pair_up(
    inside: Float[np.ndarray, "prompt trial step cell"],
    outside: Float[np.ndarray, "prompt trial step proxy"],
    known: Bool[np.ndarray, "prompt trial step"],
    partners: Int[np.ndarray, "prompt shuffle trial"],
) -> Iterator[Pairings]:
    """True and shuffled sums, block by block of the cells; residuals are 0 where not `known`.

    A pair of trials of unequal length is truncated to the shorter.
    """
    shuffles, cells, proxies = partners.shape[1], inside.shape[-1], outside.shape[-1]
    chosen = [np.eye(one.shape[1], dtype=np.float32)[one].reshape(shuffles, -1) for one in partners]
    whole = np.eye(known.shape[1], dtype=np.float32).reshape(1, -1)
    counted = [
        _count(one, np.concatenate([whole, picked])) for one, picked in zip(known, chosen, strict=True)
    ]
    pairs, spread = np.sum(counted, 0)
    spread = np.sqrt(np.maximum(spread, 1))
    size = max(1, BLOCK // (shuffles * len(LAGS) * proxies))
    for start in range(0, cells, size):
        block = slice(start, min(start + size, cells))
        true = np.zeros((len(LAGS), block.stop - start, proxies))
        shuffled = np.zeros((shuffles, true.size), np.float32)
        for one, other, picked in zip(inside[..., block], outside, chosen, strict=True):
            products = _products(one, other)
            true += np.einsum("kaacq->kcq", products)
            shuffled += picked @ np.moveaxis(products, 0, 2).reshape(picked.shape[1], -1).astype(np.float32)
        yield Pairings(
            block, true, shuffled.reshape(shuffles, *true.shape), pairs[0], spread[0], pairs[1:], spread[1:]
        )


def _products(
    one: Float[np.ndarray, "trial step cell"], other: Float[np.ndarray, "trial step proxy"]
) -> Float[np.ndarray, "lag trial trial cell proxy"]:
    """Sums over steps of one trial's internals times another's proxies `lag` steps later."""
    steps = one.shape[1]
    out = np.zeros((len(LAGS), len(one), len(other), one.shape[2], other.shape[2]), one.dtype)
    for place, lag in enumerate(LAGS):
        if abs(lag) < steps:
            early = one[:, max(0, -lag) : steps - max(0, lag)]
            late = other[:, max(0, lag) : steps + min(0, lag)]
            out[place] = np.moveaxis(np.tensordot(early, late, (1, 1)), 1, 2)
    return out


def _count(
    known: Bool[np.ndarray, "trial step"], picked: Float[np.ndarray, "pairing pair"]
) -> Float[np.ndarray, "two pairing lag"]:
    """How many products each pairing sums, and the variance of their sum: residuals of a step correlate by 1/(1-m)."""
    steps = known.shape[1]
    there = known.sum(0)
    out = np.zeros((2, len(picked), len(LAGS)))
    for place, lag in enumerate(LAGS):
        early, late = slice(max(0, -lag), steps - max(0, lag)), slice(max(0, lag), steps + min(0, lag))
        if abs(lag) < steps:
            both = known[:, None, early] & known[None, :, late]
            count = picked @ both.reshape(-1, both.shape[-1]).astype(np.float32)
            others = np.maximum(there[early] - 1, 1) * np.maximum(there[late] - 1, 1)
            out[0, :, place] = count.sum(-1)
            out[1, :, place] = (count + count * (count - 1) / others).sum(-1)
    return out
