"""The sample browser as a reader uses it, in headless Chromium; and what it shows, held to the cameras' own geometry."""

import dataclasses
import json
import re
from urllib.parse import quote

import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from eval_fixtures import answer, make_sample, reasoning_text, write_dataset
from scenes import scene, straight_road

from eval.evaluate import evaluate
from eval.report.browser import Browser, embedded
from eval.report.compose import report
from eval.report.projection import box_paths, dots, edges_of_strip, strip_path
from eval.report.scene import from_above, objects_of
from nsdrive.cameras.rig import make_rig, project
from nsdrive.dataset import Prediction
from nsdrive.vla.prompt import render_answer
from nsdrive.world.vehicle import PACIFICA

ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u2028javascript:alert(1)"
STRANGE = 's00 "><script>document.title=1</script>'
RIG = make_rig("3", width_px=160, height_px=90)
CAR = {
    "id": "car-1",
    "kind": "vehicle",
    "x_m": 15.0,
    "y_m": 0.0,
    "heading_rad": 0.0,
    "length_m": 4.6,
    "width_m": 1.9,
    "height_m": 1.5,
    "speed_mps": 3.0,
}
MAN = CAR | {
    "id": "ped <i>",
    "kind": "pedestrian",
    "x_m": 8.0,
    "y_m": 4.0,
    "length_m": 0.6,
    "width_m": 0.6,
    "height_m": 1.8,
}
BEHIND = CAR | {"id": "car-9", "x_m": -20.0}

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def chromium():
    browser = Chromium()
    yield browser
    browser.close()


def with_objects(text):
    """One that is there (12.7 m to its back, less 4.0 m to the ego's front) and one that is not."""
    head, route, rest = text.split("\n", 2)
    return "\n".join([head, route, "vehicle-1 8.7 m ahead, 3.0 m/s, F0", "vehicle-2 30.0 m left, 9.0 m/s, F0", rest])


