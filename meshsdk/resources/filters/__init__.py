"""HTTP filters, as data and from protobuf: `registry` knows which there are, `settings` what all have in common.

Each module is a face of its own, and loaded when the first such filter comes.
"""
