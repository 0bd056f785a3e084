"""What of a folder of nuPlan logs is taken: by log, map, type, goal, published list; and that many logs are listed quickly."""

import contextlib
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from nuplan_builder import change, change_with, log_file, source_of, write_log

from nsdrive.config import load_config
from nsdrive.scenarios.nuplan import NuplanConfig
from nsdrive.scenarios.nuplan.listing import _apart, find_logs
from nsdrive.scenarios.nuplan.tokens import read_selection
from nsdrive.scenarios.source import ScenarioError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two logs, veh-01_morning on the scene's own map and veh-02_evening, which says that it is in Boston."""
    root = tmp_path_factory.mktemp("logs")
    write_log(root, "free_road")
    first = log_file(root)
    shutil.copy(first, first.with_name("veh-02_evening.db"))
    first.rename(first.with_name("veh-01_morning.db"))
    change(first.with_name("veh-02_evening.db"), "update log set map_version = 'us-ma-boston'", *_other_tokens(root))
    return root


def _other_tokens(root: Path) -> list[str]:
    """The second log's rows get tokens of their own, or a token would be in two logs."""
    return [
        "update lidar_pc set token = x'ff' || substr(token, 2)",
        "update scenario_tag set lidar_pc_token = x'ff' || substr(lidar_pc_token, 2)",
        "update lidar_pc set token = cast(token as blob)",
        "update scenario_tag set lidar_pc_token = cast(lidar_pc_token as blob)",
    ]


def give_own_token(path: Path, number: int) -> None:
    """The tagged row gets a token that no other log has."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("pragma synchronous = off")
        ((token,),) = database.execute("select lidar_pc_token from scenario_tag").fetchall()
        own = number.to_bytes(8, "big")
        database.execute("update lidar_pc set token = ? where token = ?", (own, token))
        database.execute("update scenario_tag set lidar_pc_token = ?", (own,))


@pytest.fixture(scope="module")
def tokens(folder: Path) -> dict[str, str]:
    """Log -> the token of its only scenario."""
    return {Path(item).parent.name: Path(item).name for item in source_of(folder).items()}


def logs_of(folder: Path, **settings: object) -> list[str]:
    return [Path(item).parent.name for item in source_of(folder, **settings).items()]


def test_logs_are_chosen_by_name_or_by_pattern(folder):
    assert logs_of(folder) == ["veh-01_morning", "veh-02_evening"]
    assert logs_of(folder, log_names=("veh-02_evening",)) == ["veh-02_evening"]
    assert logs_of(folder, log_names=("veh-01*", "veh-02_evening.db")) == ["veh-01_morning", "veh-02_evening"]
    assert logs_of(folder, log_names=("*_evening",)) == ["veh-02_evening"]


def test_a_log_that_is_not_there_is_answered_with_the_nearest_name(folder):
    with pytest.raises(ValueError, match=r"no log 'veh-02_evning'. Did you mean 'veh-02_evening'\? There are 2"):
        source_of(folder, log_names=("veh-02_evning",)).items()


def test_one_log_under_two_names_is_refused(folder, tokens, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    logs = tmp_path / "copy" / "logs"
    shutil.copy(logs / "veh-01_morning.db", logs / "veh-03_copy.db")
    named = rf"token {tokens['veh-01_morning']} is in \S+/veh-01_morning\.db and in \S+/veh-03_copy\.db: remove one$"
    for settings in ({}, {"scenario_tokens": (tokens["veh-01_morning"],)}):
        with pytest.raises(ValueError, match=named):
            source_of(tmp_path / "copy", **settings).items()
    assert logs_of(tmp_path / "copy", log_names=("veh-0[12]*",)) == ["veh-01_morning", "veh-02_evening"]


def test_logs_are_chosen_by_map_and_a_misspelt_map_is_answered_with_the_nearest_name(folder):
    assert logs_of(folder, map_names=("us-ma-boston",)) == ["veh-02_evening"]
    with pytest.raises(ValueError, match="no scenario of any type on sg-one-north"):
        source_of(folder, map_names=("sg-one-north",)).items()
    with pytest.raises(ValueError, match="Did you mean 'us-ma-boston'"):
        source_of(folder, map_names=("us-ma-bosten",)).items()


def test_scenarios_whose_mission_has_no_goal_can_be_left_out(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    change(tmp_path / "copy" / "logs" / "veh-01_morning.db", "update scene set goal_ego_pose_token = null")
    assert logs_of(tmp_path / "copy") == ["veh-01_morning", "veh-02_evening"]
    assert logs_of(tmp_path / "copy", needs_goal=True) == ["veh-02_evening"]


FILTER = """
_target_: nuplan.planning.scenario_builder.scenario_filter.ScenarioFilter
_convert_: 'all'
scenario_types:
  - following_lane_without_lead
