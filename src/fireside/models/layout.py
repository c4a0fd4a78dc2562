"""How text and speech take turns in the LM's sequence: one definition for training and for decoding."""
