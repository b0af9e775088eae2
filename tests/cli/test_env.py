from segnl.cli.main import main


def test_what_a_bug_report_needs_is_there_a_line_each(capsys):
    assert main(["env"]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {
        "python",
        "segnl",
        "torch",
        "torchvision",
        "albumentations",
        "git",
        "cpu",
        "threads",
        "cuda",
        "devices",
    } <= set(facts)
