"""The paper's ablation: does reasoning in front of the waypoints lower their error, everything else being equal?

One data set is generated once, by eight cameras and with detailed texts. Every cell, a trace level and a rig, is derived from
it: the same scenes, moments, pictures and waypoints. In every cell the same small model is trained, once for each seed, for the
same steps on the same samples in the same order, and answers the same held-out scenes, as it is and under controls. What is
typed for that, in the order in which one thing needs another:

    steps(config, Path("out/ablation"))[0]
    -> Step(name="data", lines=(("generate", "data/synthetic", ..., "--out", "out/ablation/data/8-detailed"),), after=())

    OUT/
        ablation_config.json    the resolved settings
        steps/NAME.json         a step that is done, with its lines and seconds; --resume skips it
        logs/NAME.txt           what it printed
        data/RIG-LEVEL/         the cells' data sets
        runs/CELL-sSEED/        the trainings
        predictions/            CELL-sSEED.text.jsonl, .text.black.jsonl, .head.jsonl, ...
        evaluation/             all of them against the same labels (`nsdrive evaluate`)
        ablation.json, ablation.md, ablation.html       the table and its curves (`eval.ablation`)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nsdrive.arguments import CONTROLS
from nsdrive.config import did_you_mean, find_config, load_config, to_plain
from nsdrive.output_folder import claim_folder, settle
from nsdrive.vla.training.config import TrainConfig

Level = Literal["none", "brief", "detailed"]
RigName = Literal["3", "8"]
SETTINGS = "ablation_config.json"
FREE = ("about", "at_once", "workers")  # of the settings: these change no result
Line = tuple[str, ...]  # of the command line, without "nsdrive"
WHOLE_RIG, WHOLE_LEVEL = "8", "detailed"  # all other cells are parts of it
LENGTH = {"none": 1, "brief": 2, "detailed": 4}  # of an answer, roughly: what takes longest is begun first


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One cell trained otherwise, to find out why a result is as it is."""

    name: str
    level: Level
    rig: RigName
    overrides: tuple[str, ...]  # of the training's settings, over all others
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Data, cells, training, and what every run is asked."""

    about: str = ""  # one line: what is trained on what; stands above the table
    data: str = "data/synthetic"  # a config of `generate`
    data_overrides: tuple[str, ...] = ()
    levels: tuple[Level, ...] = ("none", "brief", "detailed")
    rigs: tuple[RigName, ...] = ("3", "8")
    seeds: tuple[int, ...] = (0, 1, 2)
    train: str = "train/tiny_demo"  # a config of `train`
    train_overrides: tuple[str, ...] = ()
    # Train a common start first, once a rig and seed, on the detailed texts: the same weights and words under every level
    start_overrides: tuple[str, ...] | None = None
    variants: tuple[Variant, ...] = ()
    head: bool = False  # the runs have a trajectory head: it is asked as well
    controls: tuple[str, ...] = ("black",)  # of nsdrive.questions: asked of every run's text, "black" of its head too
    batch_size: int = 64
    workers: int = 2  # processes that make data
    at_once: int = 2  # steps side by side

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        for what, values in (("levels", self.levels), ("rigs", self.rigs), ("seeds", self.seeds), ("variants", names)):
            if (not values and what != "variants") or len(set(values)) < len(values):
                raise ValueError(
                    f"{what} must be one or more different ones, got {', '.join(map(str, values)) or 'none'}"
                )
        for name in names:
            if not name.replace("_", "").isalnum():
                raise ValueError(f"A variant's name is made of letters, digits and _, got '{name}'")
        for control in self.controls:
            if control not in CONTROLS:
                raise ValueError(f"No control '{control}'. {did_you_mean(control, CONTROLS)}")
        if min(self.at_once, self.workers, self.batch_size) < 1:
            raise ValueError("at_once, workers and batch_size must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training. cell: what it is a seed of."""

    cell: str
    rig: str
    level: str
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.cell}-s{self.seed}"

    @property
    def data(self) -> str:
        return f"{self.rig}-{self.level}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """Command lines that run one after another in one process, once the steps named in `after` are done."""

    name: str
    lines: tuple[Line, ...]
    after: tuple[str, ...] = ()


def steps(config: AblationConfig, out: Path) -> list[Step]:
    """All that is to be run, in an order in which it can be; trainings by their length, so that none is left alone at the end."""
    data = [Step(name=_data_step(WHOLE_RIG, WHOLE_LEVEL), lines=(_generate(config, out),)), *_derived(config, out)]
    starts = _starts(config, out)
    runs = sorted(runs_of(config), key=lambda run: LENGTH[run.level] * (1 + int(run.rig) / 16), reverse=True)
    trained = [_trained(run, config, out) for run in runs]
    files = [
        str(_file(run, name, out)) for run in runs_of(config) for name, _ in asked(config, run.level) if "." not in name
    ]
    labels = str(out / "data" / f"{WHOLE_RIG}-{WHOLE_LEVEL}")
    evaluate = (
        "evaluate",
        "--predictions",
        *files,
        "--data",
        labels,
        "--no-reasoning",
        "--out",
        str(out / "evaluation"),
    )
    last = Step(name="evaluation", lines=(evaluate,), after=tuple(run.name for run in runs))
    return [*data, *starts, *trained, last]


def begin(config: AblationConfig, out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Make `out` ready, and write its settings. ValueError where it is taken, or was begun with others.

    At once too, before minutes are lost: the configs of data and training are found and every override is one of theirs.
    """
    ways = ((), config.start_overrides or (), *(variant.overrides for variant in config.variants))
    for more in (*ways, *((f"seed={seed}",) for seed in config.seeds)):
        load_config(TrainConfig, config.train, (*config.train_overrides, *more))
    find_config(config.data)
    claim_folder(out, resume=resume, overwrite=overwrite, marker=SETTINGS)
    settle(out, SETTINGS, to_plain(config), free=FREE)


