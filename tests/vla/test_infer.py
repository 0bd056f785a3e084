from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from predictions import predictions_in

from nsdrive.dataset import open_dataset
from nsdrive.vla import infer
from nsdrive.vla.data.encoding import Encoded
from nsdrive.vla.infer import predict
from nsdrive.vla.inference.engine import Said, Texts
from nsdrive.vla.inference.predictor import Predictor

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
