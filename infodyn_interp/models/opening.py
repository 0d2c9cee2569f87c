"""Open a model: find it, read it, put it into a bridge, and see that it can be used."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infodyn_interp.errors import RequestError
from infodyn_interp.models.bridging import adopt, build_bridge, unbridged
from infodyn_interp.models.description import Model, hash_weights
from infodyn_interp.models.reading import read_weights
from infodyn_interp.models.refusals import count_heads, refuse_kind, refuse_weights
from infodyn_interp.models.sources import find_weights, refuse_revision

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def open_model(
    source: object,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Model:
    """Open a causal language model.

    Args:
        source: `demo` (SmolLM2-135M-Instruct from its package), a folder, a `.gguf` file, a Hugging Face
            module, a `TransformerBridge`, or a name on the Hugging Face hub. A module is left as it is: the
            opened model shares its weights, not its structure. A bridge is used itself and put in eval mode.
        revision: branch, tag or commit of a hub name.
        dtype: float32, float64, bfloat16 or float16. By default float32, or what a module or a bridge has.
        device: by default CUDA where there is one, else the CPU, or where a module or a bridge is.
        trust_remote_code: run Python code that comes with the weights; without it, what needs it is refused.
        tokenizer: in place of the one that comes with the weights; a module comes with none.

    Raises:
        RequestError: the model cannot be found or read, is of a kind without causal attention in every layer,
            hides its attention scores, or has weights that are not finite.
    """
    chosen_dtype = None if dtype is None else parse_dtype(dtype)
    chosen_device = None if device is None else _parse_device(device)
    if isinstance(source, TransformerBridge):
        name = _name_bridge(source)
        refuse_revision(name, revision)
        return _open_bridge(source, name, chosen_dtype, chosen_device, tokenizer)
    if isinstance(source, PreTrainedModel):
        name = getattr(source.config, "name_or_path", "") or type(source).__name__
        refuse_revision(name, revision)
        return _open_module(source, name, chosen_dtype, chosen_device, tokenizer)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise RequestError(
            f"model: give a name, a path, a Hugging Face module or a TransformerBridge, not {kind}"
        )
    weights = find_weights(source, revision)
    module, own = read_weights(weights, chosen_dtype or torch.float32, trust_remote_code, tokenizer)
    nn.Module.to(module, chosen_device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    opened = describe(build_bridge(module, weights.name, own), own, weights.name, weights.revision)
    origin = {
        "source": str(Path(source).absolute()) if os.path.exists(source) else source,
        "revision": revision,
        "dtype": opened.dtype,
        "device": str(opened.device),
        "trust_remote_code": trust_remote_code,
        "tokenizer": tokenizer,
    }
    return replace(opened, origin=origin)


def describe(
    bridge: TransformerBridge,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str,
    revision: str | None,
    twin: str = "trained",
) -> Model:
    """See that a bridge can be read, and gather what is to be known of it.

    Raises:
        RequestError: weights that are not finite, or attention that does not show itself.
    """
    with unbridged(bridge) as module:
        refuse_weights(module, name)
        digest = hash_weights(module)
        first = next(module.parameters())
    positions = bridge.cfg.positional_embedding_type
    return Model(
        bridge=bridge,
        tokenizer=tokenizer,
        name=name,
        digest=digest,
        layers=len(bridge.blocks),
        heads=count_heads(bridge, name),
        head_width=int(bridge.cfg.d_head),
        width=int(bridge.cfg.d_model),
        context=None if positions == "alibi" else int(bridge.cfg.n_ctx),
        learned_positions=positions == "standard" or "pos_embed" in bridge._modules,
        revision=revision,
        dtype=first.dtype,
        device=first.device,
        twin=twin,
    )


def _open_module(
    module: PreTrainedModel,
    name: str,
    dtype: torch.dtype | None,
    device: torch.device | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Model:
    for path, part in module.named_modules():
        if isinstance(part, GeneralizedComponent):
            raise RequestError(f"{name}: this module is already inside a TransformerBridge; pass the bridge")
        if "forward" in vars(part):
            raise RequestError(
                f"{name}: the forward of {path or 'it'} was replaced; pass a TransformerBridge"
            )
    refuse_weights(module, name)
    place = device or next(module.parameters()).device
    own = adopt(module, lambda _, weights: weights.to(place, dtype or weights.dtype), place)
    return describe(build_bridge(own, name, tokenizer), tokenizer, name, None)


def _open_bridge(
    bridge: TransformerBridge,
    name: str,
    dtype: torch.dtype | None,
    device: torch.device | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Model:
    if bridge.compatibility_mode:
        raise RequestError(f"{name}: compatibility mode changes a bridge's weights; pass it as it was booted")
    module = bridge.original_model
    kind = bridge.cfg.architecture or type(module).__name__
    refuse_kind(name, kind, getattr(module, "config", None), bridge.adapter)
    first = next(module.parameters())
    if (dtype or first.dtype) != first.dtype or (device or first.device) != first.device:
        raise RequestError(f"{name}: this bridge is {first.dtype} on {first.device}; convert it before")
    bridge.eval()
    return describe(bridge, tokenizer or bridge.tokenizer, name, None)


def _name_bridge(bridge: TransformerBridge) -> str:
    # "external" is what a bridge is called that nobody named.
    name = bridge.cfg.model_name
    return type(bridge.original_model).__name__ if name in (None, "", "external") else name


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of the dtypes that models are opened in.

    Raises:
        RequestError: it is another.
    """
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise RequestError(f"dtype: {dtype} is none of {', '.join(_DTYPES)}")
    return chosen


def _parse_device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RequestError(f"device: {device} is not on this computer") from error
