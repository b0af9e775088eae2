import re

from segnl.core.progress import Progress, _clock


def test_off_a_terminal_the_first_and_the_last_step_are_plain_lines(capsys):
    with Progress("fit", 4, done=1) as progress:
        for _ in range(3):
            progress.advance("loss 0.5")
        progress.say("half way")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fit: 2/4 steps, ")
    assert lines[1].startswith("fit: 4/4 steps, 0:00 left, loss 0.5")
    assert lines[2] == "half way"


def test_images_are_told_with_their_rate_and_the_time_left(capsys):
    with Progress("evaluate", 2, unit="image") as progress:
        progress.advance()
        progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"evaluate: 1/2 images, [\d.e+]+ images/s, \d+:\d\d left", lines[0])


def test_a_lost_terminal_silences_it(monkeypatch):
    class Lost:
        writes = 0

        def isatty(self):
            return False

        def write(self, text):
            self.writes += 1
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    lost = Lost()
    monkeypatch.setattr("sys.stderr", lost)
    with Progress("fit", 3) as progress:
        for _ in range(3):
            progress.advance()
        progress.say("half way")
    assert progress.done == 3
    assert lost.writes == 1


def test_clocks_read_as_people_write_them():
    assert [_clock(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_a_name_reaches_no_terminal_raw(capsys):
    with Progress("z\x1b[31m\nsegnl: all is well", 1) as progress:
        progress.advance()
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert text.count("\n") == 1
