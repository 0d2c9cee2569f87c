"""Does the carry-over follow what Helpful, Harmless and Honest left unfinished (the seed's source of M, 1.2.3)?"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray
from jaxtyping import Float

from infodyn_interp.errors import RequestError
from infodyn_interp.identify.interference import LEAST_DOCUMENTS, LEAST_SLOPE, Sizes, regress_innovations


def regress_unfinished(
    sizes: Sizes,
    unfinished: Mapping[str, Float[np.ndarray, "document query_unfinished"]],
    keys: Float[np.ndarray, " query"],
    generator: np.random.Generator,
) -> xarray.Dataset:
    """Regress innovations of M on what each functional left at the step before (science: M).

    The regression is that of `identify.interference`, one functional at a time in the place of the prosody residual,
    with the same things held fixed and the same null of shifts within documents.

    Args:
        sizes: of the rows of one layer.
        unfinished: what is left of each functional at each step, 0 or more: an excess of action, a rise of V, a
            divergence yet to be closed.
        keys: keys of each row.
        generator: of the shifts.

    Returns:
        `slope` (deviations of the innovation's log size by one of the functional's) with interval, `r2` and `p` by
        functional and head; a slope is worth a name from the attribute `least_slope` on.

    Raises:
        RequestError: fewer than four documents, a functional of other steps, below 0, or constant.
    """
    documents, heads, queries = sizes.innovation.shape
    if documents < LEAST_DOCUMENTS:
        raise RequestError(f"unfinished: {documents} documents; an interval needs {LEAST_DOCUMENTS} at least")
    found = []
    for name, values in unfinished.items():
        if values.shape != (documents, queries):
            raise RequestError(
                f"unfinished: {name} is of {values.shape} documents and queries, |M| of {(documents, queries)}"
            )
        seen = values[:, keys > 0]
        if not ((seen > 0).all() and (seen.std(1) > 0).all()):
            raise RequestError(f"unfinished: {name} is not above 0 at every query, or constant in a document")
        everywhere = np.broadcast_to(values[:, None], (documents, heads, queries))
        found.append(regress_innovations(replace(sizes, residual=everywhere), keys, generator))
    dims = ("functional", "head")
    return xarray.Dataset(
        {
            "slope": (dims, np.stack([one.slope.value for one in found])),
            "slope_low": (dims, np.stack([one.slope.low for one in found])),
            "slope_high": (dims, np.stack([one.slope.high for one in found])),
            "r2": (dims, np.stack([one.r2 for one in found])),
            "p": (dims, np.stack([one.p for one in found])),
        },
        {"functional": list(unfinished)},
        {"least_slope": LEAST_SLOPE},
    )