scenario_tokens:
  - '{token}'
  - 0123456701234567  # digits alone, and not quoted
log_names: ${{splitter.log_splits.val}}
map_names: null
num_scenarios_per_type: 100
timestamp_threshold_s: 15
remove_invalid_goals: true
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val14_split.yaml", FILTER),
        ("list.yaml", "- '{token}'\n- 0123456701234567\n"),
        ("list.json", '["{token}", ["some_log", "0123456701234567"]]'),
        (
            "scenarios.json",
            '{{"scenarios": [{{"token": "{token}"}}, {{"token": "0123456701234567"}}], "failures": []}}',
        ),
        ("filter.json", '{{"scenario_tokens": ["{token}", "0123456701234567"], "log_names": null}}'),
        ("list.txt", "# hard ones\n{token}, logs/veh-01/0123456701234567  # two\n{token}\n"),
    ],
)
def test_published_lists_of_tokens_are_read_as_they_are(folder, tokens, tmp_path, name, text):
    token = tokens["veh-02_evening"]
    (tmp_path / name).write_text(text.format(token=token))
    source = source_of(folder, scenario_token_file=str(tmp_path / name))
    assert source.items() == (f"logs/veh-02_evening/{token}", "0123456701234567")
    with pytest.raises(ScenarioError, match="none of 2 logs has a lidar_pc with token 0123456701234567") as caught:
        source.load("0123456701234567")
    assert "\n" not in str(caught.value)


def test_a_list_and_single_tokens_add_up(folder, tokens, tmp_path):
    (tmp_path / "list.txt").write_text(tokens["veh-01_morning"])
    source = source_of(
        folder, scenario_token_file=str(tmp_path / "list.txt"), scenario_tokens=(tokens["veh-02_evening"],)
    )
    assert len(source.items()) == 2


