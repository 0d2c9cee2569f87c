"""The block's update x -> F(x) at real states: what passes back through it, how steep it is, can it be undone?"""

import torch
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.hooks import Block, read_out, trace
from infodyn_interp.measures.fits import Reading
from infodyn_interp.measures.jacobians import Jacobian, Map
from infodyn_interp.measures.ratios import Quantity, Ratio
from infodyn_interp.models import Model

WALKED = 8  # documents whose first tokens are walked through
TOKENS = 32  # of a window: a walk holds every layer's stream and differentiates every block many times
ITERATIONS = 6  # of the power iteration
INVERSION_STEPS = 16
INVERTED = 1e-3  # relative error up to which a state counts as recovered
DIVERGED = 1e3
QUANTITIES = {
    "gradient": Quantity(
        ("layer",),
        "log10",
        "norm of the loss's gradient at the stream that enters the block over that at the last",
    ),
    "gradient_without_skip": Quantity(
        ("layer",), "log10", "the same for what passes back through the updates alone, without the skip path"
    ),
    "lipschitz": Quantity(
        ("layer",),
        "1",
        "largest singular value of the update's Jacobian at the state: below 1 it can be undone",
    ),
    "inversion_error": Quantity(
        ("layer",),
        "log10",
        f"relative error of the state found back in {INVERSION_STEPS} steps of x <- y - F(x)",
    ),
    "inverted": Quantity(("layer",), "1", f"share of windows found back to within {INVERTED:g}"),
}


def measure_updates(reading: Reading, walked: int = WALKED) -> dict[str, Ratio]:
    """`QUANTITIES` by document, on the first tokens of the first documents' first windows."""
    texts, model = reading.texts, reading.model
    out = {name: Ratio.empty(texts.documents, len(reading.layers)) for name in QUANTITIES}
    generator = torch.Generator().manual_seed(reading.seed)
    for batch in reading.first_windows(walked, WALKED):
        tokens = batch.tokens[:, : min(TOKENS, texts.window)].to(model.device)
        blocks, last = trace(model, tokens)
        kept, alone = gradient_norms(model, tokens, blocks, last)
        for place, layer in enumerate(reading.layers):
            block = blocks[layer]
            leaves = blocks[layer + 1].stream if layer + 1 < len(blocks) else last
            start = torch.randn(block.stream.shape, generator=generator).to(block.stream)
            error = inversion_error(_update(block), block.stream, leaves)
            for name, values in (
                ("gradient", kept[layer].log10()),
                ("gradient_without_skip", alone[layer].log10()),
                ("lipschitz", steepness(_update(block), block.stream, start)),
                ("inversion_error", error.log10()),
                ("inverted", (error <= INVERTED).double()),
            ):
                out[name].add(batch.document, place, values.double().cpu().numpy())
    return out


def gradient_norms(
    model: Model,
    tokens: Tensor,
    blocks: tuple[Block, ...],
    last: Float[Tensor, "window key direction"],
) -> tuple[Float[Tensor, "layer window"], Float[Tensor, "layer window"]]:
    """Norm of the loss's gradient at each block's entry over that at the last stream: whole, and by updates alone.

    Args:
        model: that was traced.
        tokens: of the windows; the loss is of each next one.
        blocks, last: from `hooks.trace`.
    """
    with torch.enable_grad():
        stream = last.detach().clone().requires_grad_()
        says = read_out(model)(stream)[:, :-1].float().log_softmax(-1)
        loss = -says.gather(-1, tokens[:, 1:, None]).sum()
        (whole,) = torch.autograd.grad(loss, stream)
    alone, first = whole, whole.flatten(1).norm(dim=1)
    rows = []
    for block in reversed(blocks):
        jacobian = Jacobian(block.advance, block.stream)
        whole, alone = jacobian.pull(whole), jacobian.pull(alone) - alone
        rows.append(torch.stack([whole.flatten(1).norm(dim=1), alone.flatten(1).norm(dim=1)]) / first)
    kept, without = torch.stack(rows[::-1], 1)
    return kept, without.clamp(min=torch.finfo(without.dtype).tiny)


def steepness(
    update: Map,
    state: Float[Tensor, "window *shape"],
    start: Float[Tensor, "window *shape"],
    iterations: int = ITERATIONS,
) -> Float[Tensor, " window"]:
    """Largest singular value of a map's Jacobian at each window's state, from below, by power iteration on `J' J`.

    Args:
        update: the map; windows do not touch each other.
        state: where.
        start: directions to begin with.
        iterations: a product forward and one back each.
    """
    jacobian, direction = Jacobian(update, state), start
    for _ in range(iterations):
        direction = jacobian.pull(jacobian.push(direction / _norm(direction)))
    return _norm(jacobian.push(direction / _norm(direction))).flatten()


def inversion_error(
    update: Map,
    state: Float[Tensor, "window *shape"],
    image: Float[Tensor, "window *shape"],
    steps: int = INVERSION_STEPS,
) -> Float[Tensor, " window"]:
    """Relative error of `x <- y - F(x)` from `x = y`, for the x that `y = x + F(x)` came from.

    It falls geometrically where F's Lipschitz constant lies below 1. What runs away counts as 1000.
    """
    with torch.no_grad():
        found = image
        for _ in range(steps):
            found = image - update(found)
        error = (_norm(found - state) / _norm(state)).flatten()
    return error.nan_to_num(nan=DIVERGED).clamp(torch.finfo(error.dtype).eps, DIVERGED)


def _update(block: Block) -> Map:
    return lambda stream: block.advance(stream) - stream


def _norm(values: Float[Tensor, "window *shape"]) -> Tensor:
    flat = values.flatten(1).norm(dim=1).clamp(min=torch.finfo(values.dtype).tiny)
    return flat.reshape(-1, *[1] * (values.ndim - 1))
