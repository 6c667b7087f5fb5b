"""A certificate authority for development, shared by the processes of one user over one folder.

So that `Mesh(config="mesh/")` has working mutual TLS with no set-up: the first process makes the CA (`held_authority`),
the others find it. It proves that two processes run under the same user, and nothing more: this is not for production.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IdentityError
from ..security import Credentials
from ..security.identity import check_credentials
from .renewal import RenewedIdentity

if TYPE_CHECKING:
    from .held_authority import HeldAuthority

__all__ = ["DevelopmentIdentity"]


class DevelopmentIdentity(RenewedIdentity):
    """An identity that the development CA of a configuration folder signs.

    Args:
        root: The configuration.
        spiffe_id: Whom to be.
    """

    def __init__(self, root: str | os.PathLike[str], spiffe_id: str) -> None:
        self._root = Path(root).resolve()
        self._spiffe_id = spiffe_id
        self._held: HeldAuthority | None = None
        super().__init__(self._certify, "the development CA", self._of_ca_of_now)

    @property
    def spiffe_id(self) -> str:
        """Whom to be."""
        return self._spiffe_id

    def _of_ca_of_now(self, current: Credentials) -> Credentials:
        """The same, unless the CA has been replaced: then everybody else trusts another one."""
        held = self._held
        return current if held is not None and held.is_in_place else self._certify()

    def _certify(self) -> Credentials:
        # Where nobody speaks TLS nobody waits for cryptography.
        from .held_authority import HeldAuthority
        from .signing_request import make_signing_request

        try:
            if self._held is None or not (self._held.is_fresh and self._held.is_in_place):
                self._release()
                self._held = HeldAuthority(self._root)
            authority = self._held.authority
            private, request = make_signing_request(self._spiffe_id)
            return check_credentials(authority.sign(request, self._spiffe_id), private, authority.pem)
        except (OSError, ValueError) as error:
            raise IdentityError(f"the development CA cannot be used: {error}") from error

    def close(self) -> None:
        """See `security.Identity`."""
        super().close()
        self._release()

    def reset(self) -> None:
        """See `forks`."""
        self._release()
        super().reset()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()
