"""The dependency rule: which package may import which, and which heavy libraries stay out of the way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "zero1toa"

# Foundations that every package may import.
BASE = {
    "errors", "types", "config", "media", "assets", "unpickling", "acceleration", "storage", "head.protocol",
    "head.arkit",
    "diffusion.protocol",
}  # fmt: skip
SIBLINGS = {"portrait", "head", "avatar", "render", "curriculum", "diffusion"}
CORE = SIBLINGS | {"symgen"}
# Package -> packages it may import, besides BASE and itself. Dependencies point downwards only.
MAY = {
    "head": set(),
    "render": set(),
    "diffusion": set(),
    "curriculum": {"render.cameras", "head.flame.sequence", "head.flame.talkshow"},
    "avatar": {"render"},
    "portrait": {"head", "render.cameras"},
    "symgen": SIBLINGS,
    "motion": {"head", "portrait"},
    "evaluation": CORE | {"motion"},
    "batch": CORE,
    "dataset": CORE,
    "distributed": CORE | {"batch", "evaluation", "tracking"},
    "planning": CORE,
    "tracking": CORE | {"evaluation", "batch"},
    "commands": CORE | {"motion", "evaluation", "batch", "dataset", "distributed", "planning", "tracking"},
}
HEAVY = {"mediapipe", "diffusers", "ray", "wandb", "gsplat", "lpips", "rembg", "imageio_ffmpeg"}


def _modules(package: str) -> list[Path]:
    return sorted((PACKAGE / package).rglob("*.py"))


def _imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Absolute names of imported modules; with ``top_level`` only those that importing the file itself runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(child) for node in ast.walk(tree) if _deferred(node) for child in ast.walk(node) if child is not node}
    found: set[str] = set()
    for node in ast.walk(tree):
        if top_level and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
    return found


def _deferred(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return True
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("package", sorted(MAY))
def test_dependencies_point_downwards(package: str):
    allowed = BASE | MAY[package] | {package}
    wrong = []
    for path in _modules(package):
        for name in _imports(path):
            local = name.removeprefix("zero1toa.")
            if name == local or not (PACKAGE / local.split(".")[0]).exists():
                continue  # another project's module, or a name of zero1toa/__init__.py or of a base module
            parent = local.rsplit(".", 1)[0]
            if not _within(local, allowed) and not _within(parent, allowed) and not _is_package_of(local, allowed):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong, "\n".join(wrong)


def _is_package_of(module: str, allowed: set[str]) -> bool:
    """``from zero1toa.head import protocol`` names the package ``head`` beside the allowed ``head.protocol``."""
    return (PACKAGE / module / "__init__.py").exists() and any(name.startswith(f"{module}.") for name in allowed)


def test_every_package_has_a_rule():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(MAY)


def test_heavy_libraries_are_imported_where_they_are_used():
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in _imports(path, top_level=True)
        if name.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_ray_stays_in_distributed():
    allowed = (PACKAGE / "distributed", PACKAGE / "tracking", PACKAGE / "commands")
    wrong = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "ray" for name in _imports(path)) and not any(f in path.parents for f in allowed)
    ]
    assert not wrong


@pytest.mark.parametrize("module", ["dispatcher", "store_actor", "rehearsal"])
def test_services_start_without_torch(module: str):
    script = f"import sys, zero1toa.distributed.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_help_loads_nothing_heavy():
    script = (
        "import sys, zero1toa.cli; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(zero1toa.cli.app, ['--help']).exit_code == 0; "
        f"print(*sorted(({HEAVY!r} | {{'torch', 'numba', 'scipy', 'skimage'}}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
