"""What each of a model's own next tokens does to the three functionals, and what the model gives for it (seed 1.3.1).

At a few fixed positions of a window the likeliest next tokens are appended one by one, the model reads each, and the
functionals are taken of the step that this token makes: laws of motion come from other documents' paths.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import follow, read_out
from infodyn_interp.measures.action import fit_drift
from infodyn_interp.measures.fidelity import divergence
from infodyn_interp.measures.fits import AT_ONCE, Fitted, Reading
from infodyn_interp.measures.multipliers import LEAST_DOCUMENTS, fit_multipliers
from infodyn_interp.measures.paths import walk
from infodyn_interp.measures.stability import Dynamics, quadratic_form
from infodyn_interp.texts.windows import evenly_spaced

CONTEXTS = 4  # fixed positions of a window
FIRST = 8  # tokens before the first of them
FUNCTIONALS = ("helpful", "harmless", "honest")
UNITS = {
    "multiplier": (
        "nats/unit",
        "log-probability that a unit of the functional is worth, the others held fixed",
    ),
    "standardised": ("nats", "the same for a deviation within contexts"),
    "alone": ("nats/unit", "the same without the other functionals"),
    "multiplier_r2": ("1", "share of log-probability within contexts that the functionals tell"),
    "correlation": ("1", "of functionals within contexts"),
    "inflation": ("1", "of a multiplier's variance by the other functionals: 1 where they are not collinear"),
}
LIFTED = ("multiplier", "multiplier_low", "multiplier_high", "standardised", "inflation", "multiplier_r2")


@dataclass(frozen=True)
class Choices:
    """Functionals after each choice, at every layer that was read.

    `helpful` is the Onsager-Machlup action of the step into the new state, nats; `harmless` the change of the quadratic
    form in that step; `honest` the divergence from the output there to what the affine lens reads at the layer, nats.

    Args:
        log_probability: of each choice, nats.
        functionals: by layer, in the order of `FUNCTIONALS`.
    """

    log_probability: Float[np.ndarray, "document context candidate"]
    functionals: Float[np.ndarray, "layer document context candidate functional"]


def weigh_choices(reading: Reading, fitted: Fitted, walked: int) -> xarray.Dataset | None:
    """Multipliers by layer; NaN in the last one and where a functional does not vary, None with under four documents.

    Args:
        reading, fitted: of the model.
        walked: documents whose first windows are continued.
    """
    if min(walked, reading.texts.documents) < LEAST_DOCUMENTS:
        return None
    choices = try_choices(reading, fitted, walked)
    found: list[xarray.Dataset | None] = []
    for layer, functionals in zip(reading.layers, choices.functionals, strict=True):
        if layer == reading.model.layers - 1:  # its lens is the output: nothing is left of the divergence
            found.append(None)
            continue
        try:
            found.append(fit_multipliers(choices.log_probability, functionals, FUNCTIONALS))
        except RequestError:
            found.append(None)
    like = next((one for one in found if one is not None), None)
    if like is None:
        return None
    nothing = xarray.full_like(like, np.nan)
    return xarray.concat([nothing if one is None else one for one in found], "layer").rename(
        r2="multiplier_r2"
    )


def try_choices(reading: Reading, fitted: Fitted, walked: int) -> Choices:
    """Append each candidate and read what it does; arguments as of `weigh_choices`."""
    window, read, walks = reading.texts.window, read_out(reading.model), walk(reading, fitted)
    places = FIRST + evenly_spaced(window - 1 - FIRST, CONTEXTS)
    logs, values = [], []
    for document, batch in enumerate(reading.first_windows(min(walked, len(walks.likeliest)), 1)):
        before = places - 1  # a walk begins at the second token
        likeliest = torch.from_numpy(walks.likeliest[document, before])
        logs.append(walks.log_probability[document, before])
        laws = [
            (fit_drift(others), Dynamics.fit(others))
            for others in (np.delete(one, document, 0) for one in walks.paths)
        ]
        steps, apart = _read_steps(reading, fitted, batch.tokens[0], places, likeliest, read)
        rows = np.empty((*apart.shape, len(FUNCTIONALS)))
        for at, ((drift, dynamics), step) in enumerate(zip(laws, steps, strict=True)):
            each = step.reshape(-1, *step.shape[-2:])
            rows[at, ..., 0] = drift.action(each).reshape(apart.shape[1:])
            rows[at, ..., 1] = np.diff(quadratic_form(each, dynamics)).reshape(apart.shape[1:])
        rows[..., 2] = apart
        values.append(rows)
    return Choices(np.stack(logs), np.stack(values, 1))


def _read_steps(
    reading: Reading,
    fitted: Fitted,
    window: Int[Tensor, " key"],
    places: Int[np.ndarray, " context"],
    tokens: Int[Tensor, "context candidate"],
    read: Callable[[Tensor], Tensor],
) -> tuple[
    Float[np.ndarray, "layer context candidate two component"],
    Float[np.ndarray, "layer context candidate"],
]:
    """States at each place and at each token after it, and the divergence of the output there from a layer's lens."""
    streams = follow(reading.model, window, places.tolist(), tokens)
    apart = []
    with torch.inference_mode():
        says = read(streams[-1, ..., 1, :]).double().log_softmax(-1)
        probability, at_once = says.exp(), max(1, AT_ONCE // tokens.numel())
        for first in range(0, len(reading.layers), at_once):
            layers = reading.layers[first : first + at_once]
            through = torch.cat([fitted.maps[layer].lens(streams[layer][..., 1, :]) for layer in layers])
            for heard in read(through).chunk(len(layers)):
                kl = divergence(probability, says, heard.double().log_softmax(-1))
                apart.append(kl.cpu().numpy())
        steps = [fitted.maps[layer].state(streams[layer]).numpy() for layer in reading.layers]
    return np.stack(steps), np.stack(apart)
