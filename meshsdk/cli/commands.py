"""The commands. Each is thin: it reads arguments, calls the library, and prints. Each imports what it alone needs."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from ..controlplane.folder import Folder, FolderState, load
from ..errors import MeshError

if TYPE_CHECKING:
    from ..mesh import Mesh

__all__ = ["app"]

app = typer.Typer(
    name="meshsdk", help="A service mesh for Python, without a sidecar.", no_args_is_help=True, add_completion=False
)

# Envoy's, and so Istio's.
DEFAULT_ADMIN_PORT = 15000
# A Mesh keeps no more of them.
_MAX_LISTENERS = 4096

FolderArgument = Annotated[Path, typer.Argument(help="File or folder of YAML: Kubernetes, Istio, raw xDS.")]


@app.command()
def check(folder: FolderArgument) -> None:
    """Validate a folder; exits with 1 if anything in it is wrong, and lists all problems."""
    from ..grpc.engine import notes_of

    state = load(folder)
    console, errors = Console(), Console(stderr=True)
    for problem in state.problems:
        kind = "[red]error[/red]" if problem.is_error else "[yellow]warning[/yellow]"
        (errors if problem.is_error else console).print(f"{kind}: ", end="")
        (errors if problem.is_error else console).print(problem.text, markup=False, highlight=False, soft_wrap=True)
    for note in notes_of(state.grpc):
        console.print("[yellow]over gRPC[/yellow]: ", end="")
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if state.errors:
        raise typer.Exit(1)
    counts: dict[str, int] = {}
    for kind_of, _ in state.grpc:
        counts[kind_of.name.lower()] = counts.get(kind_of.name.lower(), 0) + 1
    shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no resources"
    console.print(f"ok: {shown}", highlight=False)


@app.command()
def route(
    folder: FolderArgument,
    method: Annotated[str, typer.Argument(help="HTTP method.")] = "GET",
    url: Annotated[str, typer.Argument(help="Absolute URL, such as http://reviews:9080/reviews/1.")] = "",
    header: Annotated[list[str] | None, typer.Option("-H", "--header", help="name:value; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    requests: Annotated[
        Path | None,
        typer.Option(help='JSON lines {"method", "url", "headers"}, "-" for standard input; answers as JSON lines.'),
    ] = None,
) -> None:
    """Say where a request would go, and why. Nothing is sent."""
    import httpx

    from .render import render_decision

    if requests is None and not url:
        raise typer.BadParameter("give METHOD and URL, or --requests FILE")
    with _mesh(folder) as mesh:
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
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 15010,
) -> None:
    """Serve a folder over ADS to any xDS client, and follow its edits."""
    from ..controlplane.server import ControlPlaneServer

    console = Console()

    def shown(state: FolderState) -> None:
        for problem in state.problems:
            console.print(("error: " if problem.is_error else "warning: ") + problem.text, markup=False, soft_wrap=True)
        console.print(f"version {state.version}: {len(state.grpc)} resources", highlight=False)

    try:
        server = ControlPlaneServer(Folder(folder), f"{host}:{port}", shown)
    except MeshError as error:
        _fail(str(error))
    # As containers are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.start()
        console.print(f"serving {folder} on {host}:{server.port}", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f'use it with GRPC_XDS_BOOTSTRAP_CONFIG=\'{{"xds_servers":[{{"server_uri":"{host}:{server.port}",'
            '"channel_creds":[{"type":"insecure"}]}],"node":{"id":"me"}}\'',
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if server.certificates is not None:
            token, roots = server.certificates.token_file, server.certificates.roots_file
            console.print(
                f'certificates: IstioCaIdentity("spiffe://…", address="{host}:{server.port}", plaintext=True,'
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
    folder: Annotated[Path | None, typer.Argument(help="Folder; default: what the environment says.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Hosts to ask for; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what a Mesh of this environment knows of some hosts: resources, versions, errors, endpoints."""
    with _mesh(folder) as mesh:
        for name in target or ():
            try:
                mesh.wait_ready(name)
            except (MeshError, TimeoutError) as error:
                typer.echo(str(error), err=True)
        found = mesh.status()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    _print_status(found)


@app.command()
def admin(
    folder: Annotated[Path | None, typer.Argument(help="Folder; default: what the environment says.")] = None,
    port: Annotated[
        int, typer.Option(help="Of the loopback; the first that is free from here on.")
    ] = DEFAULT_ADMIN_PORT,
    target: Annotated[list[str] | None, typer.Option(help="Hosts to ask for; default: all of a folder.")] = None,
) -> None:
    """Look at a mesh in a browser: its clusters, routes and changes, and where a request would go."""
    from ..mesh import Mesh

    try:
        mesh = Mesh(config=folder, admin_port=port) if folder is not None else Mesh(admin_port=port)
    except (MeshError, ValueError) as error:
        _fail(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with mesh:
        names = [mesh.runtime.bootstrap.listener_name(name) for name in target or ()]
        if folder is not None and not names:
            names = [name for kind, name in load(folder).grpc if kind.name == "LISTENER"]
        for name in names[:_MAX_LISTENERS]:
            mesh.runtime.when_settled([name], _nothing)
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


def _print_status(found: dict[str, Any]) -> None:
    console = Console()
    table = Table("type", "name", "status", "version", "error")
    for resource in found["resources"]:
        kind = resource["type"].rpartition(".")[2]
        table.add_row(kind, resource["name"], resource["status"], resource["version"], resource["error"])
    console.print(table)
    endpoints = Table("cluster", "endpoint", "priority", "health", "weight")
    for cluster, entries in found["clusters"].items():
        for entry in entries:
            endpoints.add_row(cluster, entry["address"], str(entry["priority"]), entry["health"], str(entry["weight"]))
    console.print(endpoints)
    for note in found["notes"]:
        console.print(note, style="yellow", markup=False)
    if found["problem"]:
        console.print(found["problem"], style="red", markup=False)


def _mesh(folder: Path | None) -> Mesh:
    from ..mesh import Mesh

    try:
        return Mesh(config=folder) if folder is not None else Mesh()
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
