"""Labels, by which clients, workloads and endpoints are chosen."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["has_labels"]


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all that are wanted are there."""
    return wanted.items() <= labels.items()
