import pytest

from segnl.core.errors import ConfigError
from segnl.data.base import DataConfig
from segnl.data.datasets.ade20k import ADE20K
from segnl.data.find import DATASETS


def test_a_name_is_a_file_of_the_folder():
    assert DATASETS.find("ade20k") is ADE20K
    assert {"ade20k", "cityscapes", "folder"} <= set(DATASETS.names())
    assert not {"base", "find"} & set(DATASETS.names())


def test_every_known_name_gives_a_data_set_with_its_config():
    for name in DATASETS.names():
        config = DATASETS.find(name).Config
        assert issubclass(config, DataConfig)
        # The size of generated images is a setting with a default; of files it depends on the data.
        assert config.model_fields["crop_hw"].is_required() == (name != "probe")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"data\.name: holds 'cityscape'; did you mean 'cityscapes'"):
        DATASETS.find("cityscape")
    for name in ("base", "xyz", "../ade20k", ""):
        with pytest.raises(ConfigError, match=r"holds .*; (known: ade20k, cityscapes|did you mean)"):
            DATASETS.find(name)


def test_a_dotted_name_is_anyones_module(tmp_path, monkeypatch):
    (tmp_path / "mylab_data.py").touch()
    package = tmp_path / "mylab_sets"
    package.mkdir()
    (package / "fields.py").write_text("from segnl.data.datasets.folder import Folder\n\nDATASET = Folder\n")
    (package / "none.py").touch()
    (package / "broken.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert DATASETS.find("mylab_sets.fields").__name__ == "Folder"
    with pytest.raises(ConfigError, match="has no DATASET"):
        DATASETS.find("mylab_sets.none")
    with pytest.raises(ConfigError, match=r"cannot import mylab_sets\.nowhere"):
        DATASETS.find("mylab_sets.nowhere")
    with pytest.raises(ConfigError, match=r"cannot import .* 'no_such_library'"):
        DATASETS.find("mylab_sets.broken")
