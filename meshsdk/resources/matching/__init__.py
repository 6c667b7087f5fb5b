"""What a value, a request or a connection must be like: matchers, as data and from protobuf."""

from .cel import CelCondition, cel_environment, cel_now, parse_condition
from .input_matchers import ChosenByHash, ChosenShare, HasValue, InNetworks, InputMatcher, parse_input_matcher
from .matchers import (
    FractionalPercent,
    HeaderMatcher,
    HeaderMatchKind,
    QueryParameterMatcher,
    StringMatcher,
    StringMatchKind,
    parse_fractional_percent,
    parse_header_matcher,
    parse_query_parameter_matcher,
    parse_runtime_fraction,
    parse_string_matcher,
)
from .metadata_matcher import MetadataMatcher, ValueMatcher, ValueMatchKind, parse_metadata_matcher
from .network import Network, parse_cidr
from .path_template import RewriteTemplate, UriTemplate, parse_rewrite_template, parse_uri_template
from .route_match import PathMatch, PathMatchKind, RouteMatch, parse_match

__all__ = [
    "CelCondition",
    "ChosenByHash",
    "ChosenShare",
    "FractionalPercent",
    "HasValue",
    "HeaderMatchKind",
    "HeaderMatcher",
    "InNetworks",
    "InputMatcher",
    "MetadataMatcher",
    "Network",
    "PathMatch",
    "PathMatchKind",
    "QueryParameterMatcher",
    "RewriteTemplate",
    "RouteMatch",
    "StringMatchKind",
    "StringMatcher",
    "UriTemplate",
    "ValueMatchKind",
    "ValueMatcher",
    "cel_environment",
    "cel_now",
    "parse_cidr",
    "parse_condition",
    "parse_fractional_percent",
    "parse_header_matcher",
    "parse_input_matcher",
    "parse_match",
    "parse_metadata_matcher",
    "parse_query_parameter_matcher",
    "parse_rewrite_template",
    "parse_runtime_fraction",
    "parse_string_matcher",
    "parse_uri_template",
]
