"""Text side: normalise, split, pronounce. Imports nothing of the engine and no torch."""
