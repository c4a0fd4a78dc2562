"""How English writes things that are not words, by kind."""
