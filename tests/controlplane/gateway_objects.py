"""YAML of Gateway API's objects."""

from __future__ import annotations

__all__ = ["SERVICE", "backends", "grpc_route", "http_route", "route"]

SERVICE = '{group: "", kind: Service, name: a}'


def route(kind: str, rules: str, *, parents: str = SERVICE, name: str = "r", namespace: str = "default") -> str:
    """A route; `rules` is the list, as YAML in flow style, or empty for none."""
    written = f", rules: {rules}" if rules else ""
    return (
        f"---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{parents}]{written}}}\n"
    )


def http_route(rules: str, *, parents: str = SERVICE, name: str = "r", namespace: str = "default") -> str:
    """An HTTPRoute, of the service `a` if nothing else is said."""
    return route("HTTPRoute", rules, parents=parents, name=name, namespace=namespace)


def grpc_route(rules: str, *, parents: str = SERVICE, name: str = "r", namespace: str = "default") -> str:
    """A GRPCRoute, of the service `a` if nothing else is said."""
    return route("GRPCRoute", rules, parents=parents, name=name, namespace=namespace)


def backends(*names: str) -> str:
    """References to services on port 80."""
    return f"backendRefs: [{', '.join(f'{{name: {name}, port: 80}}' for name in names)}]"
