"""What cannot be read, and how that is said: by its kind, its weights, or by what a few tokens show."""

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformer_lens.factories.architecture_adapter_factory import (
    SUPPORTED_ARCHITECTURES,
    ArchitectureAdapterFactory,
)
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_config_from_hf
from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

from infodyn_interp.errors import RequestError

_PROBE_TOKENS = 8
_SHOWN = 3  # layers or parameters listed in a message of one line


@contextlib.contextmanager
def one_line(name: str, doing: str) -> Iterator[None]:
    """Turn whatever the libraries below raise into a `RequestError` of one line."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in text:
            text = "it needs Python code of its own, which runs only with trust_remote_code=True"
        raise RequestError(f"{name}: cannot {doing}: {text[:300]}") from error


@contextlib.contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Keep the libraries' warnings and progress bars off the terminal; `bars` lets the latter through."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        if not bars:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            stack.callback(setattr, tqdm, "__init__", tqdm.__init__)
            tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # in a notebook bars are no text
        yield


def some(items: Sequence[Any]) -> str:
    """The first few items of a list, for a message."""
    return ", ".join(map(str, items[:_SHOWN])) + (", ..." if len(items) > _SHOWN else "")


def choose_adapter(name: str, config: Any, kind: str | None = None) -> tuple[str, Any]:
    """The architecture, by its class `kind` or else its configuration, and the adapter for it."""
    try:
        architecture = (
            kind if kind in SUPPORTED_ARCHITECTURES else determine_architecture_from_hf_config(config)
        )
        described = build_bridge_config_from_hf(config, architecture, name, torch.float32)
        return architecture, ArchitectureAdapterFactory.select_architecture_adapter(described)
    except Exception as error:
        asked = kind or some(getattr(config, "architectures", None) or [config.model_type])
        raise RequestError(f"{name}: transformer-lens has no adapter that fits {asked}") from error


def refuse_kind(name: str, architecture: str, config: Any, adapter: Any) -> None:
    """Refuse by kind, before weights are read, what cannot have causal softmax attention."""
    if getattr(config, "is_encoder_decoder", False):
        raise RequestError(f"{name}: {architecture} is an encoder-decoder; a causal decoder is needed")
    if getattr(adapter.cfg, "attention_dir", "causal") != "causal" or not adapter.supports_causal_loss:
        raise RequestError(f"{name}: {architecture} is an encoder, not causal; a causal decoder is needed")
    blocks = adapter.get_component_mapping().get("blocks")
    if blocks is None:
        raise RequestError(f"{name}: {architecture} is not one stack of layers; a causal decoder is needed")
    if "attn" not in blocks.submodules:
        raise RequestError(
            f"{name}: {architecture} has no softmax attention (state-space or linear attention); "
            "there are no scores to read"
        )


def refuse_weights(module: nn.Module, name: str) -> None:
    """Refuse weights that are absent, quantised, or not finite."""
    for path, weights in module.named_parameters():
        if weights.is_meta:
            raise RequestError(f"{name}: {path} has no values (meta device); load the weights first")
        if not weights.is_floating_point():
            raise RequestError(
                f"{name}: {path} is quantised ({weights.dtype}); open it in a floating-point type"
            )
        # The extremes carry NaN and infinity, with no array of booleans as large as the weights.
        if weights.numel() and not torch.isfinite(torch.stack(torch.aminmax(weights.detach()))).all():
            raise RequestError(f"{name}: {path} holds NaN or infinite values")


def count_heads(bridge: TransformerBridge, name: str) -> int:
    """Heads of every layer, as a few tokens show them.

    Raises:
        RequestError: a layer without attention, or with attention that does not show itself exactly once in a
            forward, is not causal, or has another number of heads.
    """
    without = [layer for layer, block in enumerate(bridge.blocks) if "attn" not in block._modules]
    if without:
        raise RequestError(f"{name}: no attention in layer {some(without)}; every layer must have it")
    heads: set[int] = set()
    fired: Counter[tuple[int, str]] = Counter()
    sees_later: set[int] = set()

    def watch(layer: int, point: str) -> Callable[..., None]:
        def look(_point: nn.Module, _inputs: Any, attention: Tensor) -> None:
            fired[layer, point] += 1
            heads.add(attention.shape[1])
            if point == "hook_pattern" and attention.float().triu(1).any():
                sees_later.add(layer)

        return look

    points = [
        (layer, point)
        for layer in range(len(bridge.blocks))
        for point in ("hook_attn_scores", "hook_pattern")
    ]
    tokens = torch.arange(_PROBE_TOKENS, device=next(bridge.original_model.parameters()).device)
    with contextlib.ExitStack() as stack:
        for layer, point in points:
            hook = getattr(bridge.blocks[layer].attn, point, None)
            if hook is not None:
                stack.callback(hook.register_forward_hook(watch(layer, point)).remove)
        with torch.inference_mode(), quiet(), one_line(name, f"run {_PROBE_TOKENS} tokens"):
            bridge(tokens[None] % bridge.cfg.d_vocab, use_cache=False, logits_to_keep=1)
    for layer, point in points:
        if not fired[layer, point]:
            raise RequestError(
                f"{name}: layer {layer} hides its attention (no {point}: flash or linear attention); "
                "open it with eager attention"
            )
        if fired[layer, point] > 1:
            raise RequestError(f"{name}: layer {layer} runs {fired[layer, point]} times a forward, not once")
    if sees_later:
        raise RequestError(f"{name}: tokens see later ones in layer {some(sorted(sees_later))}, not causal")
    if len(heads) > 1:
        raise RequestError(f"{name}: layers differ in their number of heads ({some(sorted(heads))})")
    return heads.pop()
