"""The pages in a real browser, before a real server: what a person sees and does."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, Route, expect

from tests.conftest import ROOT, photo
from tests.e2e.browser import SCREENSHOTS, Visit, keep_screenshot, run_chromium
from tests.e2e.conftest import BIN, PATIENCE_S, Server, kill, start, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.e2e

LARGER_THAN_ONE = re.compile(r"in batches of up to ([2-9]|\d\d)")
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped model, one for numbers and one for text, with two workers."""
    folder = tmp_path_factory.mktemp("pages")
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    bind = f"127.0.0.1:{free_port()}"
    config["server"] |= {"bind": bind, "workers": 2, "grace_seconds": 0}
    # Adaptive batching finds out whether batches pay, and on a busy machine they may not.
    config["models"][0]["batching"] |= {"policy": "fixed", "max_batch_size": 4}
    config["models"] += [
        {"name": "tiny", "source": "tests.models:tiny"},
        {"name": "letters", "source": "torch.nn:Identity", "task": "tests.e2e.models:Letters"},
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    server = start([str(BIN / "batchserve"), "serve"], folder, f"http://{bind}")
    server.wait_ready(2 * len(config["models"]))
    yield server
    kill(server)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from run_chromium()


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Open]:
    """Return a function that opens a page; nothing on it may go wrong unseen."""
    visits: list[Visit] = []

    def open_page(path: str = "/", **window: Any) -> Page:
        visits.append(Visit(browser, server.base, **window))
        return visits[-1].open(path)

    yield open_page
    for each in visits:
        each.close()
    assert [each.complaints for each in visits] == [[] for _ in visits]


def choose(page: Page, model: str) -> None:
    page.locator("#model").select_option(model)


def choose_file(page: Page, file: Any) -> None:
    # Before it knows the model, the page has no place for one.
    expect(page.locator("[data-kind=image]").first).to_be_visible()
    page.locator("#file").set_input_files(file)


def best(page: Page) -> Any:
    return page.locator(".ranking li").first


def code_in(page: Page, language: str) -> str:
    page.get_by_role("tab", name=language).click()
    return page.locator("#code").inner_text()


def answered(server: Server, since_s: float) -> int:
    """Return how many requests for letters the recorded history has."""
    points = server.get(f"/dashboard/data?since={since_s}").json()["points"]
    rates: list[tuple[float, float]] = [
        (point["models"]["letters:1"].get("answers_per_s", {}).get("200", 0), point["seconds"])
        for point in points
    ]
    return round(sum(rate * seconds for rate, seconds in rates))


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    return done.stdout


def test_a_photo_is_uploaded_and_the_answer_shown_with_its_time_and_company(visit, tmp_path):
    file = tmp_path / "coffee.png"
    file.write_bytes(photo("coffee"))
    page = visit()
    choose_file(page, file)
    expect(best(page)).to_contain_text("espresso")
    expect(best(page)).to_contain_text("95.7 %")
    expect(page.locator("#legend dt")).to_have_text(
        ["decode", "queue", "forward", "everything else"]
    )
    parts = page.locator("#stages > *").evaluate_all("all => all.map(one => one.clientWidth)")
    assert len(parts) == 4
    # Of the whole, the forward pass is a good part.
    assert parts[2] > 20
    expect(page.locator("#company")).to_contain_text("to itself")
    expect(page.locator("#announce")).to_have_text("espresso, 95.7 %")


def test_the_code_that_is_shown_answers_the_same(visit, tmp_path):
    (tmp_path / "coffee.jpg").write_bytes(photo("coffee", "JPEG"))
    page = visit()
    page.get_by_role("button", name="A cup of coffee").click()
    expect(best(page)).to_contain_text("espresso")
    assert '"label":"espresso"' in run(["bash", "-c", code_in(page, "curl")], tmp_path)
    assert "'label': 'espresso'" in run([sys.executable, "-c", code_in(page, "Python")], tmp_path)
    page.get_by_role("button", name="Copy").click()
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied == page.locator("#code").inner_text()


