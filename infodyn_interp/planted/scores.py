"""A real model whose scores get a planted term, or lose their own: truth to look for where nothing else is simple."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.fields import Field
from infodyn_interp.energy.terms import Prosody
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Checked, Energy, Layer, bent_scores, capture
from infodyn_interp.models import Model
from infodyn_interp.planted.worlds import center, rhythm_block, track_map
from infodyn_interp.texts import Texts, read_pieces

TERMS = ("rhythm", "state", "track")
Maps = Callable[[Float[np.ndarray, "window key component"], Int[np.ndarray, "window key flag"]], np.ndarray]


@contextmanager
def planted_term(
    model: Model,
    texts: Texts,
    result: xarray.DataTree,
    *,
    layer: int,
    term: str,
    share: float,
    seed: int = 0,
    width: float = 0.4,
    tau: float = 2.0,
    checked: Checked | None = None,
) -> Iterator[Energy]:
    """While open, every head of a layer has a term of known share in place of the one it was fitted with.

    Each head's own fitted term is taken out of its live scores, and one term, the same field for all heads, is put in
    at its share of the head's row-centred energy variance (science: planted worlds). A share of 0 takes out alone.

    Args:
        model: that the result was made of.
        texts: the windows over which the share is meant; read once before, for the field's variance.
        result: with the layer's basis and coefficients.
        layer: of the result.
        term: `rhythm` and `state` with standard normal coefficients on columns of unit variance (the state's are z), or
            `track`, a well.
        share: of row-centred energy variance, 0 or more.
        seed: of the coefficients.
        width, tau: of the track; the tokens tau.
        checked: the parity preflight of the model as it was.

    Yields:
        The energy planted, as `bent_scores` takes it; bent by its negative as well, the model is itself again.

    Raises:
        RequestError: no such term or layer, or a share below 0.
    """
    if term not in TERMS:
        raise RequestError(f"term: {term!r} is not one of {', '.join(TERMS)}")
    if not share >= 0:
        raise RequestError(f"share: {share} asked, it is 0 or more")
    basis = result["basis"].to_dataset()
    if layer not in basis["layer"].values:
        raise RequestError(f"layer: {layer} asked, the result holds {basis['layer'].values.tolist()}")
    prosody = Prosody(read_pieces(texts.tokenizer))
    heads = basis["head"].values.tolist()
    own = _own(basis, layer, heads, term, prosody)
    generator = np.random.default_rng(seed)
    seen = list(_read(model, texts, layer, own, prosody, checked))
    make = _maps(term, seen, generator, width, tau)
    square = sum(float((center(make(*one)) ** 2).sum()) for one in seen)
    pairs = sum(len(one[0]) for one in seen) * own.support.pairs
    rms = result["energy"]["rms"].sel(layer=layer).values
    factor = torch.from_numpy(rms * np.sqrt(share * pairs / square))

    def energy(_layer: int, attention_input: Tensor, tokens: Tensor) -> Tensor:
        states = own.states(attention_input)
        field = center(make(states.double().cpu().numpy(), prosody.flags(tokens.cpu()).numpy()))
        planted = factor[:, None, None] * torch.from_numpy(field)[:, None]
        return planted.to(attention_input.device) - own.energy(states, tokens)

    with bent_scores(model, [layer], energy):
        yield energy


def _own(basis: xarray.Dataset, layer: int, heads: list[int], term: str, prosody: Prosody) -> Field:
    """The fitted term as its verdict sees it: a track with its within-key coefficient."""
    own = Field.of(basis, layer, heads, term, prosody)
    if term != "track":
        return own
    tracks = own.columns.blocks["track"]
    beta = own.beta[-1:].clone()  # of all documents
    coefficient = torch.from_numpy(basis["track_coefficient"].sel(layer=layer, head=heads).values)
    beta[..., tracks] = torch.where(beta[..., tracks] != 0, coefficient[:, None].to(beta), 0.0)
    return replace(own, beta=beta)


def _read(
    model: Model, texts: Texts, layer: int, own: Field, prosody: Prosody, checked: Checked | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """States and rhythm flags of every window."""
    for batch in texts.batches(4):
        states: list[np.ndarray] = []

        def keep(view: Layer, into: list[np.ndarray] = states) -> None:
            into.append(own.states(view.attention_input).double().cpu().numpy())

        capture(model, batch, keep, layers=[layer], checked=checked, logits_to_keep=None)
        yield states[0], prosody.flags(batch.tokens).numpy()


def _maps(
    term: str,
    seen: list[tuple[np.ndarray, np.ndarray]],
    generator: np.random.Generator,
    width: float,
    tau: float,
) -> Maps:
    """The field of a batch of windows, uncentred."""
    if term == "track":
        return lambda states, flags: -track_map(states, width, tau)
    columns = [states if term == "state" else rhythm_block(flags) for states, flags in seen]
    spread = np.concatenate(columns).std((0, 1))
    weights = generator.standard_normal(len(spread)) / np.where(spread > 0, spread, np.inf)

    def key_only(states: np.ndarray, flags: np.ndarray) -> np.ndarray:
        values = (states if term == "state" else rhythm_block(flags)) @ weights
        return np.broadcast_to(values[:, None], (*values.shape, values.shape[1]))

    return key_only
