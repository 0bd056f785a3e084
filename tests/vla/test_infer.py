from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from predictions import predictions_in
from transformers import GenerationMixin
from vla_fixtures import make_dataset

from nsdrive.cameras.rig import make_rig
from nsdrive.dataset import open_dataset
from nsdrive.vla import infer
from nsdrive.vla.data.encoding import Encoded
from nsdrive.vla.infer import predict
from nsdrive.vla.inference.engine import Said, Texts
from nsdrive.vla.inference.predictor import Predictor
from nsdrive.vla.model import load_model
from nsdrive.vla.prompt import parse_answer
from nsdrive.vla.question_form import QuestionForm, write_form
from nsdrive.vla.trajectory_head import HeadShape, TrajectoryHead, save_head

SHORT = {"max_reasoning_tokens": 6, "batch_size": 2}


@pytest.fixture(scope="module")
def finished(model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predictions") / "all.jsonl"
    seen: list[tuple[int, int]] = []
    done = predict(model, dataset=dataset, out=out, progress=lambda k, n: seen.append((k, n)), **SHORT)
    assert (done.n, done.n_errors, done.n_new) == (5, 0, 5)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    return out


def without_times(path: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_every_sample_gets_a_complete_answer_even_from_a_model_that_knows_nothing(finished: Path) -> None:
    predictions = predictions_in(finished)
    assert [p.sample_id for p in predictions] == [f"test-{k}" for k in range(5)]
    for p in predictions:
        assert p.error is None
        assert p.waypoints_ego_m.shape == (10, 2)
        assert p.text.startswith("<REASONING>")
    assert not finished.with_name("all.jsonl.part").exists()


def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(
    model: Path, dataset: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.jsonl"

    class PowerCut(BaseException):
        pass

    def cut(done: int, total: int) -> None:
        if done == 4:
            raise PowerCut

    with pytest.raises(PowerCut):
        predict(model, dataset=dataset, out=out, progress=cut, **SHORT)
    assert not out.exists()
    part = tmp_path / "p.jsonl.part"
    part.write_text(part.read_text()[:-30])  # the last row was being written
    with pytest.raises(ValueError, match="go on with --resume"):
        predict(model, dataset=dataset, out=out, **SHORT)
    with pytest.raises(ValueError, match=r"other settings \(control: 'none' -> 'black'\)"):
        predict(model, dataset=dataset, out=out, control="black", resume=True, **SHORT)
    done = predict(model, dataset=dataset, out=out, resume=True, **SHORT)
    assert done.n_new == 3
    assert without_times(out) == without_times(finished)
    monkeypatch.setattr(infer, "answerer", None)  # nothing is left to do, so nothing is loaded
    assert predict(model, dataset=dataset, out=out, resume=True, **SHORT).n == 5
    with pytest.raises(ValueError, match="exists"):
        predict(model, dataset=dataset, out=out, **SHORT)


def test_a_bad_image_or_sample_is_a_row_with_its_error(
    model: Path, dataset: Path, finished: Path, tmp_path: Path
) -> None:
    hurt = tmp_path / "hurt"
    shutil.copytree(dataset, hurt)
    (hurt / "images/test-1/CAM_F0.jpg").write_bytes(b"no picture")
    shard = hurt / "test-00000.jsonl"
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    rows[2]["images"] = []
    rows[3]["images"][0] = "/etc/passwd"
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = predict(model, dataset=hurt, out=tmp_path / "p.jsonl", max_reasoning_tokens=6, batch_size=5)
    assert (done.n, done.n_errors) == (5, 3)
    predictions = predictions_in(tmp_path / "p.jsonl")
    assert [p.error is None for p in predictions] == [True, False, False, False, True]
    assert "CAM_F0.jpg cannot be read" in str(predictions[1].error)
    assert "3 <image> in the prompt, 0 images" in str(predictions[2].error)
    assert predictions[0].text == predictions_in(finished)[0].text


def test_without_text_an_answer_is_its_waypoints_and_with_the_labels_text_it_goes_on_from_that(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    labels = [sample.answer for sample in open_dataset(dataset).samples("test")][:2]
    for control in ("no_text", "oracle_text"):
        done = predict(model, dataset=dataset, out=tmp_path / control, control=control, limit=2, **SHORT)
        assert (done.n, done.n_errors) == (2, 0)
        for k, (answer, label) in enumerate(zip(predictions_in(tmp_path / control), labels, strict=True)):
            assert answer.sample_id == f"test-{k}"
            begins = "<PLANNING>" if control == "no_text" else label.partition("[")[0]
            assert answer.text.startswith(f"{begins}[")
            assert answer.waypoints_ego_m is not None


def test_black_and_borrowed_images_are_what_the_model_is_shown(
    model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, list[torch.Tensor]] = {}

    def note(self: Predictor, questions: Sequence[Encoded], levels: Sequence[str], **how: object) -> Texts:
        shown[control].extend(one.patches for one in questions if one.patches is not None)
        return Texts(said=(Said(text=""),) * len(questions))

    monkeypatch.setattr(Predictor, "answer", note)
    for control in ("none", "black", "shuffled"):
        shown[control] = []
        predict(model, dataset=dataset, out=tmp_path / f"{control}.jsonl", control=control, **SHORT)
    own, black, borrowed = (shown[control] for control in ("none", "black", "shuffled"))
    assert len(own) == len(black) == len(borrowed) == 5
    assert all(one.unique().numel() == 1 for one in black)
    lenders = [next(k for k, other in enumerate(own) if other.equal(one)) for one in borrowed]
    assert sorted(lenders) == [0, 1, 2, 3, 4]
    assert all(lender != k for k, lender in enumerate(lenders)), "every scene sees another's images"


def test_images_are_not_shuffled_within_one_scenario(model: Path, dataset: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(dataset, alone)
    shard = alone / "test-00000.jsonl"
    rows = [json.loads(line) | {"scenario": "the-only-one"} for line in shard.read_text().splitlines()]
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="two scenarios or more, not among 1"):
        predict(model, dataset=alone, out=tmp_path / "p.jsonl", control="shuffled", **SHORT)
    assert not (tmp_path / "p.jsonl.part").exists()


def test_a_control_that_is_not_known_is_one_line(model: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No control 'blck'\. Did you mean 'black'"):
        predict(model, dataset=dataset, out=tmp_path / "x.jsonl", control="blck")


def test_a_file_named_for_another_control_is_refused(model: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of --control black: choose .*p\.jsonl"):
        predict(model, dataset=dataset, out=tmp_path / "p.black.jsonl")
    with pytest.raises(ValueError, match=r"of --control black: choose .*p\.shuffled\.jsonl"):
        predict(model, dataset=dataset, out=tmp_path / "p.black.jsonl", control="shuffled")


def test_free_decoding_is_scored_as_it_comes(model: Path, dataset: Path, tmp_path: Path) -> None:
    free = predict(model, dataset=dataset, out=tmp_path / "f.jsonl", constrained=False, limit=2, **SHORT)
    assert free.n_errors == 2, "an untrained model writes no plan by itself: its rows say so"
    assert "0 PLANNING blocks" in str(predictions_in(tmp_path / "f.jsonl")[0].error)


def test_what_cannot_begin_leaves_nothing_behind(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No model folder"):
        predict(tmp_path / "gone", dataset=dataset, out=tmp_path / "p.jsonl")
    assert not (tmp_path / "p.jsonl.part").exists()


def test_waypoints_at_once_is_a_mode_with_the_waypoints_that_the_control_has(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    done = predict(model, dataset=dataset, out=tmp_path / "plan.jsonl", mode="plan", limit=1, **SHORT)
    assert (done.n, done.n_errors, done.reasoning_tokens, done.reasoning_share) == (1, 0, 0, 0.0)
    predict(model, dataset=dataset, out=tmp_path / "none.jsonl", control="no_text", limit=1, **SHORT)
    rows, control = without_times(tmp_path / "plan.jsonl"), without_times(tmp_path / "none.jsonl")
    assert rows == [row | {"mode": "plan"} for row in control]
    with pytest.raises(ValueError, match="gives a reasoning, and --mode plan has none"):
        predict(model, dataset=dataset, out=tmp_path / "x.jsonl", mode="plan", control="oracle_text")


@pytest.fixture(scope="module")
def headed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a head that says something else for every picture."""
    folder = tmp_path_factory.mktemp("headed") / "model"
    shutil.copytree(model, folder)
    head = TrajectoryHead(HeadShape(kind="regression", hidden=load_model(model).config.text_config.hidden_size))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for weight in head.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    save_head(head, folder)
    return folder


def test_a_model_that_never_planned_at_once_is_told_of(
    model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "was trained on answers with reasoning (brief): without it its waypoints may be far off"
    predict(model, dataset=dataset, out=tmp_path / "a.jsonl", mode="plan", limit=1, **SHORT)
    assert said not in capsys.readouterr().err, "nothing is known of it"
    trained = tmp_path / "trained"
    shutil.copytree(model, trained)
    write_form(QuestionForm(rig=make_rig("3"), trace_level="brief"), trained)
    predict(trained, dataset=dataset, out=tmp_path / "b.jsonl", mode="plan", limit=1, **SHORT)
    assert said in capsys.readouterr().err


def test_a_heads_waypoints_are_a_file_like_any_other_and_come_early_beside_the_text(
    headed: Path, finished: Path, dataset: Path, tmp_path: Path
) -> None:
    done = predict(headed, dataset=dataset, out=tmp_path / "head.jsonl", mode="head", **SHORT)
    assert (done.n, done.n_errors, done.tokens, done.reasoning_share) == (5, 0, 0, None)
    rows = without_times(tmp_path / "head.jsonl")
    assert [row["mode"] for row in rows] == ["head"] * 5
    assert len({str(row["waypoints_ego_m"]) for row in rows}) == 5
    for row, read in zip(rows, predictions_in(tmp_path / "head.jsonl"), strict=True):
        assert parse_answer(str(row["text"])).waypoints_ego_m.tolist() == read.waypoints_ego_m.tolist()
    predict(headed, dataset=dataset, out=tmp_path / "full.jsonl", limit=2, **SHORT)
    said = [json.loads(line) for line in (tmp_path / "full.jsonl").read_text().splitlines()]
    assert [row["text"] for row in said] == [row["text"] for row in without_times(finished)[:2]], (
        "the text is as without"
    )
    for row, early in zip(said, rows[:2], strict=True):
        assert np.abs(np.array(row["early_waypoints_ego_m"]) - np.array(early["waypoints_ego_m"])).max() < 0.011
        assert 0.0 < row["early_seconds"] < 2 * row["seconds"], "of two answered together"


def test_without_a_head_its_mode_is_refused_before_anything_is_written(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has no trajectory head: train one"):
        predict(model, dataset=dataset, out=tmp_path / "p.jsonl", mode="head")
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_draws_the_same_file_and_another_another(model: Path, dataset: Path, tmp_path: Path) -> None:
    def drawn(name: str, **how: object) -> list[dict[str, object]]:
        predict(model, dataset=dataset, out=tmp_path / name, limit=1, **(SHORT | {"best_of": 2} | how))
        return without_times(tmp_path / name)

    first = drawn("a", seed=1)
    assert all(len(row["best_of"]["candidates"]) == 2 for row in first)
    assert first == drawn("b", seed=1)
    assert [row["text"] for row in first] != [row["text"] for row in drawn("c", seed=2)]


def test_a_finished_file_is_not_taken_for_one_of_other_settings(
    model: Path, dataset: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.jsonl"
    again = {"dataset": dataset, "out": out, "resume": True}
    shutil.copy(finished, out)
    with pytest.raises(ValueError, match=r"p\.settings\.json, which says how it was made: delete it, or choose"):
        predict(model, **again, **SHORT)
    shutil.copy(finished.with_name("all.settings.json"), tmp_path / "p.settings.json")
    assert predict(model, **again, **SHORT).n == 5
    with pytest.raises(ValueError, match=r"made with other settings \(max_reasoning_tokens: 6 -> 7\)"):
        predict(model, **again, batch_size=2, max_reasoning_tokens=7)
    monkeypatch.setattr(infer, "fingerprint_of", lambda model: "of another training")
    with pytest.raises(ValueError, match=r"\(weights: .* -> 'of another training'\)"):
        predict(model, **again, **SHORT)
    out.write_text(out.read_text() + "\n")
    with pytest.raises(ValueError, match="not the file that"):
        predict(model, **again, **SHORT)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A GPU that has the memory for so many samples."""
    has, generate = {"samples": 2}, GenerationMixin.generate
    taken: list[weakref.ref[torch.Tensor]] = []

    def generate_within(self: GenerationMixin, **inputs: Any) -> Any:
        assert not any(one() is not None for one in taken), "what filled the memory is let go before it is tried again"
        filling = torch.zeros(1)
        taken.append(weakref.ref(filling))
        if len(inputs["input_ids"]) > has["samples"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return generate(self, **inputs)

    monkeypatch.setattr(GenerationMixin, "generate", generate_within)
    return has


def test_a_batch_that_does_not_fit_into_the_memory_is_answered_in_halves_and_that_is_said(
    model: Path,
    dataset: Path,
    finished: Path,
    tmp_path: Path,
    room: dict[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = {"dataset": dataset, "out": tmp_path / "p.jsonl", "max_reasoning_tokens": 6}
    done = predict(model, batch_size=4, **again)
    assert capsys.readouterr().err.splitlines() == [
        "The GPU's memory does not suffice for 4 samples at once: from here on 2 samples at a time"
    ]
    assert (done.n, done.n_errors, done.batch_sizes) == (5, 0, (4, 2))
    assert "5 predictions, 0 without waypoints (batches of 4, 2), " in str(done)
    assert [one.text for one in predictions_in(tmp_path / "p.jsonl")] == [one.text for one in predictions_in(finished)]
    settings = json.loads((tmp_path / "p.settings.json").read_text())["settings"]
    assert settings["batch_sizes"] == [4, 2]
    assert predict(model, batch_size=4, resume=True, **again).batch_sizes == (4, 2)
    with pytest.raises(ValueError, match=r"made with other settings \(batch_sizes: \[4, 2\] -> \[8\]\)"):
        predict(model, batch_size=8, resume=True, **again)


def test_where_not_one_sample_fits_any_more_what_is_answered_is_gone_on_with_in_another_batch_size(
    model: Path, dataset: Path, finished: Path, tmp_path: Path, room: dict[str, int]
) -> None:
    again = {"dataset": dataset, "out": tmp_path / "p.jsonl", "max_reasoning_tokens": 6}

    def fills_up(done: int, total: int) -> None:
        room["samples"] = 0

    with pytest.raises(ValueError, match=r"for 1 sample at once\. What is answered is kept: go on with --resume"):
        predict(model, batch_size=2, progress=fills_up, **again)
    room["samples"] = 1
    done = predict(model, batch_size=1, resume=True, **again)
    assert (done.n, done.n_new, done.batch_sizes) == (5, 3, (2, 1))
    assert [one.text for one in predictions_in(tmp_path / "p.jsonl")] == [one.text for one in predictions_in(finished)]
    assert predict(model, batch_size=1, resume=True, **again).n_new == 0


def test_a_dataset_without_its_images_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", n_train=1, n_test=3)
    for image in (data / "images").rglob("test-*/CAM_F0.jpg"):
        image.unlink()
    for image in (data / "images" / "test-2").glob("*.jpg"):
        image.write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"None of 3 samples can be read\. Sample test-0: the image CAM_F0\.jpg is not there"
    ):
        predict("box", dataset=data, out=tmp_path / "p.jsonl")
    assert not list(tmp_path.glob("p.*"))
