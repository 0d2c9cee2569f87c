"""What an opened model is: the bridge, and the few facts about it that everything else reads."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Model:
    """A causal decoder ready to be read: eval mode, finite weights, attention shown by every layer.

    Args:
        bridge: the model with hook points.
        tokenizer: the model's own, None where a module came without one.
        name: as the user would say it: hub name, folder, file, class, or `demo`.
        digest: 16 hex digits over the weights (names, dtypes, shapes, bytes), however they were opened.
        layers, heads: attention layers, query heads of each.
        head_width, width: of one head and of the residual stream.
        context: most tokens the positions reach, None where nothing bounds them (ALiBi).
        learned_positions: whether position vectors are added to the states (gpt2, opt).
        revision: commit of a hub model, version of the demo package.
        dtype, device: of the weights.
        twin: `trained`, `untrained` or `permuted_weights`.
        origin: arguments of `open_model` that open it again; None for what was given as an object.
    """

    bridge: TransformerBridge = field(repr=False)
    tokenizer: PreTrainedTokenizerBase | None = field(repr=False)
    name: str
    digest: str
    layers: int
    heads: int
    head_width: int
    width: int
    context: int | None
    learned_positions: bool
    revision: str | None
    dtype: torch.dtype
    device: torch.device
    twin: str = "trained"
    origin: Mapping[str, Any] | None = None


def hash_weights(module: nn.Module) -> str:
    """First 16 hex digits of SHA-256 over the state in name order: name, dtype, shape and bytes of each."""
    account = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        account.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        account.update(memoryview(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy()))
    return account.hexdigest()[:16]