def told(sample, k):
    """The sample with a text, objects and a rig; ids, names and kinds of the first as a stranger would write them."""
    extra = {"objects": [CAR, MAN, BEHIND], "seen": {"CAM_F0": {"car-1": 400, "ped <i>": 30}, "CAM_L0": {}}}
    names = {"vehicle-1": "car-1", "pedestrian-1": "ped <i>"}
    text = render_answer(with_objects(reasoning_text(8.0, -1.0)), sample.waypoints_ego_m)
    changed = dataclasses.replace(sample, rig=RIG.to_json(), extra=extra, trace_names=names, answer=text)
    if k == 0:
        changed = dataclasses.replace(changed, sample_id=STRANGE, scenario_type=ATTACK, command=ATTACK)
    return changed


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report on twelve samples, hostile in every text that a stranger can write; one answer failed."""
    folder = tmp_path_factory.mktemp("browser")
    rules = ("target_speed", "lead", "red_light")
    made = (
        make_sample(f"s{i:02d}", scenario=f"scene-{i // 2}", speed_mps=8.0 + i, rule=rules[i % 3]) for i in range(12)
    )
    samples = [told(sample, k) for k, sample in enumerate(made)]
    dataset = write_dataset(folder / "data", samples)
    rng = np.random.default_rng([5])
    rows = [answer(s, (s.waypoints_ego_m + rng.normal(0, 0.4, (10, 2))).round(2), text=s.answer) for s in samples]
    rows[0] = dataclasses.replace(rows[0], text=ATTACK + "\n" + samples[0].answer)
    rows[1] = Prediction(sample_id="s01", text=ATTACK, waypoints_ego_m=None, error=ATTACK, seconds=0.1)
    for name, given in (("a<b>", rows), ("steady", [answer(s) for s in samples])):
        (folder / f"{name[0]}.jsonl").write_text("".join(json.dumps(row.to_row()) + "\n" for row in given))
    evaluate({"a<b>": folder / "a.jsonl", "steady": folder / "s.jsonl"}, dataset, folder / "eval")
    return report([folder / "eval"], folder / "report")


# ---- the page -------------------------------------------------------------------------------------------------------


@needs_browser
def test_nothing_that_a_stranger_wrote_runs_or_loads(chromium, page):
    for fragment in ("", f"sample={quote(STRANGE)}", "sample=s01", f"sample={quote(ATTACK)}&select=%3Cscript%3E"):
        chromium.open(page, fragment)
        assert chromium.problems == []
        assert [address.split("#")[0] for address in chromium.loads] == [page.as_uri()]  # itself, and nothing else
        assert chromium.run("document.title") == "nsdrive: driving evaluation"
        assert chromium.run("document.querySelectorAll('script').length") == 2
    chromium.open(page, f"sample={quote(STRANGE)}")
    assert chromium.run("document.querySelector('.sample h3').textContent") == STRANGE
    assert "</script><script>document.title='owned'" in chromium.run("document.querySelector('.lines').textContent")


@needs_browser
def test_an_injected_script_is_refused_by_the_policy(chromium, page, tmp_path):
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8").replace(
        "<h1>", "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><h1>", 1
    )
    broken.write_text(text, encoding="utf-8")
    chromium.open(broken)
    assert chromium.run("document.title") == "nsdrive: driving evaluation"
    assert any("Content Security Policy" in problem for problem in chromium.problems)


@needs_browser
def test_the_table_sorts_finds_and_walks(chromium, page):
    chromium.look(1300, 900)
    chromium.open(page)
    ids = "[...document.querySelectorAll('#browser-0 tbody tr')].map((r) => r.cells[0].textContent.slice(1))"
    assert len(chromium.run(ids)) == 12
    chromium.click(".samples th button", 3)  # speed
    rising = chromium.run(ids)
    assert rising[0] == STRANGE
    assert rising[-1] == "s11"
    chromium.click(".samples th button", 3)
    assert chromium.run(ids) == rising[::-1]
    chromium.click(".samples tbody tr", 0)
    assert chromium.run("document.querySelector('#browser-0').dataset.open") == "s11"
    chromium.press("ArrowDown")
    assert chromium.run("document.querySelector('#browser-0').dataset.open") == "s10"
    assert "sample=s10" in chromium.run("location.hash")
    chromium.click(".browser input[type=search]")
    chromium("Input.insertText", text="red_light")
    assert sorted(chromium.run(ids)) == ["s02", "s05", "s08", "s11"]
    assert chromium.run("document.querySelector('.count').textContent") == "4 of 12 samples"
    assert chromium.problems == []


@needs_browser
def test_an_object_that_is_clicked_lights_up_wherever_it_is(chromium, page):
    chromium.look(1300, 900)
    chromium.open(page, "sample=s03")
    lit = "[...document.querySelectorAll('.sample .on')].map((e) => e.closest('svg')?.getAttribute('class') ?? e.className)"
    assert chromium.run(lit) == []
    chromium.click("svg.road .thing.vehicle .body", 0)
    assert chromium.run("document.querySelector('#browser-0').dataset.select") == "car-1"
    shown = chromium.run("document.querySelectorAll('.frame .thing.on').length")
    assert shown == 1  # the front camera alone looks that way
    assert "vehicle-1 (car-1): vehicle, 15.0 m away, 3.0 m/s" in chromium.run(
        "document.querySelector('.about').textContent"
    )
    chromium.press("Escape")
    assert chromium.run(lit) == []
    assert chromium.problems == []


@needs_browser
def test_a_sentence_says_whether_it_is_so_and_points_to_its_object(chromium, page):
    chromium.look(1300, 900)
    chromium.open(page, "sample=s03")
    kinds = chromium.run("[...document.querySelector('.words .lines').children].map((li) => li.classList[1])")
    assert kinds[2:4] == ["true", "false"]
    chromium.click(".words .lines .line.true.points", 0)
    assert chromium.run("document.querySelector('#browser-0').dataset.select") == "car-1"
    assert chromium.run("document.querySelectorAll('svg.road .thing.on').length") == 1
    assert chromium.run("document.querySelectorAll('.frame .thing.on').length") == 1
    assert "select=car-1" in chromium.run("location.hash")
    bubble = chromium.run("document.querySelector('.bubble').textContent")  # the pointer is still on it
    assert "vehicle 8.7 m ahead" in bubble
    assert "so it is" in bubble
    line = "document.querySelector('.lines li:nth-child(4)').getBoundingClientRect()"
    box = chromium.run(f"[{line}.x + 40, {line}.y + 5]")
    chromium("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    assert "in truth: there is no such vehicle" in chromium.run("document.querySelector('.bubble').textContent")
    chromium.open(page, "sample=s03&select=car-1")
    assert chromium.run("document.querySelectorAll('.lines .line.on').length") == 2  # the model's and the label's
    assert chromium.problems == []


@needs_browser
def test_a_failed_answer_shows_its_error_and_the_label_alone(chromium, page):
    chromium.open(page, "sample=s01")
    assert chromium.run("document.querySelectorAll('svg.road .way.told').length") == 0
    assert chromium.run("document.querySelectorAll('svg.road .way.truth').length") == 1
    assert chromium.run("document.querySelector('.words .bad').textContent").startswith("</script>")
    chromium.open(page, "sample=s01&answers=steady")
    assert chromium.run("document.querySelectorAll('svg.road .way.told').length") == 1


@needs_browser
def test_names_that_every_object_of_the_language_has_are_names_like_others(chromium, tmp_path):
    names = ["constructor", "__proto__", "toString", "hasOwnProperty"]
    samples = [
        dataclasses.replace(told(make_sample(f"s{i}", scenario=f"{i}"), 1), sample_id=name)
        for i, name in enumerate(names)
    ]
    dataset = write_dataset(tmp_path / "data", samples)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(answer(s).to_row()) + "\n" for s in samples))
    evaluate({"constructor": tmp_path / "p.jsonl"}, dataset, tmp_path / "eval")
    path = report([tmp_path / "eval"], tmp_path / "report", in_full=2)
    for name in names:
        chromium.open(path, f"sample={name}&answers=blind_idm")
        assert chromium.problems == []
        assert chromium.run("document.querySelector('.sample h3').textContent") == name
        assert chromium.run("document.querySelectorAll('.samples td i.full').length") == 2


# ---- what is drawn --------------------------------------------------------------------------------------------------


def numbers(path):
    return np.array(re.findall(r"-?[\d.]+", path), dtype=float).reshape(-1, 2)


def test_a_strip_is_as_wide_as_the_car_and_ends_at_the_last_waypoint():
    straight = np.column_stack([np.linspace(2.0, 20.0, 10), np.zeros(10)])
    left, right = edges_of_strip(straight)
    assert np.hypot(*(left - right).T) == pytest.approx(PACIFICA.width_m)
    assert 0.5 * (left[-1] + right[-1]) == pytest.approx([20.0, 0.0])
    standing = np.zeros((10, 2))
    assert np.isfinite(edges_of_strip(standing)).all()


def test_a_strip_straight_ahead_is_seen_by_the_front_camera_where_the_ground_is():
    camera = RIG.cameras[0]
    straight = np.column_stack([np.linspace(2.0, 20.0, 10), np.zeros(10)])
    drawn = numbers(strip_path(camera, straight))
    pixels, _ = project(camera, np.array([[20.0, 0.5 * PACIFICA.width_m, 0.0], [20.0, -0.5 * PACIFICA.width_m, 0.0]]))
    for pixel in pixels:
        assert np.hypot(*(drawn - pixel).T).min() < 0.1
    assert drawn.min() >= 0.0
    assert (drawn <= [camera.width_px, camera.height_px]).all()
    assert len(dots(camera, straight)) >= 5
    assert strip_path(camera, -straight) == ""  # behind the camera
    assert dots(camera, -straight) == []


def test_a_box_covers_its_eight_corners_and_what_is_behind_has_none():
    camera = RIG.cameras[0]
    outline = numbers(box_paths(camera, CAR)[0])
    corners = np.array([[x, y, z] for x in (12.7, 17.3) for y in (-0.95, 0.95) for z in (0.0, 1.5)])
    pixels, _ = project(camera, corners)
    assert outline.min(axis=0) == pytest.approx(pixels.min(axis=0), abs=0.1)
    assert outline.max(axis=0) == pytest.approx(pixels.max(axis=0), abs=0.1)
    assert box_paths(camera, BEHIND) is None
    cut = numbers(
        box_paths(camera, CAR | {"x_m": 4.0, "y_m": 2.0})[0]
    )  # its back is behind the lens, its side beyond the image
    assert cut.min(axis=0)[0] == 0.0
    assert (cut >= 0.0).all()
    assert (cut <= [camera.width_px, camera.height_px]).all()


def test_objects_that_are_no_objects_are_left_out_and_older_data_have_none():
    sample = told(make_sample("s", scenario="a"), 1)
    assert [o["id"] for o in objects_of(sample)] == ["car-1", "ped <i>", "car-9"]
    assert objects_of(sample)[0]["name"] == "vehicle-1"
    assert objects_of(sample)[0]["cameras"] == ["CAM_F0"]
    strange = [{"id": 3}, "car", None, CAR | {"x_m": float("nan")}, CAR | {"width_m": "wide"}, CAR]
    kept = objects_of(dataclasses.replace(sample, extra={"objects": strange, "seen": 7}))
    assert [(o["id"], o["cameras"]) for o in kept] == [("car-1", [])]
    assert objects_of(dataclasses.replace(sample, extra={})) is None


def test_ahead_is_up_and_left_is_left_in_the_view_from_above():
    sample = told(make_sample("s", scenario="a"), 1)
    view = from_above(sample, objects_of(sample), None)
    man = np.mean(view["boxes"]["ped <i>"], axis=0)
    assert man == pytest.approx([-4.0, -8.0])
    assert view["label"][-1][1] < view["label"][0][1]
    left, top, width, height = view["window"]
    assert top < view["label"][-1][1] < top + height
    assert left < man[0] < left + width


def test_the_road_lies_where_it_is_seen_from_the_ego_with_the_light_in_its_colour():
    sample = told(make_sample("s", scenario="a"), 1)
    sample.anchor["pose_global"][:] = [60.0, 0.0, 0.0]  # 40 m before the line
    scenario = scene(straight_road(stop="traffic_light"), lights=lambda t: {"x": "red"})
    drawn = dict(from_above(sample, objects_of(sample), scenario)["road"])
    for css in ("stop", "light bar red"):
        bar = numbers(drawn[css])
        assert bar[:, 1] == pytest.approx([-40.0, -40.0])
        assert sorted(bar[:, 0]) == pytest.approx([-1.8, 1.8], abs=0.11)
    ground = numbers(drawn["road"])  # 5 m to either side of the lane's middle
    assert ground[:, 0].min() == pytest.approx(-5.0, abs=0.11)
    assert ground[:, 0].max() == pytest.approx(5.0, abs=0.11)


def test_data_in_the_page_cannot_end_its_element():
    text = embedded([Browser(data={"id": "</script><!--<script>&\u2028\u2029\ud800"})])
    inside = text[text.index(">") + 1 : -len("</script>")]
    assert not set("<>&\u2028\u2029") & set(inside)
    assert inside.isascii()
    assert json.loads(inside)[0]["id"].startswith("</script>")
