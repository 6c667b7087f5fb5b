"""The validation rules that Envoy itself applies to a message, applied here.

Envoy's protos carry their rules as field options (`validate.rules`, protoc-gen-validate). xds-protos keeps the
options in its descriptors, so they need not be written again: each message type's rules are compiled once, on first
use, into a tuple of checks, and a message is walked with those. Regular expressions go to RE2, never to `re`.

    check(route_configuration)   # raises ResourceError("RouteConfiguration.virtual_hosts[2].domains", "…")

`google.protobuf.Any` fields are not entered: whoever unpacks one checks what was in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from ..errors import ResourceError
from . import protos
from .value_rules import Broken, Check, any_check, duration_check, legal_duration, scalar_check

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor

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


_checks_by_type: dict[str, Check] = {}


def check(message: Message, where: str = "") -> None:
    """Apply all rules to `message` and everything below it.

    Args:
        message: Any protobuf message whose descriptor carries validate.rules.
        where: Path that error messages begin with; the message's type name by default.

    Raises:
        ResourceError: The first rule that does not hold, with the field's path.
    """
    try:
        _check_of(message.DESCRIPTOR)(message)
    except Broken as broken:
        raise ResourceError(f"{where or message.DESCRIPTOR.name}{broken.path}", broken.problem) from None


def _check_of(descriptor: Any) -> Check:
    """The check of a message of this type; what it consists of is compiled at its first use, since types nest."""
    known = _checks_by_type.get(descriptor.full_name)
    if known is not None:
        return known
    checks: tuple[Check, ...] | None = None

    def check_message(message: Any) -> None:
        nonlocal checks
        if checks is None:
            checks = tuple(_compile_message(descriptor))
        for one in checks:
            one(message)

    _checks_by_type[descriptor.full_name] = check_message
    return check_message


def _compile_message(descriptor: Any) -> Iterable[Check]:
    if _is_unchecked(descriptor):
        return
    for oneof in descriptor.oneofs:
        if oneof.GetOptions().Extensions[protos.validate_pb2.required]:
            yield _oneof_check(oneof.name, [field.name for field in oneof.fields])
    for field in descriptor.fields:
        if field.full_name in _NOT_APPLIED:
            continue
        yield from _compile_field(field)


def _is_unchecked(descriptor: Any) -> bool:
    options = descriptor.GetOptions()
    return bool(options.Extensions[protos.validate_pb2.disabled] or options.Extensions[protos.validate_pb2.ignored])


def _has_rules(descriptor: Any) -> bool:
    """Whether a message of this type can break any rule, itself or by what is below it; a Struct cannot."""
    reached, left = set(), [descriptor]
    while left:
        one = left.pop()
        if one.full_name in reached or _is_unchecked(one):
            continue
        reached.add(one.full_name)
        if one.full_name == _DURATION or any(
            oneof.GetOptions().Extensions[protos.validate_pb2.required] for oneof in one.oneofs
        ):
            return True
        for field in one.fields:
            if field.full_name in _NOT_APPLIED:
                continue
            if field.GetOptions().HasExtension(protos.validate_pb2.rules):
                return True
            if field.message_type is not None:
                left.append(field.message_type)
    return False


def _oneof_check(name: str, choices: list[str]) -> Check:
    def one_is_set(message: Any) -> None:
        if message.WhichOneof(name) is None:
            raise Broken(f"one of {', '.join(choices)} must be set", f".{name}")

    return one_is_set


def _compile_field(field: FieldDescriptor) -> Iterable[Check]:
    rules = field.GetOptions().Extensions[protos.validate_pb2.rules]
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map:
        yield from _map_checks(field, rules)
    elif field.is_repeated:
        yield from _repeated_checks(field, rules)
    else:
        yield from _singular_checks(field, rules)


def _singular_checks(field: FieldDescriptor, rules: Any) -> Iterable[Check]:
    name = field.name
    # A required member of a oneof is required only where the oneof is that member, and then it is there.
    if _is_required(rules) and field.containing_oneof is None:

        def required(message: Any) -> None:
            if not message.HasField(name):
                raise Broken("must be set", f".{name}")

        yield required

    check_value = _value_check(field, rules)
    if check_value is None:
        return

    def check_always(message: Any) -> None:
        try:
            check_value(getattr(message, name))
        except Broken as broken:
            raise broken.below(f".{name}") from None

    def check_if_set(message: Any) -> None:
        if message.HasField(name):
            check_always(message)

    yield check_if_set if field.has_presence else check_always


def _is_required(rules: Any) -> bool:
    kind = rules.WhichOneof("type")
    return bool(
        rules.message.required
        or (kind == "any" and rules.any.required)
        or (kind == "duration" and rules.duration.required)
        or (kind == "timestamp" and rules.timestamp.required)
    )


def _repeated_checks(field: FieldDescriptor, rules: Any) -> Iterable[Check]:
    name, repeated = field.name, rules.repeated
    if repeated.HasField("min_items") or repeated.HasField("max_items"):
        least = repeated.min_items
        most = repeated.max_items if repeated.HasField("max_items") else None
        ignore_empty = repeated.ignore_empty

        def check_size(message: Any) -> None:
            size = len(getattr(message, name))
            if size < least and not (size == 0 and ignore_empty):
                raise Broken(f"must have at least {least} items, has {size}", f".{name}")
            if most is not None and size > most:
                raise Broken(f"must have at most {most} items, has {size}", f".{name}")

        yield check_size
    if repeated.unique:

        def check_unique(message: Any) -> None:
            items = list(getattr(message, name))
            if len({str(item) for item in items}) != len(items):
                raise Broken("must not repeat an item", f".{name}")

        yield check_unique
    check_item = _value_check(field, repeated.items)
    if check_item is not None:

        def check_items(message: Any) -> None:
            index = 0
            try:
                for item in getattr(message, name):
                    check_item(item)
                    index += 1
            except Broken as broken:
                raise broken.below(f".{name}[{index}]") from None

        yield check_items


def _map_checks(field: Any, rules: Any) -> Iterable[Check]:
    name, entry = field.name, field.message_type.fields_by_name
    check_key = _value_check(entry["key"], rules.map.keys)
    check_entry = _value_check(entry["value"], rules.map.values)
    least = rules.map.min_pairs

    def check_map(message: Any) -> None:
        pairs = getattr(message, name)
        if len(pairs) < least:
            raise Broken(f"must have at least {least} entries, has {len(pairs)}", f".{name}")
        for key in pairs:
            is_key = True
            try:
                if check_key:
                    check_key(key)
                is_key = False
                if check_entry:
                    check_entry(pairs[key])
            except Broken as broken:
                raise broken.below(f".{name} key {key!r}" if is_key else f".{name}[{key!r}]") from None

    if least or check_key or check_entry:
        yield check_map


def _value_check(field: FieldDescriptor, rules: Any) -> Check | None:
    """The check of one value of the field's type, or None where every value is legal."""
    kind = rules.WhichOneof("type")
    if field.message_type is not None:
        if field.message_type.full_name == _DURATION:
            return duration_check(rules.duration) if kind == "duration" else legal_duration
        if kind in _WRAPPED and field.message_type.file.name == "google/protobuf/wrappers.proto":
            inner = scalar_check(kind, getattr(rules, kind), None)
            return (lambda value: inner(value.value)) if inner else None
        if field.message_type.full_name == "google.protobuf.Any":
            return any_check(rules.any) if kind == "any" else None
        return None if rules.message.skip or not _has_rules(field.message_type) else _check_of(field.message_type)
    return scalar_check(kind, getattr(rules, kind), field) if kind else None


_DURATION = "google.protobuf.Duration"
_WRAPPED = ("double", "float", "int64", "uint64", "int32", "uint32", "bool", "string", "bytes")
