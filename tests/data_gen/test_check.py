"""What `check` says of a data set that a stranger, or a mistake, has changed: a line for every fault, never a traceback."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest

from data_gen.check import check
from data_gen.derive import retold
from data_gen.generate import GenerateConfig, generate
from data_gen.sample import SampleConfig
from nsdrive.cli import main
from nsdrive.config import Chosen
from nsdrive.dataset import Sample, json_line, open_dataset, sha256_of
from nsdrive.scenarios.synthetic import SyntheticConfig
from planners.idm import IdmConfig, IdmPlanner

MAKE_PLANNER = partial(IdmPlanner, IdmConfig())
CONFIG = GenerateConfig(
    scenarios=Chosen(name="synthetic", config=SyntheticConfig(families=("red_light_lead",), n_scenarios=3)),
    planner=Chosen(name="idm", config=IdmConfig()),
    image_width_px=64,
    image_height_px=36,
    samples=SampleConfig(anchors_per_scenario=1),
    train_share=1.0,
    val_share=0.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("check") / "set"
    assert generate(CONFIG, MAKE_PLANNER, out=out).n_samples == 3
    return out


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def rows_of(folder):
    return [json.loads(line) for line in (folder / "train-00000.jsonl").read_text().splitlines()]


def put(folder, rows, **changes):
    """Other rows, with a manifest that has their hash, and other changes."""
    shard = folder / "train-00000.jsonl"
    shard.write_text("".join(json_line(row) for row in rows))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][shard.name] = sha256_of(shard)
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def checked(folder):
    return check(open_dataset(folder), CONFIG, MAKE_PLANNER)


def first_rule_with_inputs(about):
    return next(c for step in about["trace"]["steps"] for c in step["constraints"] if c["inputs"])


FAULTS = {
    "a step without constraints": lambda about: about["trace"]["steps"][1].update(constraints=[]),
    "a future of 50 rows": lambda about: about["future"].pop(),
    "a future of 3 rows": lambda about: about.update(future=about["future"][:3]),
    "no anchor": lambda about: about.update(anchor=None),
    "an anchor at no tick": lambda about: about.update(anchor={"tick": []}),
    "no trace": lambda about: about.update(trace=None),
    "a trace without steps": lambda about: about["trace"].update(steps=[]),
    "a rule without inputs": lambda about: first_rule_with_inputs(about).update(inputs=None),
    "an unknown input": lambda about: first_rule_with_inputs(about).update(inputs={"mood": 1.0}),
    "a rule that is none": lambda about: first_rule_with_inputs(about).update(rule=["?"]),
    "an object without a name": lambda about: about["trace"].update(
        objects=[{**each, "name": None} for each in about["trace"]["objects"]]
    ),
    "a binding rule out of reach": lambda about: about["trace"]["steps"][0].update(binding=99),
    "a command that is a word": lambda about: about["trace"]["steps"][0].update(command_mps2="slow"),
    "a history of words": lambda about: about.update(ego_history=["?"] * 5),
    "a rig of nothing": lambda about: about.update(rig=None),
    "an edit that is none": lambda about: about.update(edit="?"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_sample_is_named_and_what_else_is_wrong_is_found(folder, copy, fault):
    rows = rows_of(folder)
    assert rows[0]["nsdrive"]["trace"]["objects"], "the scenario tells of an object"
    FAULTS[fault](rows[0]["nsdrive"])
    rows[2]["nsdrive"]["speed_limit_mps"] = 99.0
    put(copy, rows)
    found = checked(copy)
    assert any(f"train-00000.jsonl:1 {rows[0]['id']}: " in line for line in found.problems)
    assert any(f"train-00000.jsonl:3 {rows[2]['id']}: recomputed otherwise" in line for line in found.problems)
    assert not any(rows[1]["id"] in line for line in found.problems)
    assert all("\n" not in line for line in found.problems)


def test_a_sample_of_no_scenario_is_a_problem(folder, copy):
    rows = rows_of(folder)
    rows[0]["nsdrive"]["item"] = ["?"]
    put(copy, rows)
    assert any(line.startswith("scenario ['?']: cannot be recomputed: ") for line in checked(copy).problems)


def test_a_line_that_is_no_sample_does_not_hide_those_after_it(folder, copy):
    rows = rows_of(folder)
    rows[1]["nsdrive"]["speed_limit_mps"] = 99.0
    put(copy, rows)
    shard = copy / "train-00000.jsonl"
    shard.write_text("?\n" + "[" * 100_000 + "\n" + shard.read_text())
    found = checked(copy)
    assert found.samples == 3
    for where in ("train-00000.jsonl:1 ", "train-00000.jsonl:2", f"train-00000.jsonl:4 {rows[1]['id']}"):
        assert any(line.startswith(where) for line in found.problems)


@pytest.mark.parametrize("fault", ["a rule without inputs", "an object without a name", "a history of words"])
def test_a_trace_that_cannot_be_retold_is_refused_in_one_line(folder, fault):
    row = rows_of(folder)[0]
    FAULTS[fault](row["nsdrive"])
    with pytest.raises(ValueError, match=f"^{row['id']}: its stored trace or history cannot be read") as caught:
        retold(Sample.from_row(row), "detailed")
    assert "\n" not in str(caught.value)


def test_scenarios_that_were_taken_out_are_missed(folder, copy):
    """The samples' number and the files are adjusted, the counts are not; then the counts are, too."""
    rows = rows_of(folder)[1:]
    put(copy, rows, samples=2)
    counts = open_dataset(copy).manifest["counts"]
    assert any("its counts are not those of the shards: " in line for line in checked(copy).problems)
    for group, key in {
        "split": "train",
        "planner": "idm",
        "images": "rendered",
        "label": "rollout",
        "rule": rows_of(folder)[0]["nsdrive"]["binding_rule"],
        "scenario_type": rows_of(folder)[0]["scenario_type"],
    }.items():
        counts[group][key] -= 1
    counts = {group: {name: n for name, n in names.items() if n or group == "split"} for group, names in counts.items()}
    put(copy, rows, samples=2, counts=counts)
    (problem,) = [line for line in checked(copy).problems if not line.startswith("images/")]
    assert problem.startswith("manifest.json: of 3 scenarios 2 have samples in the shards and 0 failed")


