"""Attention energies of transformer language models; every public name is loaded on first use."""

from .errors import RequestError, RunError
from .loading import on_first_use

__version__ = "0.1.0"

_MODULES = (
    "energy",
    "figures",
    "hooks",
    "identify",
    "measures",
    "models",
    "observe",
    "observing",
    "planted",
    "report",
    "results",
    "run",
    "texts",
)
_FUNCTIONS = {
    "capture": "hooks",
    "compare": "comparing",
    "export": "results",
    "open_model": "models",
    "open_result": "results",
    "read_texts": "texts",
    "summary": "results",
    "sweep": "sweeping",
    "table": "results",
    "try_column": "sweeping.trying",
    "write_report": "report",
}

__all__ = ["RequestError", "RunError", "__version__", *_MODULES, *_FUNCTIONS]  # noqa: PLE0604
__getattr__, __dir__ = on_first_use(__name__, {name: name for name in _MODULES} | _FUNCTIONS)
