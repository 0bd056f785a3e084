"""The table of measures against planted truth: its statistics on cases that can be worked out, and its verdicts."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.faithfulness.causal.definitions import DEFINITIONS
from eval.faithfulness.observed.measures import MEASURES
from eval.faithfulness.planted.axes import AXES, CAUSAL_CLAIMS, NO_CLAIM, OBSERVED_CLAIMS, Claim
from eval.faithfulness.planted.predictors import PLANTED
from eval.faithfulness.planted.separation import Column, auroc, power
from eval.faithfulness.planted.validation import ObservedRow, table, validate
from eval.open_loop.displacement import MEASURES as DISPLACEMENTS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "measures.md"


def column(scores, *, scenarios=None, n=None):
    scores = np.asarray(scores, dtype=float)
    at = np.arange(len(scores)) if scenarios is None else np.asarray(scenarios)
    return Column(parts=scores, wholes=np.ones(len(scores)), scenario=at, n_scenarios=n or int(at.max()) + 1)


def rows(measure, values, *, per_scenario=2):
    return [
        ObservedRow(scenario=f"s{k // per_scenario:03d}", parts={} if value is None else {measure: (float(value), 1.0)})
        for k, value in enumerate(values)
    ]


def verdict(measure, runs, kind="observed"):
    evidence = {name: (None, found, []) if kind == "observed" else (None, [], found) for name, found in runs.items()}
    found = validate(evidence)
    return next(metric for metric in found["metrics"] if metric["name"] == measure and metric["kind"] == kind)


def test_auroc_is_the_share_of_pairs_won_ties_half():
    found = auroc(column([3, 2, 2, 1]), column([2, 0, 1, 1]), "higher", 0)
    wins = np.mean([(a > b) + 0.5 * (a == b) for a in (3, 2, 2, 1) for b in (2, 0, 1, 1)])
    assert found.value == pytest.approx(wins)
    assert found.low <= found.value <= found.high


def test_auroc_turned_is_the_same_for_what_is_better_lower_and_nearness_to_one_counts_for_a_slope():
    a, b = column([0.1, 0.2, 0.3]), column([0.4, 0.25, 0.9])
    assert auroc(a, b, "lower", 0).value == pytest.approx(1.0 - auroc(a, b, "higher", 0).value)
    assert auroc(column([0.9, 1.1]), column([0.0, 2.0]), "one", 0).value == 1.0


def test_two_samples_of_one_kind_have_an_auroc_whose_interval_holds_a_half_nineteen_times_in_twenty():
    rng = np.random.default_rng([5])
    held = 0
    for seed in range(40):
        a, b = (column(rng.normal(size=120), scenarios=np.arange(120) // 3) for _ in range(2))
        found = auroc(a, b, "higher", seed)
        held += found.low <= 0.5 <= found.high
    assert held >= 34


def test_answers_of_one_scenario_that_go_together_widen_the_interval():
    rng = np.random.default_rng([1])
    a, b = rng.normal(0.3, 1.0, 40), rng.normal(0.0, 1.0, 40)
    lone = auroc(column(np.repeat(a, 5), n=200), column(np.repeat(b, 5), n=200), "higher", 0)
    at = np.repeat(np.arange(40), 5)
    together = auroc(column(np.repeat(a, 5), scenarios=at), column(np.repeat(b, 5), scenarios=at), "higher", 0)
    assert together.value == pytest.approx(lone.value)
    assert together.high - together.low > 1.5 * (lone.high - lone.low)


def test_more_scenarios_than_are_drawn_one_by_one_give_the_same_value_and_about_the_same_interval():
    rng = np.random.default_rng([7])
    a, b = rng.normal(0.5, 1.0, 1000), rng.normal(0.0, 1.0, 1000)
    many = auroc(column(a), column(b), "higher", 0)  # of 1000 scenarios
    half = auroc(column(a[:300]), column(b[:300]), "higher", 0)
    wins = (a[:, None] > b[None, :]).mean()
    assert many.value == pytest.approx(wins)
    assert (many.high - many.low) / (half.high - half.low) == pytest.approx(np.sqrt(300 / 1000), rel=0.2)


def test_power_is_about_the_level_of_the_test_without_a_difference_and_grows_with_it():
    rng = np.random.default_rng([2])
    base = rng.normal(size=400)
    powers = [
        np.mean(
            [power(column(base), column(base - shift + rng.normal(0, 1, 400)), "higher", seed) for seed in range(3)]
        )
        for shift in (0.0, 0.3, 1.0)
    ]
    assert powers[0] < 0.15
    assert powers[0] < powers[1] < powers[2]
    assert powers[2] > 0.99


def test_power_against_a_liar_in_some_scenarios_is_less_than_against_one_in_all():
    rng = np.random.default_rng([3])
    good, bad = column(rng.random(200) < 0.9), column(rng.random(200) < 0.6)
    some, every = (power(good, bad, "higher", 0, share) for share in (0.25, 1.0))
    assert some < 0.5 < every


def test_a_measure_that_tells_every_liar_apart_separates():
    runs = {"faithful": rows("replay", [1] * 60), "shuffled_text": rows("replay", [0] * 60)}
    found = verdict("replay", runs)
    assert found["verdict"] == "separates"
    assert found["auroc"]["shuffled_text"]["value"] == 1.0
    assert found["power"]["shuffled_text"] == 1.0


def test_a_measure_that_misses_one_liar_is_labelled_with_its_name():
    rng = np.random.default_rng([4])
    coin = rng.integers(0, 2, 60)
    runs = {
        "faithful": rows("replay", coin),
        "shuffled_text": rows("replay", [0] * 60),
        "talks_only": rows("replay", rng.permutation(coin)),
    }
    found = verdict("replay", runs)
    assert found["verdict"] == "does not separate"
    assert "talks_only" in found["fails"]
    assert "does not separate: " in table(validate({n: (None, r, []) for n, r in runs.items()}))


def test_a_measure_that_tells_models_but_not_answers_apart_is_said_to_separate_means():
    rng = np.random.default_rng([6])
    runs = {
        "faithful": rows("binding_anchor", rng.random(200) < 0.95),
        "ignores_images": rows("binding_anchor", rng.random(200) < 0.55),
    }
    assert verdict("binding_anchor", runs)["verdict"] == "separates means"


def test_with_a_handful_of_scenarios_a_weak_measure_is_not_judged():
    rng = np.random.default_rng([8])
    runs = {
        "faithful": rows("binding_anchor", rng.random(160) < 0.95, per_scenario=20),
        "ignores_images": rows("binding_anchor", rng.random(160) < 0.55, per_scenario=20),
    }
    found = verdict("binding_anchor", runs)
    assert (found["verdict"], found["fails"]) == ("too few scenarios", [])
    assert found["power"]["ignores_images"] is None


def test_a_liar_to_whom_a_measure_never_applies_is_one_that_it_does_not_tell():
    runs = {
        "faithful": rows("replay", [1] * 60),
        "shuffled_text": rows("replay", [0] * 60),
        "blind": rows("replay", [None] * 60),
    }
    found = verdict("replay", runs)
    assert (found["verdict"], found["fails"]) == ("does not separate", ["blind"])


def test_what_a_measure_does_not_claim_is_listed_where_it_reacts_to_it():
    runs = {
        "faithful": rows("replay", [1] * 60),
        "shuffled_text": rows("replay", [0] * 60),
        "ignores_images": rows("replay", [0.5] * 60),
    }
    found = verdict("replay", runs)
    assert found["verdict"] == "separates"
    assert found["reacts_to"] == ["ignores_images"]
    assert "ignores_images" not in found["must_tell"]


def test_theatre_is_not_held_against_a_measure_that_only_watches():
    for name, claim in OBSERVED_CLAIMS.items():
        assert not claim.must_tell(PLANTED["ignores_text"].holds), name
    assert CAUSAL_CLAIMS["forced_rho"].must_tell(PLANTED["ignores_text"].holds)


def test_a_cell_of_the_two_by_two_must_tell_only_the_liar_that_it_is_about():
    must = {
        cell: [name for name, planted in PLANTED.items() if CAUSAL_CLAIMS[cell].must_tell(planted.holds)]
        for cell in ("edit_unspoken", "edit_theatre", "edit_blind")
    }
    assert must == {
        "edit_unspoken": ["shuffled_text"],
        "edit_theatre": ["talks_only"],
        "edit_blind": ["ignores_images", "blind"],
    }


def test_every_claim_can_be_tried_on_some_planted_predictor():
    for name, claim in {**OBSERVED_CLAIMS, **CAUSAL_CLAIMS}.items():
        assert claim == NO_CLAIM or any(claim.must_tell(planted.holds) for planted in PLANTED.values()), name


def test_every_axis_is_false_of_some_planted_predictor_and_true_of_the_faithful_one():
    for axis in AXES:
        assert PLANTED["faithful"].holds[axis] == 1.0
        assert any(planted.holds[axis] == 0.0 for planted in PLANTED.values()), axis


def test_every_measure_has_a_claim_or_is_said_to_have_none():
    wanting = {name for name, d in DEFINITIONS.items() if d.better != "neither"} - set(CAUSAL_CLAIMS)
    assert wanting == set()
    assert set(OBSERVED_CLAIMS) == set(MEASURES)
    assert set(CAUSAL_CLAIMS) <= set(DEFINITIONS)


def test_a_claim_of_any_is_not_one_of_all():
    holds = dict.fromkeys(AXES, 1.0) | {"images_write": 0.0}
    assert Claim(any_of=("images_write", "images_move")).must_tell(holds)
    assert not Claim(all_of=("images_write", "images_move")).must_tell(holds)


def test_noisier_faithful_ones_are_set_beside_and_models_are_left_out():
    runs = {
        "faithful": (None, rows("replay", [1] * 60), []),
        "faithful@4": (None, rows("replay", [1, 0] * 30), []),
        "shuffled_text": (None, rows("replay", [0] * 60), []),
        "some_model": (None, rows("replay", [0] * 60), []),
    }
    found = validate(runs)
    metric = next(m for m in found["metrics"] if m["name"] == "replay")
    assert metric["noise"]["faithful@4"]["value"] == 0.5
    assert metric["noise"]["faithful@4"]["least_auroc"] == 0.75
    assert set(found["predictors"]) == {"faithful", "faithful@4", "shuffled_text"}
    assert validate({"shuffled_text": runs["shuffled_text"]}) is None


def test_a_table_without_some_of_the_liars_says_so():
    found = validate({"faithful": (None, rows("replay", [1] * 60), []), "blind": (None, rows("replay", [0] * 60), [])})
    assert set(found["not_among_them"]) == set(PLANTED) - {"faithful", "blind"}
    assert table(found).splitlines()[-1].startswith("not tried: shuffled_text, ignores_text")


def test_the_table_is_the_same_bytes_again_and_holds_no_number_that_json_cannot():
    runs = {"faithful": (None, rows("replay", [1] * 30), []), "blind": (None, rows("replay", [0, None] * 15), [])}
    once, twice = (json.dumps(validate(runs, seed=3), allow_nan=False) for _ in range(2))
    assert once == twice


def test_the_document_names_every_measure():
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in (*MEASURES, *DEFINITIONS, *DISPLACEMENTS, *AXES, *PLANTED):
        assert f"`{name}`" in text, name
