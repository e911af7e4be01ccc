import pytest

from virgo_ray.command import exit_code
from virgo_ray.errors import ConfigError, DataError, RolloutError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("k=5: expected 4"), 2, "error: k=5: expected 4"),
        (DataError("row 3"), 2, "error: row 3"),
        (RolloutError("no workers"), 1, "error: RolloutError: no workers"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
    ],
)
def test_what_is_raised_on_purpose_becomes_a_message_and_a_code(error, code, said, capsys):
    def work():
        raise error

    assert exit_code(work, "the same command goes on") == code
    assert capsys.readouterr().err == said + "\n"


def test_work_may_have_a_code_of_its_own_and_bugs_keep_their_trace():
    assert exit_code(lambda: None) == 0 and exit_code(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)
