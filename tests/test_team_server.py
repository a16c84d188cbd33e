"""The tracking server of a team: what `mlflow/compose.yaml` runs, run here without containers.

The server is started with the command and the variables of the compose file, and the commands are those of its README:
PostgreSQL is Debian's, and the bucket is a folder, as the S3 server of the composition keeps it.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
import sweeps
import yaml
from mlflow.exceptions import MlflowException
from servers import at_work, end, free_port, started, wait_for
from sweeps import LIMIT, environment, hilbert, write_study

from hilbert.errors import InputError
from tune.tracking import connect, search_runs

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "mlflow"
COMPOSE = yaml.safe_load((HOUSE / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
README = (HOUSE / "README.md").read_text(encoding="utf-8")
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]+\}")  # a variable without which compose refuses to start
SECRETS = {name: f"{name.lower()} of 'tests' %@/" for name in set(REQUIRED.findall(json.dumps(SERVICES)))}
ADMIN, ADA = ("admin", SECRETS["MLFLOW_AUTH_ADMIN_PASSWORD"]), ("ada", "at least twelve characters")
BOB, EVE = ("bob", "a password of his"), ("eve", "a password of hers")


# ---- the composition -------------------------------------------------------------------------------------------------


def test_the_compose_file_meets_its_schema():
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, HOUSE / "compose.yaml"], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_itself_reads_the_file_and_refuses_to_start_without_secrets(tmp_path):
    """What of it needs the docker command runs where there is one with the compose plugin."""
    shutil.copy(HOUSE / "compose.yaml", tmp_path)
    text = (HOUSE / "compose.yaml").read_text(encoding="utf-8")
    assert len(SECRETS) == 4
    assert text.count("${") == len(REQUIRED.findall(text)), "a variable has a default, or may be missing"
    names = re.findall(r"^(\w+)=(.*)$", (HOUSE / "env.example").read_text(encoding="utf-8"), flags=re.M)
    assert dict(names) == dict.fromkeys(SECRETS, "")
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        config = ["docker", "compose", "--file", tmp_path / "compose.yaml", "config", "--quiet"]
        for variables, fails in (({}, True), (SECRETS, False)):
            done = subprocess.run(config, env=environment(**variables), capture_output=True, timeout=LIMIT, check=False)
            assert bool(done.returncode) == fails, done.stderr


def test_secrets_can_be_made_as_the_readme_says_and_git_ignores_them(tmp_path):
    shutil.copy(HOUSE / "env.example", tmp_path)
    run(block("Start it").partition("\n")[2].rpartition("docker compose")[0], folder=tmp_path)
    made = dict(re.findall(r"^(\w+)=(\w{64})$", (tmp_path / ".env").read_text(), flags=re.M))
    assert set(made) == set(SECRETS)
    assert len(set(made.values())) == 4
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert ".env" in (HOUSE / ".gitignore").read_text().split()


def test_images_are_pinned_and_watched():
    for name, service in SERVICES.items():
        assert re.search(r":v?\d+\.\d+\.\d+|:\d+\.\d+-\w+", service["image"]), name
        if service["restart"] == "unless-stopped":
            assert service["healthcheck"]["test"][0] == "CMD", name
        for other, wait in service.get("depends_on", {}).items():
            lasts = SERVICES[other]["restart"] == "unless-stopped"
            assert wait["condition"] == ("service_healthy" if lasts else "service_completed_successfully")


def test_the_image_of_mlflow_is_what_the_tests_ran_with():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    text = (HOUSE / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^FROM python:\d+\.\d+\.\d+-slim-\w+$", text, flags=re.M)
    version = re.search(r"mlflow\[auth\]==([\d.]+)", text).group(1)
    assert SERVICES["mlflow"]["image"] == f"hilbert-mlflow:{version}"
    for needed in (f"mlflow=={version}", "flask-wtf==", "psycopg==", "psycopg-binary==", "boto3==", "botocore=="):
        assert f"\n{needed}" in constraints, f"constraints.txt pins no {needed.strip('=')}"
    assert (HOUSE / "Dockerfile.dockerignore").read_text().split() == ["*", "!constraints.txt"]


def test_nothing_is_open_to_the_network_and_nothing_runs_with_more_rights_than_it_needs():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name, service in SERVICES.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert (
            service.get("networks") == (["outside", "inside"] if name == "mlflow" else ["inside"])
            or name == "s3-folders"
        )
        assert not service.get("privileged")
    by_root = {name for name, service in SERVICES.items() if service.get("user") == "root"}
    assert by_root == {"s3-folders"}
    assert SERVICES["s3-folders"]["network_mode"] == "none"
    assert "\nUSER 10001\n" in (HOUSE / "Dockerfile").read_text()
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert {volume for volume in mounted if not volume.startswith("./")} == set(COMPOSE["volumes"])


def test_a_sweep_is_an_mlflow_project(tmp_path, demo_store):
    """From the folder of the call, to the store of the call; nothing is left in the project's own folder."""
    study = write_study(tmp_path, features=str(demo_store), folds={"n_splits": 2}, resources={"workers": 1})
    before = sorted(HOUSE.iterdir())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    project = [sys.executable, "-m", "mlflow", "run", HOUSE, "--env-manager", "local", "--experiment-name", "calls"]
    done = subprocess.run(
        [*project, "-P", f"study={study.name}", "-P", "set=trials=1"],
        cwd=tmp_path,
        env=environment(PATH=path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "studies/quick/jobs").glob("*.json"))) == 2
    assert hilbert("compare", "quick", "--csv", folder=tmp_path).stdout.count("\n") == 2
    assert sorted(HOUSE.iterdir()) == before


