"""deploy/kubernetes as `kubectl apply -k` would send it: rendered by kubectl itself, read as objects."""

from __future__ import annotations

import functools
import subprocess
from typing import Any

import yaml
from live_server import ROOT
from tools import program

KUBERNETES = ROOT / "deploy" / "kubernetes"
Object = dict[str, Any]


@functools.cache
def rendered() -> list[Object]:
    """Every object of the kustomization."""
    command = [str(program("kubectl")), "kustomize", str(KUBERNETES)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    return list(yaml.safe_load_all(answer.stdout))


def one(kind: str, name: str = "") -> Object:
    """The only object of a kind, or the one of that name."""
    (found,) = [each for each in rendered() if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    return found


def pod() -> Object:
    """The pod's specification."""
    return one("Deployment")["spec"]["template"]["spec"]


def container() -> Object:
    (found,) = pod()["containers"]
    return found


def volumes() -> dict[str, Object]:
    return {volume["name"]: volume for volume in pod()["volumes"]}


def mounts() -> dict[str, str]:
    """Path in the container -> name of the volume."""
    return {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