def test_a_filter_may_name_logs_of_which_only_some_are_there(folder, tmp_path):
    path = tmp_path / "filter.yaml"
    path.write_text("scenario_tokens: null\nlog_names:\n  - veh-02_evening\n  - veh-99_night\n")
    assert logs_of(folder, scenario_token_file=str(path)) == ["veh-02_evening"]
    path.write_text("scenario_tokens: null\nlog_names: [veh-99_night]\n")
    with pytest.raises(ValueError, match=r"has none of the 1 logs of .*filter\.yaml"):
        source_of(folder, scenario_token_file=str(path)).items()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names neither tokens nor logs"),
        ("scenario_types: [changing_lane]\nscenario_tokens: null\n", "give scenarios.scenario_types"),
        ("planner: idm\n", "has no scenario_tokens \\(it has planner\\)"),
        ("- 'xyz'\n", "entry 1, 'xyz', is no nuPlan token"),
        ("[" * 500, "cannot be read as a list"),
        ("a: &a [*a, *a]\n- b", "cannot be read as a list"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path, text, problem):
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem) as caught:
        read_selection(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_list_that_is_missing_or_no_file_says_so(folder, tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        source_of(folder, scenario_token_file=str(tmp_path / "nowhere.yaml")).items()
    with pytest.raises(ValueError, match="is no list of scenarios"):
        source_of(folder, scenario_token_file=str(tmp_path)).items()


@pytest.mark.parametrize("name", ["data/nuplan_val14", "simulate/nuplan_val14"])
def test_the_named_configs_have_the_fourteen_types_of_val14_and_test14(name):
    from data_gen.generate import GenerateConfig
    from eval.closed_loop.drive import SimulateConfig
    from nsdrive.cli import planner_table
    from nsdrive.scenarios.catalogue import source_configs

    kind = GenerateConfig if name.startswith("data") else SimulateConfig
    chosen = load_config(kind, name, [], {"scenarios": source_configs(), "planner": planner_table()}).scenarios.config
    assert isinstance(chosen, NuplanConfig)
    assert len(set(chosen.scenario_types)) == 14
    assert (chosen.limit_per_type, chosen.min_gap_s, chosen.needs_goal) == (100, 15.0, True)


def test_a_thousand_logs_are_listed_in_seconds_and_the_first_few_at_once(folder, tmp_path):
    (tmp_path / "logs").mkdir()
    original = folder / "logs" / "veh-01_morning.db"
    for number in range(1000):
        path = tmp_path / "logs" / f"log-{number:04d}.db"
        shutil.copy(original, path)
        give_own_token(path, number)
    started = time.process_time()
    assert len(source_of(tmp_path).items()) == 1000
    listed_s = time.process_time() - started
    assert listed_s < 5.0
    started = time.process_time()
    assert len(source_of(tmp_path, limit=5).items()) == 5
    assert time.process_time() - started < 0.5 * listed_s


def test_a_long_log_without_a_single_index_is_listed_and_read_in_no_time(tmp_path):
    """5,000 rows and tags: walking through all of one for each of the other would be 25 million steps."""
    written = write_log(tmp_path, "free_road")

    def lengthen_and_strip(database: sqlite3.Connection) -> None:
        database.execute(
            "insert into lidar_pc with recursive k(n) as (select 1 union all select n + 1 from k where n < 5000) select"
            " cast(printf('%08d', n) as blob), null, null, p.ego_pose_token, p.lidar_token, p.scene_token, '',"
            " p.timestamp + 100000000000 + n * 50000 from k, (select * from lidar_pc where token ="
            " (select lidar_pc_token from scenario_tag)) p"
        )
        database.execute(
            "insert into scenario_tag select token, token, 'changing_lane', null from lidar_pc where length(filename) = 0"
        )
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            database.execute(f"create table bare_{table} as select * from {table}")
            database.execute(f"drop table {table}")
            database.execute(f"alter table bare_{table} rename to {table}")

    change_with(written.log, lengthen_and_strip)
    started = time.process_time()
    items = source_of(tmp_path, min_gap_s=1.0).items()
    assert len(items) == 1 + 250
    assert source_of(tmp_path).load(items[0]).scenario_id == f"nuplan-{written.token}"
    assert time.process_time() - started < 1.5


def test_rows_are_spaced_greedily_from_the_first_on():
    import numpy as np

    stamps = np.array([0, 3, 10, 11, 19, 20, 40])
    assert [int(stamps[place]) for place in _apart(stamps, 10)] == [0, 10, 20, 40]
    assert list(_apart(stamps, 0)) == list(range(7))


def test_a_tag_at_a_time_that_is_none_is_told_when_the_log_is_loaded(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    broken = tmp_path / "copy" / "logs" / "veh-01_morning.db"
    change(broken, "update lidar_pc set timestamp = 'noon'")
    source = source_of(tmp_path / "copy")
    assert source.items()[0] == "logs/veh-01_morning"
    with pytest.raises(ScenarioError, match="cannot be read"):
        source.load("logs/veh-01_morning")


def test_no_log_is_opened_to_find_the_logs(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.db").write_text("no database")
    (tmp_path / ".hidden.db").write_text("")
    assert list(find_logs(tmp_path)) == ["a/x"]
