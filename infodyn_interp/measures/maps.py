"""What FFN and residual stream make of a state, layer by layer (seed 1.5, 1.6; science: FFN and residual maps)."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.hooks import Layer
from infodyn_interp.measures.fits import Affine, Fitted, Reading, fit_maps, key_energies
from infodyn_interp.measures.ratios import Quantity, Ratio, label_ratios
from infodyn_interp.measures.updates import QUANTITIES as OF_UPDATES
from infodyn_interp.measures.updates import WALKED, measure_updates
from infodyn_interp.models import Model
from infodyn_interp.texts import Texts

SUBSPACE = 8  # leading directions of what an FFN reads and of what it writes
TRANSFER_RIDGE = 1e-4
QUANTITIES = {
    "ffn_linear": Quantity(
        ("layer",), "1", "share of the FFN's update that a linear map of what it receives explains, held out"
    ),
    "ffn_angle": Quantity(
        ("layer",),
        "degrees",
        f"mean principal angle between the {SUBSPACE} leading directions it reads and writes",
    ),
    "ffn_size": Quantity(("layer",), "1", "norm of the FFN's update over the norm of the stream"),
    "update_size": Quantity(("layer",), "1", "norm of the block's update over the norm of the stream"),
    "cosine": Quantity(("layer",), "1", "cosine of the streams before and after the block"),
    "growth": Quantity(("layer",), "nats", "log of the stream's norm after the block over before"),
    "embedding": Quantity(
        ("layer",), "1", "share of the embedding that a linear map of the stream explains, held out"
    ),
    "transfer": Quantity(
        ("layer", "target"),
        "1",
        "share of the key energies of layer `target` that the prosody fields of `layer` explain, held out",
    ),
    **OF_UPDATES,
}


def read_maps(
    model: Model,
    texts: Texts,
    *,
    layers: Sequence[int] | None = None,
    walked: int = WALKED,
    fitted: Fitted | None = None,
) -> xarray.Dataset:
    """What each block's FFN and update do to the stream, on real states (seed 1.5, 1.6).

    Linear maps are fitted on other documents (`texts` of role `reference`) and judged on the measured ones. The first
    token of a window, where the stream is often a hundred times longer, is left out of all but the updates.

    Args:
        model: from `open_model`.
        texts: from `read_texts`.
        layers: all by default.
        walked: documents on whose first tokens the blocks are differentiated and inverted.
        fitted: from `fit_maps`; fitted here by default.

    Returns:
        By layer, with 95 % intervals over documents: `ffn_linear`, `ffn_angle` (degrees), `ffn_size`, `update_size`,
        `cosine`, `growth` (nats), `embedding`, `gradient` and `gradient_without_skip` (log 10), `lipschitz`,
        `inversion_error` (log 10), `inverted`; and `transfer` from layer to target layer.

    Raises:
        RequestError: a layer that is not there, or windows longer than the context.
        RunError: the model fails its check.
    """
    reading = Reading.of(model, texts, layers)
    found = measure_maps(reading, fitted or fit_maps(reading), walked)
    coords = {"layer": reading.layers, "target": reading.layers}
    return label_ratios(found, {}, {}, QUANTITIES, coords).squeeze("null")


def measure_maps(reading: Reading, fitted: Fitted, walked: int = WALKED) -> dict[str, Ratio]:
    """`QUANTITIES` by document."""
    documents, count = reading.texts.documents, len(reading.layers)
    alone = [
        name
        for name, quantity in QUANTITIES.items()
        if quantity.dims == ("layer",) and name not in OF_UPDATES
    ]
    out = {name: Ratio.empty(documents, count) for name in alone}
    transfer = Transfer(documents, count, reading.model.heads)
    entered: list[Tensor] = []
    now: list[Int[np.ndarray, " window"]] = []

    def visit(layer: Layer) -> None:
        before, after, reads, writes = (
            cast(Tensor, part)[:, 1:].float()
            for part in (layer.residual_in, layer.residual_out, layer.mlp_in, layer.mlp_out)
        )
        if layer.index == 0:
            entered[:] = [before.clone()]
        if layer.index not in reading.layers:
            return
        place, maps, (document,) = reading.layers.index(layer.index), fitted.maps[layer.index], now

        def mean(name: str, by_token: Float[Tensor, "window key"]) -> None:
            out[name].add(document, place, by_token.double().mean(1).cpu().numpy())

        def explained(name: str, affine: Affine, source: Tensor, target: Tensor) -> None:
            whole = (target - affine.centre.to(target)).double().square().sum((1, 2))
            left = (target - affine(source)).double().square().sum((1, 2))
            out[name].add(document, place, (whole - left).cpu().numpy(), whole.cpu().numpy())

        size = before.norm(dim=-1)
        explained("ffn_linear", maps.feed_forward, reads, writes)
        explained("embedding", maps.embedding, after, entered[0])
        out["ffn_angle"].add(document, place, principal_angle(reads, writes).double().cpu().numpy())
        mean("ffn_size", writes.norm(dim=-1) / size)
        mean("update_size", (after - before).norm(dim=-1) / size)
        mean("cosine", torch.cosine_similarity(before, after, dim=-1))
        mean("growth", (after.norm(dim=-1) / size).log())
        seen, energy = key_energies(layer, reading.supports[layer.index])
        transfer.keep(place, maps.keys(layer.attention_input[:, seen].to(energy)), energy)

    for batch in reading.measured():
        now[:] = [batch.document]
        reading.capture(batch, visit, "residual_in", "residual_out", "mlp_in", "mlp_out")
        transfer.add(batch.document)
    return out | {"transfer": transfer.solve()} | measure_updates(reading, walked)


def principal_angle(
    reads: Float[Tensor, "window key source"],
    writes: Float[Tensor, "window key target"],
    rank: int = SUBSPACE,
) -> Float[Tensor, " window"]:
    """Mean principal angle, in degrees, between the leading directions of two sets of rows around their means."""
    bases = []
    for rows in (reads, writes):
        rows = rows - rows.mean(1, keepdim=True)
        # directions from the rows' own products: there are fewer rows than directions in most models
        mix = torch.linalg.eigh((rows @ rows.mT).double()).eigenvectors
        kept = slice(-min(rank, rows.shape[-1]), None)
        bases.append(torch.linalg.qr(rows.mT.double() @ mix[..., kept]).Q)
    cosines = torch.linalg.svdvals(bases[0].mT @ bases[1]).clamp(max=1)
    return cosines.arccos().rad2deg().mean(-1)


class Transfer:
    """Does a prosody field of one layer foretell the energies of another (seed 1.6.1)?

    Fields are linear in what attention receives and were fitted on other documents; here the heads of a layer are told
    in the fields of another's heads, each document by what the others show. Mean and slope along the window are taken
    out of both: position is not prosody.

    Args:
        documents, layers, heads: of what is read.
    """

    def __init__(self, documents: int, layers: int, heads: int) -> None:
        self._shape = layers, heads
        self._gram = np.zeros((documents, layers, heads, heads))
        self._cross = np.zeros((documents, layers, heads, layers * heads))
        self._square = np.zeros((documents, layers * heads))
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(
        self, place: int, fields: Float[Tensor, "window key head"], energies: Float[Tensor, "window key head"]
    ) -> None:
        """One layer's fields and energies of a batch."""
        self._kept[place] = _level(fields), _level(energies)

    def add(self, document: Int[np.ndarray, " window"]) -> None:
        """The batch, once every layer is kept."""
        layers = self._shape[0]
        keys = min(energies.shape[1] for _, energies in self._kept.values())
        # a layer whose queries reach less far back shows more keys: the last ones are shared
        energies = torch.cat([self._kept[place][1][:, -keys:] for place in range(layers)], -1)
        for window, rank in enumerate(document):
            self._square[rank] += energies[window].square().sum(0).cpu().numpy()
            for place in range(layers):
                fields = self._kept[place][0][window, -keys:]
                self._gram[rank, place] += (fields.mT @ fields).cpu().numpy()
                self._cross[rank, place] += (fields.mT @ energies[window]).cpu().numpy()
        self._kept.clear()

    def solve(self) -> Ratio:
        """Share of each layer's energies that each layer's fields explain, by document."""
        layers, heads = self._shape
        out = Ratio.empty(len(self._gram), layers, layers)
        scale = np.eye(heads) * TRANSFER_RIDGE
        for document in range(len(self._gram)):
            gram = self._gram.sum(0) - self._gram[document]
            penalty = scale * np.maximum(np.einsum("lhh->l", gram) / heads, 1e-30)[:, None, None]
            beta = np.linalg.solve(gram + penalty, self._cross.sum(0) - self._cross[document])
            own = 2 * (beta * self._cross[document]).sum(1) - (beta * (self._gram[document] @ beta)).sum(1)
            out.above[document] = own.reshape(layers, layers, heads).sum(-1)
            out.below[document] = self._square[document].reshape(layers, heads).sum(-1)
        return out


def _level(values: Float[Tensor, "window key head"]) -> Float[Tensor, "window key head"]:
    """Values less their mean and slope along each window."""
    along = torch.linspace(-1, 1, values.shape[1], dtype=torch.float64, device=values.device)
    basis = torch.linalg.qr(torch.stack([torch.ones_like(along), along], -1)).Q
    values = values.double()
    return values - basis @ (basis.mT @ values)
