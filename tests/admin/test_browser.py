"""The page in a real browser: what happens in the mesh is on it, nothing of others is run, and a keyboard is enough."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ..ads import AdsServer
from ..conftest import destination_rule, service, virtual_service
from ..patience import PATIENCE
from ..servers import EchoServer
from .conftest import Page
from .test_envoy_formats import listener

if TYPE_CHECKING:
    from playwright.sync_api import Page as Tab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; `make peers` installs it")

# Quiet about updates and accounts of its own, which it would look up on the web.
_ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
).split()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        except Error as error:
            pytest.skip(f"{CHROMIUM} does not start here: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    """A tab of the browser. What goes wrong in a page fails the test."""
    tab: Tab = browser.new_page(viewport={"width": 1280, "height": 860})
    tab.set_default_timeout(PATIENCE * 1000)
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    yield tab
    tab.close()
    # The page is looked at until its process has ended.
    assert not [one for one in wrong if "ERR_CONNECTION" not in one and "Failed to load resource" not in one]


def has_count(tab: Tab, selector: str, count: int) -> None:
    """Wait until so many are there."""
    from playwright.sync_api import expect

    expect(tab.locator(selector)).to_have_count(count, timeout=PATIENCE * 1000)


def send(client: httpx.Client, url: str, **options: Any) -> None:
    try:
        client.get(url, **options)
    except httpx.HTTPError:
        pass


def test_traffic_is_drawn_with_its_errors(page: Page, tab: Tab) -> None:
    with EchoServer("a") as good, EchoServer("b") as bad:
        bad.status = 500
        page.configure(service("fine", good.port) + "---\n" + service("broken", bad.port))
        mesh = page.open()
        tab.goto(page.url)
        tab.get_by_text("No request yet").wait_for()
        with mesh.client() as client:
            for _ in range(5):
                send(client, "http://fine/")
                send(client, "http://broken/")
            tab.locator("#picture .edge.good").first.wait_for()
            tab.locator("#picture .edge.bad").first.wait_for()
            names = tab.locator("#picture .node text").all_text_contents()
            # By the workloads that configuration names, since these servers say nothing of themselves.
            assert {"fine", "broken"} <= {name.partition("-")[0].partition(" ")[0] for name in names}, names
            row = tab.locator("#edges tr", has_text="broken")
            assert "100 %" in row.inner_text()
            tab.get_by_text("errors with broken").wait_for()


def test_a_replica_that_fails_and_a_new_route_are_shown(page: Page, tab: Tab) -> None:
    ejecting = (
        "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, interval: 100ms, baseEjectionTime: 60s,"
        " maxEjectionPercent: 100}}"
    )
    with EchoServer("a") as one, EchoServer("b") as other:
        yaml = service("a", one.port, other.port) + destination_rule("a", ejecting)
        page.configure(yaml)
        mesh = page.open()
        with mesh.client() as client:
            send(client, "http://a/")
            tab.goto(f"{page.url}/#clusters")
            tab.get_by_text("2 of 2").first.wait_for()
            other.status, before = 503, len(other.seen)
            while len(other.seen) == before:
                send(client, "http://a/")
            tab.get_by_text("1 of 2").first.wait_for()
            tab.get_by_text("1 in trouble").first.wait_for()
            tab.locator("#list-clusters tr.opens").first.click()
            tab.get_by_text("ejected", exact=True).last.wait_for()
            tab.click("#tab-routes")
            page.configure(yaml + virtual_service("a", "[{name: brand-new, redirect: {uri: /x}}]"))
            tab.get_by_text("redirect 301").wait_for()


def test_a_rejected_resource_is_shown_with_its_error(page: Page, tab: Tab) -> None:
    with AdsServer(listener(418)) as server:
        mesh = page.open(bootstrap=server.bootstrap)
        with mesh.client() as client:
            send(client, "http://a:80/")
            tab.goto(f"{page.url}/#configuration")
            tab.locator("#list-resources").get_by_text("a:80").first.wait_for()
            server.publish(listener(42))
            tab.locator("#state", has_text="1 rejected").wait_for()
            tab.locator("#list-changes tr.opens", has_text="rejected").first.click()
            tab.get_by_text("The last good one serves on").wait_for()
            assert "status" in tab.locator("#list-changes .detail .bad").first.inner_text()


def test_a_change_is_shown_line_by_line(page: Page, tab: Tab) -> None:
    rule = "trafficPolicy: {{connectionPool: {{http: {{http1MaxPendingRequests: {0}}}}}}}"
    page.configure(service("a", 1) + destination_rule("a", rule.format(7)))
    page.open().wait_ready("a")
    tab.goto(f"{page.url}/#configuration")
    page.configure(service("a", 1) + destination_rule("a", rule.format(8)))
    tab.locator("#list-changes tr.opens", has_text="changed").first.click()
    assert '"max_pending_requests": 7' in tab.locator("pre .minus").first.inner_text()
    assert '"max_pending_requests": 8' in tab.locator("pre .plus").first.inner_text()


def test_a_request_is_explained(page: Page, tab: Tab) -> None:
    routes = (
        "[{name: for-jason, match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: a}}]},"
        " {name: for-all, route: [{destination: {host: a}}]}]"
    )
    with EchoServer("a") as server:
        page.configure(service("a", server.port) + virtual_service("a", routes))
        mesh = page.open()
        with mesh.client() as client:
            send(client, "http://a/reviews", headers={"end-user": "bob"})
            tab.goto(f"{page.url}/#requests")
            tab.locator("#list-requests tr.opens").first.click()
            told = tab.locator("#list-requests .detail .tree")
            told.get_by_text("it is 'bob'").wait_for()
            text = told.inner_text()
            assert "✗ route for-jason" in text
            assert "✓ route for-all" in text
            assert f"127.0.0.1:{server.port} ← it went here" in text
            tab.get_by_text("held while one is open").wait_for()
        tab.click("#tab-explain")
        tab.fill("#ask-url", "http://a/")
        tab.fill("#ask-headers", "end-user: jason")
        tab.press("#ask-url", "Enter")
        tab.locator("#explained").get_by_text("✓ route for-jason").wait_for()
        tab.fill("#ask-url", "http://nobody/")
        tab.click("#ask button")
        tab.locator("#explained").get_by_text("passthrough").first.wait_for()


HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>"


def test_nothing_that_came_from_others_is_read_as_html(page: Page, tab: Tab) -> None:
    """Paths, names of routes and reasons; a dialog would fail the test."""
    routes = (
        f"[{{name: '{HOSTILE.replace(chr(39), chr(39) * 2)}', match: [{{headers: {{x: {{exact: y}}}}}}],"
        " route: [{destination: {host: a}}]}, {route: [{destination: {host: a}}]}]"
    )
    with EchoServer("a") as server:
        page.configure(service("a", server.port) + virtual_service("a", routes))
        mesh = page.open()
        with mesh.client() as client:
            send(client, f"http://a/{HOSTILE}?{HOSTILE}", headers={"x": HOSTILE, "user-agent": HOSTILE})
            tab.goto(f"{page.url}/#requests")
            tab.locator("#list-requests tr.opens").first.click()
            tab.locator("#list-requests .detail .tree").get_by_text("onerror=alert").first.wait_for()
            for view in ("routes", "configuration", "clusters", "graph"):
                tab.click(f"#tab-{view}")
                tab.wait_for_timeout(300)
            tab.click("#tab-routes")
            tab.locator("#list-routes").get_by_text("onerror=alert").first.wait_for()
    assert tab.locator("main img, main script").count() == 0


def test_a_keyboard_is_enough(page: Page, tab: Tab) -> None:
    with EchoServer("a") as server:
        page.configure(service("a", server.port) + "---\n" + service("other", server.port))
        mesh = page.open()
        mesh.wait_ready("a")
        mesh.wait_ready("other")
        tab.goto(page.url)
        tab.keyboard.press("2")
        tab.locator("#list-clusters tr.opens").nth(1).wait_for()
        tab.keyboard.press("/")
        tab.keyboard.type("other")
        has_count(tab, "#list-clusters tr.opens", 1)
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        tab.locator("#list-clusters .detail").get_by_text(f"127.0.0.1:{server.port}").wait_for()
        assert tab.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
        tab.keyboard.press("Enter")
        tab.locator("#list-clusters .detail").wait_for(state="detached")
        tab.keyboard.press("1")
        tab.focus("#tab-graph")
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#tab-clusters").get_attribute("aria-selected") == "true"
        assert tab.locator("#clusters").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_in_light_and_dark_wide_and_narrow(page: Page, browser: Any, scheme: str, width: int) -> None:
    with EchoServer("a") as server:
        page.configure(service("a", server.port))
        mesh = page.open()
        with mesh.client() as client:
            send(client, "http://a/a/rather/long/path/that/does/not/fit/into/a/narrow/window/at/all")
            tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            tab.set_default_timeout(PATIENCE * 1000)
            tab.goto(page.url)
            tab.locator("#edges tr").first.wait_for()
            for view in ("graph", "clusters", "routes", "configuration", "requests", "explain", "identity"):
                tab.click(f"#tab-{view}")
                tab.wait_for_timeout(100)
                assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
            ground, text = tab.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            assert contrast(ground, text) > 7
            for name in ("--quiet", "--good", "--warn", "--bad", "--accent"):
                color, surface = tab.evaluate(
                    "(name) => ['--surface', name].map((one) => { document.body.style.outlineColor ="
                    " `var(${one})`; return getComputedStyle(document.body).outlineColor; })",
                    name,
                )
                assert contrast(color, surface) >= 4.5, f"{name}: WCAG 2.2, 1.4.3"
            tab.close()


def contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG 2.2."""
    first, second = sorted((luminance(one), luminance(other)))
    return (second + 0.05) / (first + 0.05)


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in color.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_large_mesh_can_be_looked_through(page: Page, tab: Tab) -> None:
    count = 300
    page.configure("---\n".join(service(f"service-{number:03}", *range(2, 12)) for number in range(count)))
    mesh = page.open()
    names = [
        mesh._runtime.bootstrap.listener_name(f"service-{n:03}.default.svc.cluster.local:80") for n in range(count)
    ]
    for name in names:
        mesh._runtime.when_settled([name], lambda: None)
    tab.goto(f"{page.url}/#clusters")
    tab.get_by_text(f"{count} clusters, {count * 10:,} endpoints").wait_for()
    assert tab.locator("#list-clusters tr.opens").count() == 100
    tab.click("#more-clusters")
    has_count(tab, "#list-clusters tr.opens", count)
    tab.fill("#find-clusters", "service-123")
    has_count(tab, "#list-clusters tr.opens", 1)
    tab.locator("#list-clusters tr.opens").first.click()
    has_count(tab, "#list-clusters .detail tbody tr", 10)


def test_a_process_that_has_ended_and_one_that_is_back_are_told(page: Page, tab: Tab) -> None:
    page.configure(service("a", 1))
    mesh = page.open()
    tab.goto(page.url)
    tab.get_by_text("all is well").wait_for()
    mesh.close()
    tab.get_by_text("The process does not answer").wait_for()
