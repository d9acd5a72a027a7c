"""Files for SLURM and Kubernetes: the script run with stubs on PATH, the manifests against schemas.

No SLURM or Kubernetes is needed. `tests/slurm_node.sh` runs the same script on a real SLURM of one node.
"""

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT

from jaxstyle.spec.settings import RunOptions, Sweep

SCRIPT = ROOT / "scripts" / "slurm_array.sbatch"
KUBERNETES = ROOT / "scripts" / "kubernetes"
PAGE = ROOT / "docs" / "clusters.md"

# --- SLURM ----------------------------------------------------------------------------------------

STUBS = {
    # srun: its options end at the command; it passes its signals on to the command (here by `exec`).
    "srun": 'printf "%s\\n" "$@" > "$RECORDS/srun"\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": 'printf "%s\\n" "$*" >> "$RECORDS/scontrol"\n',
    "squeue": 'printf "%s\\n" "$*" >> "$RECORDS/squeue"\necho "$JOB_STATE"\n',
    "python": f'exec "{sys.executable}" "$RECORDS/stand_in.py" "$@"\n',
}
STAND_IN = """
import json, os, signal, sys
from pathlib import Path

records = Path(os.environ["RECORDS"])
seen = {"argv": sys.argv[1:], "environ": dict(os.environ), "pid": os.getpid()}
(records / "python").write_text(json.dumps(seen))
if os.environ["ENDS_WITH"] != "signal":
    sys.exit(int(os.environ["ENDS_WITH"]))
ours = {signal.SIGUSR1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, ours)
print("ready", flush=True)
number = signal.sigtimedwait(ours, 60).si_signo
print("saving", flush=True)
code = 99 if signal.sigtimedwait(ours, 0.3) else 128 + number
(records / "saved").touch()
sys.exit(code)
"""


class Batch:
    """The batch script as SLURM would run it, task 3 of 16 of job 7, with what its stubs recorded."""

    def __init__(self, folder, **environment):
        self.folder, self.work = folder / "records", folder / "work"
        tools = folder / "bin"
        for made in (self.folder, self.work, tools):
            made.mkdir()
        (self.folder / "stand_in.py").write_text(STAND_IN)
        for name, text in STUBS.items():
            (tools / name).write_text(f"#!/usr/bin/env bash\n{text}")
            (tools / name).chmod(0o755)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "XDG_"))}
        self.environment = inherited | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "RECORDS": str(self.folder),
            "JOB_STATE": "RUNNING",
            "SLURM_JOB_ID": "10",
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_MIN": "0",
            "SLURM_ARRAY_TASK_STEP": "1",
            "SLURM_ARRAY_TASK_COUNT": "16",
            "SLURM_CPUS_PER_TASK": "4",
            **environment,
        }

    def start(self, *arguments):
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, ends_with, *arguments):
        """The exit code of a task whose python ends by itself with a given code."""
        self.environment["ENDS_WITH"] = str(ends_with)
        process = self.start(*arguments)
        assert process.communicate(timeout=60) == ("", "")
        return process.returncode

    def signalled(self, *signals):
        """The exit code of a task that is signalled while it computes.

        Args:
            signals: The target of each, "shell" or "python", and its number. Python saves from the first.
        """
        self.environment["ENDS_WITH"] = "signal"
        with self.start() as process:
            assert process.stdout.readline() == "ready\n"
            pids = {"shell": process.pid, "python": self.python["pid"]}
            for i, (whom, number) in enumerate(signals):
                os.kill(pids[whom], number)
                assert i or process.stdout.readline() == "saving\n"
            code = process.wait(timeout=60)
        assert (self.folder / "saved").exists()  # the shell did not exit before python
        return code

    def record(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def python(self):
        return json.loads((self.folder / "python").read_text())


@pytest.fixture
def batch(tmp_path):
    return lambda **environment: Batch(tmp_path, **environment)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", [SCRIPT, ROOT / "tests" / "slurm_node.sh"], ids=lambda p: p.name)
def test_shellcheck_finds_nothing_in_a_script(script):
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_sbatch_reads_every_option_before_the_first_command():
    lines = SCRIPT.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.split("#SBATCH ")[1].split()[0] for line in lines if line.startswith("#SBATCH ")]
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]
    assert len(options) == len({option.split("=")[0] for option in options})
    for needed in ("--requeue", "--open-mode=append", "--signal=B:USR1@60", "--gres=gpu:1", "--ntasks=1"):
        assert needed in options


def test_a_task_runs_one_command_line_with_the_variables_of_its_array(batch):
    task = batch()
    assert task.run(0) == 0
    command = ["-m", "jaxstyle.sweep", "--spec", "study.toml", "--out", "runs/study", "--shard", "slurm"]
    assert task.record("srun") == ["--cpus-per-task=4", "python", *command]
    assert task.python["argv"] == command
    seen = task.python["environ"]
    values = [seen[f"SLURM_ARRAY_TASK_{name}"] for name in ("ID", "MIN", "STEP", "COUNT")]
    assert values == ["3", "0", "1", "16"]
    assert seen["XDG_CACHE_HOME"] == str(task.work / "runs" / ".cache")


