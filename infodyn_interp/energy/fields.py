"""Any fitted term on any text, from a result's `basis` alone: no corpus, no refit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.gauge import Support, center_rows
from infodyn_interp.energy.terms import Basis, Columns, Prosody, columns_of, pair_fields, state_columns
from infodyn_interp.errors import RequestError

BLOCKS = {
    "prosody": ("rhythm", "state"),
    "rhythm": ("rhythm",),
    "state": ("state",),
    "track": ("track",),
    "nuisance": ("distance", "kernels", "bilinear"),
}


@dataclass(frozen=True)
class Field:
    """One fitted term of one layer, ready for any text: columns are made once for all its heads.

    Args:
        blocks: the columns of the term.
        support: the pairs that count in this layer.
        basis: coordinates of the layer.
        columns: names and places of all columns.
        beta: coefficients of the chosen heads, nats per unit of column: without each fold of documents in turn, and
            last those of all documents.
        prosody: of the model's vocabulary; None where the term has no rhythm.
    """

    blocks: tuple[str, ...]
    support: Support
    basis: Basis
    columns: Columns
    beta: Float[Tensor, "fit head column"]
    prosody: Prosody | None

    @classmethod
    def of(
        cls, basis: xarray.Dataset, layer: int, heads: Sequence[int], term: str, prosody: Prosody | None
    ) -> "Field":
        """Read a term from a result's `basis`.

        Raises:
            RequestError: a term, layer or head that is not there.
        """
        if term not in BLOCKS:
            raise RequestError(f"term: {term!r} is not one of {', '.join(BLOCKS)}")
        for name, value in (("layer", layer), *(("head", head) for head in heads)):
            if value not in basis[name].values:
                raise RequestError(f"{name}: {value} asked, the result holds {basis[name].values.tolist()}")
        at = basis.sel(layer=layer, head=list(heads))
        window, reach = int(basis.attrs["window"]), int(at["reach"])
        first_key, gap, first_query = (int(basis.attrs[name]) for name in ("first_key", "gap", "first_query"))
        mean, components, centres, whole = (
            torch.from_numpy(np.ascontiguousarray(at[name].values))
            for name in ("mean", "components", "centres", "coefficient")
        )
        beta = whole[None]
        if "coefficient_without" in at:
            beta = torch.cat([torch.from_numpy(at["coefficient_without"].values).to(whole), beta])
        return cls(
            BLOCKS[term],
            Support(window, reach if reach < window else None, first_key, gap, first_query),
            Basis(mean, components, centres, float(at["rbf_width"])),
            columns_of(window, int(basis.attrs["state_rank"])),
            beta,
            prosody,
        )

    def states(
        self, attention_input: Float[Tensor, "window key direction"]
    ) -> Float[Tensor, "window key component"]:
        """The layer's whitened components, all that a term knows of a state (float32 at least, on the CPU)."""
        return self.basis.states(attention_input.cpu())

    def energy(
        self,
        states: Float[Tensor, "window key component"],
        tokens: Int[Tensor, "window key"],
        fold: Int[np.ndarray, " window"] | None = None,
    ) -> Float[Tensor, "window head query key"]:
        """The term's energy at every pair, row-centred, in nats; 0 off the support (seed 1.2).

        Args:
            states: from `states`.
            tokens: the same windows' token ids.
            fold: of each window, whose coefficients then never saw that fold; those of all documents serve windows of
                a fold that was not fitted, and all windows where it is left out.

        Raises:
            RequestError: windows of another length than those fitted.
        """
        window = self.support.window
        if tokens.shape[1] != window:
            raise RequestError(f"window: {tokens.shape[1]} tokens given, the terms were fitted on {window}")
        whole = len(self.beta) - 1
        of = (
            np.full(len(states), whole)
            if fold is None
            else np.where((fold >= 0) & (fold < whole), fold, whole)
        )
        beta = self.beta[of]
        pairs = torch.zeros_like(beta)[..., : self.columns.within]
        keys = states.new_zeros(len(states), beta.shape[1], window)
        for block in self.blocks:
            places = self.columns.blocks[block]
            if block in ("rhythm", "state"):
                columns = self._key_columns(block, states, tokens).to(states)
                keys += (columns @ beta[..., places].mT.to(states)).mT
            else:
                pairs[..., places] = beta[..., places]
        field = center_rows(keys[:, :, None].expand(-1, -1, window, -1), self.support)
        if not pairs.any():
            return field
        return field + pair_fields(states, pairs, self.columns, self.support)

    def _key_columns(self, block: str, states: Tensor, tokens: Tensor) -> Float[Tensor, "window key column"]:
        if block == "state":
            return state_columns(states, self.basis)
        if self.prosody is None:
            raise RequestError("term: rhythm is made from the text of tokens; give prosody")
        return self.prosody.columns(tokens)


def compute_term(
    basis: xarray.Dataset,
    layer: int,
    head: int,
    term: str,
    attention_input: Float[Tensor, "window key direction"],
    tokens: Int[Tensor, "window key"],
    prosody: Prosody,
    fold: Int[np.ndarray, " window"] | None = None,
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
        fold: of each window that was fitted (`texts.Batch.fold`), to take its term by coefficients that never saw that
            fold; by those of all documents where it is left out.

    Raises:
        RequestError: a term, layer or head that is not there, or windows of another length.
    """
    field = Field.of(basis, layer, [head], term, prosody)
    return field.energy(field.states(attention_input.double()), tokens, fold)[:, 0]
