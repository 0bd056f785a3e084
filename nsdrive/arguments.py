"""What can be typed: every verb with its help, its example and its flags. It runs nothing and knows nobody."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nsdrive import __version__

Run = Callable[[argparse.Namespace], int]
CONTROLS = ("black", "shuffled", "no_text", "oracle_text")  # nsdrive.vla.infer has them too, but needs torch


def build_parser(runs: Mapping[str, Run], *, teachers: Sequence[str]) -> argparse.ArgumentParser:
    """The whole command line; every verb's help ends with an example. runs: verb -> what it does."""
    parser = argparse.ArgumentParser(prog="nsdrive", description="Rule-grounded driving data, training and evaluation.")
    parser.add_argument("--version", action="version", version=f"nsdrive {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback where there would be one line")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher's, before the verb
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str, *examples: str) -> argparse.ArgumentParser:
        shown = "\n".join(f"  {'' if example.startswith('torchrun') else 'nsdrive '}{example}" for example in examples)
        p = verbs.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example:\n{shown}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=runs[name])
        return p

    p = verb("demo", "the whole pipeline, small, on this machine", "demo --out out/demo")
    p.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    p.add_argument("--workers", type=int, default=2, metavar="N")

    p = verb(
        "ablation",
        "does reasoning help? The same model trained with trace level none, brief, detailed, on 3 and 8 cameras",
        "ablation ablation/cpu --out out/ablation",
        "ablation ablation/gpu --out out/ablation_gpu --resume",
    )
    _configured(p)
    _output(p)

    p = verb(
        "show",
        "pictures, trace and text of one scenario",
        "show red_light --rig 8 --out out/show",
        "show /data/argoverse2/sensor/LOG --out out/show",
    )
    _one_scenario(p, teachers)

    p = verb(
        "edit",
        "one scenario before and after a change: what the planner then sees, says and drives",
        "edit red_light_lead --remove lead --out out/edit",
        "edit red_light_lead --remove lead --light green --out out/edit             # both at once, in this order",
    )
    _one_scenario(p, teachers)
    p.add_argument(
        "--remove",
        action=_Edit,
        metavar="WHAT",
        help="lead; binding (whom the planner minds); pedestrians, vehicles, everyone; or an object by its name in the text",
    )
    p.add_argument("--light", action=_Edit, metavar="COLOUR", help="green, amber or red, on the route")
    p.add_argument(
        "--add",
        action=_Edit,
        metavar="WHAT@DISTANCE",
        help="pedestrian@12m, vehicle@25m: in the way, so far ahead of the bumper; 'cyclist@15m 4mps', 'vehicle@20m beside'",
    )
    p.add_argument("--goal", action=_Edit, metavar="TURN", help="left, right or straight at the next junction")
    p.add_argument(
        "--set",
        action=_Edit,
        metavar="CHANGE",
        help="any other, in quotes: 'speed lead 3' (m/s), 'stop lead', 'gap lead 15m', 'move car-3 2m left'",
    )
    p.add_argument("--overwrite", action="store_true", help="replace earlier pictures")

    p = verb(
        "generate",
        "scenarios x planner -> a checked dataset folder",
        "generate data/synthetic scenarios.n_scenarios=100 --out out/data --workers 8",
        "generate data/pairs --out out/pairs",
    )
    _configured(p)
    _output(p)
    _workers(p)

    p = verb(
        "derive",
        "the same samples at another trace level, or seen by fewer cameras: the bytes that generate would have written",
        "derive out/data --trace-level none --out out/data_none",
        "derive out/data_8 --rig 3 --out out/data_3",
    )
    p.add_argument("dataset", type=Path, metavar="DATASET")
    p.add_argument("--trace-level", choices=["none", "brief", "detailed"], help="from the stored trace")
    p.add_argument("--rig", choices=["3", "8"], help="fewer cameras: the planner drives again, nothing is drawn")
    p.add_argument(
        "--planner", metavar="module:Class", help="confirm the import of a dataset's planner from outside nsdrive"
    )
    _output(p)
    _workers(p)

    p = verb(
        "perceive",
        "short questions and answers about a dataset's images, from what the renderer knows: a dataset of its own",
        "perceive out/data --out out/perception",
    )
    p.add_argument("dataset", type=Path, metavar="DATASET")
    p.add_argument("--per-image", type=int, default=2, metavar="N", help="at most so many questions of an image")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of which questions are chosen")
    _output(p)
    _workers(p)

    p = verb(
        "pack",
        "a dataset as tar shards with their images, for disks that read large files better than many small ones",
        "pack out/data --out out/packed",
    )
    p.add_argument("dataset", type=Path, metavar="DATASET")
    p.add_argument("--samples-per-shard", type=int, default=1000, metavar="N")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of the training samples")
    _output(p)
    _workers(p)

    p = verb(
        "check",
        "replay every trace, recompute every fact, verify every image",
        "check out/data",
        "check out/questions --source out/data",
    )
    p.add_argument("dataset", type=Path, metavar="DATASET")
    p.add_argument(
        "--planner", metavar="module:Class", help="confirm the import of a dataset's planner from outside nsdrive"
    )
    p.add_argument(
        "--source", type=Path, metavar="PATH", help="where the real logs, or a question set's images, lie now"
    )
    p.add_argument("--show", type=int, default=20, metavar="N", help="how many problems to print")
    _workers(p)

    p = verb(
        "export",
        "a dataset in the shape another trainer reads, or scenarios as nuPlan logs and maps",
        "export out/data --format llama-factory --out out/lf",
        "export data/synthetic scenarios.n_scenarios=20 --format nuplan --out out/nuplan",
    )
    p.add_argument(
        "what", metavar="DATASET|CONFIG", help="a dataset; for nuplan a config with scenarios, as for generate"
    )
    p.add_argument("overrides", nargs="*", metavar="key=value", help="for nuplan: settings that win over the config's")
    p.add_argument("--format", required=True, choices=["json-list", "llama-factory", "nuplan"])
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--resume", action="store_true", help="for nuplan: go on where a stopped run left off")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier export")

    p = verb(
        "train",
        "fine-tune a Qwen-class VLA on a dataset",
        "train train/qwen3_5_4b_lora --data out/data --out out/run",
        "train train/qwen3_5_4b_sft --dry-run --gpus 8 --gpu-memory-gb 80",
        "torchrun --nproc_per_node 8 -m nsdrive.cli train train/qwen3_5_4b_sft --data out/data --out out/run",
    )
    _configured(p)
    p.add_argument("--data", type=Path, metavar="DATASET", help="a dataset's folder, or one that nsdrive pack made")
    _output(p, required=False)
    forecast = p.add_argument_group("the forecast alone, before any minute is spent")
    forecast.add_argument(
        "--dry-run", action="store_true", help="print parameters, tokens, steps and memory per GPU, and train nothing"
    )
    forecast.add_argument("--gpus", type=int, default=1, metavar="N", help="how many GPUs the run is to have")
    forecast.add_argument("--gpu-memory-gb", type=float, metavar="G", help="of one GPU, in GiB")
    forecast.add_argument(
        "--cameras", type=int, metavar="N", help="of a sample, where there is no --data yet; 3 where not given"
    )

    p = verb(
        "predict",
        "a model's answers for every sample of a split",
        "predict --model out/run/model --data out/data --out out/run/predictions.jsonl",
        "predict --model out/run/model --data out/data --control black --out out/run/predictions.black.jsonl",
    )
    p.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID")
    _split(p)
    p.add_argument("--out", type=Path, required=True, metavar="FILE")
    p.add_argument("--resume", action="store_true", help="go on where a stopped run left off")
    _decoding(p, batch_size=None)
    p.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N samples")
    p.add_argument(
        "--mode",
        default="full",
        choices=["full", "plan", "head"],
        help="reason, then plan (full); waypoints at once (plan); from the trajectory head in one forward (head)",
    )
    p.add_argument(
        "--best-of",
        type=int,
        default=1,
        metavar="N",
        help="draw N answers, take the one whose waypoints do what its own text says",
    )
    p.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0: the likeliest tokens; else drawn (0.7 where --best-of is above 1)",
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn")
    p.add_argument("--max-reasoning-tokens", type=int, metavar="N", help="the text is ended after so many")
    p.add_argument(
        "--engine",
        default="transformers",
        choices=["transformers", "vllm"],
        help="what generates; vllm has to be installed",
    )
    p.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs that share one model, for vllm")
    p.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, one for each GPU; the rows are those of one"
    )
    p.add_argument(
        "--control",
        default="none",
        choices=["none", *CONTROLS],
        help="the same model without eyes (black), with another scene's images (shuffled), without reasoning (no_text), "
        "or with the label's reasoning put into its mouth (oracle_text)",
    )

    p = verb(
        "quiz",
        "how well a model sees: its answers to questions about images, beside guessing",
        "quiz --model out/run --data out/questions --limit 500",
    )
    p.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID")
    _split(p)
    p.add_argument("--limit", type=int, metavar="N", help="only so many, of all topics")
    p.add_argument("--batch-size", type=int, default=16, metavar="N", help="questions that the model sees at once")
    _checkpoint(p)

    p = verb(
        "baseline",
        "predictions of a baseline that needs no model",
        "baseline blind_idm --data out/data --out out/blind_idm.jsonl",
    )
    p.add_argument("name", metavar="NAME", help="constant_velocity, constant_acceleration, blind_idm, oracle, ...")
    _split(p)
    p.add_argument("--out", type=Path, required=True, metavar="FILE")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier file")

    p = verb(
        "probe",
        "is the reasoning the cause? Questions on minimal pairs, and the answers",
        "probe --planted faithful --data out/pairs --out out/planted/faithful.jsonl",
        "probe --model out/run/model --data out/pairs --out out/run/probes.jsonl",
        "probe --write-questions --data out/pairs --out questions.jsonl           # for a model elsewhere; with its answers",
        "probe --write-questions --answers a.jsonl --data out/pairs --out more.jsonl  # the next questions; at last",
        "probe --questions questions.jsonl more.jsonl --answers a.jsonl b.jsonl --data out/pairs --out probes.jsonl",
    )
    who = p.add_argument_group("who answers")
    who.add_argument("--model", metavar="DIR_OR_HUB_ID")
    who.add_argument(
        "--planted", metavar="NAME", help="a predictor whose faithfulness is known: faithful, shuffled_text, ..."
    )
    who.add_argument(
        "--answers", type=Path, nargs="+", metavar="FILE", help="rows like predictions.jsonl, ids the questions'"
    )
    p.add_argument(
        "--questions", type=Path, nargs="+", metavar="FILE", help="with --answers: the questions that they answer"
    )
    p.add_argument("--write-questions", action="store_true", help="write what is to be asked, instead of asking")
    _split(p)
    p.add_argument("--out", type=Path, required=True, metavar="FILE")
    p.add_argument("--resume", action="store_true", help="go on where a stopped run left off")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    _decoding(p)
    p.add_argument(
        "--limit",
        type=int,
        default=None,
        metavar="N",
        help="only the first N scenes, with all that was changed in them",
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of a planted predictor's errors")

    p = verb(
        "evaluate",
        "predictions -> results.json",
        "evaluate --predictions a.jsonl b.jsonl --data out/data --out out/eval",
        "evaluate --probes out/planted/*.jsonl --data out/pairs --out out/eval_planted",
        "evaluate --predictions release_output.jsonl --out out/eval          # predict and label in the file itself",
    )
    p.add_argument("--predictions", type=Path, nargs="+", default=[], metavar="FILE")
    p.add_argument("--probes", type=Path, nargs="+", default=[], metavar="FILE", help="files of `nsdrive probe`")
    p.add_argument("--data", type=Path, metavar="DATASET", help="needed unless the file brings its own labels")
    p.add_argument("--split", default="test", choices=["train", "val", "test"])
    _output(p, resume=False)
    p.add_argument("--no-reasoning", action="store_true", help="waypoints alone: fast")
    p.add_argument("--pdms", action="store_true", help="drive every plan through its scene for NAVSIM's PDMS and EPDMS")
    _workers(p)
    p.add_argument(
        "--about", nargs="*", default=[], metavar="NAME=TEXT", help="a line for the report on what made a file"
    )

    p = verb(
        "simulate",
        "closed loop: a planner or a model in the driver's seat",
        "simulate simulate/synthetic scenarios.n_scenarios=32 --out out/closed_loop",
        "simulate simulate/synthetic planner=vla planner.model=out/run/model --out out/vla_closed_loop",
    )
    _configured(p)
    _output(p)
    _workers(p)

    p = verb(
        "report",
        "one or several evaluations, drives and trainings side by side, as HTML",
        "report out/run out/eval --out out/report",
    )
    p.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    _output(p, resume=False)
    p.add_argument(
        "--rerun", type=Path, metavar="FILE.rrd", help="also a recording to scrub through (pip install rerun-sdk)"
    )
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was typed; a verb's key=value may stand behind its options too, where argparse alone refuses it."""
    typed, more = parser.parse_known_args(argv)
    settings = [word for word in more if "=" in word and not word.startswith("-")]
    unknown = more if not hasattr(typed, "overrides") else [word for word in more if word not in settings]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if settings:
        typed.overrides = [*typed.overrides, *settings]
    return typed


class _Edit(argparse.Action):
    """`--remove lead --light green` -> edits ["remove lead", "light green"], in the order typed."""

    def __call__(self, parser, namespace, values, option_string=None):
        edits = [*(getattr(namespace, "edits", None) or ())]
        verb = self.dest if self.dest != "set" else ""
        namespace.edits = [*edits, f"{verb} {values}".strip()]


def _one_scenario(p: argparse.ArgumentParser, teachers: Sequence[str]) -> None:
    p.add_argument(
        "scenario", metavar="SCENARIO", help="a family (red_light), a generated scenario's id, or a log's path"
    )
    p.add_argument(
        "--planner", default="idm", metavar="NAME", help=f"{', '.join(teachers)}, or module:Class of your own"
    )
    p.add_argument("--rig", default="3", choices=["3", "8"])
    p.add_argument("--at", type=float, default=2.0, metavar="SECONDS", help="the anchor's time in the scenario")
    p.add_argument("--seed", type=int, default=0, help="for a family: which of its scenes")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")


def _output(p: argparse.ArgumentParser, *, resume: bool = True, required: bool = True) -> None:
    p.add_argument(
        "--out", type=Path, required=required, metavar="DIR", help="where to write; an existing one is refused"
    )
    if resume:
        p.add_argument("--resume", action="store_true", help="go on where a stopped run left off")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier output")


def _configured(p: argparse.ArgumentParser) -> None:
    p.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of one that comes with nsdrive")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")


def _workers(p: argparse.ArgumentParser) -> None:
    p.add_argument("--workers", type=int, default=1, metavar="N", help="processes; the output is the same for any N")


def _split(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data", type=Path, required=True, metavar="DATASET")
    p.add_argument("--split", default="test", choices=["train", "val", "test"])


def _decoding(p: argparse.ArgumentParser, *, batch_size: int | None = 8) -> None:
    default = "" if batch_size is not None else " (the engine's own number where not given)"
    p.add_argument(
        "--batch-size", type=int, default=batch_size, metavar="N", help=f"samples that the model sees at once{default}"
    )
    p.add_argument("--unconstrained", action="store_true", help="free decoding: answers may fail to parse")
    _checkpoint(p)


def _checkpoint(p: argparse.ArgumentParser) -> None:
    p.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a hub checkpoint")
    p.add_argument(
        "--allow-slow-kernels", action="store_true", help="Qwen3.5 on a GPU also without flash-linear-attention"
    )