def test_a_task_takes_spec_out_and_further_flags_from_its_user(batch):
    task = batch(SPEC="my studies/a.toml", OUT="/scratch/my runs/a", JAXSTYLE_CACHE_HOME="/scratch/cache")
    assert task.run(0, "--shard", "5/16", "--quiet") == 0
    flags = ["--spec", "my studies/a.toml", "--out", "/scratch/my runs/a", "--shard", "5/16", "--quiet"]
    assert task.python["argv"] == ["-m", "jaxstyle.sweep", *flags]
    assert task.python["environ"]["XDG_CACHE_HOME"] == "/scratch/cache"


def test_a_signal_to_the_batch_shell_reaches_python_and_the_task_is_queued_again(batch):
    task = batch()
    assert task.signalled(("shell", signal.SIGUSR1)) == 138
    assert task.record("scontrol") == ["requeue 7_3"]
    assert not task.record("squeue")


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("CANCELLED", False), ("", False)])
def test_a_preempted_task_is_queued_again_and_a_cancelled_one_is_not(batch, state, requeued):
    task = batch(JOB_STATE=state)
    # SLURM signals both the step and the shell. If the shell passed it on, python would end with 99.
    assert task.signalled(("python", signal.SIGTERM), ("shell", signal.SIGTERM)) == 143
    assert task.record("squeue") == ["--noheader --jobs=7_3 --format=%T"]
    assert task.record("scontrol") == ["requeue 7_3"] * requeued


@pytest.mark.parametrize("code", [0, 1, 2, 3, 70, 130, 134, 137])
def test_a_task_that_ended_by_itself_is_not_queued_again(batch, code):
    task = batch()
    assert task.run(code) == code
    assert not task.record("scontrol")


def test_a_task_that_was_sent_back_a_hundred_times_is_left(batch):
    task = batch(SLURM_RESTART_COUNT="100")
    assert task.run(138) == 138
    assert not task.record("scontrol")


def test_a_task_whose_node_cannot_run_it_is_queued_again_a_few_times(batch):
    task = batch(SLURM_RESTART_COUNT="4")
    assert task.run(4) == 4
    assert task.record("scontrol") == ["requeue 7_3"]


def test_a_task_that_no_node_can_run_is_left(batch):
    task = batch(SLURM_RESTART_COUNT="5")
    assert task.run(4) == 4
    assert not task.record("scontrol")


# --- Kubernetes -----------------------------------------------------------------------------------

VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""The first with backoffLimitPerIndex switched on, and the last whose schemas are installed."""

# Fields of RayJob that rayjob.yaml may use, from the property names of KubeRay's
# ray-operator/config/crd/bases/ray.io_rayjobs.yaml (ray.io/v1), which is made of
# ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go in github.com/ray-project/kuberay.
RAY_JOB = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "clusterSelector": dict,
    "entrypoint": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "entrypointResources": str,
    "jobId": str,
    "managedBy": str,
    "metadata": dict,
    "rayClusterSpec": dict,
    "runtimeEnvYAML": str,
    "shutdownAfterJobFinishes": bool,
    "submissionMode": str,
    "submitterConfig": dict,
    "submitterPodTemplate": dict,
    "suspend": bool,
    "ttlSecondsAfterFinished": int,
}
RAY_CLUSTER = {
    "autoscalerOptions": dict,
    "enableInTreeAutoscaling": bool,
    "headGroupSpec": dict,
    "headServiceAnnotations": dict,
    "rayVersion": str,
    "suspend": bool,
    "workerGroupSpecs": list,
}
AUTOSCALER = {
    "env": list,
    "envFrom": list,
    "idleTimeoutSeconds": int,
    "image": str,
    "imagePullPolicy": str,
    "resources": dict,
    "securityContext": dict,
    "upscalingMode": str,
    "volumeMounts": list,
}
HEAD_GROUP = {
    "enableIngress": bool,
    "headService": dict,
    "rayStartParams": dict,
    "serviceType": str,
    "template": dict,
}
WORKER_GROUP = {
    "groupName": str,
    "maxReplicas": int,
    "minReplicas": int,
    "numOfHosts": int,
    "rayStartParams": dict,
    "replicas": int,
    "scaleStrategy": dict,
    "template": dict,
}


def manifest(name):
    return yaml.safe_load((KUBERNETES / name).read_text())


def check_fields(table, fields, required=()):
    assert set(required) <= set(table)
    for key, value in table.items():
        assert key in fields, key
        assert type(value) is fields[key], key


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["storage.yaml", "job.yaml"])
def test_a_manifest_is_valid(name, version):
    assert kubernetes_validate.validate(manifest(name), version, strict=True)


def test_a_misspelt_field_or_a_wrong_type_is_found():
    job = manifest("job.yaml")
    for path, key, value in (
        (("spec",), "backofLimitPerIndex", 6),
        (("spec",), "completions", "8"),
        (("spec", "template", "spec"), "terminationGraceSeconds", 30),
    ):
        wrong = copy.deepcopy(job)
        at = wrong
        for step in path:
            at = at[step]
        at[key] = value
        with pytest.raises(kubernetes_validate.ValidationError, match=f"{key}|{value}"):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_ray_job_has_the_fields_of_its_crd():
    job = manifest("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    cluster = job["spec"]["rayClusterSpec"]
    check_fields(job["spec"], RAY_JOB, ["entrypoint"])
    check_fields(yaml.safe_load(job["spec"]["runtimeEnvYAML"]), {"env_vars": dict})
    check_fields(cluster, RAY_CLUSTER, ["headGroupSpec", "workerGroupSpecs"])
    check_fields(cluster["autoscalerOptions"], AUTOSCALER)
    assert cluster["autoscalerOptions"]["upscalingMode"] in ("Default", "Aggressive", "Conservative")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    check_fields(groups[0], HEAD_GROUP, ["rayStartParams", "template"])
    for group in groups[1:]:
        check_fields(group, WORKER_GROUP, ["groupName", "rayStartParams", "template"])
        assert 0 < group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups:
        assert all(type(value) is str for value in group["rayStartParams"].values())
    assert groups[0]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pods_of_the_ray_job_are_valid(version):
    cluster = manifest("rayjob.yaml")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        assert kubernetes_validate.validate(pods, version, strict=True)


def pod_templates():
    job, cluster = manifest("job.yaml"), manifest("rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    return [job["spec"]["template"]["spec"], *(group["template"]["spec"] for group in groups)]


def test_every_pod_has_the_shared_storage_one_image_and_time_to_save():
    claim = manifest("storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    images = set()
    for pod in pod_templates():
        (container,) = pod["containers"]
        images.add(container["image"])
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = container["volumeMounts"]
        assert (mount["name"], mount["mountPath"]) == (volume["name"], "/data")
        assert {v["name"]: v["value"] for v in container["env"]}["XDG_CACHE_HOME"].startswith("/data/")
        assert pod["terminationGracePeriodSeconds"] >= 20
    assert len(images) == 1
    job, head, worker = (pod["containers"][0]["resources"]["limits"] for pod in pod_templates())
    assert job["nvidia.com/gpu"] == worker["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in head


def test_the_job_has_as_many_shares_as_pods():
    spec = manifest("job.yaml")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    (share,) = [a for a in container["args"] if a.startswith("--shard=")]
    assert spec["completionMode"] == "Indexed"
    assert share == f"--shard=$(JOB_COMPLETION_INDEX)/{spec['completions']}"
    assert spec["parallelism"] == spec["completions"]


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (130, "Ignore"),
        (138, "Ignore"),
        (143, "Ignore"),
        (1, "FailIndex"),
        (70, "FailIndex"),
        (4, None),
        (2, "FailJob"),
        (3, None),
        (137, None),
    ],
)
def test_an_exit_code_restarts_a_pod_or_does_not(code, action):
    spec = manifest("job.yaml")["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # a policy on failures needs it
    (container,) = spec["template"]["spec"]["containers"]
    rules = [rule for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    for rule in rules:
        assert rule["onExitCodes"]["containerName"] == container["name"]
        assert rule["onExitCodes"]["operator"] == "In"
    found = [rule["action"] for rule in rules if code in rule["onExitCodes"]["values"]]
    assert found == ([action] if action else [])
    assert spec["backoffLimitPerIndex"] > 0  # for codes that no rule names
    first = spec["podFailurePolicy"]["rules"][0]
    assert (first["action"], first["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")


def test_the_image_has_the_ray_of_the_manifest():
    text = (KUBERNETES / "Dockerfile").read_text()
    version = manifest("rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"]
    assert f'"ray[default]=={version}"' in text
    for source in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


# --- flags ----------------------------------------------------------------------------------------

HANDED_OUT = (SCRIPT, *sorted(KUBERNETES.iterdir()), PAGE)
OTHERS = {
    "sbatch": "array cpus-per-task gres job-name mem nodes ntasks open-mode output requeue signal time",
    "squeue": "format jobs noheader",
    "apt-get, pip, useradd, docker": "build-arg create-home no-cache-dir no-install-recommends uid yes",
    "gcloud": "command worker",
}
"""Flags of other programs in these files."""


def flags_named():
    text = "\n".join(path.read_text() for path in HANDED_OUT)
    found = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", text))
    others = {flag for flags in OTHERS.values() for flag in flags.split()}
    assert others <= found, sorted(others - found)
    return sorted(found - others)


@pytest.mark.parametrize("flag", flags_named())
def test_a_flag_that_is_named_exists(flag):
    known = {f.name.replace("_", "-") for c in (Sweep, RunOptions) for f in dataclasses.fields(c)}
    assert flag in known | {"help"}


def test_the_page_is_honest_and_points_to_what_there_is():
    page = PAGE.read_text()
    for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page):
        if link != "scaling.md":  # the study of parallel speed-up
            assert (PAGE.parent / link).exists(), link
    for path in (SCRIPT, *KUBERNETES.iterdir()):
        assert path.name in page, path.name
    assert "(scaling.md)" in page
