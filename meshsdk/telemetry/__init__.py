"""Traces and metrics, through opentelemetry-api only.

Plugs into the engines from outside: nothing that decides knows that it is watched. Where the application has set no
OpenTelemetry provider, `lookup.http_client_observer()` is None and nothing at all is spent.
"""
