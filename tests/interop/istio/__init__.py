"""Whether a folder means to meshsdk what it means to istiod.

Theory of operation. A case (`case`) is a folder of YAML with the clients and servers that are looked at. The real
istiod is given the folder (`istiod`, a program in `box/`), meshsdk translates it, and both results become a `View`: the
resources that one client gets. Resources are never compared as bytes. Each view is asked the same requests (`asking`),
which meshsdk's own engine decides by that view's resources (`decision`), since tests/differential holds the engine to
Envoy's decisions; clusters are compared by what they do (`cluster_facts`), servers by whom they let in (`inbound`).

Of istiod's two profiles the one for gRPC clients, by which meshsdk asks, says how requests are routed. It leaves out
most of what a DestinationRule says, so clusters are compared with those that istiod gives a sidecar beside that client.

    corpus/*.yaml    cases written by hand
    recorded/        istiod's answers to them, by which `test_recorded` compares where there is no Go
    generate         random folders
    known            differences that are meant, and cases that are not right yet
    python -m tests.interop.istio   the live comparison, and recording
"""
