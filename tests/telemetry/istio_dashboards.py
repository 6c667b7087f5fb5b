"""What the dashboards that come with Istio ask Prometheus.

Source: istio manifests/addons/dashboards: istio-mesh-dashboard.gen.json, istio-service-dashboard.json and
istio-workload-dashboard.json, with their variables filled in; panels of TCP are left out.
"""

from __future__ import annotations

__all__ = ["mesh_queries", "service_queries", "workload_queries"]

_REQUESTS, _DURATIONS = "istio_requests_total", "istio_request_duration_milliseconds_bucket"
_SIZES = ("istio_request_bytes_bucket", "istio_response_bytes_bucket")
_SECURE = ('connection_security_policy="mutual_tls"', 'connection_security_policy!="mutual_tls"')
_PROVEN = ('destination_principal=~"spiffe.*"', 'destination_principal!~"spiffe.*"')
_OUR = 'reporter=~"source|waypoint"'
_WITH_4XX, _WITH_5XX = ',response_code=~"4.."', ',response_code=~"5.."'


def mesh_queries(window: str) -> dict[str, str]:
    """By panel."""
    by = "destination_workload,destination_workload_namespace"

    def joined(query: str) -> str:
        names = ", ".join(f'"{name}"' for name in by.split(","))
        return f'label_join({query}, "destination_workload_var", ".", {names})'

    def rate(more: str = "", metric: str = _REQUESTS) -> str:
        return f"rate({metric}{{{_OUR}{more}}}[{window}])"

    well = ',response_code!~"5.."'
    return {
        "volume": f"round(sum ({rate()}), 0.01)",
        "success": f"sum ({rate(well)}) / sum ({rate()})",
        "4xx": f"round(sum ({rate(_WITH_4XX)}), 0.01)or vector(0)",
        "5xx": f"round(sum ({rate(_WITH_5XX)}), 0.01)or vector(0)",
        "workloads": joined(f"sum by ({by},destination_service) ({rate()})"),
        "workloads' success": joined(f"sum by ({by}) ({rate(well)})/sum by ({by}) ({rate()})"),
        **{
            f"p{quantile}": joined(f"histogram_quantile(0.{quantile}, sum by (le,{by}) ({rate('', _DURATIONS)}))")
            for quantile in ("5", "9", "99")
        },
        "versions": "sum by (component,tag) (istio_build)",
    }


def _volume(selector: str, by: str, window: str) -> str:
    return f"round(sum(irate({_REQUESTS}{{{selector}}}[{window}])) by ({by}), 0.001)"


def _success(selector: str, by: str, window: str) -> str:
    well = f'{selector},response_code!~"5.*"'
    of_all = f"sum(irate({_REQUESTS}{{{selector}}}[{window}])) by ({by})"
    return f"sum(irate({_REQUESTS}{{{well}}}[{window}])) by ({by}) / {of_all}"


def _quantile(selector: str, by: str, window: str, metric: str = _DURATIONS) -> str:
    names = f"{by}, le" if by else "le"
    quantile = f"histogram_quantile(0.95, sum(irate({metric}{{{selector}}}[{window}])) by ({names}))"
    if metric != _DURATIONS:
        return quantile
    seconds = metric.replace("milliseconds", "seconds")
    return f"({quantile} / 1000) or {quantile.replace(metric, seconds)}"


def _panels(name: str, selector: str, by: str, window: str) -> dict[str, str]:
    return {
        f"{name}: success": _success(selector, by, window),
        f"{name}: duration": _quantile(selector, by, window),
        **{f"{name}: {metric}": _quantile(selector, by, window, metric) for metric in _SIZES},
    }


def service_queries(service: str, reporter: str, window: str) -> dict[str, str]:
    """By panel; `secure` and `open` are the two halves of one.

    Args:
        service: Its host in full.
        reporter: `$qrep`.
    """
    asked = f'destination_service="{service}"'
    of_clients, of_servers = f'reporter=~"{reporter}",{asked}', f'reporter="destination",{asked}'
    queries = {}
    for side, selector in (("client", of_clients), ("server", of_servers)):
        queries |= {
            f"{side} volume": f"round(sum(irate({_REQUESTS}{{{selector}}}[{window}])), 0.001)",
            f"{side} success": (
                f'sum(irate({_REQUESTS}{{{selector},response_code!~"5.*"}}[{window}]))'
                f" / (sum(irate({_REQUESTS}{{{selector}}}[{window}])) or on () vector(1))"
            ),
            f"{side} duration": _quantile(selector, "", window),
        }
    for name, policy in zip(("secure", "open"), _SECURE, strict=True):
        sources = f'{policy},{of_clients},source_workload=~".+",source_workload_namespace=~".+"'
        ends = f'{policy},{of_servers},destination_workload=~".+",destination_workload_namespace=~".+"'
        by_source = "source_workload, source_workload_namespace"
        by_end = by_source.replace("source", "destination")
        queries |= {
            f"{name} by source": _volume(sources, f"{by_source}, response_code", window),
            f"{name} by workload": _volume(ends, f"{by_end}, response_code", window),
            **_panels(f"{name} by source", sources, by_source, window),
            **_panels(f"{name} by workload", ends, by_end, window),
        }
    return queries


def workload_queries(workload: str, reporter: str, window: str) -> dict[str, str]:
    """By panel; see `service_queries`."""
    here = f'destination_workload_namespace=~"default",destination_workload=~"{workload}"'
    there = f'reporter="source",source_workload_namespace=~"default",source_workload=~"{workload}"'
    asked = f'reporter=~"{reporter}",{here}'
    queries = {
        "volume": f"round(sum(irate({_REQUESTS}{{{asked}}}[{window}])), 0.001)",
        "success": _success(asked, "", window).replace(" by ()", ""),
        "duration": _quantile(asked, "", window),
    }
    for name, policy, proof in zip(("secure", "open"), _SECURE, _PROVEN, strict=True):
        sources = f'{policy},{asked},source_workload=~".+",source_workload_namespace=~".+"'
        by_source, by_service = "source_workload, source_workload_namespace", "destination_service"
        ends = f'{there},destination_service=~".+"'
        queries |= {
            f"{name} in": _volume(sources, f"{by_source}, response_code", window),
            **_panels(f"{name} in", sources, by_source, window),
            f"{name} out": _volume(f"{proof},{ends}", "destination_service, response_code", window),
            # These go by the policy, of which a client never says anything but `unknown`.
            **_panels(f"{name} out", f"{policy},{ends}", by_service, window),
        }
    return queries
