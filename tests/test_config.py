from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from nsdrive.config import Chosen, build, find_config, load_config, to_plain


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1e-3
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Left:
    width_m: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Right:
    count: int = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 10
    level: Literal["none", "brief"] = "none"
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    pick: Any = "left"


CHOICES = {"pick": {"left": Left, "right": Right}}


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(Outer, path, overrides, CHOICES)


def test_a_file_holds_only_differences_and_overrides_win(tmp_path):
    config = load(tmp_path, "steps: 5\ninner: {rate: 1e-4}", "inner.rate=3e-5", "limit=7", "inner.names=x,y")
    assert (config.steps, config.inner.rate, config.limit, config.inner.names) == (5, 3e-5, 7, ("x", "y"))
    assert config.pick == Chosen(name="left", config=Left())


def test_a_choice_takes_a_name_or_a_section(tmp_path):
    assert load(tmp_path, "pick: right").pick.config == Right()
    assert load(tmp_path, "pick: {name: right, count: 4}").pick.config.count == 4
    assert load(tmp_path, "", "pick=right", "pick.count=9").pick.config.count == 9
    assert load(tmp_path, "pick: {name: left, width_m: 3}", "pick.width_m=2").pick.config.width_m == 2.0


def test_a_resolved_config_reads_back_as_itself(tmp_path):
    config = load(tmp_path, "pick: {name: right, count: 4}\nsteps: 2")
    assert build(Outer, to_plain(config), CHOICES) == config


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        ("stepz: 5", "", "No setting 'stepz'. Did you mean 'steps'"),
        ("inner: {rat: 5}", "", "No setting 'inner.rat'. Did you mean 'rate'"),
        ("", "level=breif", "'level' must be one of none, brief"),
        ("", "steps=many", "'steps' must be an int"),
        ("", "steps=true", "'steps' must be an int"),
        ("", "inner.rate=nan", "'inner.rate' must be a float"),
        ("", "steps", "'steps' is not key=value"),
        ("", "steps.more=1", "'steps' must be an int"),
        ("pick: lefd", "", "No pick 'lefd'. Did you mean 'left'"),
        ("pick: {name: right, width_m: 1}", "", "No setting 'pick.width_m'"),
        ("- a\n- b", "", "must hold key: value settings"),
        ("a: [", "", "not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_helpful_line(tmp_path, text, override, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(".", r"\.")):
        load(tmp_path, text, *([override] if override else []))


def test_a_named_config_is_found_and_a_misspelt_one_gets_a_hint():
    assert find_config("data/synthetic").name == "synthetic.yaml"
    assert find_config("configs/data/synthetic.yaml").name == "synthetic.yaml"
    assert find_config("demo").name == "demo.yaml"
    with pytest.raises(FileNotFoundError, match="Did you mean 'data/synthetic'"):
        find_config("data/sinthetic")
    with pytest.raises(ValueError, match="ambiguous"):
        find_config("synthetic")


def test_a_config_of_another_verb_says_whose_it_is(tmp_path):
    from data_gen.generate import GenerateConfig
    from nsdrive.vla.training.config import TrainConfig

    with pytest.raises(ValueError, match="is a config for `nsdrive generate`: 'scenarios' is no setting here"):
        load_config(TrainConfig, "data/synthetic")
    with pytest.raises(ValueError, match="is a config for `nsdrive ablation`"):
        load_config(TrainConfig, "ablation/cpu")
    with pytest.raises(ValueError, match="is a config for `nsdrive train`"):
        load_config(GenerateConfig, "train/tiny_demo")
    own = tmp_path / "mine.yaml"
    own.write_text("scenarios: synthetic\nrig: 8\n")
    with pytest.raises(ValueError, match="is a config for `nsdrive generate`"):
        load_config(TrainConfig, own)
    own.write_text("max_steps: 3\nlearning_rat: 1.0\n")  # a misspelt key of the right kind stays what it is
    with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
        load_config(TrainConfig, own)
