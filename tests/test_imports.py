"""The arrows of the house: who may import whom, read from the source with `ast`."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("world", "scenarios", "trace", "cameras", "vla")  # a layer may import itself and what stands before it
OUTER = ("planners", "data_gen", "eval")
SIBLINGS = {("trace", "scenarios")}  # both stand on world and know nothing of each other


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            names.add(node.module or "")
    return names


def test_outer_packages_import_the_core_and_never_each_other():
    for package in OUTER:
        for path in (ROOT / package).rglob("*.py"):
            for name in imports_of(path):
                top = name.split(".")[0]
                assert top == package or top not in OUTER, f"{path} imports {name}"
                assert name != "nsdrive.cli", f"{path} imports the command line"


def test_the_core_imports_no_outer_package_but_in_the_command_line():
    for path in (ROOT / "nsdrive").rglob("*.py"):
        if path.name == "cli.py":
            continue
        for name in imports_of(path):
            assert name.split(".")[0] not in OUTER, f"{path} imports {name}"
            assert name != "nsdrive.cli", f"{path} imports the command line"


def test_inner_layers_do_not_know_the_outer_ones():
    for number, layer in enumerate(LAYERS):
        for path in (ROOT / "nsdrive" / layer).rglob("*.py"):
            for name in imports_of(path):
                parts = name.split(".")
                if parts[0] == "nsdrive" and len(parts) > 1 and parts[1] in LAYERS:
                    assert LAYERS.index(parts[1]) <= number, f"{path} imports {name}"
                    assert (layer, parts[1]) not in SIBLINGS, f"{path} imports {name}"


def test_importing_nsdrive_and_asking_for_help_needs_no_torch():
    code = (
        "import sys, nsdrive, nsdrive.cli; nsdrive.cli.build_parser().format_help(); "
        "assert not {'torch', 'numba', 'cv2', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_report_needs_no_torch():
    code = "import sys, eval.report.compose, eval.evaluate; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
