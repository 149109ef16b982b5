"""The config of a run is what one hands on: it holds no passwords, and no trust in itself."""

from types import SimpleNamespace

import pytest
import yaml
from jsonargparse import ArgumentParser

from pixelgen.runs.folder import SaveConfig

URL = "http://alice:S3CRET@host/{00..01}.tar?sig=S3CRET"


def test_a_saved_config_has_no_credentials_and_no_trust(tmp_path):
    parser = ArgumentParser()
    for key in ("--run", "--ckpt_path", "--init_from"):
        parser.add_argument(key, type=str | None)
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--shards", type=list[str] | str)
    parser.add_argument("--more", type=dict)
    config = parser.parse_args(["--trust", f"--shards=[{URL!r}]", "--more", f"{{a: [{{b: {URL!r}}}]}}"])
    with pytest.warns(UserWarning, match="without their credentials: give them again to resume"):
        SaveConfig(parser, config).save_config(SimpleNamespace(default_root_dir=tmp_path), None, "fit")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    public = "http://host/{00..01}.tar"
    none = dict.fromkeys(("run", "ckpt_path", "init_from"))
    assert saved == {**none, "shards": [public], "more": {"a": [{"b": public}]}}
    assert config.shards == [URL]  # what is read with
