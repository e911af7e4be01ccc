"""The report in a real browser: filters, deep links, keys, hostile texts, three widths.

The pages are opened from disk, as a person does; only the search needs the server.
"""

import threading
import urllib.error
import urllib.request

import pytest
from report_run import HOSTILE_ID

from virgo_ray.report.serving import make_server
from virgo_ray.traces.source import find_run

WIDTHS = (1440, 768, 390)
VIEWS = (
    "#/overview", "#/traces?round=all", "#/problems", "#/problems?view=lost&a=1&b=2",
    "#/trace?round=1&id=half&all=1", "#/training?fit=1", "#/search",
)  # fmt: skip
HOSTILE = "#/traces?round=1&problem=" + "a/b"


class Page:
    """A page of the report; nothing may be refused or go wrong in it."""

    def __init__(self, browser, root, width=1440):
        self._root = root
        self.trouble = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._note_request)
        self.requests = []

    def _note(self, message):
        if message.type == "error" and "pictures/" not in f"{message.text}{message.location}":
            self.trouble.append(message.text)

    def _note_request(self, request):
        self.requests.append(request.url)

    def open(self, place):
        self.page.goto(f"{self._root}{place}")
        return self.ready()

    def ready(self):
        self.page.wait_for_selector(".view[data-ready]")
        return self

    def do(self, action):
        """Something that draws another view."""
        self.page.evaluate("document.querySelector('.view').removeAttribute('data-ready')")
        action()
        return self.ready()

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()

    def rows(self):
        return self.page.locator("table.list tbody tr").count()

    def runs_out(self):
        """Pixels by which the page is wider than its window."""
        root = "document.documentElement"
        return self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")


@pytest.fixture
def page(browser, report):
    made = Page(browser, (report / "index.html").as_uri())
    yield made
    assert made.trouble == []
    assert all(url.startswith(("file:", "data:")) for url in made.requests)
    assert made.page.evaluate("window.hacked") is None
    made.page.close()


def test_filters_choose_rollouts_and_the_back_button_undoes_them(page):
    page.open("#/traces?round=1")
    assert page.text("#count") == "21 rollouts of 21"
    page.do(lambda: page.page.select_option("select[name=status]", "truncated"))
    assert page.text("#count") == "1 rollout of 21" and "none" in page.text("table.list tbody")
    page.do(page.page.go_back)
    assert page.rows() == 21
    for place, num in {
        "round=1&pass=0..0": 3, "round=1&pass=1..1": 3, "round=1&source=zoo/b": 9,
        "round=1&chosen=yes": 10, "round=2&chosen=no": 8, "round=1&opinion=doubts": 6,
        "round=1&tokens=..30": 6, "round=1&tokens=51": 0, "round=all&problem=easy": 6,
        "round=all&status=correct&sort=longest": 18,
    }.items():  # fmt: skip
        page.open(f"#/traces?{place}")
        assert page.rows() == num, place


def test_a_deep_link_shows_one_sample_with_picture_question_gold_and_verdict(page):
    page.open("#/trace?round=1&id=half&s=1")
    current = page.text(".sample.current")
    assert "sample 1" in current and "wrong" in current and "against 7" in current
    assert page.page.locator(".sample").count() == 3
    assert "How many cats are in half?" in page.text(".problem") and "gold 7" in page.text(
        ".problem"
    )
    width = "document.querySelector('.picture img').naturalWidth"
    page.page.wait_for_function(f"{width} === 64")
    assert page.page.locator("details.thought[open]").count() == 0
    page.page.keyboard.press("t")
    assert page.page.locator("details.thought[open]").count() == 3
    assert "I count 1 cats in half." in page.text(".sample.current .thought")
    assert "trained in 1, weight 1.5" in page.text("#sample-1-0")
    assert "trained" not in page.text("#sample-1-1")


def test_the_same_problem_is_seen_in_other_rounds_and_side_by_side(page):
    page.open("#/trace?round=1&id=lost")
    page.do(lambda: page.page.keyboard.press("]"))
    assert "round=2" in page.page.url and page.page.locator("#sample-2-0").count() == 1
    page.do(lambda: page.page.get_by_text("side by side").click())
    assert page.page.locator(".sample").count() == 6
    page.do(page.page.go_back)
    assert page.page.locator(".sample").count() == 3


