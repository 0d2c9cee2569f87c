"""Truth planted in the scores of a real language model comes back through hooks and fits, and nothing else does."""

import functools
import pydoc_data.topics
from dataclasses import dataclass

import numpy as np
import oracle
import planting
import pytest

from infodyn_interp.energy.fitting import TERMS, Fit, fit
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.terms import TAUS, WIDTHS
from infodyn_interp.models import Model
from infodyn_interp.sweeping import Gathered, Settings, gather
from infodyn_interp.texts import Texts, read_pieces, read_texts

LAYERS = (3, 10, 20)
SHARE = 0.10
WIDTH, TAU = 0.4, 8.0
PLANTED = WIDTHS.index(WIDTH) * len(TAUS) + TAUS.index(TAU)
MASK = oracle.support(256)


@dataclass(frozen=True, eq=False)
class Bench:
    """A real model, its clean fit, and the windows it was fitted on."""

    model: Model
    texts: Texts
    clean: Gathered
    windows: list

    @functools.cached_property
    def pieces(self) -> list[str]:
        return read_pieces(self.texts.tokenizer)

    @functools.cached_property
    def fits(self) -> dict[int, Fit]:
        return {layer: fit(self.clean.moments[layer]) for layer in LAYERS}

    @functools.cache  # noqa: B019 - one bench a run
    def states(self, layer: int) -> list[np.ndarray]:
        basis = self.clean.bases[layer]
        mean, components = basis.mean.double().numpy(), basis.components[:, : basis.rank].double().numpy()
        inputs = planting.attention_inputs(self.model, self.windows, layer)
        return [(x - mean) @ components for x in inputs]

    @functools.cache  # noqa: B019
    def wells(self, layer: int) -> list[np.ndarray]:
        return [-oracle.track(z, WIDTH, TAU) for z in self.states(layer)]

    def refit(self, layer: int, fields: list[np.ndarray]) -> tuple[Moments, Fit, np.ndarray]:
        """Plant a field at its share in every head of a layer and run the whole pipeline again."""
        mean_square = self.fits[layer].rms ** 2
        factor = planting.scale_to_share(fields, SHARE, mean_square, MASK, oracle.center_rows)
        energies = {
            window.numpy().tobytes(): factor[:, None, None] * np.where(MASK, field, 0)
            for window, field in zip(self.windows, fields, strict=True)
        }
        with planting.planted(self.model, layer, energies):
            again = gather(
                self.model, self.texts, Settings((layer,), carry=False), checked=self.clean.checked
            )
        return again.moments[layer], fit(again.moments[layer]), factor


@pytest.fixture(scope="module")
def bench(demo_model: Model) -> Bench:
    texts = read_texts(
        list(pydoc_data.topics.topics.values()),
        demo_model.tokenizer,
        windows_per_document=1,
        reference_windows_per_document=1,
        documents=24,
        reference_documents=12,
    )
    clean = gather(demo_model, texts, Settings(LAYERS, carry=False))
    return Bench(demo_model, texts, clean, planting.windows_of(texts))


