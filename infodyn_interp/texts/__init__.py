"""What is read: documents become windows of tokens that never cross a document.

A counting pass streams the corpus once and keeps, per document, its content hash, its place and its number of
tokens. Documents are ranked by hash: the first ranks are the reference, the next ones are fitted. Every later
reading goes to the documents by their place, in rank order, so the order of the corpus changes nothing.
"""

from infodyn_interp.texts.pieces import read_pieces
from infodyn_interp.texts.reading import read_texts
from infodyn_interp.texts.windows import Batch, Census, Texts

__all__ = ["Batch", "Census", "Texts", "read_pieces", "read_texts"]