def test_text_and_its_code_are_quoted_wherever_they_go(visit, tmp_path):
    page = visit()
    choose(page, "letters")
    page.locator("#text").fill('it\'s "é" & <b>')
    page.locator("#text").press("Control+Enter")
    expect(page.locator(".ranking li")).to_have_count(4)
    assert '"output":{"b":1.0,"i":1.0,"s":1.0,"t":1.0}' in run(
        ["bash", "-c", code_in(page, "curl")], tmp_path
    )
    assert "{'b': 1.0" in run([sys.executable, "-c", code_in(page, "Python")], tmp_path)
    with page.expect_console_message() as said:
        page.evaluate("async () => {" + code_in(page, "JavaScript") + "}")
    assert "in a batch of 1" in said.value.text


def test_numbers_are_asked_for_as_the_model_takes_them(visit):
    page = visit()
    choose(page, "tiny")
    expect(page.locator("#shape")).to_have_text("float32 of shape [10]")
    page.get_by_role("button", name="Ask the model").click()
    expect(page.locator(".numbers li")).to_have_count(10)
    page.locator("#numbers").fill("\t".join(map(str, range(10))))
    page.get_by_role("button", name="Ask the model").click()
    expect(page.locator(".count")).to_have_text("10 numbers")


def test_what_is_wrong_is_said_in_the_servers_own_words(visit, tmp_path):
    page = visit()
    choose(page, "tiny")
    page.locator("#numbers").fill("[1, 2, 3]")
    page.get_by_role("button", name="Ask the model").click()
    refusal = page.locator("#refusal")
    expect(refusal).to_contain_text("the input has shape [3], not nested lists of float32")
    expect(refusal).to_contain_text("422 · invalid_input · request ")
    choose(page, "efficientnet-lite0")
    choose_file(page, {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"no image"})
    expect(refusal).to_contain_text("the input of 8 bytes is not an image")


def test_what_a_model_says_is_text_and_never_html(visit):
    page = visit()
    page.evaluate("""async () => {
        const { showAnswer } = await import("/static/answer.js");
        showAnswer([{ label: "<img src=x>", score: 0.5 }]);
    }""")
    expect(best(page)).to_contain_text("<img src=x>")
    assert page.locator("#output img").count() == 0


def test_photos_sent_at_once_share_batches(visit):
    page = visit()
    page.get_by_role("button", name="A cup of coffee").click()
    expect(best(page)).to_contain_text("espresso")
    page.get_by_role("button", name="Send 200 at once").click()
    tally = page.locator("#burst-state")
    expect(tally).to_contain_text(LARGER_THAN_ONE)
    if SCREENSHOTS is None:
        # Photos take their time, and it is enough to see that batching happens.
        page.get_by_role("button", name="Stop").click()
    expect(tally).to_contain_text("a second")
    expect(page.locator("#burst-charts canvas")).to_have_count(2)
    keep_screenshot(page, "page", whole=True)


def test_two_hundred_at_once_are_all_answered(visit):
    page = visit()
    choose(page, "tiny")
    page.locator("#each").select_option("20")
    page.get_by_role("button", name="Send 200 at once").click()
    tally = page.locator("#burst-state")
    expect(tally).to_contain_text("200 answered in 10 requests")
    expect(tally).to_contain_text(LARGER_THAN_ONE)
    expect(page.locator("#burst-note")).to_contain_text("At most 6 requests are under way")


