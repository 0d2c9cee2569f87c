"""Layers of a run, several at once: the algebra of one knows nothing of the others."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Found = TypeVar("Found")


def of_each(find: Callable[[int], Found], layers: Iterable[int]) -> list[Found]:
    """What is found of each layer, in order; as many at once as torch has threads, to the bits of one by one."""
    # around all of them: a fit sets and resets the same limit, and another's reset would come in between
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(find, layers))
