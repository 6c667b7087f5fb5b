"""The one xDS bootstrap of the process, which grpc-core reads when its first xDS channel begins to work.

The application may have a bootstrap of its own in the environment, for its own `xds:///` channels. It is kept as it
is, and the relay is added as an authority (gRFC A47) with the relay's certificate provider instances. grpc-core keeps
what it has read as long as any xDS channel lives, so one channel, the keeper, is opened at once and kept; the
environment is as before right after, so that child processes inherit nothing.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental

from ...bootstrap import BOOTSTRAP_JSON_VARIABLE, BOOTSTRAP_PATH_VARIABLE, ENVIRONMENT_LOCK
from ...errors import BootstrapError, UnsupportedFeatureError
from .names import AUTHORITY, KEEPER, NO_PROXY, channel_target

__all__ = ["merged_bootstrap", "open_keeper"]

_KEEPER_SECONDS = 10.0


def merged_bootstrap(socket: Path, providers: Mapping[str, Any]) -> dict[str, Any]:
    """The application's bootstrap with the relay in it; the relay alone where the application has none.

    Args:
        socket: The relay's.
        providers: Its certificate provider instances.

    Raises:
        BootstrapError: The application's bootstrap cannot be read, or uses the relay's names for something else.
    """
    relay = [
        {
            "server_uri": f"unix:{socket}",
            "channel_creds": [{"type": "insecure"}],
            # gRFC A81: only from a trusted server is auto_host_rewrite taken.
            "server_features": ["xds_v3", "trusted_xds_server"],
        }
    ]
    document = _application_bootstrap() or {"xds_servers": relay, "node": {"id": "meshsdk"}}
    authorities = document.setdefault("authorities", {})
    instances = document.setdefault("certificate_providers", {})
    if AUTHORITY in authorities:
        raise BootstrapError(f"authorities[{AUTHORITY!r}]", "is the name that meshsdk uses; choose another one")
    authorities[AUTHORITY] = {"xds_servers": relay}
    instances.update(providers)
    return document


def _application_bootstrap() -> dict[str, Any] | None:
    path, text = os.environ.get(BOOTSTRAP_PATH_VARIABLE), os.environ.get(BOOTSTRAP_JSON_VARIABLE)
    origin = path or f"the environment variable {BOOTSTRAP_JSON_VARIABLE}"
    if not path and not text:
        return None
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8") if path else text or "")
    except (OSError, ValueError, RecursionError) as error:
        raise BootstrapError("", f"the bootstrap in {origin} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise BootstrapError("", f"the bootstrap in {origin} is not a JSON object")
    return document


def open_keeper(document: Mapping[str, Any], asked: threading.Event) -> Any:
    """Have grpc-core read the bootstrap, and open the channel that keeps it in use.

    Args:
        document: The merged bootstrap.
        asked: Set when the relay gets its first request.

    Raises:
        UnsupportedFeatureError: grpc-core works with a bootstrap that it has read before.
    """
    failed = threading.Event()

    def watch(state: grpc.ChannelConnectivity) -> None:
        # The keeper fails as well once it was answered, since its routes lead nowhere.
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and not asked.is_set():
            failed.set()
            asked.set()

    with ENVIRONMENT_LOCK, _environment(document):
        channel = inspect.unwrap(grpc.insecure_channel)(channel_target(KEEPER), options=NO_PROXY)
        channel.subscribe(watch, try_to_connect=True)
        asked.wait(_KEEPER_SECONDS)
    channel.unsubscribe(watch)
    if failed.is_set() or not asked.is_set():
        # Not closed: grpc's thread that watches its state does not take that well.
        raise UnsupportedFeatureError(
            "grpc-core already works with an xDS bootstrap that knows nothing of meshsdk, because an xds:/// channel of"
            " the application's was opened first, and it reads one only once. Make the first call on a channel of the"
            " Mesh before opening xds:/// channels; both then work side by side"
        )
    return channel


@contextlib.contextmanager
def _environment(document: Mapping[str, Any]) -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in (BOOTSTRAP_PATH_VARIABLE, BOOTSTRAP_JSON_VARIABLE)}
    os.environ[BOOTSTRAP_JSON_VARIABLE] = json.dumps(document)
    try:
        yield
    finally:
        del os.environ[BOOTSTRAP_JSON_VARIABLE]
        os.environ.update({name: value for name, value in before.items() if value is not None})
