"""States that are not the same have versions that are not: by these it is known that there is something to publish."""

from __future__ import annotations

from msgspec.structs import replace

from meshsdk.controlplane.state import FolderState

__all__ = ["assert_told_apart"]


def assert_told_apart(before: FolderState, after: FolderState) -> None:
    """Whether an edit that has an effect, on clients or on servers, has another version."""
    if before.grpc != after.grpc or _security_of(before) != _security_of(after):
        assert before.version != after.version


def _security_of(state: FolderState) -> tuple[object, ...]:
    """The policies, wherever they stand."""
    security = state.world.security
    authorizations = [replace(one, where="") for one in security.authorizations]
    return security.mesh, security.peers, security.requests, authorizations, bool(security.broken)
