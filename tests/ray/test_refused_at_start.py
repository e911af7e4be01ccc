"""What the command refuses before it starts Ray, engines, or even a run directory."""

import pytest

from virgo_ray.run import main

JUDGE = ["verify.second_opinions=[judge]", "verify.judge.model=any"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["verify.custom=no.such.module:grade"], "cannot be imported"),
        (["verify.custom=json:dumps"], "cannot be called"),
        (["verify.custom=http://local host/grade"], "is no http(s) address"),
        ([*JUDGE, "verify.judge.url=localhost:8000"], "is no http(s) address"),
        ([*JUDGE, "verify.judge.url=http://a/v1", "verify.judge.key_env=NOT_SET"], "'NOT_SET'"),
        ([*JUDGE, "verify.judge.url=http://a/v1", "verify.judge.prompt=no.txt"], "'no.txt'"),
        (["verify.formats=[[<plan>]]"], "verify.formats"),
    ],
)
def test_a_verifier_that_cannot_work_ends_the_command_with_code_2(
    overrides, message, tmp_path, capsys
):
    assert main(["configs/tiny.yaml", f"run_dir={tmp_path}/run", *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run").exists()
