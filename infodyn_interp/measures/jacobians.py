"""Jacobian products of a block at a real state: of many tangents at once forward, of one after another by its graph."""

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

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
            dims: Any = (None, 0)  # the image is the same for all tangents
            image, carried = vmap(lambda tangent: jvp(step, (state,), (tangent,))[:2], out_dims=dims)(
                tangents
            )
            return image, carried
    except (RuntimeError, NotImplementedError):
        jacobian = Jacobian(step, state)
        return jacobian.image.detach(), torch.stack([jacobian.push(tangent) for tangent in tangents])


class Jacobian:
    """A map's Jacobian at a state, its graph kept: each product costs one pass back through it, and no pass forward.

    Args:
        step: the map.
        state: where.
    """

    def __init__(self, step: Map, state: Float[Tensor, "*state"]) -> None:
        with torch.enable_grad():
            self._start = state.detach().clone().requires_grad_()
            self.image = step(self._start)

    def pull(self, cotangent: Float[Tensor, "*image"]) -> Float[Tensor, "*state"]:
        """`J' u`."""
        return torch.autograd.grad(self.image, self._start, cotangent, retain_graph=True)[0]

    def push(self, tangent: Float[Tensor, "*state"]) -> Float[Tensor, "*image"]:
        """`J v`, the derivative of `J' u` by u (exact, since that is linear in u)."""
        probe, back = self._back
        return torch.autograd.grad(back, probe, tangent, retain_graph=True)[0]

    @cached_property
    def _back(self) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            probe = torch.zeros_like(self.image).requires_grad_()
            (back,) = torch.autograd.grad(self.image, self._start, probe, create_graph=True)
        return probe, back
