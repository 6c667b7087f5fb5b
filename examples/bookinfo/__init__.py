"""The bookinfo idea, without sidecars: four services as real processes, on one mesh.

    python -m examples.bookinfo

The product page asks details and reviews; reviews v2 and v3 ask ratings. Who is asked is said by the Istio YAML in
`mesh/` alone. The demo sends traffic, edits a copy of that folder while it runs, kills a replica, and checks that what
it sees is what the YAML says.

    python -m examples.bookinfo --serve

keeps them running with visitors, and says where their metrics and admin pages are.
"""
