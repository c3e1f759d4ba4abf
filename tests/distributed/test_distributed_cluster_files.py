"""The files that start clusters, checked offline: against Ray's own schema, KubeRay's fields, and the code's placement.

The validation of cluster files is private in Ray; it is that of the version in uv.lock.
"""

import copy
import importlib.util
import itertools
import math
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ray_jobs.generate import parse
from zero1toa.config import load
from zero1toa.distributed.placement import Room, plan, shortfall

ROOT = Path(__file__).parent.parent.parent
LAUNCHED = ["cluster.yaml", "configs/cluster/local.yaml"]
RAYJOB = ROOT / "configs" / "cluster" / "rayjob.yaml"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def validated(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture(scope="module")
def locked() -> dict[str, dict[str, Any]]:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    return {package["name"]: package for package in lock["package"]}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    documents = list(yaml.safe_load_all(RAYJOB.read_text(encoding="utf-8")))
    assert [document["kind"] for document in documents] == ["PersistentVolumeClaim", "RayJob"]
    assert documents[1]["apiVersion"] == "ray.io/v1"
    return documents[1]


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name: str):
    prepared = validated(read(name))
    assert prepared["max_workers"] <= sum(kind["max_workers"] for kind in prepared["available_node_types"].values())


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_would_refuse_a_mistake(name: str):
    from jsonschema import ValidationError

    with pytest.raises(ValidationError):
        validated({**read(name), "idle_timeout": 5})


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_start_knows_every_option(name: str):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    config = read(name)
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        if "ray start" in command:
            assert {word.partition("=")[0] for word in re.findall(r"--[\w-]+", command)} <= known


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_has_the_token_and_asks_for_it(name: str):
    config = read(name)
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_spot_machines_and_no_others_are_labelled_as_such():
    kinds = read("cluster.yaml")["available_node_types"]
    for kind in kinds.values():
        spot = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert (kind["labels"]["market"] == "spot") == spot
    assert kinds["refine_spot"]["labels"]["market"] == "spot"
    assert kinds["recon"]["labels"]["market"] != "spot"


def test_the_notice_that_workers_start_is_there():
    commands = read("cluster.yaml")["worker_start_ray_commands"]
    (module,) = re.findall(r"python -m ([\w.]+)", " ".join(commands))
    assert importlib.util.find_spec(module) is not None


