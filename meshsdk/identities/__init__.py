"""Where a process's identity comes from: files, Istio's CA, an agent's SDS, or a CA of its own for development.

Each is a `security.Identity`: it gives whole, checked credentials, renews them long before they expire, and keeps the
last good ones in use while renewal fails. Keys are made in memory and stay there.
"""

from .development import DevelopmentIdentity
from .files import FileIdentity
from .istio_ca import IstioCaIdentity
from .sds import SdsIdentity

__all__ = ["DevelopmentIdentity", "FileIdentity", "IstioCaIdentity", "SdsIdentity"]
