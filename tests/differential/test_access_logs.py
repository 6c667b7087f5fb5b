"""The lines of the real Envoy's access logs and of ours are the same, but for addresses, ids and durations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

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
