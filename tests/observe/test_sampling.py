"""Replies: each drawn by its own generator, whatever stands beside it, from what the model itself foretells."""

import families
import numpy as np
import pytest
import torch

from infodyn_interp import RequestError
from infodyn_interp.models import native_logits, open_model
from infodyn_interp.observe import sampling
from infodyn_interp.observe.prompts import Prompt, read_prompts
from infodyn_interp.observe.sampling import NOTHING, Drawing, choose, draw, sample

PROMPT = Prompt("", "here", (0, 40, 77, 120, 9, 33))
ASKED = ["The train left the station", "A proof is a walk"]


@pytest.fixture(scope="module")
def llama(tiny_tokenizer):
    return open_model(families.build("llama"), tokenizer=tiny_tokenizer)


@pytest.mark.parametrize("family", families.NAMES)
def test_the_cache_foretells_what_whole_forward_passes_do(family):
    model = open_model(families.build(family))
    drawing = Drawing(trials=2, tokens=16, temperatures=(0.7,), top_p=0.9, seed=3)
    found = draw(model, PROMPT, drawing)
    for trial in range(2):
        token, known = found.token[0, trial], found.log_probability[0, trial]
        token = token[token != NOTHING]
        whole = torch.tensor([[*PROMPT.tokens, *token]])
        logs = native_logits(model, whole)[0, len(PROMPT.tokens) - 1 : -1].double().log_softmax(-1)
        uniform = torch.from_numpy(np.random.default_rng(found.seed[0, trial]).random(16)[: len(token)])
        again = choose(logs, torch.full((len(token), 1), 0.7), 0.9, uniform)
        assert again.tolist() == token.tolist()
        np.testing.assert_allclose(known[: len(token)], logs[range(len(token)), token], atol=1e-4)


def test_a_trial_is_the_same_whatever_stands_beside_it(llama, monkeypatch):
    alone = sample(llama, ASKED[:1], trials=2, tokens=10, seed=5)
    monkeypatch.setattr(sampling, "ROWS", 3)
    among = sample(llama, ASKED[::-1], trials=5, tokens=10, temperature=[0.7, 1.0], seed=5)
    np.testing.assert_array_equal(
        among["token"].sel(temperature=1.0, prompt=1)[:2], alone["token"].sel(temperature=1.0, prompt=0)
    )
    assert len(np.unique(among["seed"])) == among["seed"].size
    other = sample(llama, ASKED[:1], trials=2, tokens=10, seed=6)
    assert (other["token"] != alone["token"]).any()


def test_tokens_come_as_often_as_they_are_foretold():
    logs = torch.tensor([1.0, 0.0, -1.0, 2.0]).log_softmax(0).double()
    draws = 40_000
    uniform = torch.from_numpy(np.random.default_rng(0).random(draws))
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.7)):
        odds = (logs / temperature).softmax(0).numpy()
        if top_p < 1:
            odds = np.where(np.isin(np.arange(4), [0, 3]), odds, 0)  # .64 + .24: two reach .7
        drawn = choose(logs.expand(draws, 4), torch.full((draws, 1), temperature), top_p, uniform)
        counts = np.bincount(drawn, minlength=4)
        expected = draws * odds / odds.sum()
        assert (abs(counts - expected) <= 4 * np.sqrt(expected)).all()


def test_the_coldest_reply_is_the_likeliest(llama):
    found = sample(llama, ASKED, trials=1, tokens=6, temperature=0)
    for prompt in range(2):
        asked = found["prompt_token"].values[prompt]
        token = found["token"].values[0, prompt, 0]
        whole = torch.tensor([[*asked[asked != NOTHING], *token[token != NOTHING]]])
        likeliest = native_logits(llama, whole)[0].argmax(-1)[len(asked[asked != NOTHING]) - 1 : -1]
        assert likeliest.tolist() == token[token != NOTHING].tolist()


def test_replies_end_where_the_model_ends_them(tiny_tokenizer):
    module = families.build("llama")
    module.generation_config.eos_token_id = [1, *range(100, 130)]
    found = sample(open_model(module, tokenizer=tiny_tokenizer), ASKED, trials=6, tokens=30)
    token, length, ended = (found[name].values for name in ("token", "length", "ended"))
    assert not np.isin(token, module.generation_config.eos_token_id).any()
    assert ended.any()
    assert ((length < 30) == ended).all()
    assert len(np.unique(length)) > 3
    assert ((np.arange(30) < length[..., None]) == (token != NOTHING)).all()
    assert (np.isfinite(found["log_probability"].values) == (token != NOTHING)).all()


def test_a_chat_template_stands_around_the_prompt(tiny_tokenizer_folder):
    tokenizer = type(families.save_tokenizer(tiny_tokenizer_folder)).from_pretrained(tiny_tokenizer_folder)
    model = open_model(families.build("llama"), tokenizer=tokenizer)
    with pytest.raises(RequestError, match="no chat template; leave chat out"):
        sample(model, ASKED, trials=1, tokens=2, chat=True)
    tokenizer.chat_template = "<s>U: {{ messages[0]['content'] }}\nA:"
    found = sample(model, ASKED[:1], trials=1, tokens=2, chat=True)
    said = tokenizer(f"<s>U: {ASKED[0]}\nA:", add_special_tokens=False)["input_ids"]
    assert found["prompt_token"].values[0].tolist() == said


def test_prompts_are_the_same_from_lines_json_and_a_list(tmp_path):
    lines, records = tmp_path / "a.txt", tmp_path / "a.jsonl"
    lines.write_text("\n".join(ASKED) + "\n\n")
    records.write_text("".join(f'{{"prompt": "{text}", "q": "{text}"}}\n' for text in ASKED))
    found = [read_prompts(lines), read_prompts(records), read_prompts(records, "q"), read_prompts(ASKED)]
    assert all([prompt.text for prompt in prompts] == ASKED for prompts in found)


@pytest.mark.parametrize(
    ("prompts", "keywords", "message"),
    [
        ([], {}, "prompts: no prompts; give at least one"),
        (["a", " "], {}, r"prompts\[1\]: an empty prompt"),
        (["a", "b", "a"], {}, r"prompts\[2\]: the prompt of prompts\[0\] again"),
        (["a " * 130], {}, r"prompts\[0\]: \d+ tokens, and 4 of a reply, where the context of .* holds 128"),
        (["a"], {"trials": 0}, "trials: 0 asked, at least 1"),
        (["a"], {"tokens": 1}, "a reply of one token has no motion"),
        (["a"], {"temperature": 0.0}, "at 0 all 2 trials are the same reply, so there is nothing to compare"),
        (["a"], {"temperature": -1.0}, "temperature: -1 asked"),
        (["a"], {"temperature": [1.0, 1.0]}, "give each once"),
        (["a"], {"top_p": 0.0}, "top_p: 0 asked"),
        (["a"], {"seed": -1}, "seed: -1 asked"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(llama, prompts, keywords, message):
    with pytest.raises(RequestError, match=message) as caught:
        sample(llama, prompts, **{"trials": 2, "tokens": 4} | keywords)
    assert "\n" not in str(caught.value)
