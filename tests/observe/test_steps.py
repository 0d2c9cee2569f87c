"""Steps: texts that join to the reply, and spans that hold their tokens and no others."""

import itertools

import numpy as np
import pytest
import regex

from infodyn_interp import RequestError
from infodyn_interp.observe.steps import Steps, atoms_of_text, atoms_of_tokens, parse_step

TEXTS = (
    "Plain words, and a stop. Then more!",
    "Ça va? L'été fini, naïve.",  # composed
    "e\u0301te\u0301 o\u0308f",  # combining marks
    "A family 👩‍👩‍👧 waves 👋🏽, flags 🇩🇪🇫🇷 too.",
    "日本語です。नमस्ते स्वागत",
    "\u200bzero\tand\nlines\n\nend \ufffd here",
    "   ",
)


@pytest.mark.parametrize("text", TEXTS)
def test_atoms_are_whole_characters_and_join_to_the_text(text, tiny_tokenizer):
    tokens = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    atoms = atoms_of_tokens(tiny_tokenizer, tokens)
    assert "".join(atom for atom, _, _ in atoms) == text
    edges = [0, *(last for _, _, last in atoms)]
    assert [first for _, first, _ in atoms] == edges[:-1]
    assert edges[-1] == len(tokens)
    ends = set(itertools.accumulate(map(len, regex.findall(r"\X", text))))
    assert set(itertools.accumulate(len(atom) for atom, _, _ in atoms)) <= ends
    for atom, first, last in atoms:
        assert tiny_tokenizer.decode(tokens[first:last], clean_up_tokenization_spaces=False) == atom
        # none could be cut further: every shorter run of its tokens ends inside a character, or reads as the whole
        whole = tiny_tokenizer.decode(tokens[:last], clean_up_tokenization_spaces=False)
        for cut in range(first + 1, last):
            short = tiny_tokenizer.decode(tokens[:cut], clean_up_tokenization_spaces=False)
            assert short == whole or not text.startswith(short) or len(short) not in ends


def test_tokens_without_text_go_with_their_neighbours(tiny_tokenizer):
    tokens = tiny_tokenizer("a b", add_special_tokens=False)["input_ids"]
    bare = atoms_of_tokens(tiny_tokenizer, [2, tokens[0], 2, *tokens[1:], 2])
    assert "".join(text for text, _, _ in bare) == "a b"
    assert bare[0][1:] == (0, 3)
    assert bare[-1][2] == len(tokens) + 3
    assert atoms_of_tokens(tiny_tokenizer, [2, 2]) == []


@pytest.mark.parametrize("text", TEXTS[:5])
@pytest.mark.parametrize("step", ["token", "sentence"])
def test_steps_share_out_every_token_once(text, step, tiny_tokenizer):
    tokens = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    steps = parse_step(step)(atoms_of_tokens(tiny_tokenizer, tokens))
    assert "".join(steps.texts) == text
    assert [place for first, last in steps.spans for place in range(first, last)] == list(range(len(tokens)))


def test_sentences_end_at_their_stops():
    text = 'He said "Go on." She went... Then? 3.14 is no end.\nA line  日本。語 \n'
    steps = parse_step("sentence")(atoms_of_text(text))
    assert [part.strip() for part in steps.texts] == [
        'He said "Go on."',
        "She went...",
        "Then?",
        "3.14 is no end.",
        "A line  日本。語",  # a word is not cut
    ]


def test_a_window_slides_by_one():
    steps = parse_step("window:3")(atoms_of_text("a b c d e"))
    assert steps.texts == ("a b c", " b c d", " c d e")
    assert steps.spans == ((0, 3), (1, 4), (2, 5))
    assert parse_step("window:9")(atoms_of_text("a b c")).texts == ()


def test_a_step_has_the_mean_of_its_own_tokens():
    values = np.array([[1.0, 3.0, np.nan, 5.0], [np.nan, np.nan, 2.0, 4.0]])
    found = Steps(("a", "b"), ((0, 2), (2, 4))).average(values)
    np.testing.assert_array_equal(found, [[2.0, 5.0], [np.nan, 3.0]])


@pytest.mark.parametrize("step", ["word", "window", "window:0", "window:-1", "window:x"])
def test_another_step_is_refused(step):
    with pytest.raises(RequestError, match="is not one of token, sentence, window:8"):
        parse_step(step)
