"""`make httpx-suite SUITE=…`: the tests that httpx and httpx2 publish, over the mesh's transports and clients."""
