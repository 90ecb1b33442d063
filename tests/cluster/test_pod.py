"""The Deployment's container, run: its arguments, its ConfigMap, its restrictions, its probes, its hook and its end."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from installing import QUICK, run_install
from live_server import ROOT, wait_for
from manifests import container, one, volumes
from manifests import pod as pod_spec
from pod import Pod, skip_without_namespaces
from server_root import ServerRoot, make_server_root
from triton_client import Call, arrays_of, ask, ids_of

from flover_backend.bundled import path_of

LONG = {"temperature": 0, "max_tokens": 2000, "ignore_eos": True}
KEY = "0123456789abcdef"
CPU_ONLY = ("--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0")


def make_config_map(folder: Path, texts: dict[str, str]) -> None:
    """As the kubelet writes the volume: links into a folder whose name changes with each update."""
    data = folder / "..2026_01_01_00_00_00.1"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for item in volumes()["model"]["configMap"]["items"]:
        place = data / item["path"]
        place.parent.mkdir(exist_ok=True)
        place.write_text(texts[item["key"]])
    for entry in data.iterdir():
        (folder / entry.name).symlink_to(f"..data/{entry.name}")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> ServerRoot:
    """What deploy/install.py makes of a server; the image's build runs the same."""
    made = make_server_root(tmp_path_factory.mktemp("image"), with_package=False)
    installed = run_install(made, *QUICK, "--device", "cpu")
    assert installed.status == 0, installed
    return made


@pytest.fixture
def running(image: ServerRoot, tmp_path: Path) -> Iterator[Pod]:
    """Paths of the container are folders of the test; the weights are the bundled model's, and one row makes few
    requests work for long."""
    skip_without_namespaces(tmp_path)
    weights = tmp_path / "weights"
    shutil.copytree(path_of("llama-demo"), weights / "model")
    texts = one("ConfigMap")["data"]
    moved = {name: text.replace("/weights/", f"{weights}/") for name, text in texts.items()}
    moved["model.json"] = json.dumps(json.loads(moved["model.json"]) | {"max_rows": 1})
    make_config_map(tmp_path / "models" / "flover", moved)
    program, *arguments = container()["args"]
    placed = [word.replace("=/models", f"={tmp_path / 'models'}") for word in arguments]
    assert program == "tritonserver" and placed != arguments
    command = [str(image.root / "bin" / program), *placed, f"--backend-directory={image.backends}", *CPU_ONLY]
    command = [word.replace("$(FLOVER_ADMIN_KEY)", KEY) for word in command]  # as the kubelet fills it in
    environment = image.environment() | {each["name"]: each.get("value", KEY) for each in container()["env"]}
    started = Pod(tmp_path, [tmp_path, image.root.parent, ROOT, Path(sys.prefix)], command, environment)
    yield started
    started.kill()


def hook(image: ServerRoot) -> list[str]:
    """preStop, with the image's path as it is here."""
    words = container()["lifecycle"]["preStop"]["exec"]["command"]
    return [word.replace("/opt/tritonserver", str(image.root)) for word in words]


def status(url: str, headers: dict[str, str] | None = None) -> int:
    """Of a POST."""
    try:
        request = urllib.request.Request(url, b"{}", headers or {}, method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_it_serves_drains_and_ends_within_its_bounds(running: Pod, image: ServerRoot) -> None:
    ready = container()["startupProbe"]["httpGet"]["path"]
    wait_for(lambda: running.probe(ready) or not running.is_running, timeout_s=120)
    assert running.is_running, running.log()[-5000:]

    inside = running.run_in(
        "sh", "-c", "id -u; grep CapEff /proc/self/status; touch /x 2>&1; touch {WRITABLE}/x; ls /proc"
    )
    assert inside.split()[:3] == ["1000", "CapEff:", "0000000000000000"]
    assert "Read-only file system" in inside
    assert running.run_in("cat", "/proc/1/comm").strip() == "tritonserver"
    assert len(ids_of(ask(running.grpc_url, [5, 6], {"max_tokens": 3, "ignore_eos": True}))) == 3

    index = f"http://127.0.0.1:{running.http_port}/v2/repository/index"
    assert (status(index), status(index, {"admin-key": KEY})) == (403, 200)

    calls = [Call(running.grpc_url, arrays_of([5], LONG, stream=bool(number % 2))) for number in range(10)]
    stopping = running.start_in(hook(image))
    ends = [call.rest() for call in calls]
    said, _ = stopping.communicate(timeout=120)
    assert stopping.returncode == 0, said
    cut = [last for *_, last in ends if last.error]
    assert all(last.error.endswith("[UNAVAILABLE]") for last in cut)
    assert all(len(ids_of(end)) == 2000 for end in ends if not end[-1].error)
    assert f"requests finished, {len(cut)} were ended" in said
    (late,) = ask(running.grpc_url, [5], {"max_tokens": 1})
    assert late.error.endswith("[UNAVAILABLE]")
    running.terminate()
    running.wait_ended(pod_spec()["terminationGracePeriodSeconds"])
