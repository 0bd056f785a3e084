"""The command line, and the composition root: the one place that knows planners, data_gen and eval.

Every verb imports what it needs when it runs, so `nsdrive --help` needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nsdrive import arguments
from nsdrive.counted import counted
from nsdrive.vla.verbs import run_pack, run_predict, run_quiz, run_train

GO_ON = "; go on with --resume"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. What a user can cause ends in one line on stderr and status 1."""
    typed = arguments.parse(build_parser(), argv)
    try:
        status: int = typed.run(typed)
        return status
    except (ValueError, OSError) as error:
        if typed.debug:
            traceback.print_exc()
        is_kept = isinstance(error, ChildProcessError) and hasattr(typed, "resume")
        print(f"nsdrive {typed.verb}: {_one_line(error)}{GO_ON if is_kept else ''}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if typed.debug or (error.name or "").split(".")[0] in ("nsdrive", "planners", "data_gen", "eval"):
            raise
        print(
            f"nsdrive {typed.verb}: needs the package '{error.name}'. Install it: pip install 'nsdrive[train]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"nsdrive {typed.verb}: interrupted{GO_ON if hasattr(typed, 'resume') else ''}", file=sys.stderr)
        return 130


def _one_line(error: Exception) -> str:
    """What went wrong, without what could steer a terminal: names in it may be a stranger's."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(error).split()))


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


def weights_of(chosen: Any) -> str | None:
    """What tells the training of the model that drives from another; None of a planner that is no model, and of a hub id."""
    if planner_table().path(chosen.name) != PLANNERS["vla"] or chosen.config.model is None:
        return None
    from nsdrive.vla.fingerprint import fingerprint_of

    return fingerprint_of(chosen.config.model)


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
    dataset may come from anywhere. drives: whether its planner is wanted; else that of the settings is IDM. ValueError where it has
    none."""
    from data_gen.generate import GenerateConfig
    from nsdrive.config import build
    from nsdrive.scenarios.catalogue import source_configs

    stored = dataset.manifest.get("config")
    if not isinstance(stored, dict):
        raise ValueError(
            f"{dataset.folder}/manifest.json does not say what the dataset was made with: it has no config"
        )
    stored = dict(stored)
    if not drives:
        stored["planner"] = "idm"
    return build(GenerateConfig, stored, {"scenarios": source_configs(), "planner": planner_table(own)})


def scenario_loader(dataset: Any) -> Callable[[Any], Any]:
    """sample -> its scenario, loaded or generated again, and edited where the sample's was."""
    from data_gen.pairs import scenario_of
    from nsdrive.scenarios.catalogue import open_source

    scenarios = stored_generate_config(dataset, drives=False).scenarios
    return partial(scenario_of, open_source(scenarios.name, scenarios.config))


def scenes_at_hand(dataset: Any) -> Callable[[Any], Any] | None:
    """`scenario_loader`, None where the dataset's logs are not on this machine or it does not say what it was made from."""
    try:
        return scenario_loader(dataset)
    except (ValueError, OSError, KeyError):
        return None


def plan_scorer(dataset: Any) -> Any:
    """What drives a plan through the scene of its sample."""
    from eval.closed_loop.pdms import make_plan_scorer

    if not hasattr(dataset, "manifest"):
        raise ValueError("--pdms needs --data DATASET: a plan is driven through the scene of its sample")
    return make_plan_scorer(scenario_loader(dataset))


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


def run_derive(a: argparse.Namespace) -> int:
    from data_gen.derive import derive
    from nsdrive.dataset import open_dataset
    from nsdrive.progress import Progress

    dataset = open_dataset(a.dataset)
    config = stored_generate_config(dataset, frozenset([a.planner] if a.planner else [])) if a.rig else None
    with Progress("shards") as progress:
        made = derive(
            dataset,
            a.out,
            trace_level=a.trace_level,
            rig=a.rig,
            config=config,
            make_planner=None if config is None else planner_factory(config.planner),
            workers=a.workers,
            resume=a.resume,
            overwrite=a.overwrite,
            progress=progress,
        )
    print(f"{made.folder}: {made.summary()}")
    return 0


def run_check(a: argparse.Namespace) -> int:
    from data_gen.check import check
    from nsdrive.dataset import is_perception, open_dataset
    from nsdrive.progress import Progress

    dataset = open_dataset(a.dataset)
    if is_perception(dataset):
        return _check_questions(a, dataset)
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
    return _verdict(found.problems, found.summary(), show=a.show)


def _check_questions(a: argparse.Namespace, dataset: Any) -> int:
    """Questions about images: --source is the dataset that they are from."""
    from data_gen.perception_check import check_perception
    from nsdrive.dataset import open_dataset
    from nsdrive.progress import Progress

    source = None if a.source is None else open_dataset(a.source)
    scenes = None if source is None else scenes_at_hand(source)
    with Progress("shards") as progress:
        found = check_perception(dataset, source=source, scenes=scenes, workers=a.workers, progress=progress)
    return _verdict(found.problems, found.summary(), show=a.show)


def _verdict(problems: Sequence[str], summary: str, *, show: int) -> int:
    for line in problems[:show]:
        print(f"wrong: {line}", file=sys.stderr)
    if len(problems) > show:
        print(f"... and {len(problems) - show} more", file=sys.stderr)
    print(summary)
    return 1 if problems else 0


def run_show(a: argparse.Namespace) -> int:
    from data_gen.show import show

    shown = show(a.scenario, planner_factory(choose_planner(a.planner)), rig=a.rig, at_s=a.at, seed=a.seed, out=a.out)
    print(shown.text)
    print(f"\n{shown.scenario_id} ({shown.scenario_type}): " + ", ".join(str(p) for p in shown.files))
    return 0


def run_edit(a: argparse.Namespace) -> int:
    from data_gen.edit_show import show_edit

    edits = getattr(a, "edits", ())
    if not edits:
        raise ValueError("nothing to change: give --remove lead, --light green, --add pedestrian@12m or another change")
    make_planner = planner_factory(choose_planner(a.planner))
    shown = show_edit(
        a.scenario, edits, make_planner, rig=a.rig, at_s=a.at, seed=a.seed, out=a.out, overwrite=a.overwrite
    )
    print("\n".join(shown.lines))
    print("\n" + ", ".join(str(path) for path in shown.files))
    return 0


def run_export(a: argparse.Namespace) -> int:
    from data_gen.export import NUPLAN, export, export_nuplan
    from nsdrive.dataset import open_dataset
    from nsdrive.progress import Progress

    if a.format != NUPLAN:
        if a.overrides:
            raise ValueError(f"--format {a.format} takes a dataset and no settings; got '{a.overrides[0]}'")
        if a.resume:
            raise ValueError(
                f"--resume is for --format {NUPLAN}; --format {a.format} is quickly made anew: --overwrite"
            )
        for path in export(open_dataset(Path(a.what)), kind=a.format, out=a.out, overwrite=a.overwrite):
            print(path)
        return 0
    config = load_generate_config(a.what, a.overrides)
    with Progress("scenarios") as progress:
        made = export_nuplan(
            config.scenarios,
            config.planner,
            planner_factory(config.planner),
            out=a.out,
            resume=a.resume,
            overwrite=a.overwrite,
            progress=progress,
        )
    for line in made.failures:
        print(f"failed: {line}", file=sys.stderr)
    print(
        f"{a.out}: {counted(len(made.rows), 'scenario')}, {len(made.failures)} failed; data root {a.out}/logs, maps {a.out}/maps"
    )
    return 1 if made.failures or not made.rows else 0


def run_baseline(a: argparse.Namespace) -> int:
    from eval.open_loop.baselines import write_baseline
    from nsdrive.dataset import open_drives

    n = write_baseline(a.name, open_drives(a.data), split=a.split, out=a.out, overwrite=a.overwrite)
    print(f"{a.out}: {counted(n, 'prediction')} of {a.name}")
    return 0


def run_probe(a: argparse.Namespace) -> int:
    from eval.faithfulness.causal.probes import from_answers, run_probes, write_stage
    from nsdrive.dataset import open_drives
    from nsdrive.progress import Progress

    who = [f"--{name}" for name in ("model", "planted", "answers") if getattr(a, name) is not None]
    if a.write_questions and who not in ([], ["--answers"]):
        raise ValueError(f"--write-questions asks nobody: leave {' and '.join(who)} out")
    if not a.write_questions and len(who) != 1:
        raise ValueError("who answers? Give one of --model, --planted and --answers")
    if a.questions and (a.write_questions or not a.answers):
        raise ValueError("--questions goes with --answers, the files that answer them")
    if a.resume and (a.write_questions or a.answers):
        raise ValueError(
            "--resume goes with --model or --planted; what is only written is soon written anew: --overwrite"
        )
    if (a.unconstrained or a.trust_remote_code) and not a.model:
        raise ValueError("--unconstrained and --trust-remote-code are of a model: give --model")
    if a.limit is not None and a.answers and not a.write_questions:
        raise ValueError("--limit goes with the questions: all that --questions asks is joined with its answer")
    dataset = open_drives(a.data)
    if a.write_questions:
        print(write_stage(dataset, a.split, a.out, a.answers, limit=a.limit, overwrite=a.overwrite))
        return 0
    if a.answers:
        if not a.questions:
            raise ValueError("--answers needs the files that --write-questions wrote: --questions FILE [FILE ...]")
        print(from_answers(a.questions, a.answers, a.out, overwrite=a.overwrite))
        return 0
    with Progress("questions") as progress:
        answer: Any
        weights: str | None = None
        if a.planted:
            from eval.faithfulness.planted.predictors import answerer as planted_answerer

            answer = planted_answerer(a.planted, dataset, a.split, seed=a.seed)
        else:
            from nsdrive.vla.answering import answerer
            from nsdrive.vla.fingerprint import fingerprint_of

            weights = fingerprint_of(a.model)
            answer = answerer(
                a.model,
                a.data,
                batch_size=a.batch_size,
                constrained=not a.unconstrained,
                trust_remote_code=a.trust_remote_code,
                allow_slow_kernels=a.allow_slow_kernels,
            )
        print(
            run_probes(
                dataset,
                a.split,
                answer,
                a.out,
                resume=a.resume,
                overwrite=a.overwrite,
                limit=a.limit,
                settings={
                    "model": a.model,
                    "weights": weights,
                    "planted": a.planted,
                    "seed": a.seed,
                    "unconstrained": a.unconstrained,
                },
                progress=progress,
            )
        )
    return 0


def run_evaluate(a: argparse.Namespace) -> int:
    from eval.evaluate import evaluate, table
    from nsdrive.dataset import open_drives
    from nsdrive.progress import Progress

    if not a.predictions and not a.probes:
        raise ValueError("nothing to evaluate: give --predictions FILE ... or --probes FILE ...")
    about = dict(_about(pair) for pair in a.about)
    probes = _by_name(a.probes)
    dataset = a.data if a.data is None or a.data.is_file() else open_drives(a.data)
    with Progress("samples") as progress:
        results = evaluate(
            a.predictions,
            dataset,
            a.out,
            split=a.split,
            about=about,
            overwrite=a.overwrite,
            reasoning=not a.no_reasoning,
            workers=a.workers,
            probes=probes,
            plan_scorer=plan_scorer(dataset) if a.pdms else None,
            progress=progress,
        )
    print(table(results))
    if results["validation"] is not None:
        from eval.faithfulness.planted.validation import table as validation_table

        print("\n" + validation_table(results["validation"]))
    return 0


def _about(pair: str) -> tuple[str, str]:
    """ "tiny=three minutes of training" -> the name of a file and the line about it."""
    name, is_given, words = pair.partition("=")
    if not is_given or not name:
        raise ValueError(f"--about '{pair[:80]}': write NAME=TEXT, the name being that of a file without .jsonl")
    return name, words


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by their names without .jsonl. ValueError for two of one name: only one of them would be seen."""
    named: dict[str, Path] = {}
    for path in paths:
        if named.setdefault(path.stem, path) is not path:
            raise ValueError(f"Two probes files are called '{path.stem}': rename one of {named[path.stem]} and {path}")
    return named


def run_report(a: argparse.Namespace) -> int:
    from eval.report.compose import report

    print(report(a.runs, a.out, scenes=scenario_loader, rerun=a.rerun, overwrite=a.overwrite))
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
            weights=weights_of(config.planner),
            progress=progress,
        )
    for row in done.failures:
        print(f"failed: {row['item']}: {row['error']}", file=sys.stderr)
    print(done.table())
    return 1 if done.failures else 0


def run_demo(a: argparse.Namespace) -> int:
    from nsdrive.dataset import write_atomically
    from nsdrive.demo import steps
    from nsdrive.output_folder import claim_folder

    claim_folder(a.out, resume=False, overwrite=a.overwrite, marker="demo.txt")
    lines = steps(a.out, workers=a.workers)
    write_atomically(a.out / "demo.txt", "".join(f"nsdrive {shlex.join(argv)}\n" for argv in lines))
    for argv in lines:
        print("\n$ nsdrive " + shlex.join(argv), flush=True)
        status = main([*(["--debug"] if a.debug else []), *argv])
        if status:
            return status
    return 0


def run_perceive(a: argparse.Namespace) -> int:
    from data_gen.perception import perceive
    from nsdrive.dataset import open_dataset
    from nsdrive.progress import Progress

    dataset = open_dataset(a.dataset)
    with Progress("shards") as progress:
        made = perceive(
            dataset,
            a.out,
            per_image=a.per_image,
            seed=a.seed,
            scenes=scenes_at_hand(dataset),
            workers=a.workers,
            resume=a.resume,
            overwrite=a.overwrite,
            progress=progress,
        )
    print(f"{made.folder}: {made.summary()}")
    return 0


def run_ablation(a: argparse.Namespace) -> int:
    from eval.ablation.collect import collect
    from eval.ablation.page import write_results
    from eval.ablation.words import table
    from nsdrive.ablation import AblationConfig, begin, steps
    from nsdrive.config import load_config
    from nsdrive.stepwise import run_steps, spent_by

    config = load_config(AblationConfig, a.config, a.overrides)
    load_generate_config(config.data, config.data_overrides)  # what is wrong with it is said before anything is begun
    begin(config, a.out, resume=a.resume, overwrite=a.overwrite)
    wanted = steps(config, a.out)
    status = run_steps(wanted, a.out, at_once=config.at_once)
    if status:
        return status
    results = collect(config, a.out, spent=spent_by(wanted, a.out))
    page = write_results(results, a.out)
    print(f"\n{config.about}\n\n{table(results)}\n\n{page}")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": run_demo,
    "ablation": run_ablation,
    "show": run_show,
    "edit": run_edit,
    "generate": run_generate,
    "derive": run_derive,
    "perceive": run_perceive,
    "pack": run_pack,
    "quiz": run_quiz,
    "check": run_check,
    "export": run_export,
    "train": run_train,
    "predict": run_predict,
    "baseline": run_baseline,
    "probe": run_probe,
    "evaluate": run_evaluate,
    "simulate": run_simulate,
    "report": run_report,
}


def build_parser() -> argparse.ArgumentParser:
    return arguments.build_parser(VERBS, teachers=list(TEACHERS))


if __name__ == "__main__":
    sys.exit(main())