def groups_of(name: str) -> dict[str, dict[str, str]]:
    """Labels of the groups of nodes, by what they are for."""
    if name == "cluster.yaml":
        labels = [kind["labels"] for kind in read(name)["available_node_types"].values()]
    else:
        cluster = list(yaml.safe_load_all(RAYJOB.read_text()))[1]["spec"]["rayClusterSpec"]
        labels = [group["labels"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return {label["role"]: label for label in labels}


@pytest.mark.parametrize("name", ["cluster.yaml", "rayjob.yaml"])
@pytest.mark.parametrize("started", [["head"], ["head", "refine", "recon"]])
def test_placement_asks_for_the_labels_that_the_nodes_have(name: str, started: list[str]):
    groups = groups_of(name)
    placement = plan(
        device="auto",
        gpus=0,
        refiners=1,
        avatars=1,
        refine_gpus=1,
        reconstruct_gpus=0.25,
        labels=[groups[role] for role in started],
    )

    def first(options: dict[str, Any]) -> list[str]:
        wish = options["label_selector"].items()
        return [
            role
            for role, labels in groups.items()
            if all(labels.get(k) != v[1:] if v.startswith("!") else labels.get(k) == v for k, v in wish)
        ]

    assert first(placement.refinement) == ["refine"]
    assert first(placement.reconstruction) == ["recon"]
    assert first(placement.service) == ["head"]


def test_the_cluster_has_room_for_its_batch():
    """The largest cluster of cluster.yaml holds what configs/batch.yaml asks for."""
    kinds = read("cluster.yaml")["available_node_types"]
    cpus = {"g6e.xlarge": 4, "g6e.2xlarge": 8}  # of AWS, with one GPU each
    rooms = [
        Room(cpus[kind["node_config"]["InstanceType"]], 1)
        for kind in (kinds["refine_spot"], kinds["recon"])
        for _ in range(kind["max_workers"])
    ]
    config = load(["distributed.refine_gpus=1", "distributed.reconstruct_gpus=0.25"], ROOT / "configs" / "batch.yaml")
    assert fits(config, rooms)


def fits(config, rooms: list[Room]) -> bool:
    distributed = config.distributed
    avatars = config.batch.at_once or math.ceil(1.5 * distributed.refiners)
    placement = plan(
        device=config.device,
        gpus=sum(room.gpus for room in rooms),
        refiners=distributed.refiners,
        avatars=avatars,
        refine_gpus=distributed.refine_gpus,
        reconstruct_gpus=distributed.reconstruct_gpus,
    )
    return shortfall(placement, rooms, distributed.refiners, avatars) is None


# Fields of KubeRay's API types that the manifest may use.
SPEC = {
    "entrypoint", "submissionMode", "backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished", "runtimeEnvYAML", "rayClusterSpec", "metadata", "submitterPodTemplate",
    "submitterConfig", "suspend", "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "deletionStrategy",
}  # fmt: skip
CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
    "gcsFaultToleranceOptions", "headServiceAnnotations",
}  # fmt: skip
HEAD = {"labels", "resources", "rayStartParams", "template", "serviceType", "enableIngress", "headService"}
GROUP = {
    "groupName", "labels", "resources", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds",
    "rayStartParams", "scaleStrategy", "template",
}  # fmt: skip


def test_the_job_uses_fields_of_kuberay(job: dict[str, Any]):
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert set(spec) <= SPEC
    assert set(cluster) <= CLUSTER
    assert set(cluster["headGroupSpec"]) <= HEAD
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= GROUP
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
    assert spec["shutdownAfterJobFinishes"]  # else the time to live means nothing
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert isinstance(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"], dict)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert "labels" not in group["rayStartParams"]  # KubeRay refuses them there
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_every_pod_has_image_resources_and_its_volumes(job: dict[str, Any]):
    cluster = job["spec"]["rayClusterSpec"]
    images = set()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind])
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        (shared,) = (mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm")
        assert volumes[shared]["emptyDir"]["medium"] == "Memory"
    assert len(images) == 1


def test_the_head_has_no_gpu_and_keeps_cpus_for_itself(job: dict[str, Any]):
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    (container,) = head["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert 0 < int(head["rayStartParams"]["num-cpus"]) < int(container["resources"]["limits"]["cpu"])


def test_workers_have_a_gpu_and_only_refiners_are_spot(job: dict[str, Any]):
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        spot = any("spot" in key for key in pod.get("nodeSelector", {}))
        assert spot == any("spot" in toleration["key"] for toleration in pod["tolerations"])
        assert spot == (group["labels"]["market"] == "spot") == (group["groupName"] == "refine")
        # Ray has to be done with draining before the pod is killed.
        (drain,) = (int(v["value"]) for v in container["env"] if v["name"] == "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
        assert drain < pod["terminationGracePeriodSeconds"]


def test_the_entrypoint_is_a_batch_that_fits(job: dict[str, Any]):
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "ray_jobs.generate"]
    arguments = parse(words[3:])
    assert arguments.input
    assert arguments.output.startswith("/mnt/share/")
    # The file lies where the image has it.
    workdir = next(value for instruction, value in instructions() if instruction == "WORKDIR")
    assert arguments.file is not None
    config = load(arguments.overrides, ROOT / arguments.file.relative_to(workdir))
    rooms = [
        Room(int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]), 1)
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        for _ in range(group["maxReplicas"])
    ]
    assert fits(config, rooms)


