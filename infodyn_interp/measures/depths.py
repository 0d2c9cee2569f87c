"""Stability of a model on texts: paths of states along the tokens, and growth of nearby states along the layers."""

from collections.abc import Sequence

import numpy as np
import torch

from infodyn_interp.hooks import Block, trace
from infodyn_interp.measures.fits import Fitted, Reading
from infodyn_interp.measures.jacobians import Map
from infodyn_interp.measures.paths import walk
from infodyn_interp.measures.ratios import Quantity, Ratio
from infodyn_interp.measures.stability import GEOMETRIES, POTENTIALS, exponents, harmless
from infodyn_interp.measures.updates import TOKENS, WALKED

DIRECTIONS = 4
QUANTITIES = {
    "rising": Quantity(
        ("layer", "potential"), "1", "share of steps along the tokens with the potential rising"
    ),
    "rising_excess": Quantity(
        ("layer", "potential"),
        "1",
        "the same less that of autoregressive twins fitted on the other documents",
    ),
    "run": Quantity(("layer", "potential"), "tokens", "longest run of steps with the potential rising"),
    "run_excess": Quantity(
        ("layer", "potential"),
        "tokens",
        "the same less that of autoregressive twins fitted on the other documents",
    ),
    "rate": Quantity(
        ("layer", "geometry", "vector"),
        "nats",
        "log growth of nearby states of one token in the block, largest first",
    ),
    "exponent": Quantity(("geometry", "vector"), "nats per layer", "mean log growth over all layers"),
}


def measure_stability(reading: Reading, fitted: Fitted, walked: int = WALKED) -> dict[str, Ratio]:
    """`QUANTITIES` by document.

    Paths are the leading components of the stream that leaves a layer, over the first window of a document. Growth is
    that of the stream of one token, the last of the window's first 32, given the tokens before it.
    """
    documents, count = reading.texts.documents, len(reading.layers)
    out = {name: Ratio.empty(documents, count, len(POTENTIALS)) for name in ("rising", "run")}
    out |= {f"{name}_excess": Ratio.empty(documents, count, len(POTENTIALS)) for name in ("rising", "run")}
    if documents > 1:
        for place, paths in enumerate(walk(reading, fitted).paths):
            found = harmless(paths, generator=np.random.default_rng([reading.seed, place]))
            ranks = np.arange(len(paths))
            for name, values, twins in (
                ("rising", found.share, found.share_null),
                ("run", found.run, found.run_null),
            ):
                out[name].add(ranks, place, values)
                out[f"{name}_excess"].add(ranks, place, values - twins)
    return out | _growth(reading, walked)


def token_steps(blocks: Sequence[Block], key: int = -1) -> list[Map]:
    """The blocks of a pass over one window as maps of one token's stream, the tokens before it as they were.

    Args:
        blocks: from `hooks.trace`.
        key: the token's position; what it does to later tokens is let go.
    """

    def step(block: Block) -> Map:
        here = torch.zeros_like(block.stream[..., :1], dtype=torch.bool)
        here[:, key] = True
        return lambda state: block.advance(torch.where(here, state, block.stream))[0, key]

    return [step(block) for block in blocks]


def _growth(reading: Reading, walked: int) -> dict[str, Ratio]:
    model, texts = reading.model, reading.texts
    vectors = min(DIRECTIONS, model.width - 1)
    out = {
        "rate": Ratio.empty(texts.documents, len(reading.layers), len(GEOMETRIES), vectors),
        "exponent": Ratio.empty(texts.documents, len(GEOMETRIES), vectors),
    }
    generator = torch.Generator().manual_seed(reading.seed)
    frame = torch.randn(model.width, vectors, generator=generator, dtype=torch.float64)
    chosen = list(reading.layers)
    for batch in reading.first_windows(walked, 1):
        blocks, _ = trace(model, batch.tokens[:, : min(TOKENS, texts.window)])
        steps, start = token_steps(blocks), blocks[0].stream[0, -1]
        rates = exponents(steps, start, frame.to(start)).double().cpu().numpy()
        for at, layer in enumerate(chosen):
            out["rate"].add(batch.document, at, rates[None, layer])
        out["exponent"].add(batch.document, (), rates.mean(0)[None])
    return out
