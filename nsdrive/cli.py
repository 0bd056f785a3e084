"""The command line, and the composition root: the one place that knows planners, data_gen and eval.

Every verb imports what it needs when it runs, so `nsdrive --help` needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nsdrive import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. What a user can cause ends in one line on stderr and status 1."""
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        return status
    except (ValueError, OSError) as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"nsdrive {arguments.verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if arguments.debug or (error.name or "").split(".")[0] in ("nsdrive", "planners", "data_gen", "eval"):
            raise
        print(
            f"nsdrive {arguments.verb}: needs the package '{error.name}'. Install it: pip install 'nsdrive[train]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"nsdrive {arguments.verb}: interrupted; go on with --resume", file=sys.stderr)
        return 130


# ---- composition --------------------------------------------------------------------------------------------------


TEACHERS = {  # name -> module:Class. A new planner is one file in planners/ and one line here
    "idm": "planners.idm:IdmPlanner",
    "pdm_closed": "planners.pdm_closed:PdmClosedPlanner",
    "pdm_lanes": "planners.pdm_lanes:PdmLanesPlanner",
}
PLANNERS = {**TEACHERS, "vla": "planners.vla:VlaPlanner"}  # a model drives; it makes no decisions that it could teach


def planner_table(own: frozenset[str] | None = None) -> Any:
    """PLANNERS and planners by import path (`own`: only these, None for any), as `load_config` wants its choices."""
    from nsdrive.planner_table import PlannerTable

    return PlannerTable(PLANNERS, own)


def planner_factory(chosen: Any) -> Callable[[], Any]:
    """A picklable function without arguments that makes the chosen planner."""
    factory: Callable[[], Any] = planner_table().factory(chosen)
    return factory


def reference_planner() -> Any:
    """Whose progress a generated scene expects of a planner (see `eval.score`): IDM with its own settings."""
    return choose_planner("idm")


def choose_planner(name: str) -> Any:
    """A planner with its own settings, by name or import path."""
    from nsdrive.config import Chosen, build

    return Chosen(name=name, config=build(planner_table()[name], {}))


def load_generate_config(name: str | None, overrides: Sequence[str]) -> Any:
    from data_gen.generate import GenerateConfig
    from nsdrive.config import load_config
    from nsdrive.scenarios.catalogue import source_configs

    choices = {"scenarios": source_configs(), "planner": planner_table()}
    return load_config(GenerateConfig, name, overrides, choices)


def stored_generate_config(dataset: Any, own: frozenset[str] = frozenset(), *, drives: bool = True) -> Any:
    """The settings that a dataset was made with, from its manifest. own: import paths of planners that the user named, for a
    dataset may come from anywhere. drives: whether its planner is wanted; else that of the settings is IDM."""
    from data_gen.generate import GenerateConfig
    from nsdrive.config import build
    from nsdrive.scenarios.catalogue import source_configs

    stored = dict(dataset.manifest["config"])
    if not drives:
        stored["planner"] = "idm"
    return build(GenerateConfig, stored, {"scenarios": source_configs(), "planner": planner_table(own)})


# ---- verbs --------------------------------------------------------------------------------------------------------


def run_generate(a: argparse.Namespace) -> int:
    from data_gen.generate import generate
    from nsdrive.progress import Progress

    config = load_generate_config(a.config, a.overrides)
    with Progress("scenarios") as progress:
        made = generate(
            config,
            planner_factory(config.planner),
            out=a.out,
            workers=a.workers,
            resume=a.resume,
            overwrite=a.overwrite,
            progress=progress,
        )
    for line in made.failures:
        print(f"failed: {line}", file=sys.stderr)
    print(f"{made.folder}: {made.summary()}")
    return 1 if made.failures or made.n_samples == 0 else 0


def run_check(a: argparse.Namespace) -> int:
    from data_gen.check import check
    from nsdrive.dataset import open_dataset
    from nsdrive.progress import Progress

    dataset = open_dataset(a.dataset)
    config = stored_generate_config(dataset, frozenset([a.planner] if a.planner else []))
    with Progress("scenarios") as progress:
        found = check(
            dataset,
            config,
            planner_factory(config.planner),
            source_path=a.source,
            workers=a.workers,
            progress=progress,
        )
    for line in found.problems[: a.show]:
        print(f"wrong: {line}", file=sys.stderr)
    if len(found.problems) > a.show:
        print(f"... and {len(found.problems) - a.show} more", file=sys.stderr)
    print(found.summary())
    return 1 if found.problems else 0


def run_show(a: argparse.Namespace) -> int:
    from data_gen.show import show

    shown = show(a.scenario, planner_factory(choose_planner(a.planner)), rig=a.rig, at_s=a.at, seed=a.seed, out=a.out)
    print(shown.text)
    print(f"\n{shown.scenario_id} ({shown.scenario_type}): " + ", ".join(str(p) for p in shown.files))
    return 0


def run_export(a: argparse.Namespace) -> int:
    from data_gen.export import NUPLAN, export, export_nuplan
    from nsdrive.dataset import open_dataset
    from nsdrive.progress import Progress

    if a.format != NUPLAN:
        if a.overrides:
            raise ValueError(f"--format {a.format} takes a dataset and no settings; got '{a.overrides[0]}'")
        for path in export(open_dataset(Path(a.what)), kind=a.format, out=a.out):
            print(path)
        return 0
    config = load_generate_config(a.what, a.overrides)
    with Progress("scenarios") as progress:
        made = export_nuplan(
            config.scenarios,
            planner_factory(config.planner),
            out=a.out,
            resume=a.resume,
            overwrite=a.overwrite,
            progress=progress,
        )
    for line in made.failures:
        print(f"failed: {line}", file=sys.stderr)
    print(
        f"{a.out}: {len(made.rows)} scenarios, {len(made.failures)} failed; data root {a.out}/logs, maps {a.out}/maps"
    )
    return 1 if made.failures or not made.rows else 0


def run_train(a: argparse.Namespace) -> int:
    from nsdrive.config import load_config
    from nsdrive.vla.train import TrainConfig, train

    config = load_config(TrainConfig, a.config, a.overrides)
    summary = train(config, dataset=a.data, out=a.out, resume=a.resume, overwrite=a.overwrite)
    if os.environ.get("RANK", "0") == "0":
        print(summary)
    return 0


def run_predict(a: argparse.Namespace) -> int:
    from nsdrive.progress import Progress
    from nsdrive.vla.infer import predict

    with Progress("samples") as progress:
        done = predict(
            a.model,
            dataset=a.data,
            split=a.split,
            out=a.out,
            batch_size=a.batch_size,
            constrained=not a.unconstrained,
            images=a.images,
            limit=a.limit,
            resume=a.resume,
            trust_remote_code=a.trust_remote_code,
            progress=progress,
        )
    print(done)
    return 0


def run_baseline(a: argparse.Namespace) -> int:
    from eval.baselines import write_baseline
    from nsdrive.dataset import open_dataset

    n = write_baseline(a.name, open_dataset(a.data), split=a.split, out=a.out, overwrite=a.overwrite)
    print(f"{a.out}: {n} predictions of {a.name}")
    return 0


def run_evaluate(a: argparse.Namespace) -> int:
    from eval.evaluate import evaluate, table
    from nsdrive.dataset import open_dataset

    about = dict(pair.split("=", 1) for pair in a.about if "=" in pair)
    results = evaluate(a.predictions, open_dataset(a.data), a.out, split=a.split, about=about, overwrite=a.overwrite)
    print(table(results))
    return 0


def run_report(a: argparse.Namespace) -> int:
    from data_gen.show import scene_painter
    from eval.report.compose import report

    def painter(dataset: Any) -> Any:
        return scene_painter(stored_generate_config(dataset, drives=False))

    print(report(a.runs, a.out, birds_eye=painter, overwrite=a.overwrite))
    return 0


def run_simulate(a: argparse.Namespace) -> int:
    from eval.closed_loop.drive import SimulateConfig, closed_loop
    from nsdrive.config import load_config
    from nsdrive.progress import Progress
    from nsdrive.scenarios.catalogue import source_configs

    choices = {"scenarios": source_configs(), "planner": planner_table()}
    config = load_config(SimulateConfig, a.config, a.overrides, choices)
    with Progress("scenarios") as progress:
        done = closed_loop(
            config,
            planner_factory(config.planner),
            planner_factory(reference_planner()),
            out=a.out,
            workers=a.workers,
            resume=a.resume,
            overwrite=a.overwrite,
            progress=progress,
        )
    for row in done.failures:
        print(f"failed: {row['item']}: {row['error']}", file=sys.stderr)
    print(done.table())
    return 1 if done.failures else 0


def run_demo(a: argparse.Namespace) -> int:
    from nsdrive.dataset import claim_folder, write_atomically
    from nsdrive.demo import steps

    claim_folder(a.out, resume=False, overwrite=a.overwrite, marker="demo.txt")
    lines = steps(a.out, workers=a.workers)
    write_atomically(a.out / "demo.txt", "".join(f"nsdrive {shlex.join(argv)}\n" for argv in lines))
    for argv in lines:
        print("\n$ nsdrive " + shlex.join(argv), flush=True)
        status = main([*(["--debug"] if a.debug else []), *argv])
        if status:
            return status
    return 0


# ---- arguments ----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; every verb's help ends with an example."""
    parser = argparse.ArgumentParser(prog="nsdrive", description="Rule-grounded driving data, training and evaluation.")
    parser.add_argument("--version", action="version", version=f"nsdrive {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback where there would be one line")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], help: str, example: str) -> argparse.ArgumentParser:
        p = verbs.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example:\n  nsdrive {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=run)
        return p

    def output(p: argparse.ArgumentParser, *, resume: bool = True) -> None:
        p.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="where to write; an existing one is refused"
        )
        if resume:
            p.add_argument("--resume", action="store_true", help="go on where a stopped run left off")
        p.add_argument("--overwrite", action="store_true", help="replace an earlier output")

    def configured(p: argparse.ArgumentParser) -> None:
        p.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of one that comes with nsdrive")
        p.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")

    def workers(p: argparse.ArgumentParser) -> None:
        p.add_argument(
            "--workers", type=int, default=1, metavar="N", help="processes; the output is the same for any N"
        )

    def split(p: argparse.ArgumentParser) -> None:
        p.add_argument("--data", type=Path, required=True, metavar="DATASET")
        p.add_argument("--split", default="test", choices=["train", "val", "test"])

    p = verb("demo", run_demo, "the whole pipeline, small, on this machine", "demo --out out/demo")
    p.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    p.add_argument("--workers", type=int, default=2, metavar="N")

    p = verb(
        "show",
        run_show,
        "pictures, trace and text of one scenario",
        "show red_light --rig 8 --out out/show\n  nsdrive show /data/argoverse2/sensor/LOG --out out/show",
    )
    p.add_argument(
        "scenario", metavar="SCENARIO", help="a family (red_light), a generated scenario's id, or a log's path"
    )
    p.add_argument(
        "--planner", default="idm", metavar="NAME", help=f"{', '.join(TEACHERS)}, or module:Class of your own"
    )
    p.add_argument("--rig", default="3", choices=["3", "8"])
    p.add_argument("--at", type=float, default=2.0, metavar="SECONDS", help="the anchor's time in the scenario")
    p.add_argument("--seed", type=int, default=0, help="for a family: which of its scenes")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")

    p = verb(
        "generate",
        run_generate,
        "scenarios x planner -> a checked dataset folder",
        "generate data/synthetic scenarios.n_scenarios=100 --out out/data --workers 8",
    )
    configured(p)
    output(p)
    workers(p)

    p = verb("check", run_check, "replay every trace, recompute every fact, verify every image", "check out/data")
    p.add_argument("dataset", type=Path, metavar="DATASET")
    p.add_argument(
        "--planner", metavar="module:Class", help="confirm the import of a dataset's planner from outside nsdrive"
    )
    p.add_argument("--source", type=Path, metavar="PATH", help="where the real logs lie now, if they were moved")
    p.add_argument("--show", type=int, default=20, metavar="N", help="how many problems to print")
    workers(p)

    p = verb(
        "export",
        run_export,
        "a dataset in the shape another trainer reads, or scenarios as nuPlan logs and maps",
        "export out/data --format llama-factory --out out/lf\n"
        "  nsdrive export data/synthetic scenarios.n_scenarios=20 --format nuplan --out out/nuplan",
    )
    p.add_argument(
        "what", metavar="DATASET|CONFIG", help="a dataset; for nuplan a config with scenarios, as for generate"
    )
    p.add_argument("overrides", nargs="*", metavar="key=value", help="for nuplan: settings that win over the config's")
    p.add_argument("--format", required=True, choices=["json-list", "llama-factory", "nuplan"])
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--resume", action="store_true", help="for nuplan: go on where a stopped run left off")
    p.add_argument("--overwrite", action="store_true", help="for nuplan: replace an earlier export")

    p = verb(
        "train",
        run_train,
        "fine-tune a Qwen-class VLA on a dataset",
        "train train/qwen3_5_4b_lora --data out/data --out out/run\n"
        "  torchrun --nproc_per_node 8 -m nsdrive.cli train train/qwen3_5_4b_sft --data out/data --out out/run",
    )
    configured(p)
    p.add_argument("--data", type=Path, required=True, metavar="DATASET")
    output(p)
    p.add_argument("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)  # the deepspeed launcher passes it

    p = verb(
        "predict",
        run_predict,
        "a model's answers for every sample of a split",
        "predict --model out/run/model --data out/data --out out/run/predictions.jsonl",
    )
    p.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID")
    split(p)
    p.add_argument("--out", type=Path, required=True, metavar="FILE")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--batch-size", type=int, default=8)
    p.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N samples")
    p.add_argument("--unconstrained", action="store_true", help="free decoding: answers may fail to parse")
    p.add_argument(
        "--images", default="real", choices=["real", "black"], help="black: what the model does without eyes"
    )
    p.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a hub checkpoint")

    p = verb(
        "baseline",
        run_baseline,
        "predictions of a baseline that needs no model",
        "baseline blind_idm --data out/data --out out/blind_idm.jsonl",
    )
    p.add_argument("name", metavar="NAME", help="constant_velocity, constant_acceleration, blind_idm, oracle, ...")
    split(p)
    p.add_argument("--out", type=Path, required=True, metavar="FILE")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier file")

    p = verb(
        "evaluate",
        run_evaluate,
        "predictions -> results.json",
        "evaluate --predictions a.jsonl b.jsonl --data out/data --out out/eval",
    )
    p.add_argument("--predictions", type=Path, nargs="+", required=True, metavar="FILE")
    split(p)
    output(p, resume=False)
    p.add_argument(
        "--about", nargs="*", default=[], metavar="NAME=TEXT", help="a line for the report on what made a file"
    )

    p = verb(
        "simulate",
        run_simulate,
        "closed loop: a planner or a model in the driver's seat",
        "simulate simulate/synthetic scenarios.n_scenarios=32 --out out/closed_loop\n"
        "  nsdrive simulate simulate/synthetic planner=vla planner.model=out/run/model --out out/vla_closed_loop",
    )
    configured(p)
    output(p)
    workers(p)

    p = verb(
        "report", run_report, "one or several evaluations side by side, as HTML", "report out/eval --out out/report"
    )
    p.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    output(p, resume=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