def rhythm_field(bench: Bench, draw: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    blocks = [oracle.rhythm([bench.pieces[token] for token in window]) for window in bench.windows]
    return key_fields(blocks, draw)


def state_field(bench: Bench, layer: int, draw: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    basis = bench.clean.bases[layer]
    blocks = [oracle.state(z, basis.centres.numpy(), basis.width) for z in bench.states(layer)]
    return key_fields(blocks, draw)


def key_fields(blocks: list[np.ndarray], draw: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """A random combination of unit-variance columns."""
    deviation = np.concatenate(blocks).std(0)
    weights = draw.normal(size=len(deviation)) / np.where(deviation > 0, deviation, np.inf)
    return [oracle.key_only(block @ weights) for block in blocks], weights


def slope(
    moments: Moments, gauge: str, recovered: np.ndarray, clean: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Slope of (recovered - clean) on the planted field, by head, each fold by coefficients that never saw it.

    `recovered`, `clean`: `[fold, head, column]`; `truth`: `[column, head]`. Within keys, fields are compared by what
    the nuisance leaves of them: tracks of neighbouring widths differ by their shares of the kernels.
    """
    n = moments.columns.nuisance.stop
    whole = moments.total.gram(0, gauge)
    taken = np.linalg.solve(whole[:n, :n] + 1e-6 * np.diag(np.maximum(whole.diagonal()[:n], 1)), whole[:n])
    over, under = 0.0, 0.0
    for fold in range(moments.folds):
        gram = moments.gram(fold, gauge)
        if gauge == "within":
            crossed = taken.T @ gram[:n]
            gram = gram - crossed - crossed.T + taken.T @ gram[:n, :n] @ taken
        beta, planted = (recovered - clean)[fold].T[: len(gram)], truth[: len(gram)]
        over = over + (planted * (gram @ beta)).sum(0)
        under = under + (planted * (gram @ planted)).sum(0)
    return over / under


def of_block(fitted: Fit, name: str) -> np.ndarray:
    out = np.zeros_like(fitted.coefficient_without)
    out[..., fitted.columns.blocks[name]] = fitted.coefficient_without[..., fitted.columns.blocks[name]]
    return out


def of_track(fitted: Fit) -> np.ndarray:
    out = np.zeros_like(fitted.coefficient_without)
    folds, heads = np.indices(fitted.chosen_without.shape)
    out[folds, heads, fitted.columns.blocks["track"].start + fitted.chosen_without] = fitted.track_without
    return out


def of_track_at(moments: Moments, chosen: np.ndarray) -> np.ndarray:
    """Within-key coefficients after the nuisance, each fold left out, of tracks chosen elsewhere `[fold, head]`."""
    columns = moments.columns
    n, first = columns.nuisance.stop, columns.blocks["track"].start
    out = np.zeros((moments.folds, chosen.shape[1], columns.count))
    for fold in range(moments.folds):
        gram = moments.total.gram(0, "within") - moments.gram(fold, "within")
        cross = moments.total.cross(0, "within") - moments.cross(fold, "within")
        row = moments.total.gram(0).diagonal() - moments.gram(fold).diagonal()
        inner = gram[:n, :n] + 1e-5 * np.diag(np.maximum(row[:n], 1e-9))
        taken = np.linalg.solve(inner, np.hstack([gram[:n], cross[:n]]))
        for head, track in enumerate(first + chosen[fold]):
            left = gram[track, track] + 1e-5 * row[track] - gram[:n, track] @ taken[:, track]
            right = cross[track, head] - gram[:n, track] @ taken[:, len(gram) + head]
            out[fold, head, track] = right / left
    return out


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("term", ["rhythm", "state", "track"])
def test_a_term_planted_at_a_tenth_comes_back_and_leaves_the_others_alone(
    bench: Bench, layer: int, term: str
) -> None:
    draw = np.random.default_rng(layer)
    before = bench.fits[layer]
    truth = np.zeros(before.coefficient.T.shape)
    if term == "track":
        fields = bench.wells(layer)
        moments, after, factor = bench.refit(layer, fields)
        truth[before.columns.blocks["track"].start + PLANTED] = -factor
        clean = of_track_at(bench.clean.moments[layer], after.chosen_without)
        found = slope(moments, "within", of_track(after), clean, truth)
        print(
            "  against the clean fit's own choice",
            slope(moments, "within", of_track(after), of_track(before), truth),
        )
    else:
        fields, weights = rhythm_field(bench, draw) if term == "rhythm" else state_field(bench, layer, draw)
        moments, after, factor = bench.refit(layer, fields)
        truth[before.columns.blocks[term]] = weights[:, None] * factor
        found = slope(moments, "row", of_block(after, term), of_block(before, term), truth)
    print(f"layer {layer} {term}: slopes {np.round(found, 3)}")
    assert np.all((found >= 0.95) & (found <= 1.05))
    # the planted energy widens what gains are shares of: they are put back on the clean variance
    wider = (moments.square_row / bench.clean.moments[layer].square_row)[:, None]
    change = (after.gain_by_fold * wider).mean(0) - before.gain.value
    others = [TERMS.index(other) for other in ("rhythm", "state", "track") if other != term]
    print("  change of the others' gains", np.abs(change[others]).max(1))
    assert np.abs(change[others]).max() <= 0.1 * SHARE


@pytest.mark.parametrize("layer", LAYERS)
def test_a_field_with_its_keys_permuted_is_neither_rhythm_nor_track(bench: Bench, layer: int) -> None:
    draw = np.random.default_rng(layer)
    before = bench.fits[layer]
    fields = [planting.permute_keys_within_rows(field, MASK, draw) for field in bench.wells(layer)]
    _, after, _ = bench.refit(layer, fields)
    half = (before.gain.high - before.gain.low) / 2
    change = np.abs(after.gain.value - before.gain.value)
    for term in ("rhythm", "track"):
        place = TERMS.index(term)
        print(f"layer {layer} {term}: change over half-width {np.round(change[place] / half[place], 2)}")
        assert np.all(change[place] <= half[place])
