"""`meshsdk check` for people, for programs and for CI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from click.testing import Result
from typer.testing import CliRunner

from meshsdk.cli.commands import app

from .repositories import BOOKINFO, write_boutique
from .test_findings import CASES, MESH, TO_REVIEWS, an_object, strict, virtual_service

SCHEMA = json.loads((Path(__file__).parent.parent.parent / "docs" / "check.schema.json").read_text())
WARNED = virtual_service("[{route: [{destination: {host: reviews}}], retires: {attempts: 2}}]")
WRONG = virtual_service("[{route: [{destination: {host: reviewz}}]}]")
INFORMED = an_object("Service", "v1", "{selector: {app: reviews}, ports: [{name: cache, port: 6379}]}", "web")

# What SARIF 2.1.0 asks of a log, and GitHub of a result (docs.github.com, SARIF support for code scanning).
SARIF: dict[str, Any] = {
    "type": "object",
    "required": ["$schema", "version", "runs"],
    "properties": {
        "$schema": {"type": "string", "pattern": "sarif-schema-2.1.0.json$"},
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"$ref": "#/$defs/run"}},
    },
    "additionalProperties": False,
    "$defs": {
        "text": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}},
        "level": {"enum": ["error", "warning", "note", "none"]},
        "run": {
            "type": "object",
            "required": ["tool", "results"],
            "properties": {
                "tool": {
                    "type": "object",
                    "required": ["driver"],
                    "properties": {
                        "driver": {
                            "type": "object",
                            "required": ["name", "semanticVersion", "rules"],
                            "properties": {
                                "name": {"type": "string", "minLength": 1},
                                "rules": {"type": "array", "items": {"$ref": "#/$defs/rule"}, "uniqueItems": True},
                            },
                        }
                    },
                },
                "results": {"type": "array", "items": {"$ref": "#/$defs/result"}, "maxItems": 25_000},
            },
        },
        "rule": {
            "type": "object",
            "required": ["id", "name", "shortDescription", "fullDescription", "help", "defaultConfiguration"],
            "properties": {
                "id": {"type": "string"},
                "name": {"type": "string", "maxLength": 255},
                "shortDescription": {"$ref": "#/$defs/text"},
                "fullDescription": {"$ref": "#/$defs/text"},
                "help": {"$ref": "#/$defs/text"},
                "defaultConfiguration": {"type": "object", "properties": {"level": {"$ref": "#/$defs/level"}}},
            },
        },
        "location": {
            "type": "object",
            "required": ["physicalLocation"],
            "properties": {
                "physicalLocation": {
                    "type": "object",
                    "required": ["artifactLocation", "region"],
                    "properties": {
                        "artifactLocation": {
                            "type": "object",
                            "required": ["uri"],
                            "properties": {"uri": {"type": "string", "minLength": 1, "pattern": "^[!-~]+$"}},
                        },
                        "region": {
                            "type": "object",
                            "required": ["startLine"],
                            "properties": {"startLine": {"type": "integer", "minimum": 1}},
                        },
                    },
                }
            },
        },
        "result": {
            "type": "object",
            "required": ["ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"],
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": 0},
                "level": {"$ref": "#/$defs/level"},
                "message": {"$ref": "#/$defs/text"},
                "locations": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/location"}},
                "relatedLocations": {"type": "array", "items": {"$ref": "#/$defs/location"}},
                "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
            },
        },
    },
}


def check(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)], input=stdin, env={"COLUMNS": "80", "NO_COLOR": "1"})


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    folder = tmp_path / "a mesh"
    folder.mkdir()
    (folder / "mesh.yaml").write_text(MESH.lstrip())
    return folder


@pytest.mark.parametrize(
    ("added", "plain", "strict_one"),
    [("", 0, 0), (INFORMED, 0, 0), (WARNED, 0, 1), (WRONG, 1, 1)],
    ids=["nothing", "info", "warning", "error"],
)
def test_the_exit_code_says_how_bad_it_is(mesh: Path, added: str, plain: int, strict_one: int) -> None:
    (mesh / "more.yaml").write_text(added.lstrip("\n-"))
    for arguments in ((), ("--json",), ("--sarif",)):
        assert check(mesh, *arguments).exit_code == plain
        assert check(mesh, "--strict", *arguments).exit_code == strict_one


@pytest.mark.parametrize("arguments", [(), (".", "--json", "--sarif"), (".", "--no-such-option")])
def test_what_is_asked_wrongly_exits_with_two(arguments: tuple[str, ...]) -> None:
    assert check(*arguments).exit_code == 2


def test_a_finding_is_one_line_under_its_kind_and_the_cure(mesh: Path) -> None:
    path = mesh / "more.yaml"
    path.write_text((WRONG + virtual_service(WRONG_AGAIN, "ratings")).lstrip("\n-"))
    result = check(mesh)
    where = "spec.http[0].route[0].destination.host: destination host"
    host = "svc.cluster.local"
    assert result.stderr.splitlines() == [
        "error: a rule sends requests to a host that there is not, or that its clients do not see"
        " [unknown-host, IST0101]",
        f"  {path} document 1 VirtualService/reviews.{where} 'reviewz.default.{host}' is not a known service;"
        f" did you mean 'reviews.default.{host}'? (line 4)",
        f"  {path} document 2 VirtualService/ratings.{where} 'nobody.default.{host}' is not a known service (line 10)",
        "  → name a Service or ServiceEntry that is there and exported to that namespace, or add one",
    ]
    assert result.stdout.splitlines()[-1] == "2 errors"


WRONG_AGAIN = "[{route: [{destination: {host: nobody}}]}]"


def test_each_finding_is_told_once(mesh: Path) -> None:
    (mesh / "more.yaml").write_text((WRONG + WARNED.replace("name: reviews", "name: more")).lstrip("\n-"))
    result = check(mesh)
    shown = result.stdout + result.stderr
    assert shown.count("'reviewz.default.svc.cluster.local' is not a known service") == 1
    assert shown.count("spec.http[0].retires: is not known; did you mean 'retries'?; it has no effect") == 1


def test_what_is_not_ours_is_one_line(tmp_path: Path) -> None:
    shop = write_boutique(tmp_path)
    lines = check(shop / "kubernetes-manifests").stdout.splitlines()
    [line] = [one for one in lines if one.startswith("not ours:")]
    assert line == "not ours: 4 Deployments, 3 ServiceAccounts, 1 kustomization.yaml (8 documents in 4 files)"
    assert lines[-1].startswith("ok: ")


def test_what_must_be_rendered_is_one_line_with_the_command(tmp_path: Path) -> None:
    chart = write_boutique(tmp_path) / "helm-chart"
    [line] = [one for one in check(chart).stdout.splitlines() if one.startswith("left out:")]
    assert line == (
        f"left out: Helm templates, which a Mesh refuses as they are, {chart}/templates/common.yaml,"
        f" {chart}/templates/frontend.yaml; render them:"
        f" helm template {chart} | meshsdk check -"
    )


def test_standard_input_is_read(mesh: Path) -> None:
    result = check("-", stdin=MESH.lstrip() + WRONG)
    assert result.exit_code == 1
    assert "  stdin.yaml document 5 VirtualService/reviews.spec.http[0].route[0].destination.host: " in result.stderr
    together = check(mesh, "-", "--json", stdin=virtual_service(TO_REVIEWS).lstrip("\n-"))
    assert together.exit_code == 0
    assert json.loads(together.stdout)["paths"] == [str(mesh), "stdin.yaml"]


def test_files_are_checked_as_one(mesh: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(virtual_service(TO_REVIEWS).lstrip("\n-"))
    assert "services-elsewhere" in check(rules).stdout
    assert "services-elsewhere" not in check(rules, mesh).stdout


def everything(folder: Path) -> Path:
    """Each finding of each case, in a file of its own; several are of the same objects."""
    for number, (_, added, *_) in enumerate(CASES):
        (folder / f"{number}").mkdir(parents=True)
        (folder / f"{number}" / "mesh.yaml").write_text((MESH + added).lstrip())
    return folder


def test_json_is_as_its_schema_has_it(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    seen: set[str] = set()
    for folder in (*sorted(everything(tmp_path / "all").iterdir()), BOOKINFO, write_boutique(tmp_path / "shop")):
        found = json.loads(check(folder, "--json").stdout)
        validator.validate(found)
        assert sum(found["summary"].values()) == len(found["findings"])
        seen |= {one["code"] for one in found["findings"]}
    assert {code for code, *_ in CASES} <= seen


def test_json_says_where_a_finding_stands(mesh: Path) -> None:
    (mesh / "more.yaml").write_text(WRONG.lstrip("\n-"))
    [found] = [one for one in json.loads(check(mesh, "--json").stdout)["findings"] if one["severity"] == "error"]
    assert found == {
        "code": "unknown-host",
        "istio": ["IST0101"],
        "severity": "error",
        "text": "destination host 'reviewz.default.svc.cluster.local' is not a known service;"
        " did you mean 'reviews.default.svc.cluster.local'?",
        "cure": "name a Service or ServiceEntry that is there and exported to that namespace, or add one",
        "file": str(mesh / "more.yaml"),
        "line": 4,
        "document": None,
        "item": None,
        "object": {"kind": "VirtualService", "namespace": "default", "name": "reviews"},
        "field": "spec.http[0].route[0].destination.host",
        "others": [],
    }


def sarif(*paths: str | Path) -> Mapping[str, Any]:
    log = json.loads(check(*paths, "--sarif").stdout)
    jsonschema.Draft202012Validator(SARIF).validate(log)
    [run] = log["runs"]
    rules = [one["id"] for one in run["tool"]["driver"]["rules"]]
    for one in run["results"]:
        assert rules[one["ruleIndex"]] == one["ruleId"]
    found: Mapping[str, Any] = run
    return found


def test_sarif_is_as_code_scanning_takes_it(tmp_path: Path) -> None:
    for folder in (*sorted(everything(tmp_path / "all").iterdir()), BOOKINFO, write_boutique(tmp_path / "shop")):
        sarif(folder)


def test_sarif_says_where_in_the_repository(mesh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By paths from where it runs, wherever the folder is."""
    (mesh / "more.yaml").write_text((WRONG + strict("{selector: {matchLabels: {app: nobody}}}")).lstrip("\n-"))
    monkeypatch.chdir(mesh.parent)
    for given in ("a mesh", mesh):
        results = sarif(given)["results"]
        places = [one["locations"][0]["physicalLocation"] for one in results if one["level"] != "note"]
        assert [(unquote(one["artifactLocation"]["uri"]), one["region"]["startLine"]) for one in places] == [
            ("a mesh/more.yaml", 4),
            ("a mesh/more.yaml", 10),
        ]
    assert [one["level"] for one in results][:2] == ["error", "warning"]


def test_a_finding_is_known_again_on_another_line(mesh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mesh / "more.yaml"
    path.write_text(WRONG.lstrip("\n-"))
    before = sarif(path)["results"][0]
    path.write_text("# Moved.\n" + WRONG.lstrip("\n-"))
    after = sarif(path)["results"][0]
    assert before["partialFingerprints"] == after["partialFingerprints"]
