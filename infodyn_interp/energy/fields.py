"""Any fitted term on any text, from a result's `basis` alone: no corpus, no refit."""

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.gauge import Support, center_rows
from infodyn_interp.energy.terms import Basis, Prosody, columns_of, pair_columns, state_columns
from infodyn_interp.errors import RequestError

BLOCKS = {
    "prosody": ("rhythm", "state"),
    "rhythm": ("rhythm",),
    "state": ("state",),
    "track": ("track",),
    "nuisance": ("distance", "kernels", "bilinear"),
}


def compute_term(
    basis: xarray.Dataset,
    layer: int,
    head: int,
    term: str,
    attention_input: Float[Tensor, "window key direction"],
    tokens: Int[Tensor, "window key"],
    prosody: Prosody,
) -> Float[Tensor, "window query key"]:
    """The energy one fitted term gives every pair, row-centred, in nats; 0 off the support (seed 1.2).

    Args:
        basis: `result["basis"].to_dataset()`.
        layer, head: of the result.
        term: `prosody`, `rhythm`, `state`, `track` or `nuisance`; all but the first add up to the whole fit.
        attention_input: what that layer's attention module receives (`Layer.attention_input`), windows of the length
            that was fitted.
        tokens: the same windows' token ids.
        prosody: of the model's vocabulary, `Prosody(read_pieces(tokenizer))`.

    Raises:
        RequestError: a term, layer or head that is not there, or windows of another length.
    """
    if term not in BLOCKS:
        raise RequestError(f"term: {term!r} is not one of {', '.join(BLOCKS)}")
    for name, value in (("layer", layer), ("head", head)):
        if value not in basis[name].values:
            raise RequestError(f"{name}: {value} asked, the result holds {basis[name].values.tolist()}")
    window = int(basis.attrs["window"])
    if tokens.shape[1] != window:
        raise RequestError(f"window: {tokens.shape[1]} tokens given, the terms were fitted on {window}")
    at = basis.sel(layer=layer, head=head)
    reach = int(at["reach"])
    first_key, gap, first_query = (int(basis.attrs[name]) for name in ("first_key", "gap", "first_query"))
    support = Support(window, reach if reach < window else None, first_key, gap, first_query)
    mean, components, centres = (
        torch.from_numpy(np.ascontiguousarray(at[name].values)) for name in ("mean", "components", "centres")
    )
    frozen = Basis(mean, components, centres, float(at["rbf_width"]))
    columns = columns_of(window, int(basis.attrs["state_rank"]))
    beta = torch.from_numpy(at["coefficient"].values)
    states = frozen.states(attention_input.cpu().double())
    field = states.new_zeros(*tokens.shape, window)
    for block in BLOCKS[term]:
        places = columns.blocks[block]
        if block in ("rhythm", "state"):
            block_columns = prosody.columns(tokens) if block == "rhythm" else state_columns(states, frozen)
            field += (block_columns @ beta[places])[:, None, :]
        else:
            for place, one in enumerate(states):
                field[place] += torch.einsum(
                    "ctj,c->tj", pair_columns(one[None], support)[0, places], beta[places]
                )
    return center_rows(field, support)
