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


def test_the_statistics_page_is_what_the_result_file_says(pages: ModuleType) -> None:
    assert (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8") == pages.statistics_page(pages.RESULTS)


def test_a_result_that_is_not_there_has_no_row(pages: ModuleType, tmp_path: Path) -> None:
    assert "Not run yet." in pages.results_page(tmp_path)
    assert pages.performance_page(tmp_path).count("Not run yet.") == 4
    assert "Not run yet" in pages.statistics_page(tmp_path)
