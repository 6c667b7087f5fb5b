"""The validation rules that Envoy itself applies to a message, applied here.

Envoy's protos carry their rules as field options (`validate.rules`, protoc-gen-validate). xds-protos keeps the
options in its descriptors, so they need not be written again: each message type's rules are compiled once, on first
use, into checks, and the fields that a message has are walked with those. Regular expressions go to RE2, never to `re`.

    check(route_configuration)   # raises ResourceError("RouteConfiguration.virtual_hosts[2].domains", "…")

`google.protobuf.Any` fields are not entered: whoever unpacks one checks what was in it.
"""

from __future__ import annotations

import ipaddress
import operator
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import re2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from validate import validate_pb2

from ..errors import ResourceError

__all__ = ["check"]

# Rules that hold for an Envoy and not for a library: gRFC A27's clients take a listener without a name for statistics,
# a virtual host without a name and, in a combined validation context, a provider instance instead of SDS; istiod's grpc
# profile sends them all (grpcgen/lds.go: no inbound virtual host of it has a name).
_NOT_APPLIED = frozenset(
    [
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.stat_prefix",
        "envoy.config.route.v3.VirtualHost.name",
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext"
        ".validation_context_sds_secret_config",
        # Newer Envoys take trust_bundles in its place.
        "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.trust_domains",
    ]
)

Check = Callable[[Message, str], None]
ValueCheck = Callable[[Any, str], None]


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules of a message type.

    Attributes:
        of_whole: Those about what may not be missing.
        of_fields: Of the values of fields that are set, by number.
    """

    of_whole: tuple[Check, ...]
    of_fields: Mapping[int, ValueCheck]


_rules_by_type: dict[type[Message], _Rules] = {}

# protoc-gen-validate's own patterns for its well-known regexes (validate/validate.proto, KnownRegex).
_HTTP_HEADER_NAME = re2.compile(r":?[0-9a-zA-Z!#$%&'*+\-.^_|~\x60]+")
_HTTP_HEADER_VALUE = re2.compile(r"[^\x00-\x08\x0A-\x1F\x7F]*")
_NO_CONTROL_BREAKS = re2.compile(r"[^\x00\x0A\x0D]*")


def check(message: Message, where: str = "") -> None:
    """Apply all rules to `message` and everything below it.

    Args:
        message: Any protobuf message whose descriptor carries validate.rules.
        where: Path that error messages begin with; the message's type name by default.

    Raises:
        ResourceError: The first rule that does not hold, with the field's path.
    """
    _check(message, where or message.DESCRIPTOR.name)


def _check(message: Message, where: str) -> None:
    kind = type(message)
    rules = _rules_by_type.get(kind)
    if rules is None:
        rules = _rules_by_type[kind] = _compile_message(message.DESCRIPTOR)
    for one in rules.of_whole:
        one(message, where)
    if not rules.of_fields:
        return
    # Few of a message's fields are set, and those are known to protobuf.
    for field, value in message.ListFields():
        check_value = rules.of_fields.get(field.number)
        if check_value is not None:
            check_value(value, f"{where}.{field.name}")


def _compile_message(descriptor: Any) -> _Rules:
    options = descriptor.GetOptions()
    if options.Extensions[validate_pb2.disabled] or options.Extensions[validate_pb2.ignored]:
        return _Rules((), {})
    of_whole: list[Check] = []
    of_fields: dict[int, ValueCheck] = {}
    for oneof in descriptor.oneofs:
        if oneof.GetOptions().Extensions[validate_pb2.required]:
            of_whole.append(_oneof_check(oneof.name, [field.name for field in oneof.fields]))
    for field in descriptor.fields:
        if field.full_name in _NOT_APPLIED:
            continue
        rules = field.GetOptions().Extensions[validate_pb2.rules]
        # A required member of a oneof is required only where the oneof is that member, and then it is there.
        if _is_required(rules) and field.containing_oneof is None:
            of_whole.append(_required_check(field.name))
        check_field = _field_check(field, rules)
        if check_field is not None:
            of_fields[field.number] = check_field
            if not field.has_presence and not _takes_nothing(check_field, field):
                of_whole.append(_unset_check(field.name, check_field))
    return _Rules(tuple(of_whole), of_fields)


def _oneof_check(name: str, choices: list[str]) -> Check:
    def one_is_set(message: Message, where: str) -> None:
        if message.WhichOneof(name) is None:
            raise ResourceError(f"{where}.{name}", f"one of {', '.join(choices)} must be set")

    return one_is_set


def _required_check(name: str) -> Check:
    def required(message: Message, where: str) -> None:
        if not message.HasField(name):
            raise ResourceError(f"{where}.{name}", "must be set")

    return required


def _unset_check(name: str, check_value: ValueCheck) -> Check:
    """Of a field that has a value even where it is not set, and that value is not legal."""

    def check_unset(message: Message, where: str) -> None:
        value = getattr(message, name)
        if not value:
            check_value(value, f"{where}.{name}")

    return check_unset


def _takes_nothing(check_value: ValueCheck, field: FieldDescriptor) -> bool:
    nothing: Any = () if field.is_repeated else field.default_value
    try:
        check_value(nothing, "")
    except ResourceError:
        return False
    return True


def _field_check(field: FieldDescriptor, rules: Any) -> ValueCheck | None:
    """The check of a field's whole value, or None where every value is legal."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map_check(field, rules)
    if field.is_repeated:
        checks = tuple(_repeated_checks(field, rules))
        return _each_of(checks) if checks else None
    return _value_check(field, rules)


