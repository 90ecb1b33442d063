"""deploy/kubernetes against the schemas of Kubernetes itself, and against what no schema knows: each other, the image,
the server, the backend.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from live_server import ROOT
from manifests import KUBERNETES, Object, container, mounts, one, pod, rendered, volumes

from flover_backend.config import ModelJson
from flover_backend.host.checks import SHM_PER_FRONT
from flover_backend.metric_families import FAMILIES
from flover_backend.observer import DRAIN_GRACE_S
from flover_install.options import options_from, parser

VERSIONS = ("1.29", "1.37")
"""The oldest that has all that is used here, and the newest that the validator knows."""
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def size(text: str) -> int:
    """Bytes of a quantity such as 16Gi."""
    return int(text[:-2]) * UNITS[text[-2:]]


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def pod_labels() -> dict[str, str]:
    return one("Deployment")["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schema(version: str) -> None:
    objects = rendered()
    assert len(objects) == 8
    for each in objects:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_validator_does_refuse() -> None:
    broken = json.loads(json.dumps(one("Deployment")))
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[1], strict=True)


def test_every_file_is_part_of_it() -> None:
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    others = {"kustomization.yaml", "prometheus-adapter.yaml"}
    assert sorted(named) == sorted(path.name for path in KUBERNETES.glob("*.yaml") if path.name not in others)


def test_selectors_find_the_pods() -> None:
    labels = pod_labels()
    spec = one("Deployment")["spec"]
    selectors = [spec["selector"]["matchLabels"]]
    selectors += [each["spec"]["selector"] for each in rendered() if each["kind"] == "Service"]
    selectors.append(one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"])
    selectors.append(one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    selectors += [rule["labelSelector"]["matchLabels"] for rule in pod()["topologySpreadConstraints"]]
    assert len(selectors) == 7
    assert all(selector and selects(selector, labels) for selector in selectors)
    assert one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": one("Deployment")["metadata"]["name"],
    }


def test_ports_are_tritons_and_named_alike_everywhere() -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}  # tritonserver's own, and the Dockerfile's EXPOSE
    for service in [each for each in rendered() if each["kind"] == "Service"]:
        assert all(port["targetPort"] == port["name"] for port in service["spec"]["ports"])
        assert all(port["port"] == ports[port["name"]] for port in service["spec"]["ports"])
    probes = [container()[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["httpGet"]["port"] for probe in probes} == {"http"}
    allowed = [port["port"] for rule in one("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert sorted(allowed) == sorted(ports)


def test_probes_ask_for_the_model() -> None:
    """/v2/health/ready may stay 200 when the engine is gone."""
    loaded = [word.split("=")[1] for word in container()["args"] if word.startswith("--load-model=")]
    assert loaded == ["flover"]
    assert "--model-control-mode=explicit" in container()["args"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[name]["httpGet"]["path"] == f"/v2/models/{loaded[0]}/ready"
    liveness = container()["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 180  # an engine may be starting again
    startup = container()["startupProbe"]
    longest_load = startup["periodSeconds"] * startup["failureThreshold"]
    assert longest_load >= 1800
    assert one("Deployment")["spec"]["progressDeadlineSeconds"] > longest_load


def model_json() -> ModelJson:
    return ModelJson(**json.loads(one("ConfigMap")["data"]["model.json"]))


def hook() -> tuple[float, list[str]]:
    """(seconds of pause, words of the drain's command) of the preStop hook."""
    shell, flag, text = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, flag) == ("sh", "-c")
    pause, drain = text.split(";")
    return float(pause.split()[1]), shlex.split(drain)


def test_the_grace_period_outlasts_hook_and_stop() -> None:
    pause, _ = hook()
    (stop,) = [int(word.split("=")[1]) for word in container()["args"] if word.startswith("--exit-timeout-secs=")]
    unload = 5  # finalize comes after that timeout; it takes 3 s
    bounds = pause + model_json().drain_timeout_s + DRAIN_GRACE_S + stop + unload
    assert pod()["terminationGracePeriodSeconds"] > bounds


