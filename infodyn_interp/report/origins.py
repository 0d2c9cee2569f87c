"""Where a result comes from: versions, the run file that asks for it again, how to cite it."""

import json
from typing import Any

import xarray

from infodyn_interp.errors import RequestError
from infodyn_interp.run import Run


def versions(result: xarray.DataTree) -> dict[str, str]:
    """Packages, weights and texts that the result came from, by name."""
    about, settings = result.attrs, json.loads(result.attrs["run"])
    named = {"infodyn-interp": about["package_version"], **json.loads(about["dependency_versions"])}
    if "model_digest" in about:
        named["weights"] = " ".join(filter(None, (about["model_digest"], about["model_revision"])))
    read = settings.get("prompts_digest") or settings.get("texts_digest", "?")
    return named | {
        "prompts" if "prompts_digest" in settings else "texts": read,
        "run": about["run_digest"],
    }


def reproduce(result: xarray.DataTree) -> dict[str, str]:
    """The run file and the command that ask for the same again; the bare settings where no file asked."""
    settings: dict[str, Any] = json.loads(result.attrs["run"])
    keys = {key: value for key, value in settings.items() if key in Run.model_fields and value is not None}
    try:
        written = Run(**(keys | {"out": "again"})).as_toml()
    except RequestError:  # a model or texts handed over in Python
        return {"file": json.dumps(settings, indent=1), "command": ""}
    return {"file": written, "command": "infodyn run study.toml"}


def cite(result: xarray.DataTree) -> str:
    """A BibTeX entry of the package, with the run that it was used for."""
    about = result.attrs
    of = f", model {about['model']}, weights {about['model_digest']}" if "model" in about else ""
    note = f"run {about['run_digest']}{of}"
    return (
        "@software{infodyn_interp,\n"
        "  title   = {infodyn-interp: attention energies of transformer language models},\n"
        f"  version = {{{about['package_version']}}},\n"
        f"  note    = {{{note}}},\n"
        "}"
    )