def test_curves_are_drawn_of_what_was_recorded_and_break_where_nothing_was(visit):
    page = visit("/dashboard")
    told = page.evaluate("""async () => {
        const series = await import("/static/series.js");
        const said = (full, idle) => ({
            batches_per_s: { full, idle }, items_per_s: 8, batch_sizes: { 1: idle, 8: full },
        });
        const at = (at, ...rates) => ({ at, seconds: 2, models: { "m:1": said(...rates) } });
        const points = [at(10, 1, 2), at(12, 3, 4), at(20, 5, 6)];
        const pick = (said, name) => said.batches_per_s[name];
        const data = series.columns(points, "m:1", ["full", "idle"], pick);
        return {
            data,
            stacked: series.stacked(data),
            sizes: series.distribution(points, ""),
            joined: series.joined(points, [at(20), at(22)], 10).map((point) => point.at),
            batch: series.present(points.slice(0, 1), "").batch,
        };
    }""")
    assert told["data"] == [[10, 12, 18, 20], [1, 3, None, 5], [2, 4, None, 6]]
    assert told["stacked"] == [[10, 12, 18, 20], [3, 7, None, 11], [2, 4, None, 6]]
    assert told["sizes"] == {"names": ["1", "2", "3–4", "5–8"], "counts": [12, 0, 0, 9]}  # noqa: RUF001
    assert told["joined"] == [20, 22]
    assert told["batch"] == pytest.approx(8 / 3)


def test_items_that_are_there_at_once_have_rows_of_their_own(visit):
    page = visit("/dashboard")
    rows = page.evaluate("""async () => {
        const { giveRows, passesOf } = await import("/static/timeline.js");
        const trace = await (await fetch("/debug/batches?last=1")).json();
        const pass = (end, ...items) => ({ end, items: items.map((arrived) => ({ arrived })) });
        const passes = [pass(5, 0, 1), pass(8, 2, 6)];
        const most = giveRows(passes);
        const [last] = passesOf(trace).slice(-1);
        const rows = passes.map((one) => one.items.map((item) => item.row));
        return [most, rows, last.end, last.items.length - last.size];
    }""")
    assert rows == [3, [[0, 1], [2, 0]], 0, 0]


def test_the_dashboard_counts_every_worker_and_moves(visit, server):
    page = visit("/dashboard")
    expect(page.locator("#state")).to_contain_text("2 workers")
    expect(page.locator("#charts canvas")).to_have_count(8)
    page.locator("#model").select_option("letters:1")
    page.locator("#span").select_option("60")
    expect(page.locator("#now-requests")).to_have_text("0.0 /s")
    since_s = time.time()
    for _ in range(20):
        server.post("/models/letters/predict", json={"input": "abc"})
    expect(page.locator("#now-requests")).not_to_have_text("0.0 /s")
    expect(page.locator("#now-batch")).to_have_text("1.0")
    expect(page.locator("#now-p50")).to_contain_text("ms")
    # Whichever worker tells, it tells of the requests that all of them answered.
    wait_for(lambda: {answered(server, since_s) for _ in range(6)} == {20}, server)


def test_the_timeline_shows_the_last_batches_and_zooms(visit, server):
    for _ in range(8):
        server.post("/models/tiny/predict", json={"inputs": [[0] * 10] * 4})
    page = visit("/dashboard")
    canvas = page.locator("#timeline canvas")
    reading = page.locator("#reading")
    expect(reading).to_contain_text("Worker ")
    pixels = "canvas => canvas.toDataURL()"
    shown = [canvas.evaluate(pixels)]
    for name in ("All", "Zoom in", "Earlier"):
        page.get_by_role("button", name=name).click()
        shown.append(canvas.evaluate(pixels))
    assert len(set(shown)) > 2
    page.locator("#timeline").press("0")
    assert canvas.evaluate(pixels) == shown[1]


def test_the_timeline_tells_what_is_under_the_pointer(visit, server):
    server.post("/models/tiny/predict", json={"inputs": [[0] * 10] * 4})
    page = visit("/dashboard")
    reading = page.locator("#reading")
    expect(reading).to_contain_text("Worker ")
    # It begins with an item's arrival, in one of the rows. Scrolling right there makes it wide.
    over = page.locator("#timeline .u-over")
    over.hover(position={"x": 5, "y": 5})
    over.evaluate("""over => over.dispatchEvent(new WheelEvent("wheel", {
        deltaY: -3000, clientX: over.getBoundingClientRect().left, cancelable: true,
    }))""")
    box = over.bounding_box()
    assert box is not None
    for y in range(2, int(box["height"])):
        page.mouse.move(box["x"] + 5, box["y"] + y)
        if "Batch " in reading.inner_text():
            break
    expect(reading).to_contain_text(re.compile(r"Batch \d+ of [a-z].*: \d+ items?, closed as"))


