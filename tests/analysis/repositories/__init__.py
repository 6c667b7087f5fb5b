"""Repositories as people keep them: bookinfo as published, and a shop in the shape of Google's Online Boutique."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["BOOKINFO", "DUMP", "write_boutique"]

HERE = Path(__file__).parent
BOOKINFO = HERE / "bookinfo"
DUMP = HERE / "dump.yaml"


def _deployment(name: str, ports: str) -> str:
    return f"""apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels:
    app: {name}
spec:
  selector:
    matchLabels:
      app: {name}
  template:
    metadata:
      labels:
        app: {name}
      annotations:
        sidecar.istio.io/rewriteAppHTTPProbers: "true"
    spec:
      serviceAccountName: {name}
      terminationGracePeriodSeconds: 5
      containers:
      - name: server
        image: {name}
        ports: {ports}
        env:
        - name: PORT
          value: "8080"
"""


def _service(name: str, ports: str, selected: str = "", kind: str = "ClusterIP") -> str:
    return f"""apiVersion: v1
kind: Service
metadata:
  name: {name}
  labels:
    app: {name}
spec:
  type: {kind}
  selector:
    app: {selected or name}
  ports: {ports}
"""


def _account(name: str) -> str:
    return f"apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n"


_FRONTEND = "---\n".join(
    [
        _deployment("frontend", "[{containerPort: 8080}]"),
        _service("frontend", "[{name: http, port: 80, targetPort: 8080}]"),
        _service("frontend-external", "[{name: http, port: 80, targetPort: 8080}]", "frontend", "LoadBalancer"),
        _account("frontend"),
    ]
)
_CART = "---\n".join(
    [
        _deployment("cartservice", "[{containerPort: 7070}]"),
        _service("cartservice", "[{name: grpc, port: 7070, targetPort: 7070}]"),
        _account("cartservice"),
        _deployment("redis-cart", "[{containerPort: 6379}]"),
        _service("redis-cart", "[{name: tcp-redis, port: 6379, targetPort: 6379}]"),
    ]
)
_GENERATOR = "---\n".join([_deployment("loadgenerator", "[]"), _account("loadgenerator")])

_EGRESS = """apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata:
  name: allow-egress-googleapis
spec:
  hosts:
  - "accounts.google.com"
  - "*.googleapis.com"
  ports:
  - number: 80
    protocol: HTTP
    name: http
  - number: 443
    protocol: HTTPS
    name: https
---
apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata:
  name: allow-egress-google-metadata
spec:
  hosts:
  - metadata.google.internal
  addresses:
  - 169.254.169.254
  ports:
  - number: 80
    name: http
    protocol: HTTP
"""
_GATEWAY = """apiVersion: gateway.networking.k8s.io/v1beta1
kind: Gateway
metadata:
  name: istio-gateway
spec:
  gatewayClassName: istio
  listeners:
  - name: http
    port: 80
    protocol: HTTP
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: frontend-route
spec:
  parentRefs:
  - name: istio-gateway
  rules:
  - matches:
    - path:
        value: /
    backendRefs:
    - name: frontend
      port: 80
---
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata:
  name: frontend-gateway
spec:
  selector:
    istio: ingressgateway
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: frontend-ingress
spec:
  hosts: ["*"]
  gateways: [frontend-gateway]
  http:
  - route:
    - destination: {host: frontend, port: {number: 80}}
"""
_ROUTES = """apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: frontend
spec:
  hosts:
  - "frontend.default.svc.cluster.local"
  http:
  - route:
    - destination:
        host: frontend
        port:
          number: 80
