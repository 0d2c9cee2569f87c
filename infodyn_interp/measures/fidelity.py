"""Honest: how far is each layer from saying what the model says in the end (seed 1.3; science: functionals)?"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import xarray
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.hooks import Layer, read_out
from infodyn_interp.measures.action import settle_depth
from infodyn_interp.measures.fits import Fitted, Reading, fit_maps
from infodyn_interp.measures.ratios import Quantity, Ratio, label_ratios
from infodyn_interp.models import Model
from infodyn_interp.texts import Texts

LENSES = ("logit", "affine")
QUANTITIES = {
    "kl": Quantity(("layer", "lens"), "nats", "KL from the output to what a lens reads at the layer"),
    "kl_back": Quantity(("layer", "lens"), "nats", "KL from what a lens reads at the layer to the output"),
    "kl_unigram": Quantity((), "nats", "KL from the output to the model's mean output over other documents"),
    "settle_depth": Quantity(
        ("lens",), "layers", "layers before the first from which a lens keeps the output's likeliest token"
    ),
}


def honest(
    model: Model, texts: Texts, *, layers: Sequence[int] | None = None, fitted: Fitted | None = None
) -> xarray.Dataset:
    """KL from the output to what each layer's stream already says, by two lenses, beside the unigram (seed 1.3).

    The logit lens reads a stream by the model's own last norm and unembedding; the affine lens first maps it to the
    last stream, by a ridge fit on other documents (`texts` of role `reference`). Sixteen fixed positions of each window
    are read, one layer at a time: the vocabulary makes this the dearest measure.

    Args:
        model: from `open_model`.
        texts: from `read_texts`.
        layers: all by default.
        fitted: from `fit_maps`; fitted here by default.

    Returns:
        `kl` by layer and lens, `kl_back` the other way round, `kl_unigram` (nats), and `settle_depth` by lens (layers),
        with 95 % intervals over documents.

    Raises:
        RequestError: a layer that is not there, or windows longer than the context.
        RunError: the model fails its check.
    """
    reading = Reading.of(model, texts, layers)
    found = measure_fidelity(reading, fitted or fit_maps(reading))
    return label_ratios(found, {}, {}, QUANTITIES, {"layer": reading.layers, "lens": LENSES}).squeeze("null")


def measure_fidelity(reading: Reading, fitted: Fitted) -> dict[str, Ratio]:
    """`QUANTITIES` by document."""
    model, texts, layers = reading.model, reading.texts, reading.layers
    read, positions = read_out(model), reading.positions.to(model.device)
    unigram = fitted.unigram.to(model.device)
    out = {
        "kl": Ratio.empty(texts.documents, len(layers), len(LENSES)),
        "kl_back": Ratio.empty(texts.documents, len(layers), len(LENSES)),
        "kl_unigram": Ratio.empty(texts.documents),
        "settle_depth": Ratio.empty(texts.documents, len(LENSES)),
    }
    streams: dict[int, Tensor] = {}

    def visit(layer: Layer) -> None:
        streams[layer.index] = cast(Tensor, layer.residual_out)[:, positions].clone()

    for batch in reading.measured():
        reading.capture(batch, visit, "residual_out")
        with torch.inference_mode():
            says = read(streams[model.layers - 1]).double().log_softmax(-1)
            probability, first = says.exp(), says.argmax(-1)
            top = np.zeros((len(LENSES), *first.shape, len(layers)), np.int64)
            # one layer at a time: no array of positions by layers by vocabulary is ever held
            for place, layer in enumerate(layers):
                own = streams[layer]
                both = read(torch.cat([own, fitted.maps[layer].lens(own)])).chunk(len(LENSES))
                for lens, logits in enumerate(both):
                    heard = logits.double().log_softmax(-1)
                    for name, kl in (
                        ("kl", divergence(probability, says, heard)),
                        ("kl_back", divergence(heard.exp(), heard, says)),
                    ):
                        out[name].add(
                            batch.document, (place, lens), kl.sum(-1).cpu().numpy(), float(len(positions))
                        )
                    top[lens, ..., place] = heard.argmax(-1).cpu().numpy()
            apart = divergence(probability, says, unigram)
        out["kl_unigram"].add(batch.document, (), apart.sum(-1).cpu().numpy(), float(len(positions)))
        for lens in range(len(LENSES)):
            depth = settle_depth(top[lens], first.cpu().numpy()).sum(-1)
            out["settle_depth"].add(batch.document, lens, depth.astype(float), float(len(positions)))
        streams.clear()
    return out


def divergence(
    probability: Float[Tensor, "*batch vocabulary"],
    says: Float[Tensor, "*batch vocabulary"],
    heard: Float[Tensor, "*#batch vocabulary"],
) -> Float[Tensor, "*batch"]:
    """KL from a distribution (given with its log) to another (its log), nats."""
    return torch.linalg.vecdot(probability, says - heard)
