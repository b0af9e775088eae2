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


def test_warnings_of_other_packages_stay_one_line_without_escape_sequences(capsys):
    """timm names the tensors of a foreign file in one."""
    with console_log():
        logging.getLogger("timm.models").warning("Unexpected keys (%s)", "a\x1b]0;owned\x07\nsegnl: all is well")
        logging.getLogger("timm.models").info("loading")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "timm: warning: Unexpected keys (a\\x1b]0;owned\\x07\\nsegnl: all is well)\n")


def test_deprecations_inside_libraries_are_not_shown(capsys):
    with console_log(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == ""


def test_everything_is_as_before_afterwards():
    def state():
        handlers = [list(logger.handlers) for logger in (log, logging.getLogger())]
        return warnings.showwarning, list(warnings.filters), log.level, handlers

    before = state()
    with console_log():
        assert log.isEnabledFor(logging.INFO)
    assert state() == before


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