# ---- the same without containers -------------------------------------------------------------------------------------


def block(heading):
    """The first commands below a heading of the README."""
    return re.search(rf"^## {heading}\n.*?^```sh\n(.*?)^```", README, flags=re.M | re.S).group(1)


def run(script, *, folder, **variables):
    """Runs commands in `folder`; the first one that fails ends them."""
    done = sweeps.run(["bash", "-euo", "pipefail", "-c", script], folder=folder, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Postgres:
    """PostgreSQL in a folder of its own, set up by the script that the container runs."""

    def __init__(self):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
        tool = shutil.which("initdb") or (found and found[-1])
        assert tool, "PostgreSQL's server is missing: `make packages` installs it (the Debian package postgresql)"
        self.programs = Path(tool).parent
        self.folder = Path(tempfile.mkdtemp(prefix="hilbert-pg-"))
        self.port = free_port()
        self.owner = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self.owner:
            shutil.chown(self.folder, "postgres", "postgres")

    def __enter__(self):
        make = ["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]
        subprocess.run(
            [self.programs / "initdb", "--pgdata=data", *make],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            check=True,
            **self.owner,
        )
        options = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            f"unix_socket_directories={self.folder}",
        ]
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", "data", "-p", str(self.port), *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                **self.owner,
            )
        wait_for((self.folder / f".s.PGSQL.{self.port}.lock").exists, self.process)
        self.inside(f"until pg_isready --quiet; do sleep 0.1; done; {HOUSE}/postgres-init.sh", **SECRETS)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)  # which ends all connections
        self.process.wait(LIMIT)
        shutil.rmtree(self.folder)

    def inside(self, script, **variables):
        """Runs commands as in the container: through the socket."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return run(script, folder=self.folder, PATH=path, PGHOST=str(self.folder), PGPORT=str(self.port), **variables)


class Team:
    """The composition: its server, its database, the folder that its bucket is."""

    def __init__(self, folder, postgres):
        self.folder, self.postgres, self.port, self.process = folder, postgres, free_port(), None
        self.uri = f"http://127.0.0.1:{self.port}"
        self.home = folder / "home"  # where no credentials lie about
        self.bucket = folder / "data/buckets/mlflow"
        for made in (self.home, self.bucket, folder / "data/metadata"):
            made.mkdir(parents=True)

    def start(self, *changed, **variables):
        """Starts the server with the compose file's command and variables; the last of two equal options counts."""
        given = {
            name: REQUIRED.sub(lambda m: SECRETS[m[1]], v) for name, v in SERVICES["mlflow"]["environment"].items()
        }
        here = {"MLFLOW_AUTH_CONFIG_PATH": str(HOUSE / "basic_auth.ini"), "PGHOST": "127.0.0.1"}
        options = ["--host=127.0.0.1", f"--port={self.port}", "--workers=1", f"--artifacts-destination={self.bucket}"]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *SERVICES["mlflow"]["command"], *options, *changed],
                cwd=self.folder,
                env=environment(**given | here | {"PGPORT": str(self.postgres.port)} | variables),
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        wait_for(self.healthy, self.process)

    def healthy(self):
        """What the composition's health check asks."""
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        except OSError:
            return False

    def stop(self):
        """Kills the server."""
        if self.process is not None:
            end(self.process)
        self.process = None

    def says(self, script, user):
        """Runs a command of the README against this server; the password is given, not asked for."""
        script = script.replace("http://localhost:5000", self.uri)
        script = script.replace(f"--user {user[0]} ", '--silent --fail-with-body --user "$login" ')
        return run(script, folder=self.folder, login=":".join(user))

    def compose(self, script):
        """Runs commands of the README; what they do in containers is done here, in the same order."""
        shim = """docker() {
            case "$2 ${4-}" in
                "exec postgres") shift 4; PGHOST=$SOCKET "$@" ;;
                "exec s3") shift 4; "${@//\\/data/$DATA}" ;;
                "up "* | "stop "*) echo "$*" ;;
                *) echo "unknown: $*"; return 1 ;;
            esac
        }
        """
        path = f"{self.postgres.programs}{os.pathsep}{os.environ['PATH']}"
        places = {"SOCKET": str(self.postgres.folder), "PGPORT": str(self.postgres.port), "DATA": f"{self.folder}/data"}
        return run(shim + script, folder=self.folder, PATH=path, **places)

    def as_user(self, user):
        """The variables of a user's shell."""
        name, password = user
        names = {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password} if name else {}
        return {"MLFLOW_TRACKING_URI": self.uri, "HOME": str(self.home), **names}

    def hilbert(self, *arguments, folder, user):
        return hilbert(*arguments, folder=folder, **self.as_user(user))


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """A running server with the users ada and bob."""
    with Postgres() as postgres:
        found = Team(tmp_path_factory.mktemp("team"), postgres)
        try:
            found.start()
            make = re.search(r"^curl --user admin .*?users/create$", README, flags=re.M | re.S).group()
            for name, password in (ADA, BOB, EVE):
                found.says(make.replace(ADA[0], name).replace(ADA[1], password), ADMIN)
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def swept(team, tmp_path_factory, demo_store):
    """A sweep of ada's with two workers, in the middle of which the server is killed and started again."""
    folder = tmp_path_factory.mktemp("swept")
    changes = {"folds": {"n_splits": 4}, "train": {"epochs": 30, "patience": 0}, "racing": "none"}
    changes["resources"] = {"workers": 2}
    write_study(folder, database=False, features=str(demo_store), **changes)
    jobs = folder / "studies/quick/jobs"

    def done():
        return len(list(jobs.glob("*.json")))

    with started("sweep", "study.yaml", folder=folder, **team.as_user(ADA)) as process:
        wait_for(lambda: done() >= 1, process)
        team.stop()
        before = done()
        wait_for(lambda: done() > before, process)  # training goes on
        wait_for(lambda: len(at_work(process.pid)) == 2, process)
        paused = list(at_work(process.pid))
        for worker in paused:  # the sweep must outlast the start of a server, which takes longer
            os.kill(worker, signal.SIGSTOP)
        assert done() < 8
        team.start()
        for worker in paused:
            os.kill(worker, signal.SIGCONT)
        out, err = process.communicate(timeout=LIMIT)
    return folder, process.returncode, out, err


