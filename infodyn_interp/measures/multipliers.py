"""Multipliers (seed 1.3.1): what the model's choice of a next token gives for each functional after it.

Within a context all candidates share the past, so only what differs between them counts: log-probabilities and
functionals are centred within contexts. A multiplier is what the log-probability changes by a unit of its functional.
"""

from collections.abc import Sequence

import numpy as np
import xarray
from jaxtyping import Float, Int

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.errors import RequestError

BARRIER = 0.99  # of the field's energy over candidates: above it the seed sees a barrier (seed 1.2.1)
NEWTON = 25  # steps of a choice's fit at most
FOLDS = 8
LEAST_DOCUMENTS = 4
ALIAS = 1e-10  # of a functional's square within contexts: nothing that the others do not say


def fit_multipliers(
    log_probability: Float[np.ndarray, "document context candidate"],
    functionals: Float[np.ndarray, "document context candidate functional"],
    names: Sequence[str] = ("helpful", "harmless", "honest"),
) -> xarray.Dataset:
    """lambda of each functional by regression within contexts (science: multipliers).

    Args:
        log_probability: of the model's top next tokens, nats.
        functionals: evaluated after each choice; any unit.
        names: of the functionals.

    Returns:
        `multiplier` with its 95 % interval by document (nats a unit), `standardised` (nats a deviation in contexts),
        `alone` (without the other functionals), `r2` within contexts, and the collinearity: `correlation` within
        contexts and `inflation` of each multiplier's variance.

    Raises:
        RequestError: fewer than four documents, one candidate, values that are not finite, or a functional that does
            not vary within contexts or says what the others say.
    """
    documents, _, candidates, count = functionals.shape
    if functionals.shape[:3] != log_probability.shape or count != len(names):
        raise RequestError(
            f"multipliers: functionals {functionals.shape} do not fit log-probabilities {log_probability.shape} and "
            f"{len(names)} names"
        )
    _refuse(documents, candidates, log_probability, functionals)
    columns = np.concatenate([functionals, log_probability[..., None]], -1)
    columns = (columns - columns.mean(2, keepdims=True)).reshape(documents, -1, count + 1)
    grams = columns.swapaxes(1, 2) @ columns
    total = grams.sum(0)
    scale = np.sqrt(total.diagonal())
    whole = np.maximum((functionals**2).sum((0, 1, 2)), 1e-300)
    for name, own, square in zip(names, scale[:-1], whole, strict=True):
        if own**2 <= ALIAS * square:
            raise RequestError(f"multipliers: {name} does not vary within contexts: leave it out")
    correlation = (total / np.outer(scale, np.where(scale > 0, scale, 1)))[:-1, :-1]
    if np.linalg.eigvalsh(correlation)[0] < 1e-8:
        raise RequestError("multipliers: a functional says what the others say: leave one out")
    found = Estimate.of_jackknife(_slopes(total), _slopes(total - grams))
    deviation = scale[:-1] / np.sqrt(columns[..., 0].size)
    return xarray.Dataset(
        {
            "multiplier": ("functional", found.value),
            "multiplier_low": ("functional", found.low),
            "multiplier_high": ("functional", found.high),
            "standardised": ("functional", found.value * deviation),
            "alone": ("functional", total[:-1, -1] / total.diagonal()[:-1]),
            "inflation": ("functional", np.linalg.inv(correlation).diagonal()),
            "correlation": (("functional", "other"), correlation),
            "r2": ((), float(found.value @ total[:-1, -1] / total[-1, -1]) if total[-1, -1] > 0 else np.nan),
        },
        {"functional": list(names), "other": list(names)},
        {"documents": documents, "candidates": candidates},
    )


def _slopes(gram: Float[np.ndarray, "*batch column column"]) -> Float[np.ndarray, "*batch functional"]:
    return np.linalg.solve(gram[..., :-1, :-1], gram[..., :-1, -1:])[..., 0]


