"""Who may come in: API keys from a file."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from fireside.errors import AuthError, ConfigError, OriginError

_SHORTEST = 16
_MISSING = "This server wants an API key: send it as  Authorization: Bearer KEY"
_WRONG = "This API key is not known here: check it, or ask whoever runs the server for one."


@dataclass(frozen=True)
class Client:
    """Whoever holds a key; its name is what logs and limits go by."""

    name: str


ANYBODY = Client("anybody")


class Keys:
    """The keys of a server, kept as digests. Without any, everybody may come in."""

    def __init__(self, keys: dict[str, str]) -> None:
        """keys: from a client's name to its key."""
        self._digests = [(Client(name), _digest(key)) for name, key in keys.items()]

    @classmethod
    def read(cls, file: Path) -> Keys:
        """Keys from lines of `KEY` or `NAME: KEY`; empty lines and those that begin with # are passed over.

        Raises ConfigError, never showing a key.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(f"The key file {file} cannot be read: {reason}.") from error
        keys: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            name, colon, key = (part.strip() for part in entry.rpartition(":"))
            name = name if colon else f"key-{number}"
            if len(key) < _SHORTEST or not key.isascii() or any(map(str.isspace, key)):
                raise ConfigError(
                    f"Line {number} of {file} holds no good key: use at least {_SHORTEST} ASCII characters, no spaces."
                )
            if name in keys or key in keys.values():
                raise ConfigError(f"Line {number} of {file} repeats a name or a key.")
            keys[name] = key
        if not keys:
            raise ConfigError(f"The key file {file} holds no key: write one a line, as  NAME: KEY")
        return cls(keys)

    @property
    def needed(self) -> bool:
        """Whether a client must show a key."""
        return bool(self._digests)

    def check(self, given: str | None) -> Client:
        """The client of a key, in the same time whichever it is. Raises AuthError for none and for a wrong one."""
        if not self._digests:
            return ANYBODY
        if not given:
            raise AuthError(_MISSING)
        digest = _digest(given)
        found = [client for client, known in self._digests if hmac.compare_digest(known, digest)]
        if not found:
            raise AuthError(_WRONG)
        return found[0]


def bearer(header: str | None) -> str | None:
    """The key in an Authorization header; None when there is none."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def check_origin(origin: str | None, host: str | None, allowed: tuple[str, ...]) -> None:
    """Refuse a browser's request that a page of another origin made.

    origin, host: the headers; programs that are not browsers send no origin. Raises OriginError.
    """
    if origin is None or origin in allowed or origin.partition("://")[2] == host:
        return
    raise OriginError(f"Pages of {origin[:200]} may not call this server: allow them with --cors, if they should.")
