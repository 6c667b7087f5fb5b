"""The embedded control plane: a folder of YAML as xDS.

Enters: Kubernetes and Istio objects, and raw xDS resources, as files. Leaves: the xDS resources that Istio would make
of them, to this process (`FolderSource`) or to any xDS client (`server`).

    files, strict_yaml, strict_json, documents  what stands in the folder, read without blocking
    kinds        whose a document is: ours, not ours, or closed
    pruning      what of it need not be kept
    lines        on which line a problem stands
    reading      what a document says by itself
      kubernetes   Service, EndpointSlice, Endpoints, Pod, Node  ┐
      istio        ServiceEntry, VirtualService, …               ├► world: services, workloads, rules
      checks, …_rules  what Istio's own servers would refuse     │
      raw          resources with "@type"                        │
    assemble, joining  objects together: who serves a service    ┘
    client, scope, client_rules, delegates   who asks, and which of all that is there for it
    clusters, locality, routes, virtual_hosts, listeners   a scope to xDS, with Istio's names, domains and defaults
    packing      what was made as bytes, checked as a client would
    view, state  documents to all of that, in the shapes in which clients ask for it
    memo         what of all that is kept for the next state
    folder       watched; each file's last good state serves on when an edit is wrong
"""

from .client import client_of
from .folder import Folder, FolderState, Problem
from .source import FolderSource
from .sourced_folder import SourcedFolder

__all__ = ["Folder", "FolderSource", "FolderState", "Problem", "SourcedFolder", "client_of"]
