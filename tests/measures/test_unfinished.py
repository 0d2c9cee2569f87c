"""What functionals leave unfinished: found in the innovations that follow it, and nowhere else."""

import numpy as np
import pytest

from infodyn_interp.errors import RequestError
from infodyn_interp.identify.interference import LEAST_SLOPE, Sizes
from infodyn_interp.measures.unfinished import regress_unfinished

DOCUMENTS, HEADS, QUERIES = 12, 3, 80
KEYS = np.arange(8.0, 8 + QUERIES)


def world(seed, follows):
    draw = np.random.default_rng(seed)
    unfinished = np.exp(0.5 * draw.standard_normal((2, DOCUMENTS, QUERIES)))
    size = 0.3 * draw.standard_normal((DOCUMENTS, HEADS, QUERIES))
    size[..., 1:] += follows * np.log(unfinished[0])[:, None, :-1]
    others = np.exp(0.3 * draw.standard_normal((2, DOCUMENTS, HEADS, QUERIES)))
    sizes = Sizes(others[0], np.exp(size), others[1], others[1])
    return sizes, {"honest": unfinished[0], "helpful": unfinished[1]}


def test_innovations_follow_the_functional_that_drives_them_and_no_other():
    found = regress_unfinished(*world(0, 0.4), KEYS, np.random.default_rng(0))
    honest, helpful = found.sel(functional="honest"), found.sel(functional="helpful")
    assert (honest["slope_low"] > LEAST_SLOPE).all()
    assert (honest["p"] <= 0.001).all()
    assert (abs(helpful["slope"]) < LEAST_SLOPE).all()
    assert (helpful["p"] > 0.001).all()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda one: one[:, 1:], r"honest is of \(12, 79\)"),
        (lambda one: one - 10, "honest is not above 0"),
        (lambda one: 0 * one + 1, "honest is not above 0 at every query, or constant"),
    ],
)
def test_a_functional_without_sizes_is_refused_in_one_line(spoil, words):
    sizes, unfinished = world(0, 0)
    with pytest.raises(RequestError, match=words):
        regress_unfinished(sizes, {"honest": spoil(unfinished["honest"])}, KEYS, np.random.default_rng(0))


def test_one_document_is_refused():
    sizes, unfinished = world(0, 0)
    few = Sizes(*(getattr(sizes, name)[:1] for name in sizes.__match_args__))
    with pytest.raises(RequestError, match="1 documents; an interval needs 4"):
        regress_unfinished(few, unfinished, KEYS, np.random.default_rng(0))
