from segnl.inspection.environment_report import environment_report


def test_what_a_bug_report_needs_is_there_a_line_each():
    facts = dict(line.split(maxsplit=1) for line in environment_report().splitlines())
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
