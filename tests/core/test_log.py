import logging
import warnings

from segnl.core.log import console_log, log


def test_messages_are_printed_plainly_and_warnings_are_marked(capsys):
    with console_log():
        log.info("wrote %d masks", 3)
        log.warning("fell back to step 4")
        warnings.warn("a user should know", stacklevel=1)
    out, err = capsys.readouterr()
    assert out == "wrote 3 masks\n"
    assert err == "segnl: warning: fell back to step 4\nsegnl: warning: a user should know\n"


def test_deprecations_inside_libraries_are_not_shown(capsys):
    with console_log(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == ""


def test_everything_is_as_before_afterwards():
    before = (warnings.showwarning, list(warnings.filters), log.level, list(log.handlers))
    with console_log():
        assert log.isEnabledFor(logging.INFO)
    assert (warnings.showwarning, list(warnings.filters), log.level, list(log.handlers)) == before


def test_a_message_that_nobody_can_read_is_dropped(monkeypatch, capsys):
    def write(text):
        raise BrokenPipeError

    with console_log():
        monkeypatch.setattr("sys.stdout.write", write)
        log.info("lost")
    assert capsys.readouterr().err == ""


def test_a_library_user_hears_warnings_and_no_information(capsys):
    log.info("wrote 3 masks")
    assert capsys.readouterr().out == ""
