"""Whom servers let in."""

from __future__ import annotations

from typing import Any

from meshsdk.controlplane import FolderState

from .case import Case
from .istiod import Answer

__all__ = ["compare_servers"]

# Fact, subject, client, ours, istiod's.
Found = tuple[str, str, str, Any, Any]


def compare_servers(case: Case, state: FolderState, answer: Answer) -> tuple[int, list[Found]]:
    """Ask the servers of a case; how many verdicts there were, and which differ."""
    return 0, []
