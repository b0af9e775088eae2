import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pages():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "benchmarks" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_results_page_is_what_the_result_files_say():
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == pages().results_page()


def test_a_result_that_is_not_there_has_no_row(tmp_path):
    assert "Not run yet." in pages().results_page(tmp_path)
