"""What the engine asks of the text side: hearth's reader of phones, and the released models' tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fireside.errors import UsageError
from fireside.text import official
from fireside.text.frontend import Frontend
from fireside.text.official import Choice, OfficialFrontend
from fireside.text.official.normalise import DEFAULT

if TYPE_CHECKING:
    from fireside.models.checkpoint import ModelFolder


AnyFrontend = Frontend | OfficialFrontend


def make_frontend(model: ModelFolder, normaliser: Choice | None = None) -> AnyFrontend:
    """The text side that a model was made for. hearth reads numbers and units itself; for the others, `normaliser`
    does (None: their default).

    Raises UsageError for a normaliser that is not installed or not to be chosen, ModelError for a vocabulary that is
    missing or damaged.
    """
    config = model.config
    if config.frontend == "phones":
        if normaliser is not None:
            raise UsageError(f"The model {config.name} reads numbers and units itself: leave the normaliser out.")
        return Frontend()
    chosen = DEFAULT if normaliser is None else normaliser
    return official.make_frontend(model.text_folder, config.frontend, chosen)