def _each_of(checks: tuple[ValueCheck, ...]) -> ValueCheck:
    def check_each(value: Any, where: str) -> None:
        for one in checks:
            one(value, where)

    return checks[0] if len(checks) == 1 else check_each


def _is_required(rules: Any) -> bool:
    kind = rules.WhichOneof("type")
    return bool(
        rules.message.required
        or (kind == "any" and rules.any.required)
        or (kind == "duration" and rules.duration.required)
        or (kind == "timestamp" and rules.timestamp.required)
    )


def _repeated_checks(field: FieldDescriptor, rules: Any) -> Iterable[ValueCheck]:
    repeated = rules.repeated
    if repeated.HasField("min_items") or repeated.HasField("max_items"):
        least, ignore_empty = repeated.min_items, repeated.ignore_empty
        most = repeated.max_items if repeated.HasField("max_items") else None

        def check_size(items: Any, where: str) -> None:
            size = len(items)
            if size < least and not (size == 0 and ignore_empty):
                raise ResourceError(where, f"must have at least {least} items, has {size}")
            if most is not None and size > most:
                raise ResourceError(where, f"must have at most {most} items, has {size}")

        yield check_size
    if repeated.unique:

        def check_unique(items: Any, where: str) -> None:
            if len({str(item) for item in items}) != len(items):
                raise ResourceError(where, "must not repeat an item")

        yield check_unique
    check_item = _value_check(field, repeated.items)
    if check_item is not None:

        def check_items(items: Any, where: str) -> None:
            for index, item in enumerate(items):
                check_item(item, f"{where}[{index}]")

        yield check_items


def _map_check(field: Any, rules: Any) -> ValueCheck | None:
    entry = field.message_type.fields_by_name
    check_key = _value_check(entry["key"], rules.map.keys)
    check_entry = _value_check(entry["value"], rules.map.values)
    least = rules.map.min_pairs

    def check_map(pairs: Any, where: str) -> None:
        if len(pairs) < least:
            raise ResourceError(where, f"must have at least {least} entries, has {len(pairs)}")
        for key in pairs:
            if check_key:
                check_key(key, f"{where} key {key!r}")
            if check_entry:
                check_entry(pairs[key], f"{where}[{key!r}]")

    return check_map if least or check_key or check_entry else None


def _value_check(field: FieldDescriptor, rules: Any) -> ValueCheck | None:
    """The check of one value of the field's type, or None where every value is legal."""
    kind = rules.WhichOneof("type")
    if field.message_type is not None:
        if field.message_type.full_name == "google.protobuf.Duration":
            return _duration_check(rules.duration) if kind == "duration" else _legal_duration
        if kind in _WRAPPED and field.message_type.file.name == "google/protobuf/wrappers.proto":
            inner = _scalar_check(kind, getattr(rules, kind), None)
            return (lambda value, where: inner(value.value, where)) if inner else None
        if field.message_type.full_name == "google.protobuf.Any":
            return _any_check(rules.any) if kind == "any" else None
        return None if rules.message.skip else _check
    return _scalar_check(kind, getattr(rules, kind), field) if kind else None


