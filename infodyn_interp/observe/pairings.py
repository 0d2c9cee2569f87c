"""Every trial's internals against every trial's proxies of the same prompt: a shuffle of trials is a sum over pairs.

For each prompt the lagged products of all pairs of trials are made once, by matrix products; the true pairing is the
sum over pairs of a trial with itself, and each of the shuffles a sum over other pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

LAGS = tuple(range(-5, 6))  # steps by which the proxy follows the internal series
BLOCK = 2**26  # numbers in a block of shuffled sums: half a gigabyte at most


@dataclass(frozen=True)
class Pairings:
    """Sums of lagged products of some cells under the true pairing and its shuffles.

    Divided by the root of the number of products they have variance 1 where nothing is coupled.

    Args:
        cells: which internal series of those given.
        true: of each trial with itself.
        shuffled: of each trial with another's, chosen at random within its prompt.
        pairs: products in the true sums; `pairs_shuffled` in the shuffled.
        own: lagged products of the internal series with itself, true pairing, at lag 0.
    """

    cells: slice
    true: Float[np.ndarray, "lag cell proxy"]
    shuffled: Float[np.ndarray, "shuffle lag cell proxy"]
    pairs: Float[np.ndarray, " lag"]
    pairs_shuffled: Float[np.ndarray, "shuffle lag"]


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
    present = known.astype(np.float32)
    overlaps = np.stack([_products(one[..., None], one[..., None]) for one in present])[..., 0, 0]
    pairs = np.trace(overlaps, axis1=2, axis2=3).sum(0)
    pairs_shuffled = sum(
        one @ overlap.reshape(len(LAGS), -1).T for one, overlap in zip(chosen, overlaps, strict=True)
    )
    size = max(1, BLOCK // (shuffles * len(LAGS) * proxies))
    for start in range(0, cells, size):
        block = slice(start, min(start + size, cells))
        true = np.zeros((len(LAGS), block.stop - start, proxies))
        shuffled = np.zeros((shuffles, true.size), np.float32)
        for one, other, picked in zip(inside[..., block], outside, chosen, strict=True):
            products = _products(one, other)
            true += np.einsum("kaacq->kcq", products)
            shuffled += picked @ np.moveaxis(products, 0, 2).reshape(picked.shape[1], -1).astype(np.float32)
        yield Pairings(block, true, shuffled.reshape(shuffles, *true.shape), pairs, pairs_shuffled)


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
