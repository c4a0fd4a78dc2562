"""The filter of silent ids against the original (case v3_silent_token_filter)."""

from __future__ import annotations

from fireside.engine.silent import SilentTokenFilter
from fireside.models.official_lm import COSYVOICE3_SILENT

SILENT = frozenset(COSYVOICE3_SILENT)


def test_kept_ids(golden_case):
    config = golden_case("v3_silent_token_filter").config
    assert frozenset(config["silent_tokens"]) == SILENT
    for record in config["records"]:
        tokens, kept = record["llm_tokens"], record["kept"]
        assert SilentTokenFilter(SILENT).kept(tokens) == kept
        parts = SilentTokenFilter(SILENT)
        assert [t for i in range(0, len(tokens), 7) for t in parts.kept(tokens[i : i + 7])] == kept


def test_its_length_is_a_parameter():
    assert SilentTokenFilter(frozenset({3}), most=2).kept([3, 3, 3, 4, 3, 3, 3]) == [3, 3, 4, 3, 3]