def test_scenarios_whose_every_anchor_was_left_out_are_told_and_are_no_problem(folder, copy):
    put(copy, rows_of(folder), scenarios=4, left_out={"off_road": 1, "after_off_road": 7})
    found = checked(copy)
    assert found.problems == ()
    assert found.silent == 1
    assert "1 scenario without a sample, every anchor left out" in found.summary()
    put(copy, rows_of(folder), scenarios=4, left_out={"after_off_road": 7})
    found = checked(copy)
    assert len(found.problems) == 1
    assert "left out" not in found.summary()


def test_a_manifest_without_settings_is_refused_in_one_line(folder, copy, capsys):
    for nothing in (None, []):
        put(copy, rows_of(folder), config=nothing)
        assert main(["check", str(copy)]) == 1
        assert capsys.readouterr().err.endswith("made with: it has no config\n")


def test_a_manifest_without_counts_is_a_problem(folder, copy):
    put(copy, rows_of(folder), counts=None, scenarios=None)
    assert [line.split(":")[0] for line in checked(copy).problems] == ["manifest.json"] * 2


def test_what_check_keeps_of_a_sample_is_where_it_lies(folder, copy):
    """A worker's job says where a sample lies, and reads it again."""
    import pickle

    from data_gen.recompute import Job, Stored
    from nsdrive.dataset import lines_of

    line = next(lines_of(copy / "train-00000.jsonl"))
    stored = Stored.of(line, line.sample().sample_id, "train")
    assert stored.read().to_row() == line.sample().to_row()
    job = Job(item="it", stored=(stored,), folder=copy, config=CONFIG, make_planner=MAKE_PLANNER)
    more = replace(job, stored=tuple(replace(stored, number=n) for n in range(100)))
    assert len(pickle.dumps(more)) - len(pickle.dumps(job)) < 100 * 100 < len(line.data)
