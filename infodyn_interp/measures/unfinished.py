"""Does the carry-over follow what Helpful, Harmless and Honest left unfinished (the seed's source of M, 1.2.3)?"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
import xarray
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Layer, read_out
from infodyn_interp.identify.interference import LEAST_DOCUMENTS, LEAST_SLOPE, Sizes, regress_innovations
from infodyn_interp.identify.verdict import DISCOVERY, discoveries
from infodyn_interp.measures.action import fit_drift, split_folds
from infodyn_interp.measures.choices import FUNCTIONALS
from infodyn_interp.measures.fits import AT_ONCE, Fitted, Reading
from infodyn_interp.measures.paths import walk
from infodyn_interp.measures.stability import Dynamics, quadratic_form

LEAST_DIVERGENCE = 1e-6  # nats: what single precision leaves of an equality
UNITS = {
    "unfinished": (
        "1",
        "standardised slope of the log size of M's innovation on what a functional left at the step before",
    ),
    "unfinished_r2": ("1", "its partial R2, other sizes held fixed"),
    "unfinished_p": ("1", "two-sided p of its shifts within documents"),
    "unfinished_q": ("1", "that p adjusted for all heads (Benjamini-Hochberg)"),
}
LIFTED = ("unfinished", "unfinished_low", "unfinished_high", "unfinished_q")


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
        unfinished: what is left of each functional at each step, above 0: an excess of action, a rise of V as a ratio,
            a divergence yet to be closed.
        keys: keys of each row.
        generator: of the shifts.

    Returns:
        `slope` (deviations of the innovation's log size by one of the functional's) with interval, `r2` and `p` by
        functional and head; a slope is worth a name from the attribute `least_slope` on.

    Raises:
        RequestError: fewer than four documents, a functional of other steps, not above 0, or constant.
    """
    documents, _, queries = sizes.innovation.shape
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
        found.append(regress_innovations(sizes, values[:, None], keys, generator))
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


def weigh_unfinished(
    reading: Reading, fitted: Fitted, sizes: Mapping[int, Sizes], walked: int
) -> xarray.Dataset | None:
    """What innovations of each layer and head follow; None where no functional of any layer can be regressed on.

    A functional that a layer has not, as the last one has no divergence from itself, is NaN there.

    Args:
        reading, fitted: of the model.
        sizes: by layer, of the first windows of the first documents, the first token left out.
        walked: documents whose divergence is read at every token, for the vocabulary makes it dear.

    Returns:
        `UNITS` by layer, functional and head, with the interval of the slope.
    """
    every = dict(zip(reading.layers, walk(reading, fitted).paths, strict=True))
    honest = unclosed(reading, fitted, tuple(sizes), walked)
    made = {}
    for layer, of_layer in sizes.items():
        left = left_by_steps(every[layer]) | {FUNCTIONALS[2]: honest[layer]}
        keys, told = reading.supports[layer].counts.numpy()[1:].astype(float), []
        for name, values in left.items():
            few = Sizes(*(getattr(of_layer, part)[: len(values)] for part in Sizes.__match_args__))
            generator = np.random.default_rng([reading.seed, layer, FUNCTIONALS.index(name)])
            try:
                told.append(regress_unfinished(few, {name: values}, keys, generator))
            except RequestError:
                continue
        if told:
            whole = xarray.concat(told, "functional", combine_attrs="override")
            made[layer] = whole.reindex(functional=list(FUNCTIONALS))
    if not made:
        return None
    found = xarray.concat(list(made.values()), "layer", combine_attrs="override")
    found = found.assign_coords(layer=list(made)).reindex(layer=list(sizes))
    found = found.assign_coords(head=np.arange(found.sizes["head"]))
    p = found["p"].transpose("layer", "functional", "head")
    found = found.assign(q=(p.dims, discoveries(p.values)[0])).assign_attrs(discovery=DISCOVERY)
    return found.rename({str(name): f"unfinished_{name}".replace("_slope", "") for name in found.data_vars})


def left_by_steps(
    path: Float[np.ndarray, "document step component"],
) -> dict[str, Float[np.ndarray, "document step"]]:
    """What the step into each state leaves of Helpful and Harmless, by laws of other documents; NaN at the first.

    `helpful`: its Onsager-Machlup action, nats, all of it an excess, since to follow the drift takes none. `harmless`:
    the quadratic form after it over the form before, above 1 where it rises.
    """
    left = {name: np.full(path.shape[:2], np.nan) for name in FUNCTIONALS[:2]}
    for mine, rest in split_folds(path) if len(path) > 1 else ():
        here = path[mine]
        form = quadratic_form(here, Dynamics.fit(rest))
        left["helpful"][mine, 1:] = fit_drift(rest).action(np.stack([here[:, :-1], here[:, 1:]], 2))
        left["harmless"][mine, 1:] = form[:, 1:] / form[:, :-1]
    return left


def unclosed(
    reading: Reading, fitted: Fitted, layers: Sequence[int], documents: int
) -> dict[int, Float[np.ndarray, "document step"]]:
    """KL yet to be closed at every token but the first, by layer: from the output to what the affine lens reads, nats.

    Nothing in the last layer of the model, whose lens is the output.

    Args:
        reading, fitted: of the model.
        layers: among those read.
        documents: whose first windows are read.
    """
    last, read = reading.model.layers - 1, read_out(reading.model)
    streams: dict[int, Tensor] = {}
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}

    def visit(layer: Layer) -> None:
        if layer.index in found or layer.index == last:
            streams[layer.index] = cast(Tensor, layer.residual_out)[:, 1:].clone()

    for batch in reading.first_windows(documents, 1):
        reading.capture(batch, visit, "residual_out")
        with torch.inference_mode():
            for first in range(0, reading.texts.window - 1, AT_ONCE):
                here = (slice(None), slice(first, first + AT_ONCE))
                says = read(streams[last][here]).float().log_softmax(-1)
                probability = says.exp()
                sure = torch.linalg.vecdot(probability, says)
                for layer in layers:
                    if layer == last:
                        kl = torch.zeros_like(sure)
                    else:
                        heard = read(fitted.maps[layer].lens(streams[layer][here])).float()
                        kl = sure - torch.linalg.vecdot(probability, heard) + heard.logsumexp(-1)
                        kl = kl.clamp(min=LEAST_DIVERGENCE)
                    found[layer].append(kl.double().cpu().numpy())
    steps = reading.texts.window - 1
    return {layer: np.concatenate(parts, 1).reshape(-1, steps) for layer, parts in found.items()}