_WRAPPED = ("double", "float", "int64", "uint64", "int32", "uint32", "bool", "string", "bytes")


def _scalar_check(kind: str, rule: Any, field: Any) -> ValueCheck | None:
    if kind in ("string", "bytes"):
        tests = list(_text_tests(rule)) if kind == "string" else list(_bytes_tests(rule))
    elif kind == "enum":
        tests = list(_enum_tests(rule, field))
    elif kind == "bool":
        tests = [(lambda v: v == rule.const, f"must be {rule.const}")] if rule.HasField("const") else []
    else:
        tests = list(_number_tests(rule))
    if not tests:
        return None
    ignore_empty = getattr(rule, "ignore_empty", False)

    def check_scalar(value: Any, where: str) -> None:
        if ignore_empty and not value:
            return
        for holds, problem in tests:
            if not holds(value):
                raise ResourceError(where, f"{problem}, is {_shown(value)}")

    return check_scalar


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


Test = tuple[Callable[[Any], bool], str]


def _membership_tests(rule: Any) -> Iterable[Test]:
    allowed = tuple(getattr(rule, "in"))
    refused = tuple(rule.not_in)
    if allowed:
        yield (lambda v: v in allowed), f"must be one of {list(allowed)}"
    if refused:
        yield (lambda v: v not in refused), f"must not be one of {list(refused)}"


def _number_tests(rule: Any) -> Iterable[Test]:
    for name, compare, words in _COMPARISONS:
        if rule.HasField(name):
            yield _number_test(compare, getattr(rule, name)), f"must be {words}{getattr(rule, name)}"
    yield from _membership_tests(rule)


_COMPARISONS = (
    ("const", operator.eq, ""),
    ("lt", operator.lt, "below "),
    ("lte", operator.le, "at most "),
    ("gt", operator.gt, "above "),
    ("gte", operator.ge, "at least "),
)


def _number_test(compare: Callable[[Any, Any], bool], bound: float) -> Callable[[Any], bool]:
    return lambda value: compare(value, bound)


def _enum_tests(rule: Any, field: Any) -> Iterable[Test]:
    if rule.HasField("const"):
        yield (lambda v: bool(v == rule.const)), f"must be {rule.const}"
    if rule.defined_only and field is not None:
        numbers = frozenset(field.enum_type.values_by_number)
        yield (lambda v: v in numbers), f"must be a value of {field.enum_type.name}"
    yield from _membership_tests(rule)


def _text_tests(rule: Any) -> Iterable[Test]:
    if rule.HasField("const"):
        yield (lambda v: v == rule.const), f"must be {rule.const!r}"
    if rule.HasField("len"):
        yield (lambda v: len(v) == rule.len), f"must be {rule.len} characters long"
    least_length, least_bytes = rule.min_len, rule.min_bytes
    if least_length or least_bytes:
        least = max(least_length, least_bytes)
        yield (
            (lambda v: len(v) >= least_length and (not least_bytes or len(v.encode()) >= least_bytes)),
            ("must not be empty" if least == 1 else f"must be at least {least} long"),
        )
    if rule.HasField("max_len"):
        yield (lambda v: len(v) <= rule.max_len), f"must be at most {rule.max_len} characters long"
    if rule.HasField("max_bytes"):
        yield (lambda v: len(v.encode()) <= rule.max_bytes), f"must be at most {rule.max_bytes} bytes long"
    if rule.pattern:
        pattern = re2.compile(rule.pattern)
        yield (lambda v: pattern.search(v) is not None), f"must match {rule.pattern!r}"
    if rule.prefix:
        yield (lambda v: v.startswith(rule.prefix)), f"must start with {rule.prefix!r}"
    if rule.suffix:
        yield (lambda v: v.endswith(rule.suffix)), f"must end with {rule.suffix!r}"
    if rule.contains:
        yield (lambda v: rule.contains in v), f"must contain {rule.contains!r}"
    if rule.not_contains:
        yield (lambda v: rule.not_contains not in v), f"must not contain {rule.not_contains!r}"
    yield from _membership_tests(rule)
    yield from _well_known_tests(rule)