def predict_choice(
    chosen: Int[np.ndarray, "document context"],
    field: Float[np.ndarray, "document context candidate"],
    unigram: Float[np.ndarray, "document context candidate"],
) -> xarray.Dataset:
    """Does the rhythm field at each candidate, known before the token, foretell the choice (seed 1.2.1)?

    Conditional logit of the choice on the unigram's log-probability, then on the frozen field too, fitted on other
    documents.

    Args:
        chosen: place of the realised token among the candidates.
        field: energy of the frozen rhythm field where each candidate to stand there, nats.
        unigram: log-probability of each candidate whatever the context.

    Returns:
        `gain`: held-out log-likelihood a choice that the field adds to the unigram (nats), with interval by document;
        `coefficient` of the field with interval (below 0: chosen where its energy is low); `barrier` and
        `barrier_candidates`: shares of realised tokens and of all candidates whose energy passes the candidates' 99 %.

    Raises:
        RequestError: fewer than four documents, one candidate, values that are not finite, a constant field, or a
            choice that is no candidate.
    """
    documents, _, candidates = field.shape
    _refuse(documents, candidates, field, unigram)
    if not ((chosen >= 0) & (chosen < candidates)).all():
        raise RequestError(f"multipliers: a choice is none of the {candidates} candidates")
    columns = np.stack([unigram, field], -1)
    columns = columns - columns.mean(2, keepdims=True)
    spread = np.sqrt((columns**2).mean((0, 1, 2)))
    if not (spread > 0).all():
        raise RequestError("multipliers: field or unigram is the same for all candidates")
    columns = columns / spread
    fold = np.arange(documents) % min(FOLDS, documents)
    gain = np.empty(documents)
    for one in range(fold.max() + 1):
        mine = fold == one
        fits = [_logit(columns[~mine][..., :used], chosen[~mine]) for used in (1, 2)]
        without, whole = (_log_likelihood(columns[mine][..., : len(fit)], chosen[mine], fit) for fit in fits)
        gain[mine] = whole - without
    slopes = np.array(
        [_logit(np.delete(columns, one, 0), np.delete(chosen, one, 0))[1:] for one in range(documents)]
    )
    slope = Estimate.of_jackknife(_logit(columns, chosen)[1:] / spread[1], slopes / spread[1])
    gained = Estimate.of_folds(gain[:, None])
    limit = np.quantile(field, BARRIER)
    realised = np.take_along_axis(field, chosen[..., None], 2)[..., 0]
    above = Estimate.of_folds((realised > limit).mean(1, keepdims=True))
    values = {"gain": gained, "coefficient": slope, "barrier": above}
    return xarray.Dataset(
        {
            f"{name}{end}": ((), getattr(found, part)[0])
            for name, found in values.items()
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        | {"barrier_candidates": ((), float((field > limit).mean()))},
        attrs={"documents": documents, "candidates": candidates},
    )


def _refuse(documents: int, candidates: int, *values: np.ndarray) -> None:
    if documents < LEAST_DOCUMENTS or candidates < 2:
        raise RequestError(
            f"multipliers: {documents} documents with {candidates} candidates each context; give "
            f"{LEAST_DOCUMENTS} documents and 2 candidates at least"
        )
    if not all(np.isfinite(one).all() for one in values):
        raise RequestError("multipliers: values are not finite: drop their contexts")


def _logit(
    columns: Float[np.ndarray, "document context candidate column"],
    chosen: Int[np.ndarray, "document context"],
) -> Float[np.ndarray, " column"]:
    """Maximum likelihood of a conditional logit by Newton's steps, with a prior worth a thousandth of a choice."""
    columns = columns.reshape(-1, *columns.shape[2:])
    taken = columns[np.arange(len(columns)), chosen.ravel()].sum(0)
    prior = 1e-3 * np.eye(columns.shape[2])
    fit = np.zeros(columns.shape[2])
    for _ in range(NEWTON):
        score = columns @ fit
        weight = np.exp(score - score.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        mean = np.einsum("nc,nck->nk", weight, columns)
        curvature = np.einsum("nc,nck,ncl->kl", weight, columns, columns) - mean.T @ mean + prior
        step = np.linalg.solve(curvature, taken - mean.sum(0) - prior @ fit)
        fit = fit + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return fit


def _log_likelihood(
    columns: Float[np.ndarray, "document context candidate column"],
    chosen: Int[np.ndarray, "document context"],
    fit: Float[np.ndarray, " column"],
) -> Float[np.ndarray, " document"]:
    """Mean over each document's choices, nats."""
    score = columns @ fit
    top = score.max(2, keepdims=True)
    total = np.log(np.exp(score - top).sum(2)) + top[..., 0]
    return np.asarray((np.take_along_axis(score, chosen[..., None], 2)[..., 0] - total).mean(1))
