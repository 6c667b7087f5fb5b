"""The commands. Each is thin: it reads arguments, calls the library, and prints. Each imports what it alone needs."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from socket import getaddrinfo
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from ..controlplane.folder import Folder, FolderState, load
from ..errors import MeshError
from ..version import VERSION
from .check import check
from .tables import table_of, tell_status

if TYPE_CHECKING:
    from ..mesh import Mesh
    from ..mesh_status import MeshStatus
    from .recording import Replayed

__all__ = ["app"]

app = typer.Typer(name="meshsdk", help="A service mesh for Python, without a sidecar.", no_args_is_help=True)

# Envoy's, and so Istio's.
DEFAULT_ADMIN_PORT = 15000
# A Mesh keeps no more of them.
_MAX_LISTENERS = 4096

# A folder's short names are completed with it.
NamespaceOption = Annotated[
    str | None, typer.Option(help="Whose client it is, over a folder; default: MESHSDK_NAMESPACE, or `default`.")
]

FolderArgument = Annotated[Path, typer.Argument(help="File or folder of YAML: Kubernetes, Istio, raw xDS.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"meshsdk {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version, and do nothing else.", callback=_print_version),
    ] = False,
) -> None:
    """A service mesh for Python, without a sidecar."""


app.command()(check)


@app.command()
def route(
    folder: FolderArgument,
    method: Annotated[str, typer.Argument(help="HTTP method; GET where it is left out.")] = "",
    url: Annotated[str, typer.Argument(help="Absolute URL, such as http://reviews:9080/reviews/1.")] = "",
    header: Annotated[list[str] | None, typer.Option("-H", "--header", help="name:value; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    requests: Annotated[
        Path | None,
        typer.Option(help='JSON lines {"method", "url", "headers"}, "-" for standard input; answers as JSON lines.'),
    ] = None,
    namespace: NamespaceOption = None,
) -> None:
    """Say where a request would go, and why. Nothing is sent."""
    import httpx

    from .render import render_decision

    if not url:
        method, url = "GET", method
    if requests is None and not url:
        raise typer.BadParameter("give a URL, or --requests FILE")
    with _mesh(folder, namespace) as mesh:
        if requests is not None:
            _route_lines(mesh, requests)
            return
        headers = dict(_split_header(text) for text in header or ())
        try:
            decision = mesh.explain(method, url, headers)
        except (MeshError, TimeoutError, httpx.InvalidURL, UnicodeError) as error:
            _fail(str(error))
        if as_json:
            typer.echo(json.dumps(decision.to_dict(), indent=2))
        else:
            render_decision(decision, Console())
        if decision.action in ("no_route", "deny"):
            raise typer.Exit(1)


def _route_lines(mesh: Mesh, path: Path) -> None:
    import httpx

    lines = sys.stdin if str(path) == "-" else path.open(encoding="utf-8")
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                asked = json.loads(line)
                decision = mesh.explain(asked.get("method", "GET"), asked["url"], asked.get("headers"))
            except (ValueError, KeyError, TypeError, AttributeError, httpx.InvalidURL) as error:
                typer.echo(json.dumps({"error": f"line {number}: {error!r}"}))
            else:
                typer.echo(json.dumps(decision.to_dict()))


@app.command("control-plane")
def control_plane(
    folder: FolderArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 15010,
    socket: Annotated[
        Path | None,
        typer.Option(help="Listen on this unix socket instead, for this user alone; there secrets are given, too."),
    ] = None,
) -> None:
    """Serve a folder over ADS to any xDS client, and follow its edits."""
    from ..controlplane.server import ControlPlaneServer

    if not folder.exists():
        _fail(f"there is no file or folder {str(folder)!r}")
    if socket is None:
        try:
            getaddrinfo(host, port)
        except OSError as error:
            _fail(f"--host {host}: {error.strerror or error}")
    console = Console()

    def shown(state: FolderState) -> None:
        for problem in state.problems:
            console.print(("error: " if problem.is_error else "warning: ") + problem.text, markup=False, soft_wrap=True)
        console.print(f"version {state.version}: {len(state.grpc)} resources", highlight=False)

    try:
        address = f"{host}:{port}" if socket is None else f"unix:{socket.absolute()}"
        server = ControlPlaneServer(Folder(folder, logs=False), address, shown)
    except MeshError as error:
        _fail(str(error))
    # As containers are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.start()
        target = f"{host}:{server.port}" if socket is None else address
        console.print(f"serving {folder} on {target}", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f'use it with GRPC_XDS_BOOTSTRAP_CONFIG=\'{{"xds_servers":[{{"server_uri":"{target}",'
            '"channel_creds":[{"type":"insecure"}]}],"node":{"id":"me"}}\'',
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if server.certificates is not None:
            token, roots = server.certificates.token_file, server.certificates.roots_file
            console.print(
                f'certificates: IstioCaIdentity("spiffe://…", address="{target}", plaintext=True,'
                f' token_file="{token}", ca_certificate_file="{roots}")',
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        threading.Event().wait()
    except KeyboardInterrupt:
        server.stop(1.0)


@app.command()
def status(
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER|ADDRESS|URL]",
            help="Folder; host:port of a gRPC server that tells of its process (CSDS); or the URL of a process's admin"
            " page. Default: by the environment.",
        ),
    ] = None,
    pid: Annotated[int | None, typer.Option(help="Of a process on this machine that has an admin page.", min=1)] = None,
    target: Annotated[list[str] | None, typer.Option(help="Hosts to ask for; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    ca: Annotated[Path | None, typer.Option(help="Of an address: over TLS, with these roots.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Of an address: shown to the server.")] = None,
    key: Annotated[Path | None, typer.Option(help="Of the certificate.")] = None,
    timeout: Annotated[float, typer.Option(help="Of an address: seconds.", min=0.1)] = 10.0,
    namespace: NamespaceOption = None,
) -> None:
    """Show what a Mesh knows of some hosts, or what a process that runs knows: resources, versions, errors.

    Of an address, exits with 1 if a resource was refused or is missing.
    """
    from .client_status import is_address

    if pid is not None or (place is not None and place.startswith(("http://", "https://"))):
        if pid is not None and place is not None:
            raise typer.BadParameter("--pid and a place are two ways to say which process")
        tell_status(_status_of_process(pid, place, timeout), as_json)
        return
    if place is not None and is_address(place):
        _status_of_clients(place, as_json, ca, certificate, key, timeout)
        return
    with _mesh(Path(place) if place is not None else None, namespace) as mesh:
        for name in target or ():
            try:
                mesh.wait_ready(name)
            except (MeshError, TimeoutError) as error:
                typer.echo(str(error), err=True)
        found = mesh.status()
    tell_status(found, as_json)


def _status_of_process(pid: int | None, url: str | None, timeout: float) -> MeshStatus:
    from .process_status import NotAsked, page_of_process, status_of_page

    try:
        return status_of_page(page_of_process(pid) if pid is not None else url or "", timeout)
    except NotAsked as error:
        _fail(str(error))


def _status_of_clients(
    address: str, as_json: bool, ca: Path | None, certificate: Path | None, key: Path | None, timeout: float
) -> None:
    if (certificate is None) is not (key is None) or (certificate is not None and ca is None):
        raise typer.BadParameter("--certificate and --key go together, and with --ca")
    from ..admin.csds_client import Unanswered, read_clients
    from .client_status import is_troubled, print_clients
    from .tables import standard_output

    try:
        clients = read_clients(address, ca=ca, certificate=certificate, key=key, timeout_seconds=timeout)
    except (Unanswered, OSError) as error:
        _fail(str(error))
    if as_json:
        typer.echo(json.dumps(clients, indent=2))
    else:
        print_clients(clients, standard_output())
    if any(is_troubled(client, one) for client in clients for one in client["resources"]):
        raise typer.Exit(1)


@app.command()
def admin(
    folder: Annotated[Path | None, typer.Argument(help="Folder; default: what the environment says.")] = None,
    port: Annotated[
        int, typer.Option(help="Of the loopback; the first that is free from here on.", min=1, max=65535)
    ] = DEFAULT_ADMIN_PORT,
    target: Annotated[list[str] | None, typer.Option(help="Hosts to ask for; default: all of a folder.")] = None,
    namespace: NamespaceOption = None,
) -> None:
    """Look at a mesh in a browser: its clusters, routes and changes, and where a request would go."""
    from ..mesh import Mesh

    try:
        mesh = Mesh(config=folder, namespace=namespace, admin_port=port)
    except (MeshError, ValueError) as error:
        _fail(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with mesh:
        names = [mesh._runtime.bootstrap.listener_name(name) for name in target or ()]
        if folder is not None and not names:
            names = [name for kind, name in load(folder).grpc if kind.name == "LISTENER"]
        for name in names[:_MAX_LISTENERS]:
            mesh._runtime.when_settled([name], _nothing)
        try:
            typer.echo(f"the mesh is shown at {_address_of(mesh)}")
            threading.Event().wait()
        except KeyboardInterrupt:
            return


def _nothing() -> None:
    """It is shown when it comes."""


def _address_of(mesh: Mesh) -> str:
    """Where the page is, as soon as it is there."""
    for _ in range(100):
        if mesh.admin_url:
            return mesh.admin_url
        time.sleep(0.1)
    _fail("no port is free for the page; choose another by --port")


@app.command()
def record(
    page: Annotated[str, typer.Argument(help="Admin page of a process.")] = f"http://127.0.0.1:{DEFAULT_ADMIN_PORT}",
    output: Annotated[Path, typer.Option(help="Where the recording is written.")] = Path("recording.jsonl"),
    seconds: Annotated[float, typer.Option(help="How long; Ctrl-C ends it, too.", min=0.1)] = 60.0,
) -> None:
    """Record the requests that a process sends, with the decision on each, for `replay`."""
    import httpx
    from rich.progress import Progress

    from .recording import record as recorded

    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("recording", total=1.0)
            lines, missed = recorded(
                page,
                seconds,
                lambda share, count: progress.update(task, completed=share, description=f"{count} requests"),
            )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _fail(f"{page} is no admin page that answers ({error}); start the process with MESHSDK_ADMIN_PORT")
    output.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    sent = sum(line["count"] for line in lines)
    typer.echo(
        f"{sent} requests, {len(lines)} of them different, are in {output}"
        + (f"; {missed} were missed" if missed else "")
    )


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(help="Of `meshsdk record`.")],
    config: Annotated[Path, typer.Option(help="Folder whose configuration is tried.")],
    namespace: NamespaceOption = None,
    allow: Annotated[list[str] | None, typer.Option(help="Verdicts that are no reason to fail.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a line for each request.")] = False,
) -> None:
    """Say which recorded requests would go elsewhere or fail under another configuration; exits with 1 if any does."""
    from rich.progress import track

    from .recording import VERDICTS
    from .recording import replay as replayed

    allowed = {"same", "mended", *(allow or ())}
    if not allowed <= set(VERDICTS):
        raise typer.BadParameter(f"--allow takes {', '.join(VERDICTS)}")
    total = recording.read_text(encoding="utf-8").count("\n") if recording.is_file() else 0
    try:
        steps = replayed(recording, config, namespace)
        found = list(track(steps, "replaying", total, console=Console(stderr=True), transient=True))
    except (MeshError, ValueError, OSError) as error:
        _fail(str(error))
    found.sort(key=lambda one: (VERDICTS.index(one.verdict), -one.requests))
    if as_json:
        for one in found:
            typer.echo(json.dumps(one._asdict()))
    else:
        _print_replayed(found)
    if any(one.verdict not in allowed for one in found):
        raise typer.Exit(1)


def _print_replayed(found: list[Replayed]) -> None:
    console = Console()
    table = table_of("", "requests", "request", "before", "after")
    looks = {"fails": "red", "mended": "green", "same": "dim"}
    for one in found:
        if one.verdict != "same":
            look = looks.get(one.verdict, "yellow")
            texts = [one.verdict, str(one.requests), f"{one.method} {one.url}", one.before, one.after]
            table.add_row(*(Text(text, look if place == 0 else "") for place, text in enumerate(texts)))
    if table.row_count:
        console.print(table)
    counts = {verdict: sum(one.requests for one in found if one.verdict == verdict) for verdict in _verdicts_of(found)}
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no request", highlight=False)


def _verdicts_of(found: list[Replayed]) -> list[str]:
    return list(dict.fromkeys(one.verdict for one in found))


def _mesh(folder: Path | None, namespace: str | None = None) -> Mesh:
    from ..mesh import Mesh

    try:
        return Mesh(config=folder, namespace=namespace)
    except MeshError as error:
        _fail(str(error))


def _split_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"a header is name:value, not {text!r}")
    return name.strip(), value.strip()


def _fail(message: str) -> NoReturn:
    typer.echo(f"meshsdk: {message}", err=True)
    raise typer.Exit(2)
