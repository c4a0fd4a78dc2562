"""The text side of CosyVoice 1, 2 and 3, as the original computes it and without its bugs."""

from fireside.text.official.frontend import Kind, OfficialFrontend, make_frontend
from fireside.text.official.normalise import Choice
from fireside.text.official.stream import TextStream

__all__ = ["Choice", "Kind", "OfficialFrontend", "TextStream", "make_frontend"]
