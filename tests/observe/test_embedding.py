"""Embedders: any function of texts, a real one from its folder, the model's own unembedding; bad ones refused."""

import importlib.util
import warnings
import zipfile
from pathlib import Path

import families
import numpy as np
import pytest

from infodyn_interp import RequestError
from infodyn_interp.models import open_model
from infodyn_interp.observe.embedding import choose_embedder, unembed
from infodyn_interp.observe.steps import atoms_of_tokens, parse_step

MISSING = [
    name for name in ("sentence_transformers", "all_minilm_l6_v2") if importlib.util.find_spec(name) is None
]


def letters(texts):
    return np.array([[text.count("a"), len(text)] for text in texts], np.float32)


def test_each_text_is_embedded_once_and_keeps_its_place():
    asked = []

    def embed(texts):
        asked.extend(texts)
        return letters(texts)

    points = choose_embedder(embed)(["banana", "x", "banana", "a"])
    np.testing.assert_array_equal(points, [[3, 6], [0, 1], [3, 6], [1, 1]])
    assert asked == ["banana", "x", "a"]


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda texts: letters(texts) * np.nan, "NaN or infinity for"),
        (lambda texts: letters(texts).astype(int), "numbers of type int64; it must give float32 or float64"),
        (lambda texts: np.array([["a"]] * len(texts)), "numbers of type <U1"),
        (lambda texts: [[1.0] * len(text) for text in texts], "rows of unlike width"),
        (lambda texts: np.ones((len(texts), len(texts[0]))), "numbers for one text"),
        (lambda texts: np.ones(len(texts)), "an array of shape"),
        (lambda texts: np.ones((1, 3)), "an array of shape"),
    ],
)
def test_an_embedder_that_cannot_be_used_is_refused_by_its_answers(embed, message):
    with pytest.raises(RequestError, match=message) as caught:
        choose_embedder(embed).probe()
    assert "\n" not in str(caught.value)


def test_a_step_is_the_mean_of_its_tokens_rows_of_the_unembedding(tiny_tokenizer):
    module = families.build("llama")
    model = open_model(module, tokenizer=tiny_tokenizer)
    tokens = tiny_tokenizer("Why wait? It rains 🌧.", add_special_tokens=False)["input_ids"]
    steps = parse_step("token")(atoms_of_tokens(tiny_tokenizer, tokens))
    rows = module.get_output_embeddings().weight.detach().numpy()[tokens]
    expected = [rows[first:last].mean(0) for first, last in steps.spans]
    np.testing.assert_allclose(unembed(model, tokens, steps), expected, rtol=1e-6)


@pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)} (pip install '.[dev]')")
def test_a_sentence_embedder_knows_what_is_alike_offline(tmp_path):
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    with zipfile.ZipFile(Path(spec.origin).with_name("model.zip")) as packed:
        packed.extractall(tmp_path / "minilm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that come with it
        embedder = choose_embedder(tmp_path / "minilm")
        embedder.probe()
        rain, wet, tax = embedder(["It is raining.", "The weather is wet.", "He paid his taxes."])
    assert embedder.name == "minilm"
    assert rain.shape == (384,)
    assert rain @ wet > rain @ tax + 0.2


def test_a_name_that_is_nowhere_is_refused_in_one_line():
    if "sentence_transformers" in MISSING:
        with pytest.raises(RequestError, match=r"pip install 'infodyn-interp\[embed\]'"):
            choose_embedder("no-such-embedder")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RequestError, match="embedder no-such-embedder: cannot be opened") as caught:
                choose_embedder("no-such-embedder")
        assert "\n" not in str(caught.value)
