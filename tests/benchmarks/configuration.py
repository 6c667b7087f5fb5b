"""The YAML that the benchmarks route by: three endpoints, several routes, retries on."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_large", "write_small"]

_SMALL = """
apiVersion: v1
kind: Service
metadata: {name: bench}
spec:
  selector: {app: bench}
  ports: [{name: http, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bench}
spec:
  hosts: [bench]
  http:
  - {name: admin, match: [{uri: {prefix: /admin/}}], route: [{destination: {host: bench}}]}
  - {name: jason, match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: bench}}]}
  - {name: exact, match: [{uri: {exact: /status}}], directResponse: {status: 200}}
  - name: default
    timeout: 10s
    retries: {attempts: 2, perTryTimeout: 5s, retryOn: "connect-failure,reset,503"}
    route: [{destination: {host: bench}}]
"""

_ENDPOINT = """---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: w{port}}}
spec: {{address: 127.0.0.1, labels: {{app: bench}}, ports: {{http: {port}}}}}
"""


def write_small(folder: Path, ports: list[int]) -> Path:
    """One service of these ports."""
    folder.mkdir(exist_ok=True)
    (folder / "bench.yaml").write_text(_SMALL + "".join(_ENDPOINT.format(port=port) for port in ports))
    return folder


def write_large(folder: Path, virtual_hosts: int, endpoints: int) -> Path:
    """One listener with many virtual hosts; the one that is asked for has many endpoints. Raw xDS."""
    folder.mkdir(exist_ok=True)
    hosts = "".join(
        f"""
        - name: host{index}
          domains: ["host{index}.example", "host{index}.example:80"]
          routes: [{{match: {{prefix: /}}, route: {{cluster: bench}}}}]"""
        for index in range(virtual_hosts - 1)
    )
    addresses = "".join(
        f"""
  - endpoint:
      address: {{socket_address: {{address: 10.{index >> 16}.{(index >> 8) & 255}.{index & 255}, port_value: 80}}}}"""
        for index in range(endpoints)
    )
    (folder / "large.yaml").write_text(
        f"""
"@type": type.googleapis.com/envoy.config.listener.v3.Listener
name: bench
api_listener:
  api_listener:
    "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
    route_config:
      name: bench
      virtual_hosts:
        - name: bench
          domains: [bench]
          routes:
            - match: {{prefix: /}}
              route: {{cluster: bench, retry_policy: {{retry_on: "connect-failure,reset", num_retries: 2}}}}{hosts}
    http_filters:
      - name: router
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
---
"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
name: bench
type: EDS
eds_cluster_config: {{eds_config: {{ads: {{}}}}}}
---
"@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
cluster_name: bench
endpoints:
- lb_endpoints:{addresses}
"""
    )
    return folder
