"""One run and its report for all tests of this folder."""

import os

import pytest
from report_run import make_run

from virgo_ray.report.writing import write_report

CHROMIUM = os.environ.get("VIRGO_RAY_CHROMIUM", "/usr/bin/chromium")
NEEDED = "VIRGO_RAY_NEEDS_BROWSER"  # set: a missing browser is a failure, not a skip


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="session")
def report(run_dir):
    """The report's folder."""
    return write_report(run_dir).page.parent


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium under Playwright."""
    why = ""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        why = "playwright is not installed"
    if not why and not os.path.exists(CHROMIUM):
        why = f"there is no {CHROMIUM} (apt-get install chromium, or VIRGO_RAY_CHROMIUM=PATH)"
    if why and os.environ.get(NEEDED):
        pytest.fail(f"{NEEDED} is set, but {why}")
    if why:
        pytest.skip(why)
    with sync_playwright() as playwright:
        # Its sandbox does not start for root in a container; pages come from this test alone.
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()