def test_the_hooks_command_is_the_backends_as_it_is_installed_in_the_image() -> None:
    """No --timeout: then it is the model's drain_timeout_s."""
    _, (path, *words) = hook()
    assert words == ["exec", "python3", "-m", "flover_backend.drain"]
    installed = options_from(parser().parse_args(["--model-repository", "/models"]))
    assert path == f"PYTHONPATH={installed.packages}"
    drain_help = subprocess.run([sys.executable, *words[2:], "--help"], capture_output=True, text=True, check=True)
    assert "drain_timeout_s" in drain_help.stdout


def test_a_rolling_update_never_has_fewer_pods() -> None:
    spec = one("Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert "replicas" not in spec  # the autoscaler's
    assert one("HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 2  # or the disruption budget allows no disruption
    assert one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_container_may_do_little() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] == 1000  # triton-server of NVIDIA's images
    assert pod()["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod().keys()


def test_administration_takes_a_key_that_is_a_secret() -> None:
    (key,) = [each["valueFrom"]["secretKeyRef"] for each in container()["env"] if "valueFrom" in each]
    restricted = [word for word in container()["args"] if "-restricted-" in word]
    assert [word.split("=")[0] for word in restricted] == ["--http-restricted-api", "--grpc-restricted-protocol"]
    for word in restricted:
        groups, _, header = word.split("=", 1)[1].partition(":")
        assert {"model-repository", "shared-memory"} <= set(groups.split(",")) and "health" not in groups
        assert header == "admin-key=$(FLOVER_ADMIN_KEY)"
    text = (KUBERNETES / "kustomization.yaml").read_text()
    assert f"kubectl create secret generic {key['name']} --from-literal={key['key']}=" in text


def test_what_is_written_to_is_a_volume_that_may_be() -> None:
    writable = {path for path, name in mounts().items() if "emptyDir" in volumes()[name]}
    assert writable == {"/dev/shm", "/tmp", "/var/cache/flover"}
    environment = {each["name"]: each.get("value", "") for each in container()["env"]}
    assert environment["HOME"] in writable
    assert any(environment["TRITON_CACHE_DIR"].startswith(f"{path}/") for path in writable)
    assert sorted(mounts().values()) == sorted(volumes())  # none without a place, no place without one


def test_shared_memory_holds_the_fronts_and_fits_into_the_memory() -> None:
    shared = volumes()[mounts()["/dev/shm"]]["emptyDir"]
    assert shared["medium"] == "Memory"
    fronts = int(re.findall(r"count: (\d+)", (KUBERNETES / "model" / "config.pbtxt").read_text())[0])
    assert size(shared["sizeLimit"]) >= 16 * fronts * SHM_PER_FRONT  # requests may be long
    limits, requests = (container()["resources"][kind] for kind in ("limits", "requests"))
    assert size(limits["memory"]) >= size(requests["memory"]) + size(shared["sizeLimit"])
    assert limits["nvidia.com/gpu"] == requests["nvidia.com/gpu"] == 1


def test_the_models_folder_is_one_of_the_backend() -> None:
    """The ConfigMap carries both files to where the image has its own."""
    source = volumes()[mounts()["/models/flover"]]["configMap"]
    held: Object = one("ConfigMap")
    assert source["name"] == held["metadata"]["name"] != "flover-model"  # with the digest of its content
    assert {item["key"]: item["path"] for item in source["items"]} == {
        "config.pbtxt": "config.pbtxt",
        "model.json": "1/model.json",
    }
    assert mounts()["/weights"] == "weights" and model_json().model.startswith("/weights/")
    claim = volumes()["weights"]["persistentVolumeClaim"]["claimName"]
    assert claim == one("PersistentVolumeClaim")["metadata"]["name"]


def test_it_fits_the_image() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "--model-repository /models" in text and "EXPOSE 8000 8001 8002" in text
    command = json.loads(re.findall(r"^CMD (\[.*\])$", text, re.M)[0])
    assert set(command) <= set(container()["args"])
    assert container()["image"].rpartition(":")[0].endswith("/tritonserver-flover")


def test_the_autoscaler_reads_a_metric_that_the_adapter_serves_and_the_backend_has() -> None:
    (metric,) = one("HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert name in {family.name for family in FAMILIES if family.kind == "gauge"}
    assert f"`{name}`" in (ROOT / "docs" / "metrics.md").read_text()
    assert sorted(rule["resources"]["overrides"]) == ["namespace", "pod"]