def test_a_keyboard_is_enough(visit):
    page = visit()
    expect(page.locator("#model option").first).to_be_attached()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.dataset.sample") == "coffee":
            break
    page.keyboard.press("Enter")
    expect(best(page)).to_contain_text("espresso")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "tab-curl":
            break
    page.keyboard.press("ArrowRight")
    expect(page.locator("#code")).to_contain_text("import requests")


@pytest.mark.parametrize("path", ["/", "/dashboard"])
def test_on_a_phone_nothing_is_wider_than_the_screen(visit, path):
    page = visit(path, **PHONE)
    expect(page.locator("#model option").first).to_be_attached()
    if path == "/":
        camera = page.locator("#camera")
        assert camera.get_attribute("capture") == "environment"
        expect(page.get_by_text("Take a photo")).to_be_visible()
        page.get_by_role("button", name="A cat").tap()
        expect(best(page)).to_be_in_viewport()
        keep_screenshot(page, "phone")
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]


def test_it_is_dark_where_the_system_is_and_as_one_chooses(visit):
    page = visit(color_scheme="dark")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    assert max(map(int, dark[4:-1].split(","))) < 64
    theme = page.get_by_role("button", name="Theme")
    theme.click()
    light = page.evaluate(ground)
    assert min(map(int, light[4:-1].split(","))) > 192
    page.reload()
    assert page.evaluate(ground) == light
    theme.click()
    assert page.evaluate(ground) == dark


def test_a_key_is_asked_for_and_sent_where_the_server_wants_one(visit):
    page = visit()
    refusal = '{"error": "no key; send one", "code": "unauthorized"}'

    def want_key(route: Route) -> None:
        if route.request.headers.get("x-api-key") == "s3cret":
            route.continue_()
        else:
            route.fulfill(status=401, body=refusal, content_type="application/json")

    page.route("**/models", want_key)
    page.reload()
    expect(page.locator("#trouble")).to_contain_text("no key; send one")
    field = page.get_by_label("API key", exact=True)
    expect(field).to_be_focused()
    field.fill("s3cret")
    field.press("Enter")
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("#model")).to_have_value("efficientnet-lite0")
    expect(page.locator("#code")).to_contain_text("X-API-Key: $API_KEY")
    page.reload()
    expect(page.locator("#model")).to_have_value("efficientnet-lite0")
    stored = page.evaluate("() => JSON.stringify(localStorage)")
    assert "s3cret" not in stored


def test_the_dashboard_shows_load_and_who_was_refused(visit, server):
    page = visit("/dashboard", color_scheme="dark")
    page.locator("#span").select_option("60")
    # A picture of a minute needs a minute.
    keep_busy(server, seconds=2 if SCREENSHOTS is None else 50)
    page.locator("#model").select_option("efficientnet-lite0:1")
    refused = page.locator("section", has=page.get_by_role("heading", name="Refused"))
    expect(refused.locator(".u-legend")).to_contain_text(re.compile("deadline exceeded|overloaded"))
    expect(page.locator("#now-busy")).not_to_have_text("0 %")
    page.get_by_role("button", name="Look again").click()
    expect(page.locator("#reading")).to_contain_text("Worker ")
    keep_screenshot(page, "dashboard", whole=True)


def keep_busy(server: Server, seconds: float) -> None:
    """Have clients join one by one, and ask for photos; some are now and then in a hurry."""
    data, until_s = photo("coffee", "JPEG"), time.monotonic() + seconds

    def ask(client: int) -> None:
        time.sleep(seconds * client / 20)
        hurried = {"X-Request-Timeout-Ms": "5"} if client % 4 == 3 else {}
        while time.monotonic() < until_s:
            for hurry in (hurried, {}, {}, {}):
                server.post(data=data, headers={"Content-Type": "image/jpeg", **hurry})

    with ThreadPoolExecutor(10) as clients:
        list(clients.map(ask, range(10)))
