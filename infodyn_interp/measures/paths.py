"""Paths of states along the tokens of a window, as measures of a trajectory read them."""

from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.hooks import Layer
from infodyn_interp.measures.fits import Fitted, Reading

PATHS = 64  # documents whose paths are read: their twins are drawn one by one


def state_paths(reading: Reading, fitted: Fitted) -> list[Float[np.ndarray, "document step component"]]:
    """By layer, the path of each of the first documents: leading components of the stream, first token left out.

    Args:
        reading: of the model.
        fitted: its components.
    """
    if fitted not in reading.paths:
        reading.paths[fitted] = _read_paths(reading, fitted)
    return reading.paths[fitted]


def _read_paths(reading: Reading, fitted: Fitted) -> list[Float[np.ndarray, "document step component"]]:
    paths: dict[int, list[Tensor]] = {layer: [] for layer in reading.layers}

    def visit(layer: Layer) -> None:
        if layer.index in paths:
            maps = fitted.maps[layer.index]
            stream = cast(Tensor, layer.residual_out)[:, 1:].double().cpu()
            paths[layer.index].append((stream - maps.mean.double()) @ maps.components.double())

    for batch in reading.first_windows(PATHS, reading.micro_batch):
        reading.capture(batch, visit, "residual_out")
    return [torch.cat(paths[layer]).numpy() for layer in reading.layers]
