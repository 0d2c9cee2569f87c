"""Open a causal language model in whatever form it comes, and make the twins its quantities are set against.

Every model ends as a `TransformerBridge` around a Hugging Face module with eager attention. The digest, the
native logits and the twins are taken from that module with the bridge's components out of the way, so none of
them depends on how the model was opened.
"""

from infodyn_interp.models.bridging import native_logits, new_cache, unbridged, with_cache
from infodyn_interp.models.description import Model
from infodyn_interp.models.opening import open_model
from infodyn_interp.models.sources import DEMO
from infodyn_interp.models.twins import permuted_weights_twin, recast, untrained_twin

__all__ = [
    "DEMO",
    "Model",
    "native_logits",
    "new_cache",
    "open_model",
    "permuted_weights_twin",
    "recast",
    "unbridged",
    "untrained_twin",
    "with_cache",
]
