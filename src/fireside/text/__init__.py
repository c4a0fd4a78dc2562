"""Text side: clean, normalise, split, pronounce. Imports nothing of the engine and no torch.

>>> from fireside.text import Frontend
>>> [piece.text for piece in Frontend().pieces("Hello. It costs $5.")]
['Hello. It costs $5.']
"""

from fireside.text.frontend import Frontend, Piece, Word
from fireside.text.sentences import split
from fireside.text.stream import StreamingFrontend

__all__ = ["Frontend", "Piece", "StreamingFrontend", "Word", "split"]
