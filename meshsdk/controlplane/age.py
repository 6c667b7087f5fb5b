"""Which of two rules is the older one, and holds."""

from __future__ import annotations

__all__ = ["UNKNOWN_AGE", "Age"]

# When it was created, its name, its namespace. Nothing where nobody knows the first: then it counts where it stands in
# the folder, in whose order rules are kept, and sorting leaves it at that.
Age = tuple[str, str, str]
UNKNOWN_AGE: Age = ("", "", "")
