"""What comes with an extra, and is missed with words that say which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["needs_extra"]


@contextmanager
def needs_extra(extra: str, *packages: str) -> Iterator[None]:
    """Imports of what an extra brings.

    Args:
        extra: Its name.
        packages: That it brings.

    Raises:
        ModuleNotFoundError: One of them is not installed; the message says how to have it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise ModuleNotFoundError(
            f"{error.name} is not installed; it comes with: pip install 'meshsdk[{extra}]'", name=error.name
        ) from None