def _well_known_tests(rule: Any) -> Iterable[Test]:
    kind = rule.WhichOneof("well_known")
    if kind == "well_known_regex":
        strict = rule.strict or not rule.HasField("strict")
        named = rule.well_known_regex == validate_pb2.HTTP_HEADER_NAME
        pattern = (_HTTP_HEADER_NAME if named else _HTTP_HEADER_VALUE) if strict else _NO_CONTROL_BREAKS
        what = "a legal HTTP header name" if named else "a legal HTTP header value"
        yield (lambda v: pattern.fullmatch(v) is not None), f"must be {what}"
    elif kind in ("uri", "uri_ref") and getattr(rule, kind):
        yield (lambda v: _is_uri(v, absolute=kind == "uri")), "must be a URI"
    elif kind in ("ip", "ipv4", "ipv6") and getattr(rule, kind):
        version = {"ip": None, "ipv4": 4, "ipv6": 6}[kind]
        yield (lambda v: _is_ip(v, version)), "must be an IP address"
    elif kind == "uuid" and rule.uuid:
        yield _is_uuid, "must be a UUID"


def _is_uri(value: str, *, absolute: bool) -> bool:
    try:
        return bool(urlsplit(value).scheme) or not absolute
    except ValueError:
        return False


def _is_ip(value: str, version: int | None) -> bool:
    try:
        return version in (None, ipaddress.ip_address(value).version)
    except ValueError:
        return False


def _is_uuid(value: str) -> bool:
    try:
        return bool(uuid.UUID(value))
    except ValueError:
        return False


def _bytes_tests(rule: Any) -> Iterable[Test]:
    if rule.min_len:
        least = rule.min_len
        yield (lambda v: len(v) >= least), "must not be empty" if least == 1 else f"must be at least {least} bytes long"
    if rule.HasField("max_len"):
        yield (lambda v: len(v) <= rule.max_len), f"must be at most {rule.max_len} bytes long"
    yield from _membership_tests(rule)


# google.protobuf.Duration: within 10,000 years, and both parts of one sign.
_MAX_DURATION_SECONDS = 315_576_000_000


def _legal_duration(value: Any, where: str) -> None:
    if abs(value.seconds) > _MAX_DURATION_SECONDS or abs(value.nanos) > 999_999_999:
        raise ResourceError(where, "is out of a duration's range")
    if (value.seconds > 0 > value.nanos) or (value.seconds < 0 < value.nanos):
        raise ResourceError(where, "seconds and nanos must have the same sign")


def _duration_check(rule: Any) -> ValueCheck:
    def total(duration: Any) -> int:
        return int(duration.seconds) * 1_000_000_000 + int(duration.nanos)

    def shown(duration: Any) -> str:
        return f"{total(duration) / 1e9:g}s"

    tests: list[tuple[Callable[[int, int], bool], int, str]] = [
        (compare, total(getattr(rule, name)), f"must be {words} {shown(getattr(rule, name))}")
        for name, compare, words in (
            ("lt", int.__lt__, "below"),
            ("lte", int.__le__, "at most"),
            ("gt", int.__gt__, "above"),
            ("gte", int.__ge__, "at least"),
        )
        if rule.HasField(name)
    ]

    def check_duration(value: Any, where: str) -> None:
        _legal_duration(value, where)
        for compare, bound, problem in tests:
            if not compare(total(value), bound):
                raise ResourceError(where, f"{problem}, is {shown(value)}")

    return check_duration


def _any_check(rule: Any) -> ValueCheck | None:
    allowed = tuple(getattr(rule, "in"))
    if not allowed:
        return None

    def check_any(value: Any, where: str) -> None:
        if value.type_url not in allowed:
            raise ResourceError(where, f"must hold one of {list(allowed)}, holds {value.type_url!r}")

    return check_any
