"""The validation rules that Envoy itself applies to a message, applied here.

Envoy's protos carry their rules as field options (`validate.rules`, protoc-gen-validate). xds-protos keeps the
options in its descriptors, so they need not be written again: each message type's rules are compiled once, on first
use, into checks, and the fields that a message has are walked with those. Regular expressions go to RE2, never to `re`.

    check(route_configuration)   # raises ResourceError("RouteConfiguration.virtual_hosts[2].domains", "…")

`google.protobuf.Any` fields are not entered: whoever unpacks one checks what was in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from msgspec import Struct

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


class _Rules(Struct, frozen=True, gc=False):
    """The rules of a message type.

    Attributes:
        of_whole: Those about what may not be missing.
        of_fields: Of the values of fields that are set, by number.
        of_few: The same where they are few, by number: each one's name, whether it says that it is set, and its check.
    """

    of_whole: tuple[Check, ...] = ()
    of_fields: Mapping[int, Check] = {}
    of_few: tuple[tuple[str, bool, Check], ...] = ()


# To ask for one field costs a tenth of what it costs to be told all that are set.
_FEW = 6


_rules_by_type: dict[type[Message], _Rules] = {}


def check(message: Message, where: str = "") -> None:
    """Apply all rules to `message` and everything below it.

    Args:
        message: Any protobuf message whose descriptor carries validate.rules.
        where: Path that error messages begin with; the message's type name by default.

    Raises:
        ResourceError: The first rule that does not hold, with the field's path.
    """
    try:
        _check(message)
    except Broken as broken:
        raise ResourceError(f"{where or message.DESCRIPTOR.name}{broken.path}", broken.problem) from None


def _check(message: Message) -> None:
    kind = type(message)
    rules = _rules_by_type.get(kind)
    if rules is None:
        rules = _rules_by_type[kind] = _compile_message(message.DESCRIPTOR)
    for one in rules.of_whole:
        one(message)
    if rules.of_few:
        _check_few(message, rules.of_few)
        return
    of_fields = rules.of_fields
    if not of_fields:
        return
    # Few of a message's fields are set, and those are known to protobuf.
    for field, value in message.ListFields():
        check_value = of_fields.get(field.number)
        if check_value is not None:
            try:
                check_value(value)
            except Broken as broken:
                raise broken.below(f".{field.name}") from None


def _check_few(message: Message, checks: tuple[tuple[str, bool, Check], ...]) -> None:
    for name, has_presence, check_value in checks:
        if has_presence:
            if not message.HasField(name):
                continue
            value = getattr(message, name)
        else:
            value = getattr(message, name)
            if not value:
                continue
        try:
            check_value(value)
        except Broken as broken:
            raise broken.below(f".{name}") from None


def _compile_message(descriptor: Any) -> _Rules:
    if _is_unchecked(descriptor):
        return _Rules()
    of_whole: list[Check] = []
    of_fields: dict[int, Check] = {}
    for oneof in descriptor.oneofs:
        if oneof.GetOptions().Extensions[protos.validate_pb2.required]:
            of_whole.append(_oneof_check(oneof.name, [field.name for field in oneof.fields]))
    for field in descriptor.fields:
        if field.full_name in _NOT_APPLIED:
            continue
        rules = field.GetOptions().Extensions[protos.validate_pb2.rules]
        # A required member of a oneof is required only where the oneof is that member, and then it is there.
        if _is_required(rules) and field.containing_oneof is None:
            of_whole.append(_required_check(field.name))
        check_field = _field_check(field, rules)
        if check_field is not None:
            of_fields[field.number] = check_field
            if not field.has_presence and not _takes_nothing(check_field, field):
                of_whole.append(_unset_check(field.name, check_field))
    if len(of_fields) > _FEW:
        return _Rules(tuple(of_whole), of_fields)
    few = sorted((field.number, field.name, field.has_presence) for field in descriptor.fields)
    of_few = tuple((name, has_presence, of_fields[number]) for number, name, has_presence in few if number in of_fields)
    return _Rules(tuple(of_whole), of_fields, of_few)


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


def _required_check(name: str) -> Check:
    def required(message: Any) -> None:
        if not message.HasField(name):
            raise Broken("must be set", f".{name}")

    return required


def _unset_check(name: str, check_value: Check) -> Check:
    """Of a field that has a value even where it is not set, and that value is not legal."""

    def check_unset(message: Any) -> None:
        value = getattr(message, name)
        if not value:
            try:
                check_value(value)
            except Broken as broken:
                raise broken.below(f".{name}") from None

    return check_unset


def _takes_nothing(check_value: Check, field: FieldDescriptor) -> bool:
    nothing: Any = () if field.is_repeated else field.default_value
    try:
        check_value(nothing)
    except Broken:
        return False
    return True


def _field_check(field: FieldDescriptor, rules: Any) -> Check | None:
    """The check of a field's whole value, or None where every value is legal."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map_check(field, rules)
    if field.is_repeated:
        checks = tuple(_repeated_checks(field, rules))
        return _each_of(checks) if checks else None
    return _value_check(field, rules)


def _each_of(checks: tuple[Check, ...]) -> Check:
    def check_each(value: Any) -> None:
        for one in checks:
            one(value)

    return checks[0] if len(checks) == 1 else check_each


def _is_required(rules: Any) -> bool:
    kind = rules.WhichOneof("type")
    return bool(
        rules.message.required
        or (kind == "any" and rules.any.required)
        or (kind == "duration" and rules.duration.required)
        or (kind == "timestamp" and rules.timestamp.required)
    )


def _repeated_checks(field: FieldDescriptor, rules: Any) -> Iterable[Check]:
    repeated = rules.repeated
    if repeated.HasField("min_items") or repeated.HasField("max_items"):
        least, ignore_empty = repeated.min_items, repeated.ignore_empty
        most = repeated.max_items if repeated.HasField("max_items") else None

        def check_size(items: Any) -> None:
            size = len(items)
            if size < least and not (size == 0 and ignore_empty):
                raise Broken(f"must have at least {least} items, has {size}")
            if most is not None and size > most:
                raise Broken(f"must have at most {most} items, has {size}")

        yield check_size
    if repeated.unique:

        def check_unique(items: Any) -> None:
            if len({str(item) for item in items}) != len(items):
                raise Broken("must not repeat an item")

        yield check_unique
    check_item = _value_check(field, repeated.items)
    if check_item is not None:

        def check_items(items: Any) -> None:
            index = 0
            try:
                for item in items:
                    check_item(item)
                    index += 1
            except Broken as broken:
                raise broken.below(f"[{index}]") from None

        yield check_items


def _map_check(field: Any, rules: Any) -> Check | None:
    entry = field.message_type.fields_by_name
    check_key = _value_check(entry["key"], rules.map.keys)
    check_entry = _value_check(entry["value"], rules.map.values)
    least = rules.map.min_pairs

    def check_map(pairs: Any) -> None:
        if len(pairs) < least:
            raise Broken(f"must have at least {least} entries, has {len(pairs)}")
        for key in pairs:
            is_key = True
            try:
                if check_key:
                    check_key(key)
                is_key = False
                if check_entry:
                    check_entry(pairs[key])
            except Broken as broken:
                raise broken.below(f" key {key!r}" if is_key else f"[{key!r}]") from None

    return check_map if least or check_key or check_entry else None


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
        return None if rules.message.skip or not _has_rules(field.message_type) else _check
    return scalar_check(kind, getattr(rules, kind), field) if kind else None


_DURATION = "google.protobuf.Duration"
_WRAPPED = ("double", "float", "int64", "uint64", "int32", "uint32", "bool", "string", "bytes")
