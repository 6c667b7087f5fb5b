"""CEL conditions of RBAC policies (envoy.config.rbac.v3.Policy.condition), evaluated by cel-cpp, as Envoy does.

An expression comes as a tree. What it asks of a request must be known beforehand, and what Envoy switches off for
safety is refused: comprehensions, which may take any time, and making strings, unless cel_config switches that on.

Sources: Envoy docs, advanced/attributes; source/extensions/filters/common/expr/{evaluator,context}.cc.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...errors import ResourceError, UnsupportedFeatureError
from .. import protos

__all__ = ["CEL_ROOTS", "CelCondition", "cel_environment", "cel_now", "parse_condition"]

# What may be asked; an attribute that is not here is refused.
CEL_ROOTS = {
    "request": frozenset(
        "path url_path query host scheme method headers referer useragent id size time duration protocol".split(),
    ),
    "source": frozenset({"address", "port"}),
    "destination": frozenset({"address", "port"}),
    "connection": frozenset(
        "mtls requested_server_name subject_peer_certificate uri_san_peer_certificate dns_san_peer_certificate"
        " sha256_peer_certificate_digest uri_san_local_certificate".split()
    ),
    "metadata": frozenset({"filter_metadata"}),
}

_FUNCTIONS = frozenset(
    "_&&_ _||_ !_ _==_ _!=_ _<_ _<=_ _>_ _>=_ _-_ _*_ _/_ _%_ -_ _?_:_ @in in _[_] startsWith endsWith contains"
    " matches size int uint double type timestamp duration getDate getDayOfMonth getDayOfWeek getDayOfYear getFullYear"
    " getHours getMilliseconds getMinutes getMonth getSeconds".split()
)
# What a policy may switch on (CelExpressionConfig).
_ON_REQUEST = {
    "enable_string_conversion": frozenset({"string"}),
    "enable_string_concat": frozenset({"_+_"}),
    "enable_string_functions": frozenset(
        "charAt indexOf join lastIndexOf lowerAscii replace split substring trim upperAscii".split()
    ),
}
_MAX_DEPTH = 24


class CelCondition(Struct, frozen=True, gc=False):
    """A condition that was found to be fit.

    Attributes:
        serialized: For cel-cpp.
        attributes: What it asks: pairs of variable and attribute.
        headers: Headers that it looks at, by their lower-case names.
        asks_any_header: Whether it may look at headers that are not known beforehand.
    """

    serialized: bytes
    attributes: frozenset[tuple[str, str]]
    headers: frozenset[str] = frozenset()
    asks_any_header: bool = False


def cel_environment() -> Any:
    """cel-cpp with our variables.

    Raises:
        UnsupportedFeatureError: It is not installed.
    """
    try:
        from cel_expr_python import cel
        from cel_expr_python.ext import ext_strings
    except ImportError:
        raise UnsupportedFeatureError("CEL conditions need cel-expr-python: pip install 'meshsdk[cel]'") from None
    return cel.NewEnv(variables=dict.fromkeys(CEL_ROOTS, cel.Type.DYN), extensions=[ext_strings.ExtStrings()])


def cel_now() -> Any:
    """This moment, as cel-cpp takes it."""
    now = protos.timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return now


def parse_condition(message: Any, where: str, config: Any = None) -> CelCondition:
    """A google.api.expr.v1alpha1.Expr.

    Args:
        message: The expression.
        where: It stands.
        config: An envoy.config.core.v3.CelExpressionConfig: what it may call beyond the usual.

    Raises:
        ResourceError: It asks what is not known, or calls what is refused; or cel-cpp is not there, or refuses it.
    """
    fit = protos.syntax_pb2.Expr()
    fit.CopyFrom(message)
    more = [functions for field, functions in _ON_REQUEST.items() if config is not None and getattr(config, field)]
    reader = _Reader(where, _FUNCTIONS.union(*more))
    reader.read(fit, 0)
    parsed = protos.syntax_pb2.ParsedExpr(expr=fit)
    # cel-cpp knows the message by its newer name; the two are the same on the wire.
    packed = protos.any_pb2.Any(type_url="type.googleapis.com/cel.expr.ParsedExpr", value=parsed.SerializeToString())
    serialized = packed.SerializeToString()
    try:
        cel_environment().deserialize(serialized)
    except UnsupportedFeatureError as error:
        raise ResourceError(where, str(error)) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise ResourceError(where, f"is no expression: {error}") from error
    return CelCondition(serialized, frozenset(reader.attributes), frozenset(reader.headers), reader.asks_any_header)


class _Reader:
    """Walks an expression: notes what it asks, and refuses what is not fit."""

    def __init__(self, where: str, functions: frozenset[str]) -> None:
        self._where = where
        self._functions = functions
        self.attributes: set[tuple[str, str]] = set()
        self.headers: set[str] = set()
        self.asks_any_header = False

    def read(self, expression: Any, depth: int) -> None:
        """See the class."""
        if depth > _MAX_DEPTH:
            raise ResourceError(self._where, f"is nested deeper than {_MAX_DEPTH}")
        kind = expression.WhichOneof("expr_kind")
        match kind:
            case "const_expr":
                return
            case "select_expr":
                self._read_select(expression.select_expr, depth)
            case "call_expr":
                self._read_call(expression.call_expr, depth)
            case "list_expr":
                for element in expression.list_expr.elements:
                    self.read(element, depth + 1)
            case "ident_expr":
                raise ResourceError(self._where, f"uses {expression.ident_expr.name!r} without an attribute of it")
            case _:
                raise ResourceError(self._where, f"{kind or 'an empty expression'} is refused, in Envoy too")

    def _read_select(self, select: Any, depth: int) -> None:
        operand = select.operand
        if operand.WhichOneof("expr_kind") != "ident_expr":
            if _is_headers(operand):
                select.field = self._header_name(select.field)
            return self.read(operand, depth + 1)
        root, attribute = operand.ident_expr.name, select.field
        if attribute not in CEL_ROOTS.get(root, ()):
            raise ResourceError(self._where, f"{root}.{attribute} is an attribute that meshsdk does not have")
        self.attributes.add((root, attribute))

    def _read_call(self, call: Any, depth: int) -> None:
        if call.function not in self._functions:
            raise ResourceError(self._where, f"calls {call.function!r}, which is refused")
        if call.HasField("target"):
            self.read(call.target, depth + 1)
        for argument in call.args:
            self.read(argument, depth + 1)
        if call.function == "_[_]" and _is_headers(call.args[0]):
            key = call.args[1]
            if (
                key.WhichOneof("expr_kind") == "const_expr"
                and key.const_expr.WhichOneof("constant_kind") == "string_value"
            ):
                key.const_expr.string_value = self._header_name(key.const_expr.string_value)
            else:
                self.asks_any_header = True
        elif any(map(_is_headers, call.args)):
            self.asks_any_header = True

    def _header_name(self, name: str) -> str:
        """Names of headers are looked up in lower case, as Envoy's wrapper of headers does."""
        name = name.lower()
        self.headers.add(name)
        return name


def _is_headers(expression: Any) -> bool:
    if expression.WhichOneof("expr_kind") != "select_expr":
        return False
    select = expression.select_expr
    return bool(select.field == "headers" and select.operand.ident_expr.name == "request")
