"""Who may import whom (CONTRIBUTING.md, "Layers"), and what `import saccade` may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "saccade"

# Part of the package -> parts it may import, itself aside. A part is a sub-package or a module directly in saccade/.
ALLOWED = {
    "core": set(),
    "advantages": {"core"},
    "objectives": {"core"},
    "rewards": {"core"},
    "envs": {"core"},
    "policies": {"core"},
    "engines": {"core"},
    "report": {"core"},
    "rollout": {"core"},
    "feeds": {"core", "rollout"},
    "recipe": {"core", "advantages", "feeds"},
    "learn": {"core", "recipe"},
    "evaluate": {"core", "rollout", "recipe"},
}
# Judges are models; a metric over samples is the mean of a reward.
EXCEPTIONS = {
    ("rewards/learned.py", "policies"),
    ("evaluate/samples.py", "rewards"),
    ("evaluate/images.py", "rewards"),
    ("evaluate/sets.py", "rewards"),
    ("evaluate/pictures.py", "rewards"),
    ("evaluate/benchmark.py", "envs"),
}
# These see everything but recipes and the command line, which only the command line sees.
OPEN = {"testing", "experiment", "recipes", "cli", "__init__", "__main__"}
ENTRY = {"cli", "__main__"}

CORE_THIRD_PARTIES = {"torch", "numpy", "jaxtyping", "yaml"}

# Loaded by the leaf modules that need them, never by `import saccade`.
HEAVY = {
    "accelerate",
    "av",
    "diffusers",
    "gymnasium",
    "h5py",
    "jsonschema",
    "matplotlib",
    "metaworld",
    "minigrid",
    "miniwob",
    "mujoco",
    "peft",
    "pyarrow",
    "rapidfuzz",
    "ray",
    "sacrebleu",
    "scipy",
    "skimage",
    "sklearn",
    "statsmodels",
    "sympy",
    "tensorboard",
    "tokenizers",
    "torchmetrics",
    "transformers",
    "trimesh",
    "vllm",
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module a file names in an import statement, wherever it stands, as (line, absolute dotted name)."""
    package = ("saccade", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from saccade import x` names a part or a public object; the part is in the alias.
            names = [f"saccade.{alias.name}" for alias in node.names] if module == "saccade" else [module]
            yield from ((node.lineno, name) for name in names)


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """Parts of saccade a file imports; "__init__" for a public name taken from the package itself."""
    for line, name in imports(path):
        head, _, rest = name.partition(".")
        if head == "saccade":
            part = rest.partition(".")[0]
            yield line, part if part in ALLOWED.keys() | OPEN else "__init__"


def may_import(path: Path, part: str) -> bool:
    own = part_of(path)
    where = path.relative_to(SOURCE)
    if part == own or (where.as_posix(), part) in EXCEPTIONS:
        return True
    if where.parent.as_posix() in {"evaluate/benchmarks", "evaluate/rules"} and part in {"envs", "rewards"}:
        return True
    if own in OPEN:
        return own in ENTRY or part not in {"recipes", *ENTRY}
    return part in ALLOWED[own]


def test_every_part_of_the_package_has_a_layer():
    assert {part_of(path) for path in modules()} <= ALLOWED.keys() | OPEN


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_module_imports_only_the_layers_below_it(path):
    wrong = [f"line {line}: saccade.{part}" for line, part in imported_parts(path) if not may_import(path, part)]
    assert not wrong, f"{path.relative_to(SOURCE)} may not import " + ", ".join(wrong)


@pytest.mark.parametrize("path", sorted(SOURCE.glob("core/**/*.py")), ids=lambda path: path.name)
def test_core_imports_torch_numpy_and_the_standard_library(path):
    heads = {(line, name.partition(".")[0]) for line, name in imports(path)}
    known = sys.stdlib_module_names | CORE_THIRD_PARTIES | {"saccade"}
    wrong = [f"line {line}: {head}" for line, head in sorted(heads) if head not in known]
    assert not wrong, f"{path.relative_to(SOURCE)} may not import " + ", ".join(wrong)


def test_importing_saccade_loads_no_heavy_package():
    code = "import sys, saccade; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(run.stdout.split())
