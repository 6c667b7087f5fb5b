"""What routes say of filters, and for which: the real Envoy and meshsdk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .inbound_subjects import SERVER_SUBJECTS, running_server

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
_ALL = {"permissions": [{"any": True}], "principals": [{"any": True}]}
_NOBODY = {"rules": {"action": "DENY", "policies": {"all": _ALL}}}
_EVERYBODY = {"rules": {"action": "ALLOW", "policies": {"all": _ALL}}}
_ALWAYS = {"default_value": {"numerator": 100}}

# What a route says under the name of a filter that lets nobody in.
SAID: dict[str, dict[str, Any]] = {
    "nothing": {"@type": f"{_HTTP}.rbac.v3.RBACPerRoute"},
    "everybody": {"@type": f"{_HTTP}.rbac.v3.RBACPerRoute", "rbac": _EVERYBODY},
    "off": {"@type": _CONFIG, "disabled": True},
    "on": {"@type": _CONFIG, "config": {"@type": f"{_HTTP}.rbac.v3.RBACPerRoute", "rbac": _EVERYBODY}},
    "cors": {"@type": f"{_HTTP}.cors.v3.CorsPolicy"},
    "csrf": {"@type": f"{_HTTP}.csrf.v3.CsrfPolicy", "filter_enabled": _ALWAYS},
    "fault": {"@type": f"{_HTTP}.fault.v3.HTTPFault"},
    "buffer off": {"@type": f"{_HTTP}.buffer.v3.BufferPerRoute", "disabled": True},
    "ext_authz off": {"@type": f"{_HTTP}.ext_authz.v3.ExtAuthzPerRoute", "disabled": True},
    "jwt off": {"@type": f"{_HTTP}.jwt_authn.v3.PerRouteConfig", "disabled": True},
    "wrapped cors": {"@type": _CONFIG, "config": {"@type": f"{_HTTP}.cors.v3.CorsPolicy"}},
    "header_mutation": {"@type": f"{_HTTP}.header_mutation.v3.HeaderMutationPerRoute"},
    "local_ratelimit": {
        "@type": f"{_HTTP}.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "x",
        "token_bucket": {"max_tokens": 9, "fill_interval": "1s"},
    },
}


def test_what_a_route_says_of_another_filter_opens_nothing(tmp_path: Path) -> None:
    routes = [
        {
            "match": {"path": f"/{place}/{how}"},
            "route": {"cluster": "app"},
            "typed_per_filter_config": {"guard": said},
        }
        for place, said in enumerate(SAID.values())
        for how in ("plain", "disabled")
    ]
    answers = []
    for kind in SERVER_SUBJECTS:
        for how in ("plain", "disabled"):
            guard: dict[str, Any] = {"name": "guard", "typed_config": {"@type": f"{_HTTP}.rbac.v3.RBAC", **_NOBODY}}
            if how == "disabled":
                guard["disabled"] = True
            folder = tmp_path / f"{kind}-{how}"
            folder.mkdir()
            with running_server(kind, folder, [guard], routes=routes) as subject:
                statuses = [subject.send(f"/{place}/{how}").status_code for place in range(len(SAID))]
            answers.append((how, dict(zip(SAID, statuses, strict=True))))
    half = len(answers) // 2
    assert answers[half:] == answers[:half]
    assert set(answers[0][1].values()) == {200, 403}
