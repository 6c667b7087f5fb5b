"""From a request's head to what the routes say about it.

Enters: a `RequestHead` (method, scheme, authority, path, headers) and a random number. Leaves: the `CompiledRoute`
that matched, which knows how to rewrite, redirect, answer or forward; or None. No I/O, no clock.

Route configurations are compiled once, when they arrive (`route_table`); deciding is then lookups and comparisons.
`explain` walks the same conditions and says why each earlier route did not match.
"""

from .compiled_forward import CompiledForward
from .compiled_route import CompiledRoute
from .explain import RouteExplanation, explain_route
from .header_mutation import HeaderList, apply_mutations
from .request_head import RequestHead
from .route_table import RouteTable

__all__ = [
    "CompiledForward",
    "CompiledRoute",
    "HeaderList",
    "RequestHead",
    "RouteExplanation",
    "RouteTable",
    "apply_mutations",
    "explain_route",
]
