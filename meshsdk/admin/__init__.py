"""A page to look at the mesh of one process, and the same as JSON and in Envoy's formats (docs/admin.md)."""

from .admin import Admin

__all__ = ["Admin"]
