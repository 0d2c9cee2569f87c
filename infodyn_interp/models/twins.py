"""Models made from a given one: of its form without what it learned, or of its weights in another precision."""

import contextlib
import copy
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from infodyn_interp.errors import RequestError
from infodyn_interp.models.bridging import adopt, build_bridge, unbridged
from infodyn_interp.models.description import Model
from infodyn_interp.models.opening import describe, parse_dtype
from infodyn_interp.models.refusals import quiet


def untrained_twin(model: Model, seed: int = 0) -> Model:
    """The same configuration at its own random initialisation, drawn from `seed` alone."""
    with _plain_module(model) as module:
        kind, config = type(module), copy.deepcopy(module.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # Drawn on the CPU in float32 by its generator, which is put back: the same twin on every device.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), quiet():
        torch.default_generator.manual_seed(seed)
        drawn: PreTrainedModel = kind(config)
    fresh = adopt(drawn, lambda _, weights: weights.to(model.device, model.dtype), model.device)
    return _make_twin(model, fresh, "untrained")


def permuted_weights_twin(model: Model, seed: int = 0) -> Model:
    """The same weights with the entries permuted within each matrix; gains and biases stay, ties stay.

    A tensor of more than two dimensions (the experts of a mixture) is permuted matrix by matrix.
    """
    with _plain_module(model) as module:
        fresh = adopt(module, lambda name, weights: _permute(weights, f"{seed} {name}"), model.device)
    return _make_twin(model, fresh, "permuted_weights")


def recast(model: Model, dtype: str | torch.dtype) -> Model:
    """The same weights rounded, or widened, to `dtype`; in the model's own no bit changes.

    What a module computes in float32 whatever its weights are (norms, rotations) it computes so here.

    Raises:
        RequestError: a dtype that models are not opened in.
    """
    chosen = parse_dtype(dtype)
    with _plain_module(model) as module:
        fresh = adopt(module, lambda _, weights: weights.to(chosen), model.device)
    return _make_twin(model, fresh, model.twin)


def _make_twin(model: Model, module: PreTrainedModel, twin: str) -> Model:
    bridge = build_bridge(module, model.name, model.tokenizer)
    return describe(bridge, model.tokenizer, model.name, model.revision, twin)


@contextlib.contextmanager
def _plain_module(model: Model) -> Iterator[PreTrainedModel]:
    with unbridged(model.bridge) as module:
        if not isinstance(module, PreTrainedModel):
            kind = type(module).__name__
            raise RequestError(f"{model.name}: a twin needs a Hugging Face module, this is a {kind}")
        yield module


def _permute(weights: Tensor, key: str) -> Tensor:
    if weights.ndim < 2:
        return weights.clone()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]))
    permuted = [
        matrix[torch.randperm(matrix.numel(), generator=generator).to(matrix.device)]
        for matrix in weights.reshape(-1, weights.shape[-2] * weights.shape[-1])
    ]
    return torch.stack(permuted).reshape(weights.shape)