def runs_of(config: AblationConfig) -> list[Run]:
    """Every training, cell by cell in the order of the config, seeds together; variants last."""
    cells = [(f"{rig}-{level}", rig, level, ()) for rig in config.rigs for level in config.levels]
    own = [(variant.name, variant.rig, variant.level, variant.overrides) for variant in config.variants]
    return [
        Run(cell=cell, rig=rig, level=level, seed=seed, overrides=overrides)
        for cell, rig, level, overrides in [*cells, *own]
        for seed in config.seeds
    ]


def asked(config: AblationConfig, level: str) -> list[tuple[str, Line]]:
    """What a run is asked: the name of its predictions, and the flags of `predict`. A control is named ANSWER.CONTROL; one that
    is about reasoning is not asked of a model that does none."""
    controls = [each for each in config.controls if level != "none" or each not in OF_REASONING]
    text: list[tuple[str, Line]] = [("text", ()), *((f"text.{each}", ("--control", each)) for each in controls)]
    if not config.head:
        return text
    blind = [("head.black", (*HEAD, "--control", "black"))] if "black" in config.controls else []
    return [*text, ("head", HEAD), *blind]


HEAD = ("--mode", "head")
OF_REASONING = ("no_text", "oracle_text")


# ---- the command lines --------------------------------------------------------------------------------------------------


def _generate(config: AblationConfig, out: Path) -> Line:
    whole = (*config.data_overrides, f"rig={WHOLE_RIG}", f"samples.trace_level={WHOLE_LEVEL}")
    where = ("--out", str(out / "data" / f"{WHOLE_RIG}-{WHOLE_LEVEL}"), "--workers", str(config.workers))
    return ("generate", config.data, *whole, *where)


def _derived(config: AblationConfig, out: Path) -> list[Step]:
    """Each cell's data set: fewer cameras from the whole one, other levels from that of their rig."""
    levels = dict.fromkeys([*config.levels, *(variant.level for variant in config.variants)])
    rigs = dict.fromkeys([*config.rigs, *(variant.rig for variant in config.variants)])
    workers = ("--workers", str(config.workers))
    found = []
    for rig in rigs:
        whole = f"{rig}-{WHOLE_LEVEL}"
        if rig != WHOLE_RIG:
            found.append(_derive(f"{WHOLE_RIG}-{WHOLE_LEVEL}", whole, ("--rig", rig, *workers), out))
        for level in levels:
            if level != WHOLE_LEVEL:
                found.append(_derive(whole, f"{rig}-{level}", ("--trace-level", level, *workers), out))
    return found


def _derive(source: str, name: str, flags: Line, out: Path) -> Step:
    line = ("derive", str(out / "data" / source), *flags, "--out", str(out / "data" / name))
    return Step(name=f"data-{name}", lines=(line,), after=(f"data-{source}",))


def _starts(config: AblationConfig, out: Path) -> list[Step]:
    """The common starts. Their tokenizer has the words of the longest texts, which those of the other levels are made of too."""
    if config.start_overrides is None:
        return []
    found = []
    for rig, seed in dict.fromkeys((run.rig, run.seed) for run in runs_of(config)):
        settings = (*config.train_overrides, *config.start_overrides, f"seed={seed}")
        data = str(out / "data" / f"{rig}-{WHOLE_LEVEL}")
        line = ("train", config.train, *settings, "--data", data, "--out", str(out / "runs" / _start(rig, seed)))
        found.append(Step(name=_start(rig, seed), lines=(line,), after=(_data_step(rig, WHOLE_LEVEL),)))
    return found


def _trained(run: Run, config: AblationConfig, out: Path) -> Step:
    """A training and all its answers."""
    data, folder = ("--data", str(out / "data" / run.data)), out / "runs" / run.name
    after = [_data_step(run.rig, run.level)]
    start: Line = ()
    if config.start_overrides is not None:
        after.append(_start(run.rig, run.seed))
        start = (f"model={out / 'runs' / _start(run.rig, run.seed) / 'model'}",)
    settings = (*config.train_overrides, *start, *run.overrides, f"seed={run.seed}")
    train = ("train", config.train, *settings, *data, "--out", str(folder))
    ask = ("predict", "--model", str(folder / "model"), *data, "--batch-size", str(config.batch_size))
    predict = [(*ask, *flags, "--out", str(_file(run, name, out))) for name, flags in asked(config, run.level)]
    return Step(name=run.name, lines=(train, *predict), after=tuple(after))


def _file(run: Run, name: str, out: Path) -> Path:
    return out / "predictions" / f"{run.name}.{name}.jsonl"


def _data_step(rig: str, level: str) -> str:
    return f"data-{rig}-{level}"


def _start(rig: str, seed: int) -> str:
    return f"start-{rig}-s{seed}"
