import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "pages", raising=False)
    import pages

    return pages


def test_the_results_page_is_what_the_result_files_say(pages: ModuleType) -> None:
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == pages.results_page()


def test_the_performance_page_is_what_the_result_files_say(pages: ModuleType) -> None:
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == pages.performance_page(pages.RESULTS)


def test_the_probe_s_table_is_what_the_result_files_say(pages: ModuleType) -> None:
    text = (ROOT / "docs" / "probe.md").read_text(encoding="utf-8")
    assert text == pages.probe_page(text, pages.RESULTS)


def test_the_statistics_page_is_what_the_result_file_says(pages: ModuleType) -> None:
    assert (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8") == pages.statistics_page(pages.RESULTS)


def test_a_result_that_is_not_there_has_no_row(pages: ModuleType, tmp_path: Path) -> None:
    assert "Not run yet." in pages.results_page(tmp_path)
    assert pages.performance_page(tmp_path).count("Not run yet.") == 9
    assert "Not run yet: `make calibrate`" in pages.statistics_page(tmp_path)
    assert "Not run yet: `./run.sh bench aa`" in pages.statistics_page(tmp_path)
    assert "Not run yet: `./run.sh bench study" in pages.results_page(tmp_path)


def test_a_case_of_fewer_rounds_and_a_contestant_that_does_not_fit_are_named(pages: ModuleType, tmp_path: Path) -> None:
    part = {"seconds": {"segnl": 0.5, "plain": None}, "ratio_to_segnl": {}, "cannot": {"plain": "does not fit"}}
    memory = {"peak_mib": {"segnl": 10.0, "plain": None}, "ratio_to_segnl": {}, "cannot": {"plain": "does not fit"}}
    case = {"level": "op", "kind": "dot_product", "hw": [128, 256], "rounds": 1}
    result = {
        "results": [{**case, "forward": part, "forward_backward": part, "memory": memory}],
        "rounds": 3,
        "threads": 2,
        "load_before": 0.5,
        "machine": {"cpu": "a processor"},
        "versions": {"torch": "2.15.0"},
        "commit": "0" * 40,
        "dirty": False,
    }
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "context.json").write_text(json.dumps(result))
    page = pages.performance_page(tmp_path)
    assert "| dot product, op | 128x256, rounds: 1 | 500.0 | - | - | 500.0 | - | - | 10.0 | - | - |" in page
    assert page.count("- plain, dot product op at 128x256: does not fit") == 1
