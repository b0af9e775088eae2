import pytest

from segnl.core.errors import ConfigError
from segnl.datasets.ade20k import ADE20K
from segnl.datasets.find import find, known


def test_a_name_is_a_file_of_the_folder():
    assert find("ade20k") is ADE20K
    assert {"ade20k", "cityscapes", "folder"} <= set(known())
    assert not {"base", "find", "loader", "sample", "transforms", "check", "reading"} & set(known())


def test_every_known_name_gives_a_data_set_with_its_config():
    for name in known():
        assert find(name).Config.model_fields["crop_hw"].is_required()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"data\.name: holds 'cityscape'; did you mean 'cityscapes'"):
        find("cityscape")
    for name in ("base", "xyz", "../ade20k", ""):
        with pytest.raises(ConfigError, match=r"holds .*; (known: ade20k, cityscapes|did you mean)"):
            find(name)


def test_a_dotted_name_is_anyones_module(tmp_path, monkeypatch):
    (tmp_path / "mylab_data.py").touch()
    package = tmp_path / "mylab_sets"
    package.mkdir()
    (package / "fields.py").write_text("from segnl.datasets.folder import Folder\n\nDATASET = Folder\n")
    (package / "none.py").touch()
    (package / "broken.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find("mylab_sets.fields").__name__ == "Folder"
    with pytest.raises(ConfigError, match="has no DATASET"):
        find("mylab_sets.none")
    with pytest.raises(ConfigError, match=r"cannot import mylab_sets\.nowhere"):
        find("mylab_sets.nowhere")
    with pytest.raises(ConfigError, match=r"cannot import .* 'no_such_library'"):
        find("mylab_sets.broken")
