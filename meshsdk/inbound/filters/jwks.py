"""Keys of an issuer: from the configuration, or fetched, kept, and fetched again when they have become old.

A key set that cannot be fetched again leaves the last one in use for as long as it may be: an issuer that is away for a
minute locks nobody out. Who carries the fetches out makes one of several at once. A file of keys is read again when it
has changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ...log_lines import logger_of
from ...resources.filters.jwt import MAX_JWKS_BYTES, JwtProvider, LocalJwks, RemoteJwks
from ...resources.tls import file_stamp
from ..waits import FetchKeys, Wait
from .token import FETCH_FAILED, BadTokenError, KeySet, Token, parse_keys

__all__ = ["KeyStore"]

logger = logger_of("meshsdk.server")

# Tokens whose signature is known to be good; a token comes with every request of a session.
_MAX_KNOWN = 1024
# How long a failed fetch answers for those that come after it.
_FAILURE_SECONDS = 1.0
# How often it is looked whether a file of keys has changed.
_LOOK_SECONDS = 1.0


class KeyStore:
    """The keys of one provider. It lives as long as the provider's settings stay the same.

    Args:
        provider: Whose.
    """

    def __init__(self, provider: JwtProvider) -> None:
        self.provider = provider
        self._source: LocalJwks | RemoteJwks = provider.jwks
        self._keys: KeySet | None = None
        self._problem: BadTokenError | None = None
        self._known: dict[str, None] = {}
        self._fresh_until = 0.0
        self._failed_until = 0.0
        self._stamp: object = None
        self._told = ""
        self._look_at = math.inf
        if isinstance(self._source, LocalJwks):
            self._load_local(self._source)
            if self._source.path:
                self._look_at = self.now() + _LOOK_SECONDS

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def _load_local(self, source: LocalJwks) -> None:
        """Read the keys, where they are new; what cannot be used leaves the last good ones."""
        try:
            stamp = file_stamp(source.path) if source.path else ()
            if stamp == self._stamp:
                return
            text = Path(source.path).read_text() if source.path else source.text
            self._keys, self._known = parse_keys(text), {}
        except (OSError, ValueError) as error:
            self._problem = BadTokenError(f"Jwks cannot be read: {error}")
        except BadTokenError as error:
            self._problem = error
        else:
            self._stamp, self._problem, self._told = stamp, None, ""
            return
        if self._keys is not None and str(self._problem) != self._told:
            self._told = str(self._problem)
            logger.error("%s: the last good keys stay: %s", source.path, self._problem)

    def verify(self, token: Token, now: float) -> Generator[Wait, Any, None]:
        """Check a token's signature.

        Raises:
            BadTokenError: It is not good, or there are no keys to check it with.
        """
        if isinstance(self._source, RemoteJwks) and now >= self._fresh_until and now >= self._failed_until:
            yield from self._fetch(self._source, now)
        if now >= self._look_at:
            assert isinstance(self._source, LocalJwks)
            self._look_at = now + _LOOK_SECONDS
            self._load_local(self._source)
        # Another thread may take up new keys meanwhile: what the old ones verify is known to them alone. Known tokens
        # are read first, since they are replaced last.
        known, keys = self._known, self._keys
        if token.text in known:
            return
        if keys is None:
            raise self._problem or BadTokenError(FETCH_FAILED)
        keys.verify(token)
        if len(known) >= _MAX_KNOWN:
            known.pop(next(iter(known)), None)
        known[token.text] = None

    def _fetch(self, source: RemoteJwks, now: float) -> Generator[Wait, Any, None]:
        had_keys = self._keys is not None
        if had_keys:
            # Others go on with the old keys while this request fetches the new ones.
            self._failed_until = now + source.timeout_seconds
        text = yield FetchKeys(source)
        self.take(text, now)

    def take(self, text: str | None, now: float) -> None:
        """A fetched key set, or None where there is none."""
        assert isinstance(self._source, RemoteJwks)
        try:
            if text is None or len(text) > MAX_JWKS_BYTES:
                raise BadTokenError(FETCH_FAILED)
            keys = parse_keys(text)
        except BadTokenError as error:
            self._problem = error
            self._failed_until = now + _FAILURE_SECONDS
            return
        self._keys, self._problem = keys, None
        self._known = {}
        self._fresh_until = now + self._source.cache_seconds
        self._failed_until = 0.0
