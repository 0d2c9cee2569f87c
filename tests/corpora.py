"""Documents of a known number of tokens, a tokenizer that counts them, and all that a corpus gives back."""

import json
import multiprocessing
import os
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from infodyn_interp.texts.corpus import Strings

SPECIAL = ["<unk>", "<s>", "</s>"]


def word_tokenizer(template=None, **special):
    """One token a word, so that documents of a known number of tokens can be written down."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL + [f"w{n}" for n in range(500)])}
    backend = Tokenizer(models.WordLevel(vocabulary | {"a": len(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        ids = [(token, vocabulary[token]) for token in SPECIAL]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


PLAIN = word_tokenizer(bos_token="<s>")
DRESSED = word_tokenizer("<s> $A </s>", bos_token="<s>", eos_token="</s>")


def spell_document(tokens, seed=0):
    generator = np.random.default_rng([tokens, seed])
    return " ".join(f"w{n}" for n in generator.integers(0, 500, tokens))


def spell_corpus(count, tokens=100):
    return [spell_document(tokens + number % 7, number) for number in range(count)]


def everything(texts, role, size=7):
    batches = list(texts.batches(size, role))
    arrays = [
        np.concatenate([getattr(b, name) for b in batches]) for name in ("document", "position", "fold")
    ]
    return [torch.cat([batch.tokens for batch in batches]).numpy(), *arrays]


def same(one, other):
    return all(
        np.array_equal(a, b)
        for role in ("fitted", "reference")
        for a, b in zip(everything(one, role), everything(other, role), strict=True)
    )


def refusal(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def json_lines(records, end="\n", bom=""):
    return (bom + "".join(json.dumps(record) + end for record in records)).encode()


@dataclass(frozen=True)
class Deadly(Strings):
    """Documents of which one ends whatever process reads it, except the first."""

    deadly: int = 0

    def document(self, place):
        if place.start == self.deadly and multiprocessing.parent_process() is not None:
            os._exit(1)
        return super().document(place)
