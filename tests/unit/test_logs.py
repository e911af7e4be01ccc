"""Log lines of a process go to one place each, however often logging is configured."""

import logging

import pytest

from virgo_ray.actors.logs import OURS, PACKAGE, configure_logging, log_path

log = logging.getLogger("virgo_ray.somewhere")


@pytest.fixture(autouse=True)
def as_before():
    logger = logging.getLogger(PACKAGE)
    handlers, level = list(logger.handlers), logger.level
    yield
    for handler in [h for h in logger.handlers if h.get_name() == OURS]:
        logger.removeHandler(handler)
        handler.close()
    logger.handlers, logger.level = handlers, level


def test_the_file_has_every_line_once_and_the_console_warnings_as_they_are(tmp_path, capsys):
    file = log_path(str(tmp_path), "driver")
    for _ in range(3):  # as several runs of one process would
        configure_logging(file, shows_warnings=True)
    log.info("a start")
    log.warning("an engine is replaced")
    log.debug("a detail")
    assert capsys.readouterr().err == "an engine is replaced\n"
    lines = file.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO virgo_ray.somewhere: a start",
        "WARNING virgo_ray.somewhere: an engine is replaced",
    ]


def test_a_process_that_logs_nothing_leaves_no_file_and_one_without_a_file_has_stderr(
    tmp_path, capsys
):
    configure_logging(log_path(str(tmp_path), "trainer-rank-0"))
    assert list((tmp_path / "logs").iterdir()) == []
    configure_logging(None)
    log.info("seen")
    assert "INFO virgo_ray.somewhere: seen" in capsys.readouterr().err
