"""Proof against the real Envoy: the same resources and the same requests must come to the same decision.

`judge` runs the Envoy and asks it; `ours` asks meshsdk; `generate` makes route configurations and requests;
`test_generated_routes` compares thousands of decisions. The other tests compare behaviour: where keys are hashed to,
how traffic is spread, what is retried, ejected and refused. Differences that are meant are in
docs/envoy-differences.md, each with the test that pins it.
"""