@pytest.fixture
def log_in(team, monkeypatch):
    """Makes this process the client of a user."""

    def become(user):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])
        return connect(team.uri)

    return become


@pytest.fixture
def reader(log_in):
    """The admin, who sees all."""
    return log_in(ADMIN)


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        ((ADA[0], "not hers at all"), "refuses user 'ada' or the password"),
        (("", ""), "asks for a user and a password"),
    ],
)
def test_without_the_right_password_nothing_begins(team, reader, tmp_path, demo_store, user, complaint):
    write_study(tmp_path, database=False, features=str(demo_store), study="refused")
    tried = team.hilbert("sweep", "study.yaml", folder=tmp_path, user=user)
    assert tried.returncode == 2
    assert tried.stdout == ""
    assert "Traceback" not in tried.stderr
    (said,) = re.findall(r"^(?:hilbert|ERROR|WARNING): (.*)$", tried.stderr, flags=re.M)
    assert said.startswith(f"MLflow at {team.uri} {complaint}; they are read from MLFLOW_TRACKING_USERNAME and")
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
    assert reader.get_experiment_by_name("refused") is None


def test_a_sweep_outlives_a_restart_of_the_server_and_is_recorded_whole(swept, reader):
    _, code, out, err = swept
    assert code == 0, err
    assert "Traceback" not in out + err
    assert "View run" not in out, "MLflow prints into the results"
    runs = search_runs(reader, reader.get_experiment_by_name("quick").experiment_id, "")
    found = sorted((run.data.tags["hilbert.trial"], run.data.tags.get("hilbert.fold", "")) for run in runs)
    assert found == sorted((trial, fold) for trial in "01" for fold in ("", "0", "1", "2", "3"))
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_all_may_read_and_none_but_its_maker_writes_until_she_lets_them(team, swept, log_in):
    folder, *_ = swept
    credentials = team.home / ".mlflow/credentials"
    credentials.parent.mkdir()
    file = re.search(r"^```ini\n(.*?)^```", README, flags=re.M | re.S).group(1)
    credentials.write_text(file.replace(ADA[0], BOB[0]).replace(ADA[1], BOB[1]), encoding="utf-8")
    read = team.hilbert("compare", "quick", "--csv", folder=folder, user=("", ""))
    assert read.returncode == 0, read.stderr
    assert read.stdout.count("\n") == 3
    credentials.unlink()
    bob = log_in(BOB)
    experiment = bob.get_experiment_by_name("quick").experiment_id
    with pytest.raises(MlflowException, match="Permission denied"):
        bob.create_run(experiment)
    let = re.search(r"^curl --user ada --json .*?permissions/grant$", README, flags=re.M | re.S).group()
    team.says(let.replace('"resource_id": "1"', f'"resource_id": "{experiment}"'), ADA)
    bob.delete_run(bob.create_run(experiment).info.run_id)