def test_hardest_lost_and_won_problems_are_found(page):
    page.open("#/problems")
    assert page.page.locator("table.list tbody tr").first.inner_text().startswith("none")
    page.open("#/problems?view=lost&a=1&b=2")
    assert page.rows() == 1 and "lost" in page.text("table.list tbody")
    page.open("#/problems?view=won&a=1&b=2")
    assert "No" not in page.text("#count") and page.rows() == 0


def test_keys_go_through_lists_and_sections(page):
    page.open("#/traces?round=1")
    page.page.keyboard.press("j")
    page.page.keyboard.press("j")
    page.do(lambda: page.page.keyboard.press("Enter"))
    assert page.page.locator(".sample.current").count() == 1
    page.do(lambda: page.page.keyboard.press("Backspace"))
    assert page.rows() == 21
    page.do(lambda: page.page.keyboard.press("4"))
    assert page.text("h1") == "Training data"
    page.page.keyboard.press("?")
    assert "the sections" in page.text("#help")


def test_training_data_mark_labels_and_pictures(page):
    page.open("#/training?fit=1")
    first = page.page.locator("details.example[data-kind=picture_traces]").first
    first.locator("summary").click()
    assert first.locator(".mark-image").count() == 1 and first.locator(".mark-label").count() == 1
    assert "weight 1.5" in first.inner_text()
    link = first.get_by_text("link to this example").get_attribute("href")
    page.open(link)
    assert page.page.locator("details.example[open]").count() == 1


def test_the_overview_draws_curves_and_tables(page):
    page.open("#/overview")
    page.page.wait_for_selector(".plot canvas")
    assert page.page.locator(".plot canvas").count() >= 6
    for title in ("Rounds", "Gates", "Selection", "Where the time went", "How it was made"):
        assert page.page.locator("h2", has_text=title).count() == 1
    assert "not evaluated" in page.text("main") and "<i>zoo</i>" in page.text("main")


def test_what_a_model_wrote_is_text_and_stays_inside(page):
    for width in WIDTHS:
        page.page.set_viewport_size({"width": width, "height": 900})
        page.open(HOSTILE)
        assert page.rows() == 6
        page.do(lambda: page.page.locator(".row-link").first.click())
        assert HOSTILE_ID in page.text("h1")
        page.page.keyboard.press("t")
        shown = page.page.locator(".samples").inner_text()
        assert "<script>window.hacked = 1</script>" in shown and "<img src=x" in shown
        assert "{{ 7 * 7 }}" in shown and "<b>3 + 4</b> is 7" in shown
        assert page.page.locator("main script, main b b, main img[src=x]").count() == 0
        assert page.runs_out() <= 0, width


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_runs_out_of_the_page(browser, report, width):
    page = Page(browser, (report / "index.html").as_uri(), width)
    for view in VIEWS:
        page.open(view)
        assert page.runs_out() <= 0, view
    page.page.close()
    assert page.trouble == []


def test_a_foreign_script_is_refused(browser, report):
    page = Page(browser, (report / "index.html").as_uri())
    page.open("#/overview")
    add = "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
    page.page.evaluate(f"{add} document.head.append(s)")
    assert page.page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in said for said in page.trouble)
    page.page.close()


# -- served ----------------------------------------------------------------------------------------


@pytest.fixture
def served(run_dir, report):
    """The address of the report's own server."""
    with make_server(report, find_run(str(run_dir)).place) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def status_of(url, **headers):
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=30
        ) as got:
            return got.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_round_that_is_a_word_of_the_language_is_no_round(page):
    page.open("#/traces?round=constructor")
    assert "round constructor has no rollouts in this report" in page.text(".failure")


def test_another_name_another_site_and_other_files_are_refused(served):
    assert status_of(served) == status_of(f"{served}search?q=cats") == 200
    for path in ("", "search?q=cats", "data/run.js"):
        assert status_of(served + path, Host="evil.example") == 403
        assert status_of(served + path, **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert status_of(f"{served}../config.yaml") == status_of(f"{served}%2e%2e/config.yaml") == 404
    assert status_of(f"{served}data/") == 404  # no listings


def test_search_finds_texts_of_any_case_and_links_to_them(served, browser):
    page = Page(browser, served)
    page.open("#/search")
    page.page.fill("input[name=q]", "COUNT 2 cats IN lost")
    page.do(lambda: page.page.keyboard.press("Enter"))
    assert page.rows() == 2
    page.do(lambda: page.page.locator(".row-link").first.click())
    assert "I count 2 cats in lost." in page.text(".sample.current")
    page.open("#/search?q=" + "it's%20%27%20OR%201=1")
    assert page.text("#count") == "0 rollouts" and page.trouble == []
    page.page.close()
