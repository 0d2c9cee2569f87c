"""Read weights into a Hugging Face module with eager attention, and the tokenizer that lies beside them."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from transformer_lens.model_bridge.sources.transformers import get_hf_model_class_for_architecture
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from infodyn_interp.errors import RequestError
from infodyn_interp.models.refusals import choose_adapter, one_line, quiet, refuse_kind, some
from infodyn_interp.models.sources import Weights


def read_weights(
    weights: Weights,
    dtype: torch.dtype,
    trust_remote_code: bool,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a module and its tokenizer; the configuration comes first, so that a wrong kind costs no download.

    Raises:
        RequestError: something is missing or cannot be read, or the kind of model has no causal attention.
    """
    keywords: dict[str, Any] = {**weights.keywords, "trust_remote_code": trust_remote_code}
    # Progress bars are kept where there is a download to wait for.
    bars = not weights.keywords.get("local_files_only", False)
    with quiet(bars=bars), _parsed_once() if "gguf_file" in keywords else contextlib.nullcontext():
        with one_line(weights.name, "read its configuration"):
            config = AutoConfig.from_pretrained(weights.location, **keywords)
        architecture, adapter = choose_adapter(weights.name, config)
        refuse_kind(weights.name, architecture, config, adapter)
        if tokenizer is None:
            with one_line(weights.name, "read its tokenizer (tokenizer= brings another)"):
                tokenizer = AutoTokenizer.from_pretrained(weights.location, **keywords)
        with one_line(weights.name, "read its weights"):
            settings = {**keywords, "config": config, "dtype": dtype, "attn_implementation": "eager"}
            adapter.prepare_loading(weights.location, settings)
            reader = get_hf_model_class_for_architecture(architecture)
            module, account = reader.from_pretrained(weights.location, **settings, output_loading_info=True)
    # Hugging Face fills what it does not find with random numbers.
    missing = sorted(account["missing_keys"])
    if missing:
        raise RequestError(f"{weights.name}: {len(missing)} weights are missing: {some(missing)}")
    return module, tokenizer


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """Parse a `.gguf` file and build its table of names once each, not three times and for every module."""
    import gguf

    makers = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, make in makers.items():
            setattr(gguf, name, functools.cache(make))
        yield
    finally:
        for name, make in makers.items():
            setattr(gguf, name, make)