def test_the_job_is_of_the_locked_ray(job: dict[str, Any], locked):
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == locked["ray"]["version"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with the values of its arguments put in."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[tuple[str, str]] = []
    values: dict[str, str] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if not instruction:
            continue
        rest = re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[0]), rest)
        if instruction in ("ARG", "ENV"):
            for name, value in re.findall(r"(\w+)=(\"[^\"]*\"|\S+)", rest):
                values[name] = value.strip('"')
        found.append((instruction, rest))
    return found


def value_of(kind: str, name: str) -> str:
    (value,) = (
        match[1]
        for instruction, rest in instructions()
        if instruction == kind and (match := re.search(rf"\b{name}=\"?([^\"\s]+)", rest))
    )
    return value


def test_the_image_has_a_python_that_the_project_and_its_wheels_want(locked):
    python = value_of("ARG", "PYTHON")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"{python}.1" in SpecifierSet(project["requires-python"])
    tag = f"cp{python.replace('.', '')}"
    for name in ("torch", "ray", "mediapipe", "numpy"):
        wheels = [wheel["url"] for wheel in locked[name]["wheels"]]
        assert any(tag in url and "linux" in url and "x86_64" in url for url in wheels), name


def test_the_image_has_the_cuda_of_the_locked_torch(locked):
    (base,) = (rest for instruction, rest in instructions() if instruction == "FROM")
    match = re.fullmatch(r"nvidia/cuda:([\d.]+)-devel-ubuntu24\.04", base)
    assert match is not None
    toolkit = {dependency["name"] for dependency in locked["torch"]["dependencies"]} & {"cuda-toolkit"}
    assert toolkit, "torch of uv.lock does not say which CUDA it is built for"
    assert Version(match[1]).major == Version(locked["cuda-toolkit"]["version"]).major


def test_the_image_copies_what_exists_and_what_docker_is_shown():
    shown = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert shown[0] == "*"
    allowed = {line[1:] for line in shown if line.startswith("!")}
    copied = set(
        itertools.chain.from_iterable(
            shlex.split(rest)[:-1] for instruction, rest in instructions() if instruction == "COPY"
        )
    )
    assert copied == allowed
    for name in copied:
        assert (ROOT / name).exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packaged = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*packaged["packages"], *packaged["force-include"], *project["project"]["license-files"]}
    assert needed | {project["project"]["readme"]} <= copied
    assert any(fnmatch("zero1toa/__pycache__", pattern.replace("**/", "*")) for pattern in shown[1:])


def test_the_image_is_locked_and_not_root():
    runs = [rest for instruction, rest in instructions() if instruction == "RUN"]
    (sync,) = (run for run in runs if "uv sync" in run)
    assert "--frozen" in sync
    assert "--no-dev" in sync
    assert [rest for instruction, rest in instructions() if instruction == "USER"][-1] == "ray"
    assert any("useradd" in run and "--uid 1000" in run for run in runs)
    # Also in the shells that start Ray.
    assert any("/etc/profile.d/" in run and "/opt/zero1toa/.venv/bin" in run for run in runs)


def test_the_image_keeps_what_gsplat_was_compiled_with():
    """gsplat compares the options at each import; without the list in the environment every worker would compile."""
    kept = [index for index, (i, rest) in enumerate(instructions()) if i == "ENV" and "TORCH_CUDA_ARCH_LIST=" in rest]
    built = [index for index, (i, rest) in enumerate(instructions()) if i == "RUN" and "gsplat" in rest]
    paths = [index for index, (i, rest) in enumerate(instructions()) if i == "ENV" and re.search(r"\bPATH=", rest)]
    assert len(kept) == len(built) == 1
    assert kept[0] < built[0]
    assert paths[0] < built[0]  # torch calls ninja by its name
    assert value_of("ENV", "RAY_ENABLE_UV_RUN_RUNTIME_ENV") == "0"
