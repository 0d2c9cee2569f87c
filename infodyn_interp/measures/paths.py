"""Paths of states along the tokens of a window, as measures of a trajectory read them."""

from typing import cast

import torch
from torch import Tensor

from infodyn_interp.hooks import Layer, read_out
from infodyn_interp.measures.fits import AT_ONCE, Fitted, Reading, Walk

PATHS = 64  # documents whose paths are read: their twins are drawn one by one
CANDIDATES = 8  # likeliest next tokens


def walk(reading: Reading, fitted: Fitted) -> Walk:
    """The walk of a model, read once for all measures.

    Args:
        reading: of the model.
        fitted: its components.
    """
    if fitted not in reading.walks:
        reading.walks[fitted] = _read(reading, fitted)
    return reading.walks[fitted]


def _read(reading: Reading, fitted: Fitted) -> Walk:
    paths: dict[int, list[Tensor]] = {layer: [] for layer in reading.layers}
    leaves: list[Tensor] = []
    likeliest, log_probability = [], []
    read, last = read_out(reading.model), reading.model.layers - 1

    def visit(layer: Layer) -> None:
        stream = cast(Tensor, layer.residual_out)[:, 1:]
        if layer.index in paths:
            paths[layer.index].append(fitted.maps[layer.index].state(stream))
        if layer.index == last:
            leaves[:] = [stream.clone()]

    for batch in reading.first_windows(PATHS, reading.micro_batch):
        reading.capture(batch, visit, "residual_out")
        tokens, logs = [], []
        with torch.inference_mode():
            for some in leaves[0].split(max(1, AT_ONCE // len(batch.tokens)), 1):
                logits = read(some).float()
                top = logits.topk(CANDIDATES)
                tokens.append(top.indices.cpu())
                logs.append((top.values - logits.logsumexp(-1, keepdim=True)).cpu())
        likeliest.append(torch.cat(tokens, 1))
        log_probability.append(torch.cat(logs, 1))
    return Walk(
        [torch.cat(paths[layer]).numpy() for layer in reading.layers],
        torch.cat(likeliest).numpy(),
        torch.cat(log_probability).double().numpy(),
    )
