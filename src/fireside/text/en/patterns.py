"""Pieces of patterns that the English rules share."""

from __future__ import annotations

INT = r"\d{1,3}(?:,\d{3})+|\d+"
NUM = rf"(?:{INT})(?:\.\d+)?|(?<![\d.])\.\d+"
DASH = r"\s?[-–—~]\s?"
SCALE = "thousand|million|billion|trillion"
