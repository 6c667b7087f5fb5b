"""What a host that the mesh does not know was perhaps meant to be."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Sequence

from .node import Node

__all__ = ["KnownHosts", "Nearby"]

# Host and port, in full.
KnownHosts = Sequence[tuple[str, int]]

# As alike as `greter` and `greeter`, and not as `orders` and `others`.
_ALIKE = 0.8
_MAX_KEPT = 256
_MAX_PORTS = 5


class Nearby:
    """Knows the hosts of a mesh by the first of their labels. From any thread.

    Args:
        hosts: All that are known now; the same object where they have not changed.
        node: Whose short names are completed.
    """

    def __init__(self, hosts: Callable[[], KnownHosts], node: Node) -> None:
        self._hosts = hosts
        self._node = node
        self._lock = threading.Lock()
        self._made_of: KnownHosts = ()
        self._by_label: dict[str, list[tuple[str, int]]] = {}
        self._kept: dict[tuple[str, int], str] = {}

    def hint(self, host: str, port: int) -> str:
        """What the mesh has instead, such as `it has greeter on 9090`; empty where there is nothing like it."""
        host = host.lower().rstrip(".")
        hosts = self._hosts()
        with self._lock:
            if hosts is not self._made_of:
                self._made_of, self._by_label, self._kept = hosts, _by_label(hosts), {}
            known = self._kept.get((host, port))
            if known is None:
                if len(self._kept) >= _MAX_KEPT:
                    self._kept.clear()
                known = self._kept[(host, port)] = self._find(host)
            return known

    def _find(self, host: str) -> str:
        label, full = host.partition(".")[0], self._node.complete(host)
        alike = self._by_label.get(label, ())
        ports = [port for known, port in alike if known in (host, full)]
        if ports:
            return f"it has {host} on {_listed(ports)}"
        elsewhere = [(known, port) for known, port in alike if full is not None and known.endswith(_domain(self._node))]
        if elsewhere:
            return self._in_other_namespaces(label, elsewhere)
        # The first letters of a name are rarely wrong, and there may be ten thousand names.
        names = [name for name in self._by_label if name[:1] == label[:1] and abs(len(name) - len(label)) < 3]
        for name in difflib.get_close_matches(label, names, n=1, cutoff=_ALIKE):
            known = self._by_label[name]
            own = [one for one in known if one[0] == self._node.complete(name)]
            found = own or known
            shown = name if own else found[0][0]
            return f"it has {shown} on {_listed(port for other, port in found if other == found[0][0])}"
        return ""

    def _in_other_namespaces(self, label: str, known: Sequence[tuple[str, int]]) -> str:
        namespaces = sorted({host.split(".")[1] for host, _ in known})
        if len(namespaces) == 1:
            ports = _listed(port for _, port in known)
            where = f"it has {label} in namespace {namespaces[0]}, as {label}.{namespaces[0]} on {ports}"
        else:
            where = f"it has {label} in the namespaces {', '.join(namespaces)}"
        return f"{where}; this process is of namespace {self._node.namespace}"


def _domain(node: Node) -> str:
    return f".svc.{node.cluster_domain}"


def _by_label(hosts: KnownHosts) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for host, port in hosts:
        found.setdefault(host.partition(".")[0], []).append((host, port))
    return found


def _listed(ports: Iterable[int]) -> str:
    numbers = sorted(set(ports))
    more = f" and {len(numbers) - _MAX_PORTS} more" if len(numbers) > _MAX_PORTS else ""
    return ", ".join(map(str, numbers[:_MAX_PORTS])) + more
