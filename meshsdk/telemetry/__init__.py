"""What can be seen of the mesh from outside: traces and metrics.

Plugs into the engines: nothing that decides knows that it is watched.

    lookup, http_…, grpc_calls, identities   through opentelemetry-api; where the application has set no provider,
                                             `lookup.http_client_observer()` is None and nothing at all is spent
    spans, trace_context, span_tags          how those spans begin, whose children they are, and what they say as a
                                             sidecar's would
    istio_metrics, workload, service,        Istio's standard metrics, counted here and told to Prometheus; where
    peer_metadata, cells, prometheus, …      nobody asks for them a Mesh has no `IstioMetrics`
    label_names, label_overrides             their labels, and what configuration makes of them
    istio_observer                           the same through opentelemetry-api
"""
