"""Films of drives: what they show, that they are the same every time, and that the page holds them."""

import json
from dataclasses import replace
from functools import partial
from io import BytesIO

import numpy as np
import pytest
from builders import car, scenario, straight_map
from PIL import Image, ImageSequence

from eval.closed_loop import film as films
from eval.closed_loop.drive import SimulateConfig, closed_loop
from eval.closed_loop.film import Chosen, choose, film, frames_of, kept_for_film
from eval.closed_loop.film_page import films_html, films_markdown
from nsdrive.config import Chosen as Setting
from nsdrive.scenarios.synthetic import SyntheticConfig
from nsdrive.vla.prompt import render_answer
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS
from planners.idm import IdmConfig, IdmPlanner

IDM = partial(IdmPlanner, IdmConfig())
WORLD = scenario(straight_map(200.0), [car("parked", 60.0)], duration_s=1.0)


def drawn(drive, world=WORLD, **more):
    return frames_of(world, drive, "a title", score=0.5, **more)


@pytest.fixture(scope="module")
def drive():
    return kept_for_film(simulate(WORLD, IDM()))


def test_a_film_goes_at_the_drives_pace_and_rests_at_its_end(drive):
    made = Image.open(BytesIO(film(WORLD, drive, "a title", score=0.5)))
    frames = list(ImageSequence.Iterator(made))
    assert len(frames) == 6  # a second, five in it, and the first
    pauses = []
    for k in range(made.n_frames):
        made.seek(k)
        made.load()
        pauses.append(made.info["duration"])
    assert pauses == [200] * 5 + [1500]
    assert frames[0].size == (360, 492)


def test_the_same_drive_makes_the_same_bytes_through_json_too(drive):
    once = film(WORLD, drive, "a title", score=0.5)
    assert film(WORLD, json.loads(json.dumps(drive)), "a title", score=0.5) == once
    assert len(once) < 300_000


def test_the_picture_changes_as_the_ego_drives_and_shows_what_bound(drive):
    pictures = drawn(drive)
    assert (pictures[0] != pictures[-1]).any()
    nobody = {**drive, "binding": [None] * len(drive["binding"])}
    strip = slice(426, 492)
    assert (drawn(nobody)[0][strip] != pictures[0][strip]).any()
    assert (drawn(nobody)[0][26:400] == pictures[0][26:400]).all()


def test_from_the_first_touch_on_the_words_are_red():
    class Blind(IdmPlanner):
        def plan(self, observation):
            return super().plan(replace(observation, objects=observation.objects.take([])))

    world = scenario(straight_map(200.0), [car("parked", 45.0)], duration_s=4.0)
    made = drawn(kept_for_film(simulate(world, Blind())), world)
    red = [int(((p[470:492] == films.RED).all(axis=-1)).sum()) for p in made]
    assert red[0] == 0
    assert red[-1] > 20
    assert red == sorted(red), "once touched, it stays said"


def test_a_models_words_and_answer_are_shown_whatever_it_says(drive):
    plain = drawn(drive)[0]
    ahead = np.column_stack([np.arange(1.0, 11.0), np.full(10, 3.0)])
    for words in (
        render_answer("The road is free.\nSo it goes on.", ahead),
        "<script>alert(1)</script>\x00\u202e" * 50_000,
        "",
    ):
        said = {**drive, "said": [words, *drive["said"][1:]], "binding": [None] * len(drive["binding"])}
        shown = drawn(said)[0]
        assert shown.shape == plain.shape
    said = {**drive, "said": [render_answer("Free.", ahead), *drive["said"][1:]]}
    assert (drawn(said)[0][26:426] != plain[26:426]).any(), "its answer is drawn"


def test_answering_traffic_is_moved_again_as_it_was():
    world = scenario(straight_map(300.0), [car("behind", -20.0, speed_mps=12.0)], speed_mps=2.0, duration_s=4.0)
    rollout = simulate(world, IDM(), agents="reactive")
    states = np.array(kept_for_film(rollout)["states"])
    again = films._others(world, HISTORY_TICKS, states, "reactive")
    for mine, was in zip(again, rollout.frames, strict=True):
        assert mine.boxes == pytest.approx(was.boxes, abs=1e-3)
    assert np.abs(again[-1].boxes - world.frames[-1].boxes).max() > 1.0, "it does not do what was recorded"


