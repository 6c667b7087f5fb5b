"""The command line: `meshsdk check | route | status | admin | record | replay | control-plane`.

Needs the extra `meshsdk[cli]` (typer, rich).
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the `meshsdk` command."""
    try:
        from .commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"meshsdk: the command line needs {error.name}; install it with: pip install 'meshsdk[cli]'")
    app()
