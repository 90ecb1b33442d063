"""Several versions of one model: each its own model.json, engine and labels; added, removed and broken under load."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import tiny_gptj
from live_metrics import Scrape, ours
from live_server import LiveServer, is_running, wait_for
from repository import add_model, add_version
from server_control import engines_of, load, ready_versions, repository_call, settled, states, unload
from triton_client import Call, arrays_of, ids_of

ALL = "version_policy { all {} }"
SPECIFIC = "version_policy { specific { versions: [ 1, 3 ] } }"
LONG = {"temperature": 0, "max_tokens": 1000, "ignore_eos": True}
SHORT = {"temperature": 0, "max_tokens": 30, "ignore_eos": True}


@pytest.fixture(scope="module")
def many(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """`many`: version 1 is the bundled LLaMA with three rows, version 2 a GPT-J with two."""
    directory = tiny_gptj.write(tmp_path_factory.mktemp("gptj"))
    versions = {1: {"max_rows": 3}, 2: {"model": str(directory), "max_rows": 2}}
    add_model(server.folder / "models", "many", versions, more=ALL)
    load(server, "many")
    yield server
    unload(server, "many")


def stream(server: LiveServer, version: int | str, parameters: dict[str, object], model: str = "many") -> Call:
    return Call(server.grpc_url, arrays_of([5, 6, 7], parameters, stream=True), model, model_version=str(version))


def refusal(server: LiveServer, version: int, model: str = "many") -> str:
    """The error that names the limit of n, which is the version's max_rows."""
    return stream(server, version, {"n": 100}, model).rest()[-1].error


def generated(scrape: Scrape, version: int) -> float:
    return scrape[f'vllm:generation_tokens_total{{model="many",version="{version}"}}']


def test_versions_serve_at_once_each_with_its_own_configuration(many: LiveServer) -> None:
    assert ready_versions(many, "many") == [1, 2]
    assert len(set(engines_of(many, "many"))) == 2
    assert "1 .. 3" in refusal(many, 1)
    assert "1 .. 2" in refusal(many, 2)
    calls = {version: stream(many, version, SHORT) for version in ("1", "2", "")}
    answers = {version: ids_of(call.rest()) for version, call in calls.items()}
    assert answers["1"] != answers["2"]
    assert answers[""] == answers["2"], "without a version a request goes to the latest"


@pytest.mark.slow
def test_metrics_tell_versions_apart(many: LiveServer) -> None:
    before = settled(many)
    assert len(ids_of(stream(many, 1, SHORT).rest())) == 30
    wait_for(lambda: generated(ours(many.metrics()), 1) == generated(before, 1) + 30)
    after = settled(many)
    assert generated(after, 1) == generated(before, 1) + 30
    assert generated(after, 2) == generated(before, 2)


def test_a_version_is_added_and_one_removed_under_load(many: LiveServer) -> None:
    engines = engines_of(many, "many")
    calls = [stream(many, version, LONG) for version in (1, 1)]
    answers = [[call.next()] for call in calls]
    add_version(many.folder / "models", "many", 3, {"max_rows": 5})
    load(many, "many")
    assert ready_versions(many, "many") == [1, 2, 3]
    assert engines_of(many, "many")[:2] == engines, "the versions that were there keep their engines"
    assert "1 .. 5" in refusal(many, 3)
    shutil.rmtree(many.folder / "models" / "many" / "1")
    load(many, "many")
    for call, first in zip(calls, answers, strict=True):
        assert len(ids_of([*first, *call.rest()])) == LONG["max_tokens"]
    wait_for(lambda: not is_running(engines[0]), timeout_s=30)
    wait_for(lambda: states(many, "many")[1] == "UNAVAILABLE")
    assert engines_of(many, "many")[0] == engines[1]


def test_a_version_that_does_not_load_leaves_the_others(many: LiveServer) -> None:
    serving = ready_versions(many, "many")
    add_version(many.folder / "models", "many", 4, {"max_rowz": 5})
    status, answer = repository_call(many, "load", "many")
    assert status == 400
    assert "version 4" in answer and "max_rowz" in answer
    assert ready_versions(many, "many") == serving
    assert len(ids_of(stream(many, serving[-1], SHORT).rest())) == 30
    assert engines_of(many, "many", 4) == []
    shutil.rmtree(many.folder / "models" / "many" / "4")


@pytest.mark.slow
def test_a_policy_of_specific_versions(server: LiveServer) -> None:
    add_model(server.folder / "models", "chosen", {number: {"max_rows": number} for number in (1, 2, 3)}, SPECIFIC)
    load(server, "chosen")
    assert ready_versions(server, "chosen") == [1, 3]
    assert len(engines_of(server, "chosen")) == 2
    for version in (1, 3):
        assert f"1 .. {version}" in refusal(server, version, "chosen")
    with pytest.raises(AssertionError, match="unknown model"):
        raise AssertionError(refusal(server, 2, "chosen"))
    unload(server, "chosen")
