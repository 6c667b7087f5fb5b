"""Which of two rules is the older one, and holds."""

from __future__ import annotations

__all__ = ["UNKNOWN_AGE", "Age"]

# When it was created, or where nobody knows its place in the folder; name, namespace.
Age = tuple[str, int, str, str]
UNKNOWN_AGE: Age = ("", 0, "", "")
