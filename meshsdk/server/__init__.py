"""Servers of this process, put behind the mesh's policy.

Enters: requests as ASGI, WSGI and gRPC servers hand them over, with what they tell of the connection. Leaves: the same
requests to the application, as policy lets them in, or answers in its place. What is decided is `inbound`'s; here is
only how each kind of server is asked and answered.
"""

from .inbound import Inbound

__all__ = ["Inbound"]
