"""A user's own files that are named like modules: what is installed wins, and where it can't, one message says so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import command, environment, run

import tune.sweep
from tune import shadowing
from tune.shadowing import ROOT, hidden, packages_path

NAMES = ("hilbert", "rich", "ray", "optuna", "mlflow", "torch", "pandas", "statistics", "select", "pathlib", "secrets")


def write_modules(folder: Path, *names: str) -> None:
    """Modules that nobody wants."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was imported')\n")


def test_a_command_run_by_its_module_takes_what_is_installed(tmp_path):
    write_modules(tmp_path, *NAMES)
    done = run(command("extract", "nowhere", "store"), folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hilbert: nowhere: ")


def test_what_ray_submit_runs_takes_what_is_installed(tmp_path):
    """It copies the script into the user's home, and runs it there."""
    write_modules(tmp_path, "tune", *NAMES)
    shutil.copy(str(tune.sweep.__file__), tmp_path)
    (tmp_path / "hilbert").mkdir()  # an empty folder is a package too, where nothing else has come before
    done = run([sys.executable, "sweep.py", "nowhere.yaml"], folder=tmp_path, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stderr) == (2, "hilbert: nowhere.yaml: no such study file\n")


def test_a_file_that_hides_a_module_is_named_where_its_folder_is_on_the_path(tmp_path):
    (tmp_path / "pandas.py").write_text("print('mine')\n")
    start = "import sys; from tune.cli import main; sys.exit(main(sys.argv[1:]))"
    path = f"{ROOT}:{tmp_path}"
    done = run([sys.executable, "-P", "-c", start, "extract", "a", "b"], folder=tmp_path, PYTHONPATH=path)
    assert done.returncode == 2
    assert f"{tmp_path / 'pandas.py'} hides the module 'pandas'" in done.stderr
    assert "rename it, or take its folder out of PYTHONPATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_our_own_checkout_and_installed_packages_hide_nothing(tmp_path, monkeypatch):
    (tmp_path / "numpy-2.0.dist-info").mkdir()
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT), *sys.path])
    assert [line for line in hidden() if str(tmp_path) in line or str(ROOT) in line] == []


def test_a_fault_that_has_nothing_to_do_with_it_keeps_its_traceback(monkeypatch):
    from tune import cli

    def broken(_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "hidden", list)
    monkeypatch.setattr(cli, "COMMANDS", {"compare": broken})
    with pytest.raises(ZeroDivisionError):
        cli.main(["compare", "study"])


def test_workers_are_told_where_the_packages_are_only_where_they_would_find_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT), *sys.path])
    assert packages_path() == []
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(shadowing, "_installed", lambda _: None)
    monkeypatch.setattr(sys, "path", [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT))])
    assert packages_path() == [str(ROOT)]


def test_the_guard_of_servers_takes_nothing_of_the_folder(tmp_path):
    """`hilbert ui` and `hilbert submit` start what they need under it."""
    write_modules(tmp_path, "tune", "signal", "subprocess", "threading")
    code = (
        "import sys, os; from tune.guard import start_guarded\n"
        "done = start_guarded([sys.executable, '-c', 'print(1)'], environment=os.environ, output=sys.stdout.buffer)\n"
        "sys.exit(done.wait())"
    )
    variables = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
