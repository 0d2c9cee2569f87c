"""Harmless: does a trajectory stay in bounds, step by step and layer by layer (seed 1.3; science: functionals)?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.signal
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from infodyn_interp.errors import RequestError
from infodyn_interp.measures.jacobians import Map, push

POTENTIALS = ("fep", "form")
GEOMETRIES = ("raw", "angular")
ALPHA = 0.1  # of the moving equilibrium (science: output side)
DRAWS = 32  # autoregressive twins of each document
LEAST_STEPS = 8
LEAST_DOCUMENTS = 2
STABLE = 0.999  # most of the fitted spectral radius: beyond it no quadratic form falls along the fitted steps


@dataclass(frozen=True)
class Rising:
    """How a potential V moves along the steps of each document, beside autoregressive twins of the same length.

    By document and potential: `fep` is V = K, the energy of the deviation from the moving equilibrium; `form` is the
    quadratic form that falls along steps as they were fitted on the other documents.

    Args:
        share: of steps with V rising.
        run: longest run of them, in steps.
        share_null, run_null: the same of the twins, on average.
    """

    share: Float[np.ndarray, "document potential"]
    run: Float[np.ndarray, "document potential"]
    share_null: Float[np.ndarray, "document potential"]
    run_null: Float[np.ndarray, "document potential"]


@dataclass(frozen=True)
class Dynamics:
    """First-order steps `x' = x @ step + drift + noise`, and the form that falls along them.

    Args:
        step, drift: fitted by least squares.
        noise: a square root of the residuals' covariance.
        rest: where the steps lead.
        form: solves `Q - A Q A' = 1` for `A` the step (scaled to a spectral radius of .999 where it is beyond).
    """

    step: Float[np.ndarray, "component component"]
    drift: Float[np.ndarray, " component"]
    noise: Float[np.ndarray, "component component"]
    rest: Float[np.ndarray, " component"]
    form: Float[np.ndarray, "component component"]

    @classmethod
    def fit(cls, paths: Float[np.ndarray, "document step component"]) -> "Dynamics":
        """From the steps of some documents."""
        before, after = (paths[:, part].reshape(-1, paths.shape[-1]) for part in (slice(-1), slice(1, None)))
        design = np.column_stack([before, np.ones(len(before))])
        found, *_ = np.linalg.lstsq(design, after, rcond=None)
        step, drift = found[:-1], found[-1]
        left = after - design @ found
        sizes, directions = np.linalg.eigh(left.T @ left / len(left))
        radius = np.abs(np.linalg.eigvals(step)).max()
        steady = step * min(1.0, STABLE / radius) if radius > 0 else step
        width = len(step)
        return cls(
            step=step,
            drift=drift,
            noise=(directions * np.sqrt(sizes.clip(min=0))).T,
            rest=np.linalg.lstsq((np.eye(width) - steady).T, drift, rcond=None)[0],
            form=scipy.linalg.solve_discrete_lyapunov(steady, np.eye(width)),
        )

    def draw(
        self, start: Float[np.ndarray, "twin component"], steps: int, generator: np.random.Generator
    ) -> Float[np.ndarray, "twin step component"]:
        """Twins that begin where they are told and follow the fitted steps."""
        out = generator.standard_normal((len(start), steps, start.shape[1])) @ self.noise + self.drift
        out[:, 0] = start
        for place in range(1, steps):
            out[:, place] += out[:, place - 1] @ self.step
        return out


def harmless(
    path: Float[np.ndarray, "document step component"],
    *,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    generator: np.random.Generator | None = None,
) -> Rising:
    """Along how many steps does a potential rise, and for how long in a row (seed 1.3)?

    A share of one half says nothing: what counts is its distance from autoregressive twins, fitted on the other
    documents and drawn as long.

    Args:
        path: states of each document step by step: a few components of a layer's stream along the tokens, or an
            embedding along generated steps.
        alpha: rate of the moving equilibrium `e' = e + alpha (x - e)`, above 0 and up to 1.
        draws: twins of each document.
        generator: of the twins; seeded with 0 by default.

    Raises:
        RequestError: fewer than 8 steps or 2 documents, states that are not finite, or an alpha out of range.
    """
    documents, steps, _ = path.shape
    if documents < LEAST_DOCUMENTS or steps < LEAST_STEPS:
        raise RequestError(
            f"path: {documents} documents of {steps} steps given, {LEAST_DOCUMENTS} of {LEAST_STEPS} are needed"
        )
    if not np.isfinite(path).all():
        raise RequestError("path: states that are not finite; leave such documents out")
    if not 0 < alpha <= 1:
        raise RequestError(f"alpha: {alpha} asked, it lies above 0 and up to 1")
    draw = generator or np.random.default_rng(0)
    found = np.empty((4, documents, len(POTENTIALS)))
    for document in range(documents):
        fitted = Dynamics.fit(np.delete(path, document, 0))
        twins = fitted.draw(np.repeat(path[document, :1], draws, 0), steps, draw)
        own_and_twins = np.concatenate([path[document][None], twins])
        for column, potential in enumerate(
            (deviation_energy(own_and_twins, alpha), quadratic_form(own_and_twins, fitted))
        ):
            rising = np.diff(potential, axis=-1) > 0
            share, run = rising.mean(-1), longest_run(rising)
            found[:, document, column] = share[0], run[0], share[1:].mean(), run[1:].mean()
    return Rising(*found)


def deviation_energy(
    path: Float[np.ndarray, "document step component"], alpha: float
) -> Float[np.ndarray, "document step"]:
    """`K = |x - e|^2 / 2`, e the moving equilibrium, which begins at the first state (seed, observation)."""
    apart, first = np.zeros_like(path), path[:, :1]
    moved, _ = scipy.signal.lfilter([alpha], [1, alpha - 1], path[:, :-1], axis=1, zi=(1 - alpha) * first)
    apart[:, 1:] = path[:, 1:] - moved
    return (apart**2).sum(-1) / 2


def quadratic_form(
    path: Float[np.ndarray, "document step component"], fitted: Dynamics
) -> Float[np.ndarray, "document step"]:
    """The form of fitted steps, from where they lead."""
    apart = path - fitted.rest
    return ((apart @ fitted.form) * apart).sum(-1)


def longest_run(rising: Bool[np.ndarray, "document step"]) -> Float[np.ndarray, " document"]:
    """Most steps in a row that are true."""
    step = np.arange(1, 1 + rising.shape[1])
    ended = np.maximum.accumulate(np.where(rising, 0, step), axis=1)
    return (step - ended).max(1).astype(float)


def exponents(
    steps: Sequence[Map],
    start: Float[Tensor, " direction"],
    frame: Float[Tensor, "direction vector"],
) -> Float[Tensor, "step geometry vector"]:
    """Log growth of nearby states in each step, a frame of directions kept orthogonal by QR (finite-time Lyapunov).

    The mean over steps is the exponent of each direction, largest first once the frame has settled.

    Args:
        steps: maps of a state, such as the blocks of a model seen from one token.
        start: the state that enters the first.
        frame: directions to begin with, orthonormal or not.

    Returns:
        Nats a step, by `GEOMETRIES`: raw, and of angles, whose directions are kept at right angles to the state and
        measured in units of its norm, so that growth of the norm alone gives 0. Either has a frame of its own.
    """
    state, rates = start, []
    frames = torch.linalg.qr(torch.stack([frame, _across(frame, state)])).Q
    for step in steps:
        image, carried = push(step, state, frames.mT.flatten(0, 1))
        raw, angular = carried.unflatten(0, frames.shape[::2]).mT
        angular = _across(angular, image) * (state.norm() / image.norm())
        frames, growth = torch.linalg.qr(torch.stack([raw, angular]))
        rates.append(growth.diagonal(dim1=-2, dim2=-1).abs().log())
        state = image
    return torch.stack(rates)


def _across(
    vectors: Float[Tensor, "direction vector"], state: Float[Tensor, " direction"]
) -> Float[Tensor, "direction vector"]:
    """Vectors less what they have along a state."""
    along = state / state.norm()
    return vectors - torch.outer(along, along @ vectors)
