"""Two data sets in one training: shares, order, resume, and what is refused."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nsdrive.dataset import FORMAT_VERSION, MANIFEST, PERCEPTION, json_line, open_dataset, sha256_of, write_atomically
from nsdrive.vla.data.batch import collate
from nsdrive.vla.data.encoding import PERCEIVING, PLANNING, encode
from nsdrive.vla.data.mixture import Mixture, taken
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.data.shards import pack
from nsdrive.vla.model import load_processor
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.losses import Objective
from nsdrive.vla.training.samples_seen import entries_of_epoch, questions_of, schedule_of


class Named:
    """Entry k of `name` is (name, k)."""

    def __init__(self, name):
        self.name = name

    def __getitem__(self, k):
        return (self.name, k)


def mixed(*, share=0.3, global_batch=8, n_batches=40, spread=False):
    first, second = Named("drive"), Named("question")
    mixture = Mixture(
        first, second, global_batch=global_batch, share=share, n_samples=n_batches * global_batch, spread=spread
    )
    return [mixture[k] for k in range(len(mixture))]


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(("share", "global_batch"), [(0.3, 8), (0.5, 1), (0.1, 4), (0.999, 6)])
def test_every_entry_of_both_comes_once_and_in_order_and_every_batch_has_its_share(share, global_batch, spread):
    entries = mixed(share=share, global_batch=global_batch, spread=spread)
    for name, n in zip(("drive", "question"), taken(40, global_batch, share), strict=True):
        assert [k for who, k in entries if who == name] == list(range(n))
    assert taken(40, global_batch, share).second == int(40 * global_batch * share)
    batches = [entries[k : k + global_batch] for k in range(0, len(entries), global_batch)]
    counts = [sum(name == "question" for name, _ in batch) for batch in batches]
    assert max(counts) - min(counts) <= 1
    assert all(abs(n - share * global_batch) < 1.0 for n in counts)


def test_questions_come_first_in_a_batch_or_are_spread_over_it():
    def places(spread):
        return [k for k, (name, _) in enumerate(mixed(share=0.25, n_batches=1, spread=spread)) if name == "question"]

    assert places(spread=False) == [0, 1]
    assert all(b - a == 4 for a, b in pairwise(places(spread=True)))


@pytest.fixture(scope="module")
def questions(dataset, tmp_path_factory):
    """Questions about the images of the small data set: answered in one word."""
    folder = tmp_path_factory.mktemp("seen")
    rows = []
    for k, (_, drive) in enumerate(open_dataset(dataset).rows("train")):
        name = drive["images"][k % 3]
        write_atomically(folder / name, (dataset / name).read_bytes())
        rows.append(
            {
                "id": f"{drive['id']}:question",
                "trace_level": PERCEPTION,
                "images": [name],
                "messages": [
                    {"role": "user", "content": "front camera: <image>\nHow many vehicles?"},
                    {"role": "assistant", "content": str(k)},
                ],
            }
        )
    write_atomically(folder / "train-00000.jsonl", "".join(map(json_line, rows)))
    files = {name: sha256_of(folder / name) for name in ["train-00000.jsonl", *(row["images"][0] for row in rows)]}
    manifest = {"format_version": FORMAT_VERSION, "kind": PERCEPTION, "files": files, "samples": len(rows)}
    write_atomically(folder / MANIFEST, json.dumps(manifest))
    return folder


def test_a_training_sees_its_share_of_questions_and_a_resumed_one_the_same(dataset, questions, model):
    config = TrainConfig(co_data=str(questions), co_share=0.5, min_image_pixels=1024, max_image_pixels=2048)
    rows, processor = Rows(open_dataset(dataset), "train"), load_processor(model, min_pixels=1024, max_pixels=2048)
    whole = schedule_of(config, rows, processor, n_samples=24, global_batch=4)
    parts = [set(whole[k].parts.tolist()) - {0} for k in range(8)]
    assert [PERCEIVING in part for part in parts] == [True, True, False, False] * 2
    assert all(PLANNING in part for k, part in enumerate(parts) if k % 4 > 1)
    assert {whole[k].sample_id for k in range(24) if k % 4 < 2} == {f"train-{k}:question" for k in range(12)}
    resumed = schedule_of(config, rows, processor, n_samples=24, global_batch=4)
    assert [resumed[k].sample_id for k in range(20, 24)] == [whole[k].sample_id for k in range(20, 24)]
    assert entries_of_epoch(config, len(rows)) == 24
    assert schedule_of(replace(config, co_data=None), rows, processor, n_samples=24, global_batch=4)[0].sample_id


def test_questions_may_be_packed(dataset, questions, model, tmp_path):
    pack(questions, tmp_path / "packed", samples_per_shard=5)
    config = TrainConfig(co_data=str(tmp_path / "packed"), co_share=0.5, min_image_pixels=1024, max_image_pixels=2048)
    rows, processor = Rows(open_dataset(dataset), "train"), load_processor(model, min_pixels=1024, max_pixels=2048)
    mixed = schedule_of(config, rows, processor, n_samples=24, global_batch=4)
    of_questions = [mixed[k] for k in range(24) if k % 4 < 2]
    assert {one.sample_id for one in of_questions} == {f"train-{k}:question" for k in range(12)}
    assert all(one.patches is not None and PERCEIVING in one.parts for one in of_questions)
    pack(dataset, tmp_path / "drives", samples_per_shard=5)
    with pytest.raises(ValueError, match="holds drives, not questions about images"):
        questions_of(replace(config, co_data=str(tmp_path / "drives")))


def test_what_cannot_be_learnt_from_beside_the_drives_is_refused_in_one_line(dataset, tmp_path):
    with pytest.raises(ValueError, match="holds drives, not questions about images"):
        questions_of(TrainConfig(co_data=str(dataset)))
    with pytest.raises(FileNotFoundError, match="No dataset folder"):
        questions_of(TrainConfig(co_data=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="co_share must be between 0 and 1"):
        TrainConfig(co_data="somewhere", co_share=1.0)
    assert questions_of(TrainConfig()) is None


def test_an_answer_about_images_weighs_what_co_weight_says(dataset, questions, model):
    """Of two answers in a batch the loss is the mean over tokens, those about images counted so many times."""
    processor = load_processor(model, min_pixels=1024, max_pixels=2048)
    drive, question = (
        encode(processor, Rows(open_dataset(folder), "train")[0], with_answer=True) for folder in (dataset, questions)
    )
    both = collate([drive, question], processor)
    n_drive, n_question = (int((item.labels != -100).sum()) for item in (drive, question))
    torch.manual_seed(0)
    logits = torch.randn(n_drive + n_question, len(processor.tokenizer))
    means = []
    for weight in (1.0, 5.0):
        objective = Objective(processor.tokenizer, co_weight=weight)
        parts = objective.parts(logits, None, both)
        means.append(float(objective.loss(parts, objective.totals(both))))
    alone = [
        float(torch.nn.functional.cross_entropy(rows, item.labels[item.labels != -100]))
        for rows, item in zip(logits.split([n_drive, n_question]), (drive, question), strict=True)
    ]
    for weight, mean in zip((1.0, 5.0), means, strict=True):
        expected = (n_drive * alone[0] + weight * n_question * alone[1]) / (n_drive + weight * n_question)
        assert mean == pytest.approx(expected, rel=1e-5)
