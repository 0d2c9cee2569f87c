"""Jacobian-vector products of a block at a real state, forward where its parts can, by double backward elsewhere."""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vmap

Map = Callable[[Tensor], Tensor]


def push(
    step: Map, state: Float[Tensor, "*state"], tangents: Float[Tensor, "vector *state"]
) -> tuple[Tensor, Float[Tensor, "vector *image"]]:
    """The image of a state, and its tangents carried along: `step(x)`, `J v` for each v.

    Forward mode; where a part of the map has no forward derivative, the derivative of its backward pass (exact too).
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch scripts its own rules for forward mode on first use, and warns of it
            warnings.simplefilter("ignore", DeprecationWarning)
            image = step(state)
            return image, vmap(lambda tangent: jvp(step, (state,), (tangent,))[1])(tangents)
    except (RuntimeError, NotImplementedError):
        return _push_backward(step, state, tangents)


def pull(
    step: Map, state: Float[Tensor, "*state"], *cotangents: Float[Tensor, "*image"]
) -> tuple[Float[Tensor, "*state"], ...]:
    """Cotangents carried back through a map: `J' u` for each u."""
    with torch.enable_grad():
        start = state.detach().clone().requires_grad_()
        image = step(start)
        return tuple(
            torch.autograd.grad(image, start, one, retain_graph=left > 1)[0]
            for left, one in zip(range(len(cotangents), 0, -1), cotangents, strict=True)
        )


def _push_backward(step: Map, state: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        start = state.detach().clone().requires_grad_()
        image = step(start)
        probe = torch.zeros_like(image).requires_grad_()
        (back,) = torch.autograd.grad(image, start, probe, create_graph=True)
        carried = [
            torch.autograd.grad(back, probe, tangent, retain_graph=True)[0].detach() for tangent in tangents
        ]
    return image.detach(), torch.stack(carried)
