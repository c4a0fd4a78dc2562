"""How Mandarin writes things that are not characters, by kind."""
