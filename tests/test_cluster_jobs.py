"""Sweeps on Kubernetes and Slurm: the manifest by its rules, the job script by what it does."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from cluster_rules import NEEDED, noticed_within

ROOT = Path(__file__).parent.parent
KUBERNETES, SLURM = ROOT / "clusters" / "kubernetes.yaml", ROOT / "clusters" / "slurm.sbatch"
LIMIT = 60

# ---- Kubernetes ------------------------------------------------------------------------------------------------------


def rayjob_faults(text: str) -> list[str]:
    """All rules that the manifest breaks."""
    documents = {document["kind"]: document for document in yaml.safe_load_all(text)}
    claim, job = documents["PersistentVolumeClaim"], documents["RayJob"]["spec"]
    cluster = job["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in (head, *workers)]
    pods_with_submitter = [*pods, job["submitterPodTemplate"]["spec"]]
    variables = {entry["name"]: entry["value"] for entry in pods[0]["containers"][0]["env"]}
    rules = {
        "no token": cluster.get("authOptions") == {"mode": "token", "secretName": "hilbert-ray-token"},
        "a secret in the file": documents.keys() == {"PersistentVolumeClaim", "RayJob"},
        "the head takes jobs": head["rayStartParams"].get("num-cpus") == "0" == head["rayStartParams"].get("num-gpus"),
        "on the network": "serviceType" not in head and not head.get("enableIngress"),
        "a lost node is noticed late": noticed_within(variables) < 20,
        "never fewer machines": bool(cluster.get("enableInTreeAutoscaling")),
        "the cluster stays": bool(job.get("shutdownAfterJobFinishes")),
        "storage of one node": claim["spec"]["accessModes"] == ["ReadWriteMany"],
        "no shared storage": all(
            {"name": "data", "mountPath": "/data"} in pod["containers"][0]["volumeMounts"]
            and pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
            for pod in pods
        ),
        "as root": all(pod["securityContext"]["runAsNonRoot"] for pod in pods_with_submitter),
        "autoscaler 2 refuses restarts": all(pod["restartPolicy"] == "Never" for pod in pods),
        "several images": len({pod["containers"][0]["image"] for pod in pods_with_submitter}) == 1,
        "no GPU": all(
            "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
            and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            for group, pod in zip(workers, pods[1:], strict=True)
        ),
    }
    return [rule for rule, kept in rules.items() if not kept]


def test_the_manifest_keeps_the_rules():
    text = KUBERNETES.read_text(encoding="utf-8")
    assert rayjob_faults(text) == []
    job = next(document for document in yaml.safe_load_all(text) if document["kind"] == "RayJob")["spec"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={job['rayClusterSpec']['rayVersion']}\n" in constraints
    # KubeRay puts the entrypoint into a shell line of the submitter, whose words `ray job submit` puts together again.
    words = shlex.split(job["entrypoint"])
    assert words == ["sh", "-c", "cd /data && hilbert sweep study.yaml"]
    assert shlex.split(subprocess.list2cmdline(words)) == words


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("mode: token, ", "mode: disabled, ", "no token"),
        ("    authOptions: {mode: token, secretName: hilbert-ray-token}\n", "", "no token"),
        ('num-cpus: "0"', 'num-cpus: "2"', "the head takes jobs"),
        ("rayStartParams: {num-cpus", "serviceType: NodePort\n      rayStartParams: {num-cpus", "on the network"),
        ('timeout_ms, value: "2000"', 'timeout_ms, value: "10000"', "a lost node is noticed late"),
        ("ReadWriteMany]", "ReadWriteOnce]", "storage of one node"),
        ("runAsNonRoot: true", "runAsNonRoot: false", "as root"),
        ('limits: {cpu: "4", memory: 16Gi, nvidia.com/gpu: "1"}', 'limits: {cpu: "4"}', "no GPU"),
    ],
)
def test_a_spoiled_manifest_is_refused(old, new, fault):
    text = KUBERNETES.read_text(encoding="utf-8")
    assert text.count(old) == 1
    assert rayjob_faults(text.replace(old, new)) == [fault]


def test_the_image_copies_what_there_is():
    text = (ROOT / "clusters" / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, flags=re.M) for word in line.split()]
    assert set(copied) == set(NEEDED)
    ignored = (ROOT / "clusters" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*", "nothing goes into the image that isn't named"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(NEEDED)
    assert f"FROM {re.search(r'FROM (.*)', (ROOT / 'mlflow' / 'Dockerfile').read_text())[1]}\n" in text


# ---- Slurm -----------------------------------------------------------------------------------------------------------

SHIM = """#!/bin/bash
echo "$(basename "$0") mode=$RAY_AUTH_MODE usage=$RAY_USAGE_STATS_ENABLED at=$RAY_ADDRESS $*" >> "$CALLS"
case "$(basename "$0")" in
    srun) while [[ $1 == --* ]]; do shift; done; exec "$@" ;;
    ray) case $1 in
        start) [ -z "$BROKEN" ] || exit 1; echo $$ >> "$CALLS.pids"; exec sleep 300 ;;
        get-auth-token) mkdir -p ~/.ray && echo secret > ~/.ray/auth_token && echo secret ;;
        health-check) sleep 0.1; [ -s "$CALLS.pids" ] ;;
    esac ;;
    python) until [ "$(wc -l < "$CALLS.pids")" -ge 2 ]; do sleep 0.05; done ;;
    hilbert)
        if [ -n "$LONG" ]; then
            trap 'echo stopped >> "$CALLS"; exit 130' INT
            echo sweeping >> "$CALLS"
            for _ in {1..600}; do sleep 0.1; done
        fi
        exit "${CODE:-0}" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path):
    """A machine with one of everything that the job script calls, which notes how it was called."""
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("srun", "scontrol", "ray", "hilbert", "python"):
        (tools / name).write_text(SHIM)
        (tools / name).chmod(0o755)

    def start(**variables: str) -> subprocess.Popen[str]:
        given = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "8", **variables}
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "CALLS": str(tmp_path / "calls"), **given}
        return subprocess.Popen(
            ["bash", SLURM, "study.yaml", "--set", "trials=3"],
            cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start, lambda: (tmp_path / "calls").read_text(), tmp_path


def nothing_left(folder: Path) -> bool:
    return not any(Path(f"/proc/{number}").exists() for number in (folder / "calls.pids").read_text().split())


@pytest.mark.parametrize("code", ["0", "3"])
def test_a_slurm_job_starts_its_cluster_and_takes_it_down(slurm, code):
    start, calls, folder = slurm
    process = start(CODE=code)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == int(code), errors
    said = calls()
    assert "secret" not in said + errors
    assert (folder / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    begun = [line for line in said.splitlines() if line.startswith("ray ") and " start " in line]
    assert len(begun) == 2  # one srun for the head, one for the two others
    assert all(line.startswith("ray mode=token usage=0 ") for line in begun)
    assert "srun mode=token" in said
    assert "--nodes=2 --ntasks=2 --exclude=" in said
    assert "--include-dashboard=false" in said
    address = re.search(r"hilbert mode=token usage=0 at=(\S+:27110) sweep study.yaml --set trials=3", said)[1]
    assert f"--address={address}" in said
    assert "requeue" not in said
    assert nothing_left(folder)
    (private,) = re.findall(r"mkdir -m 700 (/tmp/hilbert-[0-9a-f]{16})\n", said)  # a name that nobody can foresee
    assert f"--temp-dir={private} " in said
    assert not Path(private).exists()


def test_a_slurm_job_whose_time_is_over_stops_the_sweep_and_queues_again(slurm):
    start, calls, folder = slurm
    process = start(LONG="yes")
    deadline = time.monotonic() + LIMIT
    while not (folder / "calls").exists() or "sweeping" not in calls():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "stopped\n" in calls()
    assert re.search(r"scontrol .* requeue 4711", calls())
    assert nothing_left(folder)


def test_a_slurm_job_whose_head_fails_ends(slurm):
    start, calls, _ = slurm
    process = start(BROKEN="yes")
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "Ray's head didn't start" in errors
    assert "hilbert mode" not in calls()


def test_the_slurm_script_is_sound():
    checkers = [["bash", "-n"], *([["shellcheck", "--severity=warning"]] if shutil.which("shellcheck") else [])]
    for checker in checkers:
        done = subprocess.run([*checker, SLURM], capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    text = SLURM.read_text(encoding="utf-8")
    options = text[: text.index("set -euo")]
    assert "#SBATCH --signal=B:USR1@120" in options
    assert "#SBATCH --requeue" in options