def rows(*scores, family="stopped_lead"):
    return [
        {"item": f"i{k}", "scenario": f"s{k}", "family": family, "scenario_type": "t", "score": score}
        for k, score in enumerate(scores)
    ]


def test_of_each_family_the_best_and_the_worst_are_chosen():
    found = choose([*rows(0.5, 0.1, 0.9, 0.1), *rows(0.7, family="curve")], "best_and_worst")
    assert [(c.family, c.which, c.item) for c in found] == [
        ("curve", "only", "i0"),
        ("stopped_lead", "worst", "i1"),
        ("stopped_lead", "best", "i2"),
    ]
    assert [c.which for c in choose(rows(0.5, 0.5), "best_and_worst")] == ["only"], "nothing to choose between"
    assert len(choose(rows(0.5, 0.1, 0.9), "all")) == 3
    assert choose(rows(0.5), "none") == []
    assert choose([{**rows(0.5)[0], "family": None}], "all")[0].family == "t"


def test_a_films_name_stays_in_its_folder():
    name = Chosen(item="i", scenario="../../etc/passwd", family="a b", which="best", score=1.0).file
    assert name == "films/a_b-best-.._.._etc_passwd.webp"
    assert "/" not in name.removeprefix("films/")


def test_simulate_writes_the_films_and_the_page_holds_them(tmp_path):
    source = SyntheticConfig(n_scenarios=2, families=("stopped_lead",))
    config = SimulateConfig(
        scenarios=Setting(name="synthetic", config=source),
        planner=Setting(name="idm", config=IdmConfig()),
        duration_s=0.4,
        films="best_and_worst",
    )
    done = closed_loop(config, IDM, IDM, out=tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["films"] == [dict(row) for row in done.films]
    assert [row["which"] for row in done.films] == ["worst", "best"]
    for row in done.films:
        assert (tmp_path / "run" / row["file"]).stat().st_size == row["bytes"]
        assert row["file"] in done.table()
    closed_loop(config, IDM, IDM, out=tmp_path / "again")
    for row in done.films:
        assert (tmp_path / "again" / row["file"]).read_bytes() == (tmp_path / "run" / row["file"]).read_bytes()
    page = films_html([(tmp_path / "run", results)])
    assert page.count("data:image/webp;base64,") == len(done.films)
    assert len([line for line in films_markdown([(tmp_path / "run", results)]) if line.startswith("- ")]) == 2


def test_a_film_that_cannot_be_made_costs_no_result(tmp_path, monkeypatch):
    def torn(*arguments, **more):
        raise ValueError("the reel is torn")

    monkeypatch.setattr(films, "frames_of", torn)
    config = SimulateConfig(
        scenarios=Setting(name="synthetic", config=SyntheticConfig(n_scenarios=1, families=("free_road",))),
        planner=Setting(name="idm", config=IdmConfig()),
        duration_s=0.5,
        films="all",
    )
    done = closed_loop(config, IDM, IDM, out=tmp_path / "run")
    assert len(done.rows) == 1
    assert "not made: the reel is torn" in done.table()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "The film is not there" in films_html([(tmp_path / "run", results)])
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(ValueError, match="WebP"):
        closed_loop(config, IDM, IDM, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_films_that_a_stranger_wrote_stay_out_of_the_page(tmp_path):
    (tmp_path / "secret.webp").write_bytes(b"RIFF\0\0\0\0WEBPsecret")
    run = tmp_path / "run"
    run.mkdir()
    (run / "text.webp").write_text("<script>alert(1)</script>")
    for file in ("../secret.webp", "text.webp", "gone.webp", "<img onerror=alert(1)>"):
        listed = {"family": "<b>", "which": "<i>", "scenario": "<u>", "score": 0.5, "file": file}
        page = films_html([(run, {"films": [listed]})])
        assert "data:image" not in page
        assert "The film is not there" in page
        for markup in ("<b>", "<i>", "<u>", "<img", "<script"):
            assert markup not in page
    for nothing in ({}, {"films": None}, {"films": [{"family": "a"}, 3, {**listed, "score": "high"}]}):
        assert films_html([(run, nothing)]) == ""
