"""Paths, hosts and redirect locations as functions of the request head, compiled.

Source: Envoy source/common/router/config_impl.cc (RouteEntryImplBase::getPathRewrite, newUri).
"""

from __future__ import annotations

from collections.abc import Callable

import re2

from ..resources import ForwardAction, PathMatch, PathMatchKind, Redirect, RegexRewrite
from ..resources.matching import RewriteTemplate, UriTemplate
from .formatter import FormatContext, compile_format
from .request_head import RequestHead
from .string_match import compile_regex_rewrite

__all__ = ["compile_forward_path", "compile_host_rewrite", "compile_location", "compile_path_rewrite"]

Rewrite = Callable[[RequestHead], str]


def compile_forward_path(match: PathMatch, action: ForwardAction, where: str) -> Rewrite | None:
    """A function to a forwarded request's new target (path and query), or None where it stays as it is.

    Raises:
        ResourceError: The format string is wrong.
    """
    if action.path_format:
        value = compile_format(action.path_format, f"{where} path_rewrite")
        return lambda head: value(FormatContext(head)) + head.target[len(head.path) :]
    if action.template_rewrite is not None and match.template is not None:
        by_template = _template_rewrite(match.template, action.template_rewrite)
        return lambda head: by_template(head.path) + head.target[len(head.path) :]
    return compile_path_rewrite(match, action.prefix_rewrite, action.regex_rewrite)


def _template_rewrite(template: UriTemplate, rewrite: RewriteTemplate) -> Callable[[str], str]:
    full_match = re2.compile(template.regex).fullmatch

    def new_path(path: str) -> str:
        found = full_match(path)
        if found is None:
            return path
        return "".join((found[text] or "") if is_variable else text for text, is_variable in rewrite)

    return new_path


def compile_path_rewrite(match: PathMatch, prefix: str, regex: RegexRewrite | None) -> Rewrite | None:
    """A function to the new target (path and query; empty is the old one), or None where the path always stays."""
    path_of = _path_rewrite(match, prefix, regex)
    if path_of is None:
        return None

    def rewrite(head: RequestHead) -> str:
        path = path_of(head.path)
        # Envoy: a rewrite to nothing is none.
        return path + head.target[len(head.path) :] if path else ""

    return rewrite


def _path_rewrite(match: PathMatch, prefix: str, regex: RegexRewrite | None) -> Callable[[str], str] | None:
    if regex is not None:
        return compile_regex_rewrite(regex)
    if not prefix:
        return None
    if match.kind in (PathMatchKind.PREFIX, PathMatchKind.SEPARATED_PREFIX):
        matched = len(match.value)
        return lambda path: prefix + path[matched:]
    # Exact, template and regex matches cover the whole path, so all of it is replaced.
    return lambda path: prefix


def compile_host_rewrite(action: ForwardAction, where: str) -> Rewrite | None:
    """A function to the new authority, or None where it stays; an empty result leaves it too.

    Raises:
        ResourceError: The format string is wrong.
    """
    if action.host_rewrite:
        literal = action.host_rewrite
        return lambda head: literal
    if action.host_rewrite_header:
        name = action.host_rewrite_header
        # RouteAction.host_rewrite_header: "If the header appears multiple times only the first value is used."
        return lambda head: head.first_header(name) or ""
    if action.host_rewrite_regex is not None:
        rewrite = compile_regex_rewrite(action.host_rewrite_regex)
        return lambda head: rewrite(head.path)
    if action.host_format:
        value = compile_format(action.host_format, f"{where} host_rewrite", missing="-")
        return lambda head: value(FormatContext(head))
    return None


def compile_location(match: PathMatch, redirect: Redirect) -> Rewrite:
    """A function to the Location of a redirect (envoy.config.route.v3.RedirectAction)."""
    path_of = compile_path_rewrite(match, redirect.prefix_rewrite, redirect.regex_rewrite)

    def location(head: RequestHead) -> str:
        scheme = redirect.scheme or ("https" if redirect.https else head.scheme)
        authority = _redirect_authority(redirect, head, scheme)
        return f"{scheme}://{authority}{_redirect_target(redirect, head, path_of)}"

    return location


def _redirect_authority(redirect: Redirect, head: RequestHead, scheme: str) -> str:
    host, port = split_authority(head.authority)
    if redirect.port:
        port = f":{redirect.port}"
    elif redirect.host:
        port = ""
    elif scheme != head.scheme and port == (":443" if head.scheme == "https" else ":80"):
        # RedirectAction: the default port of the old scheme is dropped when the scheme changes.
        port = ""
    return (redirect.host or host) + port


def _redirect_target(redirect: Redirect, head: RequestHead, path_of: Rewrite | None) -> str:
    if redirect.path:
        # RedirectAction.path_redirect: a query of its own replaces the request's.
        # Its own query stays, whatever strip_query says.
        if "?" in redirect.path:
            return redirect.path
        target = redirect.path + head.target[len(head.path) :]
    else:
        target = (path_of(head) if path_of is not None else "") or head.target
        if not target.startswith("/"):
            target = f"/{target}"
    return target.partition("?")[0] if redirect.strip_query else target


def split_authority(authority: str) -> tuple[str, str]:
    """Host and `:port` of an authority; the port part is empty where there is none."""
    end_of_literal = authority.rfind("]")
    colon = authority.rfind(":")
    return (authority[:colon], authority[colon:]) if colon > end_of_literal else (authority, "")