def test_a_user_changes_the_password_as_the_readme_says(team, log_in):
    change = re.search(r"^curl --user ada --request PATCH .*?}'$", README, flags=re.M | re.S).group()
    new = re.search(r'"password": "([^"]+)"', change).group(1)
    team.says(change.replace(ADA[0], EVE[0]).replace(ADA[1], EVE[1]), EVE)
    assert log_in((EVE[0], new)).search_experiments()
    with pytest.raises(InputError, match="refuses user 'eve' or the password"):
        log_in(EVE)


def artifacts(client, folder):
    """Hash of every artifact of every run, as a client gets them."""
    found = {}
    for experiment in client.search_experiments():
        for run in search_runs(client, experiment.experiment_id, ""):
            here = folder / run.info.run_id
            here.mkdir(parents=True)
            client.download_artifacts(run.info.run_id, "", str(here))
            found |= {path.relative_to(folder): digest(path) for path in here.rglob("*") if path.is_file()}
    return found


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(team):
    """Every row of every table."""
    return sorted(team.postgres.inside("pg_dump --username postgres --data-only --restrict-key=x mlflow").splitlines())


def test_what_is_backed_up_is_there_after_a_restore_and_s3_serves_it(team, swept, reader, tmp_path):
    """The bucket that the gateway would serve from the restored folder is served by another S3 server here."""
    before = artifacts(reader, tmp_path / "before"), rows(team)
    assert len(before[0]) >= 10
    team.compose(block("Back up"))
    reader.delete_experiment(reader.get_experiment_by_name("quick").experiment_id)
    shutil.rmtree(team.bucket)
    team.stop()
    assert rows(team) != before[1]
    team.compose(block("Restore"))
    assert rows(team) == before[1]
    with s3(team.bucket) as (uri, bucket):
        team.start("--artifacts-destination=s3://mlflow", MLFLOW_S3_ENDPOINT_URL=uri)
        assert artifacts(reader, tmp_path / "after") == before[0]
        experiment = reader.create_experiment("kept in S3")
        reader.log_text(reader.create_run(experiment).info.run_id, "by way of the server", "note.txt")
        (key,) = [item.key for item in bucket.objects.filter(Prefix=f"{experiment}/")]
        assert bucket.Object(key).get()["Body"].read() == b"by way of the server"
        assert team.hilbert("compare", "quick", folder=tmp_path, user=ADA).returncode == 0


def listens(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def s3(folder):
    """An S3 server, where it answers, and its bucket, filled from a folder."""
    uri = f"http://127.0.0.1:{(port := free_port())}"
    program = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: listens(port), process)
        keys = {"aws_access_key_id": "mlflow", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        bucket = boto3.resource("s3", endpoint_url=uri, **keys).create_bucket(Bucket="mlflow")
        for path in folder.rglob("*"):
            if path.is_file():
                bucket.upload_file(str(path), path.relative_to(folder).as_posix())
        yield uri, bucket
    finally:
        end(process)
