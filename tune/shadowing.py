"""What a user's own files hide: a `tune.py`, `ray.py` or `select.py` in the folder that a command runs in.

Python looks for modules in the folder of a script first, and with `-m` in the folder that it is run in. Nothing that
HILBERT needs lies there, so it is taken off the path, of this process and of workers. What PYTHONPATH names stays.
"""

import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder of `hilbert` and `tune`, as they are used now."""
NEEDED = {
    *("hilbert", "tune", "ray", "optuna", "mlflow", "torch", "transformers", "safetensors", "sklearn", "scipy"),
    *("numpy", "pandas", "pyarrow", "pydantic", "yaml", "rich", "soundfile", "soxr", "filelock", "matplotlib"),
    *("plotly", "jinja2", "huggingface_hub", "sqlalchemy", "tqdm", "requests", "httpx", "packaging", "joblib"),
}
"""Packages that HILBERT imports itself, and some that these import; beside Python's own modules."""


def put_back(folder: str) -> None:
    """Puts a folder that was first on this process's path last, if the packages that are in use lie there.

    Args:
        folder: what Python put first, for a script or by `-m`, and the main module took off.
    """
    if Path(folder or ".").resolve() == ROOT:  # not installed, or a checkout
        sys.path.insert(0, folder)
        import hilbert  # noqa: F401 (of the same place as `tune`)

        sys.path.append(sys.path.pop(0))


def packages_path() -> list[str]:
    """Where workers on this computer find these very packages, unless they do so by themselves."""
    own = {"", os.getcwd(), os.path.realpath(os.getcwd())}  # noqa: PTH109
    fixed = [entry for entry in sys.path if entry not in own or entry in _python_path()]
    return [] if _finds_us(fixed) else [str(ROOT)]


def _python_path() -> set[str]:
    """What workers inherit."""
    given = os.environ.get("PYTHONPATH")
    return {os.path.abspath(entry) for entry in given.split(os.pathsep)} if given else set()  # noqa: PTH100


def _finds_us(path: list[str]) -> bool:
    """Whether `tune` on this path is the one that runs now."""
    found = PathFinder.find_spec("tune", path) or _installed("tune")
    return bool(found and found.origin and Path(found.origin).resolve().parents[1] == ROOT)


def _installed(name: str) -> ModuleSpec | None:
    """What the finders beside Python's own know: those of editable installations."""
    finders = (finder for finder in sys.meta_path if finder is not PathFinder)
    return next((found for finder in finders if (found := finder.find_spec(name, None))), None)


def hidden() -> list[str]:
    """Files of the user's that hide modules which HILBERT needs, each with what it hides."""
    standard = Path(os.__file__).resolve().parent
    found: list[str] = []
    for entry in sys.path:
        folder = Path(entry or ".").resolve()
        if folder == standard:
            break
        if next(folder.glob("*.dist-info"), None) is None:  # what was installed there is meant to be found there
            found += [f"{path} hides the module {name!r}" for name, path in _modules(folder)]
    return found


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Modules of a folder that have names which are needed, but for our own."""
    for name in sorted(NEEDED | sys.stdlib_module_names):
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file() and path.parent.parent != ROOT:
                yield name, path
