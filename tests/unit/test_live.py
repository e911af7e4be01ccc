"""What a terminal of 80 columns shows of a run, read back from a real emulator's screen."""

import io
import time

import pyte
from rich.console import Console
from round_parts import evaluated, evaluation

from virgo_ray.monitor.console import ConsoleScreen, describe_round, result_tables
from virgo_ray.monitor.live import LiveView, clock
from virgo_ray.monitor.progress import Progress, Running

WIDTH, HEIGHT = 80, 24


def terminal():
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=WIDTH, height=HEIGHT, highlight=False, _environ={}
    )
    return out, console


def screen_of(text):
    screen = pyte.Screen(WIDTH, HEIGHT)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display], screen


def progress(phase, done=0, total=0, **more):
    started = time.monotonic() - 60
    return Progress("tiny", 3, "2", phase, done=done, total=total, started=started, **more)


def test_a_terminal_shows_a_bar_for_each_phase_and_how_things_go():
    out, console = terminal()
    screen = ConsoleScreen(console)
    running = Running(time.monotonic() - 100, (600.0, 600.0), device_mib=72909.0)
    screen.update(progress("push", running=running), True)
    screen.update(progress("sample", 2400, 2400, running=running), True)
    now = progress("evaluate", 312, 1600, tokens=170_000, running=running)
    now.statuses.update(correct=61, wrong=39)
    screen.update(now, True)
    screen.say("a line about something that happened")
    screen._view._live.refresh()
    lines, _ = screen_of(out.getvalue())
    screen.close()
    shown = "\n".join(lines)
    assert "a line about something that happened" in shown
    assert "tiny  round 2 of 3  about 18:" in shown and "left of the run" in shown
    assert "push" in shown and "2,400" in shown and "evaluate" in shown
    assert "312/1,600" in shown and "1:00" in shown and "4:0" in shown and " left" in shown
    assert "tok/s  accept 61%  GPU memory 71.2 GiB" in shown
    assert "…" not in shown and max(map(len, lines)) <= WIDTH


def test_long_counts_and_times_are_whole_in_80_columns():
    _, console = terminal()
    view = LiveView(console)
    for seconds, has_bar in ((60, True), (100_000, True), (1_000_000, False)):
        num = 12_000_000_000_000 if not has_bar else 1_200_000
        now = Progress("tiny", 3, "2", "start engines", done=num // 2, total=num)
        now.started = time.monotonic() - seconds
        view.update(now)
        text = io.StringIO()
        Console(file=text, width=WIDTH, _environ={}).print(view.draw())
        line = text.getvalue().splitlines()[-2]
        assert f"{num // 2:,}/{num:,} {clock(seconds)} {clock(seconds)} left" in " ".join(
            line.split()
        )
        assert len(line.rstrip()) <= WIDTH and ("\u2501" in line) is has_bar
    view.close()


def test_the_terminal_is_given_back_with_its_cursor():
    out, console = terminal()
    screen = ConsoleScreen(console)
    screen.update(progress("sample", 1, 2), True)
    _, emulated = screen_of(out.getvalue())
    assert not emulated.cursor.hidden  # a run that is ended by force closes nothing
    screen.close()
    lines, emulated = screen_of(out.getvalue())
    assert not emulated.cursor.hidden and not "".join(lines).strip()


def test_a_job_log_gets_plain_lines_at_a_bounded_rate():
    out = io.StringIO()
    screen = ConsoleScreen(Console(file=out, force_terminal=False, width=40))
    now = progress("evaluate", 1, 2000, tokens=900)
    for done in range(1000):
        now.done = done
        screen.update(now, phase_changed=done == 0)
    screen.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 and lines[0].startswith("tiny  round 2/3  evaluate  0/2000")
    assert "\x1b" not in out.getvalue()


def test_results_fit_80_columns_and_one_sample_is_no_second_pass_at_1():
    rounds = [evaluated("base", evaluation()), evaluated(1, evaluation(), seconds=36000)]
    for width, num in ((80, 2), (120, 1)):
        out = io.StringIO()
        console = Console(file=out, width=width)
        tables = result_tables(rounds, width)
        assert len(tables) == num
        for table in tables:
            console.print(table)
        assert "…" not in out.getvalue() and "36000 s" in out.getvalue()
    alone = [evaluated("base", evaluation(k=1)), evaluated(1, evaluation(k=1))]
    titles = [str(c.header) for table in result_tables(alone, 80) for c in table.columns]
    assert titles.count("pass@1") == 1 and "maj@1" not in titles
    assert describe_round(alone[1]).count("pass@") == 1


def test_a_round_that_was_not_evaluated_has_a_row_without_figures():
    rounds = [evaluated("base", evaluation()), evaluated(1, None), evaluated(2, evaluation())]
    (table,) = result_tables(rounds, 120)
    assert [list(c.cells)[1] for c in table.columns][:4] == ["1", "-", "", "-"]
    assert "not evaluated" in describe_round(rounds[1])


def test_a_new_round_begins_without_the_bars_of_the_one_before():
    _, console = terminal()
    view = LiveView(console)
    now = progress("sample", 10, 10)
    view.update(now)
    view.update(evaluated_now := progress("evaluate", 20, 20))
    assert len(view._ended) == 1
    evaluated_now.label = "3"  # the monitor sets it on what is shown
    view.update(evaluated_now)
    assert not view._ended
    view.close()