"""
_TEMPLATE = """{{- if .Values.frontend.create }}
{{- if .Values.serviceAccounts.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .Values.frontend.name }}
  namespace: {{.Release.Namespace}}
  {{- if not .Values.serviceAccounts.annotationsOnlyForCartservice }}
  {{- with .Values.serviceAccounts.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
---
{{- end }}
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: {{ .Values.frontend.name }}
spec:
  hosts:
  - "{{ .Values.frontend.name }}.{{ .Release.Namespace }}.svc.cluster.local"
{{- end }}
"""
# As much as this is YAML before Helm has read it.
_QUIET_TEMPLATE = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-all}
spec: {rules: [{from: [{source: {principals: ["{{ .Values.principal }}"]}}]}]}
"""
_VALUES = """serviceAccounts: {create: false, annotations: {}}
authorizationPolicies: {create: false}
selector: {matchLabels: {app: frontend}}
rules: []
frontend: {create: true, name: frontend}
"""
_POLICY = """apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {matchLabels: {}}, policyTypes: [Ingress, Egress]}
"""
_MESH_COMPONENT = """apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
resources:
- allow-egress-googleapis.yaml
- frontend-gateway.yaml
- frontend.yaml
patches:
- patch: |-
    apiVersion: v1
    kind: Service
    metadata:
      name: frontend-external
    $patch: delete
- path: retries.patch.yaml
"""
_PATCH = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: frontend
spec:
  http:
  - retries: {attempts: 1}
"""
_OVERLAY = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"


def boutique() -> Mapping[str, str]:
    """The files of the shop, by their paths."""
    manifests = {"frontend.yaml": _FRONTEND, "cartservice.yaml": _CART, "loadgenerator.yaml": _GENERATOR}
    names = "".join(f"- {name}\n" for name in manifests)
    mesh = {"allow-egress-googleapis.yaml": _EGRESS, "frontend-gateway.yaml": _GATEWAY, "frontend.yaml": _ROUTES}
    component = "kustomize/components/service-mesh-istio"
    return {
        **{f"kubernetes-manifests/{name}": text for name, text in manifests.items()},
        "kubernetes-manifests/kustomization.yaml": f"{_OVERLAY}resources:\n{names}",
        **{f"istio-manifests/{name}": text for name, text in mesh.items()},
        "helm-chart/Chart.yaml": "apiVersion: v2\nname: onlineboutique\ntype: application\nversion: 0.10.3\n",
        "helm-chart/values.yaml": _VALUES,
        "helm-chart/templates/frontend.yaml": _TEMPLATE,
        "helm-chart/templates/common.yaml": _QUIET_TEMPLATE,
        **{f"kustomize/base/{name}": text for name, text in manifests.items()},
        "kustomize/base/kustomization.yaml": f"{_OVERLAY}resources:\n{names}",
        "kustomize/kustomization.yaml": f"{_OVERLAY}resources:\n- base\n# components:\n# - {component}\n",
        **{f"{component}/{name}": text for name, text in mesh.items()},
        f"{component}/kustomization.yaml": _MESH_COMPONENT,
        f"{component}/retries.patch.yaml": _PATCH,
        "kustomize/components/network-policies/kustomization.yaml": (
            "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nresources:\n- deny-all.yaml\n"
        ),
        "kustomize/components/network-policies/deny-all.yaml": _POLICY,
        "kustomize/tests/all/kustomization.yaml": f"{_OVERLAY}resources:\n- ../../base\n",
        "release/kubernetes-manifests.yaml": "---\n".join(manifests.values()),
        "release/istio-manifests.yaml": "---\n".join(mesh.values()),
        "skaffold.yaml": "apiVersion: skaffold/v3\nkind: Config\nmetadata:\n  name: app\nbuild: {artifacts: []}\n",
        "cloudbuild.yaml": "steps:\n- id: deploy\n  name: skaffold\n  args: ['-c', 'skaffold run']\ntimeout: 3600s\n",
        "package.json": '{"name": "shop", "version": "1.0.0", "scripts": {"test": "jest"}}',
        "data/ratings.json": '{"rating": 5}\n{"rating": 4}\n',
    }


def write_boutique(folder: Path) -> Path:
    """Write the shop's repository into a folder."""
    for name, text in boutique().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
