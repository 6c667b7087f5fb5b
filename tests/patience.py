"""How long tests wait for what comes at once on a machine that has nothing else to do."""

from __future__ import annotations

import httpx

__all__ = ["PATIENCE", "have_patience"]

# Below pytest's own limit for a test. It guards, and nothing takes so long: a run that passes is none the slower.
PATIENCE = 60.0


def have_patience() -> None:
    """Clients that were given no timeouts have httpx's five seconds otherwise, which a handshake may take."""
    defaults = httpx.Client().timeout
    from httpx._config import DEFAULT_TIMEOUT_CONFIG

    assert defaults == DEFAULT_TIMEOUT_CONFIG
    for name in ("connect", "read", "write", "pool"):
        setattr(DEFAULT_TIMEOUT_CONFIG, name, PATIENCE)
