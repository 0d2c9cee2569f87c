"""Rhythm before the token (seed 1.2.1): does the frozen rhythm field at each candidate foretell the choice?"""

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.terms import Prosody
from infodyn_interp.errors import RequestError
from infodyn_interp.measures.choices import FIRST
from infodyn_interp.measures.fits import Fitted, Reading
from infodyn_interp.measures.multipliers import LEAST_DOCUMENTS, predict_choice
from infodyn_interp.measures.paths import PATHS, walk
from infodyn_interp.sweeping.keeping import Kept
from infodyn_interp.texts import read_pieces
from infodyn_interp.texts.windows import evenly_spaced

CONTEXTS = 32  # of a window, whose realised token is a candidate
LEAST_CONTEXTS = 4  # of a document that counts
UNITS = {
    "rhythm_gain": ("nats", "held-out log-likelihood of a choice that the rhythm field adds to the unigram"),
    "rhythm_coefficient": ("1/nats", "of the field: below 0 where what is chosen has low energy"),
    "rhythm_barrier": ("1", "share of realised tokens with an energy beyond the candidates' 99 %"),
    "rhythm_barrier_candidates": ("1", "the same share of all candidates"),
}
ENDS = ("", "_low", "_high")
LIFTED = (
    *(f"rhythm_{name}{end}" for name in ("gain", "coefficient", "barrier") for end in ENDS),
    "rhythm_barrier_candidates",
)


def foretell_choices(reading: Reading, fitted: Fitted, kept: Kept) -> xarray.Dataset | None:
    """What the rhythm field says of choices among the model's likeliest tokens, by layer; None with too few of them.

    Contexts are places whose realised token is among the candidates; the field is the mean over heads of the frozen
    rhythm term were a candidate to stand there, known before any of them is read.

    Args:
        reading, fitted: of the model.
        kept: its frozen terms.
    """
    prosody = Prosody(read_pieces(reading.texts.tokenizer))
    found, windows = [], []
    tokens = [batch.tokens.cpu() for batch in reading.first_windows(PATHS, reading.micro_batch)]
    for window, top in zip(torch.cat(tokens), walk(reading, fitted).likeliest, strict=True):
        found.append(_contexts(window, torch.from_numpy(top[FIRST - 1 : -1])))
        windows.append(window)
    windows = [window for window, one in zip(windows, found, strict=True) if len(one[0]) >= LEAST_CONTEXTS]
    found = [one for one in found if len(one[0]) >= LEAST_CONTEXTS]
    if len(found) < LEAST_DOCUMENTS:
        return None
    size = min(CONTEXTS, *(len(one[0]) for one in found))
    picked = [[part[evenly_spaced(len(part), size)] for part in one] for one in found]
    chosen = np.stack([one[0] for one in picked])
    columns = np.stack(
        [rhythm_before(prosody, window, *one[1:]) for window, one in zip(windows, picked, strict=True)]
    )
    unigram = fitted.unigram.double().numpy()[np.stack([one[2] for one in picked])]
    made = {}
    for layer in kept.layers:
        coefficient = kept.terms[layer].coefficient[:, kept.columns.blocks["rhythm"]].mean(0)
        try:
            made[layer] = predict_choice(chosen, columns @ coefficient, unigram)
        except RequestError:  # a field that is the same for all candidates
            continue
    if not made:
        return None
    every = xarray.concat(list(made.values()), "layer", combine_attrs="override").assign_coords(
        layer=list(made)
    )
    return every.rename({str(name): f"rhythm_{name}" for name in every.data_vars})


def rhythm_before(
    prosody: Prosody,
    window: Int[Tensor, " key"],
    place: Int[np.ndarray, " context"],
    candidates: Int[np.ndarray, "context candidate"],
) -> Float[np.ndarray, "context candidate column"]:
    """The rhythm columns that each candidate would have at its place after the tokens before it.

    Args:
        prosody: of the vocabulary.
        window: the text.
        place: of each context's next token.
        candidates: that might stand there.
    """
    tokens = window.repeat(candidates.size, 1)
    row, at = np.arange(candidates.size), np.repeat(place, candidates.shape[1])
    tokens[row, at] = torch.from_numpy(candidates.ravel()).to(tokens)
    columns = prosody.columns(tokens)[row, at].numpy()
    return columns.reshape(*candidates.shape, -1)


def _contexts(
    window: Int[Tensor, " key"], top: Int[Tensor, "context candidate"]
) -> tuple[Int[np.ndarray, " hit"], Int[np.ndarray, " hit"], Int[np.ndarray, "hit candidate"]]:
    """Where the realised token is among the candidates: which it is, its place, and all of them."""
    hit = top == window[FIRST + 1 :, None]
    rows = hit.any(1).nonzero()[:, 0]
    return hit[rows].long().argmax(1).numpy(), (FIRST + 1 + rows).numpy(), top[rows].numpy()
