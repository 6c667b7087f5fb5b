"""The mesh of the recipes of docs/security.md: MESHSDK_CONFIG, RECIPE_IDENTITY and RECIPE_PORT say the rest."""

from __future__ import annotations

import os

import meshsdk
from meshsdk.identities import FileIdentity

__all__ = ["mesh", "port"]

folder = os.environ["RECIPE_IDENTITY"]
port = int(os.environ["RECIPE_PORT"])
mesh = meshsdk.Mesh(identity=FileIdentity(f"{folder}/cert.pem", f"{folder}/key.pem", f"{folder}/roots.pem"))
