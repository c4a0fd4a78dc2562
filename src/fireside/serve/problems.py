"""What a client is told of an error: one table, for every protocol."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fireside.errors import FiresideError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Problem:
    """An error as a client sees it: an HTTP status, a sentence, OpenAI's `type`, a `code` for programs, the field that
    it is about if there is one, and after how many seconds to come again if that can help."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        # It may quote the client, whose JSON can hold halves of characters that no answer can.
        object.__setattr__(self, "message", self.message.encode("utf-8", "replace").decode("utf-8"))

    @property
    def type(self) -> str:
        """OpenAI's word for this kind of error."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's JSON of an error."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to the status."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="fireside"'
        return headers


def problem_of(error: BaseException, request_id: str = "") -> Problem:
    """What to tell of an error: a FiresideError's own sentence; nothing of the inside of any other."""
    if isinstance(error, FiresideError):
        retry_after = getattr(error, "retry_after", None)
        return Problem(error.status, str(error), code_of(type(error)), retry_after=retry_after)
    where = f" under {request_id}" if request_id else ""
    return Problem(500, f"The server failed on this request; its log says why{where}.", "internal")


def code_of(kind: type[BaseException]) -> str:
    """The code of a class of errors: its name in lower case, as 'unknown_voice' for UnknownVoiceError."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__.removesuffix("Error")).lower()
