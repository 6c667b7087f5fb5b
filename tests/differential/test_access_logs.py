"""The lines of the real Envoy's access logs and of ours are the same, but for addresses, ids and durations."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meshsdk.access_log import compile_text
from meshsdk.errors import ResourceError

from ..patience import PATIENCE
from ..processes import envoy_path, http_listener
from .inbound_subjects import SERVER_SUBJECTS, running_server
from .logged_exchanges import (
    LOGS,
    SERVER_FILTERS,
    SERVER_LOGS,
    SERVER_ROUTES,
    Exchange,
    answer_to,
    exchanges,
    lines_of,
    make_server_logs,
    run_on_the_mesh,
    run_through_envoy,
    running_upstream,
    send_all,
    server_exchanges,
)

# By default always the same ones; MESHSDK_DIFFERENTIAL_SEED and MESHSDK_LOGGED_EXCHANGES find more.
SEED = int(os.environ.get("MESHSDK_DIFFERENTIAL_SEED", "1"))
EXCHANGES = int(os.environ.get("MESHSDK_LOGGED_EXCHANGES", "150"))


def test_every_line_is_the_one_that_envoy_writes(tmp_path: Path) -> None:
    every = exchanges(SEED, EXCHANGES)
    with running_upstream() as clusters:
        run_through_envoy(tmp_path / "envoy", every, clusters)
    with running_upstream() as clusters:
        run_on_the_mesh(tmp_path / "meshsdk", every, clusters)
    different = differences(tmp_path, LOGS, every)
    assert not different, f"{len(different)} lines differ with seed {SEED}:\n" + "\n".join(different[:6])


def test_every_line_of_a_server_is_the_one_that_envoy_writes_in_front_of_it(tmp_path: Path) -> None:
    every = server_exchanges(SEED, EXCHANGES)
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        manager = {"access_log": make_server_logs(tmp_path / name)}
        with running_server(
            name, tmp_path / name, SERVER_FILTERS, answer_to, routes=SERVER_ROUTES, manager=manager
        ) as subject:
            send_all(subject.client, f"http://127.0.0.1:{subject.port}", {"host": "subject.test"}, every)
    different = differences(tmp_path, SERVER_LOGS, every)
    assert not different, f"{len(different)} lines differ with seed {SEED}:\n" + "\n".join(different[:6])


def differences(folder: Path, logs: Iterable[str], every: list[Exchange]) -> list[str]:
    different = []
    for name in logs:
        theirs, ours = lines_of(folder / "envoy", name), lines_of(folder / "meshsdk", name)
        assert theirs, f"Envoy has written no {name}"
        for exchange in every:
            case = exchange.case
            if not is_accidental(name, exchange) and shown(theirs, exchange) != shown(ours, exchange):
                different.append(f"{name}: {exchange}\n  Envoy   {theirs.get(case)}\n  meshsdk {ours.get(case)}"[:2500])
    return different


def is_accidental(log: str, exchange: Exchange) -> bool:
    """Whether chance decides what is written."""
    if log in ("sampled", "both"):
        # Envoy makes a request id where there is none, and chooses by it.
        return "x-request-id" not in exchange.headers
    # Others may have had to wait.
    return log == "slow" and "delayed" not in exchange.target


def shown(lines: dict[str, str], exchange: Exchange) -> str | None:
    line = lines.get(exchange.case)
    if line is None:
        return None
    line = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", line)
    if exchange.body and exchange.target.startswith("/refused/"):
        # The body comes before the connection is refused, or does not.
        line = re.sub(r'\bin=\d+|"bytes_received":\d+|" \d+ (?=\d+ 0 - ")', "", line)
    return line


# Those of Envoy's docs (advanced/substitution_formatter), with arguments where they must have some.
OPERATORS = """
REQ(x) RESP(x) TRAILER(x) REQUEST_HEADER(x) RESPONSE_HEADER(x) RESPONSE_TRAILER(x) PATH PATH(NQ) QUERY_PARAM(a)
QUERY_PARAMS(ORIG) START_TIME EMIT_TIME START_TIME_LOCAL EMIT_TIME_LOCAL DURATION REQUEST_DURATION REQUEST_TX_DURATION
RESPONSE_DURATION RESPONSE_TX_DURATION DOWNSTREAM_HANDSHAKE_DURATION ROUNDTRIP_DURATION
COMMON_DURATION(DS_RX_BEG:DS_TX_END:ms) UPSTREAM_CONNECTION_POOL_READY_DURATION PROTOCOL UPSTREAM_PROTOCOL
RESPONSE_CODE RESPONSE_CODE_DETAILS CONNECTION_TERMINATION_DETAILS RESPONSE_FLAGS RESPONSE_FLAGS_LONG GRPC_STATUS
GRPC_STATUS(NUMBER) GRPC_STATUS_NUMBER BYTES_RECEIVED BYTES_SENT BYTES_RETRANSMITTED PACKETS_RETRANSMITTED
REQUEST_HEADERS_BYTES RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES UPSTREAM_HOST UPSTREAM_HOST_NAME
UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_LOCAL_ADDRESS
UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT UPSTREAM_LOCAL_PORT UPSTREAM_REMOTE_ADDRESS UPSTREAM_REMOTE_PORT
UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT UPSTREAM_REQUEST_ATTEMPT_COUNT UPSTREAM_TRANSPORT_FAILURE_REASON
UPSTREAM_CONNECTION_ID UPSTREAM_TLS_CIPHER UPSTREAM_TLS_VERSION UPSTREAM_TLS_SESSION_ID UPSTREAM_PEER_ISSUER
UPSTREAM_PEER_CERT UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN
UPSTREAM_LOCAL_URI_SAN UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN UPSTREAM_PEER_CERT_V_START
UPSTREAM_PEER_CERT_V_END UPSTREAM_SERVER_NAME UPSTREAM_WIRE_BYTES_SENT UPSTREAM_WIRE_BYTES_RECEIVED
UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT DOWNSTREAM_WIRE_BYTES_RECEIVED
DOWNSTREAM_HEADER_BYTES_SENT DOWNSTREAM_HEADER_BYTES_RECEIVED UPSTREAM_HOSTS_ATTEMPTED
UPSTREAM_HOST_NAMES_ATTEMPTED UPSTREAM_CONNECTION_IDS_ATTEMPTED DOWNSTREAM_REMOTE_ADDRESS
DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_REMOTE_PORT DOWNSTREAM_DIRECT_REMOTE_ADDRESS
DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_REMOTE_PORT DOWNSTREAM_LOCAL_ADDRESS
DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_PORT REQUESTED_SERVER_NAME ROUTE_NAME VIRTUAL_CLUSTER_NAME
FILTER_CHAIN_NAME HOSTNAME ENVIRONMENT(HOME) UNIQUE_ID CONNECTION_ID STREAM_ID TRACE_ID SPAN_ID ACCESS_LOG_TYPE
LOCAL_REPLY_BODY CUSTOM_FLAGS DYNAMIC_METADATA(a) CLUSTER_METADATA(a) UPSTREAM_METADATA(a) METADATA(DYNAMIC:a)
METADATA(ROUTE:a) METADATA(LISTENER:a) METADATA(VIRTUAL_HOST:a) FILTER_STATE(a) FILTER_STATE(a:PLAIN)
UPSTREAM_FILTER_STATE(a) DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_PEER_DNS_SAN DOWNSTREAM_PEER_IP_SAN
DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_LOCAL_IP_SAN
DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_CIPHER
DOWNSTREAM_TLS_VERSION DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_FINGERPRINT_1 DOWNSTREAM_PEER_SERIAL
DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_CERT
DOWNSTREAM_PEER_CERT_V_START DOWNSTREAM_PEER_CERT_V_END DOWNSTREAM_TRANSPORT_FAILURE_REASON TLS_JA3_FINGERPRINT
CEL(request.path) TYPED_CEL(request.path)
""".split()
REFUSED = ["NONSENSE", "REQ()", "RESPONSE_CODE:3", "PROTOCOL(x)", "GRPC_STATUS(x)"]


def envoy_takes(text: str, folder: Path) -> bool:
    listener: dict[str, Any] = http_listener(1, [])
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    config = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": "/dev/null",
        "log_format": {"text_format_source": {"inline_string": text}},
    }
    manager["access_log"] = [{"name": "file", "typed_config": config}]
    (folder / "envoy.json").write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    command = [envoy_path(), "--mode", "validate", "-c", str(folder / "envoy.json"), "-l", "off"]
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode == 0


def we_take(text: str) -> bool:
    try:
        compile_text(text, "format")
    except ResourceError:
        return False
    return True


def test_every_operator_of_envoys_is_known_and_no_other(tmp_path: Path) -> None:
    every = " ".join(f"%{one}%" for one in OPERATORS)
    assert envoy_takes(every, tmp_path)
    assert [one for one in OPERATORS if not we_take(f"%{one}%")] == []
    for one in REFUSED:
        assert not envoy_takes(f"%{one}%", tmp_path), one
        assert not we_take(f"%{one}%"), one
