"""Put a Hugging Face module into a bridge, and look past the bridge at the module itself."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.sources import build_bridge_from_module, detect_tokenizer_bos_eos
from transformer_lens.utilities.attn_implementation import force_eager_attention
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from infodyn_interp.errors import RequestError
from infodyn_interp.models.description import Model
from infodyn_interp.models.refusals import choose_adapter, one_line, quiet, refuse_kind, refuse_weights


@contextlib.contextmanager
def unbridged(bridge: TransformerBridge) -> Iterator[nn.Module]:
    """The bridge's module as it was before it was bridged; the bridge is whole again on leaving."""
    module = bridge.original_model
    with contextlib.ExitStack() as stack:
        for children, name, component in list(_bridge_slots(module)):
            stack.callback(children.__setitem__, name, component)
            children[name] = component.original_component
        for part in module.modules():
            # Adapters replace a few forwards on the instance (falcon); without them the class's own is used.
            # Those of accelerate move weights between devices and stay.
            if "forward" in vars(part) and "_hf_hook" not in vars(part):
                stack.callback(vars(part).__setitem__, "forward", vars(part).pop("forward"))
            # An unembedding without a bias is given one of zeros, as a buffer.
            if isinstance(part, nn.Linear) and "bias" in part._buffers:
                stack.callback(part._parameters.pop, "bias")
                stack.callback(part._buffers.__setitem__, "bias", part._buffers.pop("bias"))
                part._parameters["bias"] = None
        yield module


def native_logits(
    model: Model, tokens: Int[Tensor, "window position"], **keywords: Any
) -> Float[Tensor, "window kept vocabulary"]:
    """Logits of the Hugging Face module by its own forward, no bridge component taking part.

    Args:
        model: from `open_model`.
        tokens: token ids.
        keywords: handed to the module as they are (`attention_mask`, `position_ids`, `logits_to_keep`).
    """
    settings = {"use_cache": False, "output_attentions": False, **keywords}
    with torch.inference_mode(), unbridged(model.bridge) as module:
        output = module(tokens.to(model.device), **settings)
    return output.logits if hasattr(output, "logits") else output


def new_cache(module: nn.Module) -> DynamicCache:
    """Keys and values of no tokens yet, for `with_cache`."""
    return DynamicCache(config=cast(PreTrainedModel, module).config)


def with_cache(module: nn.Module, cache: DynamicCache) -> dict[str, Any]:
    """Keywords by which a Hugging Face module reads on from a cache and adds to it."""
    names = inspect.signature(module.forward).parameters
    name = "cache" if "cache" in names else "past_key_values"
    return {name: cache, "use_cache": True, "output_attentions": False}


def build_bridge(
    module: PreTrainedModel, name: str, tokenizer: PreTrainedTokenizerBase | None
) -> TransformerBridge:
    """Build a bridge around a module, which becomes part of it: eval mode, eager attention, no gradients."""
    refuse_weights(module, name)
    kind = type(module).__name__
    if module.get_output_embeddings() is None:
        raise RequestError(f"{name}: {kind} has no language-model head")
    architecture, adapter = choose_adapter(name, module.config, kind)
    refuse_kind(name, architecture, module.config, adapter)
    module.eval()
    force_eager_attention(module)
    if module.dtype == torch.float64:
        module.set_experts_implementation("eager")  # torch's grouped product has no float64
    config = copy.deepcopy(module.config)
    # The bridge draws, and throws away, initial weights for the matrices it splits.
    with torch.random.fork_rng(devices=[]), quiet(), one_line(name, "build its bridge"):
        bridge = build_bridge_from_module(module, architecture, hf_config=config, model_name=name)
    # Set, not passed: the bridge would edit it and make it add a BOS that the model does not want.
    bridge.tokenizer = tokenizer
    if tokenizer is not None:
        prepends, appends = detect_tokenizer_bos_eos(tokenizer)
        bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = prepends, appends
    for part in bridge.modules():
        for weights in part.parameters(recurse=False):
            weights.requires_grad_(False)
    return bridge.eval()


def adopt(
    module: PreTrainedModel, convert: Callable[[str, Tensor], Tensor], device: torch.device
) -> PreTrainedModel:
    """A module of the same structure around converted weights.

    Ties stay. Weights that `convert` returns as they are stay shared: a copy that changes none costs nothing.
    """
    memo: dict[int, Any] = {
        id(weights): nn.Parameter(convert(name, weights.detach()), requires_grad=False)
        for name, weights in module.named_parameters()
    }
    adopted = copy.deepcopy(module, memo)
    nn.Module.to(adopted, device)
    return adopted


def _bridge_slots(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, GeneralizedComponent]]:
    """Every place in the module's tree that holds a bridge component in front of an original one."""
    waiting, seen = [module], {id(module)}
    while waiting:
        children = waiting.pop()._modules
        for name, child in children.items():
            part = child
            if isinstance(child, GeneralizedComponent) and child.original_component is not None:
                yield children, name, child
                part = child.original_component
            if part is not None and id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
