"""The energy inside the model: U = P + track + M, and what must not be taken for it."""
