"""Laws of the action of a model on texts: gaps close in full, straight ways are straight, ranks are those of paths."""

import families
import numpy as np
import pytest
import torch

from infodyn_interp import open_model, read_texts
from infodyn_interp.measures.action import helpful
from infodyn_interp.measures.closing import RANKED, _approach, measure_action
from infodyn_interp.measures.fits import Reading, fit_maps
from infodyn_interp.measures.paths import walk

WORDS = ["clock", "rain", "why", "numbers", "one", "town", "proof", "step", "walk", "sure"]


@pytest.fixture(scope="module")
def reading(tiny_tokenizer):
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, 60)) for _ in range(7)]
    texts = read_texts(documents, tiny_tokenizer, window=32, windows_per_document=1, documents=4)
    return Reading.of(open_model(families.build("llama"), tokenizer=tiny_tokenizer), texts)


@pytest.fixture(scope="module")
def fitted(reading):
    return fit_maps(reading)


@pytest.fixture(scope="module")
def found(reading, fitted):
    return measure_action(reading, fitted)


def test_over_all_layers_the_whole_gap_is_closed(found):
    np.testing.assert_allclose(found.ratios["gap_closed"].value.sum(), 1, rtol=1e-12)
    assert 0 < found.ratios["straightness"].value < 1


def test_a_way_along_a_line_is_straight_and_closes_what_it_covers():
    ends = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = torch.stack([ends[0] + share * (ends[1] - ends[0]) for share in (0, 0.2, 0.7, 1)])
    straight, closed = _approach(path, ends[1])
    torch.testing.assert_close(straight, torch.ones_like(straight))
    for share, expected in zip(closed, (0.2, 0.5, 0.3), strict=True):
        torch.testing.assert_close(share, torch.full_like(share, expected))


def test_ranks_are_those_of_the_paths_along_the_tokens(reading, fitted, found):
    for place, paths in enumerate(walk(reading, fitted).paths):
        alone = helpful(paths, seed=reading.seed)
        mean = alone["mean_rank"].sel(kind=list(RANKED)).values
        np.testing.assert_allclose(found.ratios["rank"].value[place], mean)
        np.testing.assert_array_equal(found.details["rank"][place], alone["rank"].sel(kind=list(RANKED)))
    assert "no trials were given" in found.details.attrs["among"]
