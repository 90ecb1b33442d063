"""`flover doctor`: what is looked at, in which order, and the exit status."""

from __future__ import annotations

from collections.abc import Sequence

from flover_backend.config import ModelJson
from flover_backend.doctor import live, machine, report
from flover_backend.doctor.engines import Engines
from flover_backend.doctor.options import DoctorOptions, options_from, parser
from flover_backend.doctor.repository import FoundModel, find_models, lone_model
from flover_backend.doctor.server import Server, check_device, check_server_parts, find_server, look_at
from flover_backend.errors import ConfigError
from flover_backend.host.checks import Check, check_shared_memory
from flover_backend.host.facts import gpus

DEFAULT_ROWS = 256
"""Of a model that does not say, on a GPU: clients to be ready for."""


def main(arguments: Sequence[str] | None = None, program: str = "python3 -m flover_backend.doctor") -> int:
    """The exit status."""
    flags = parser(program)
    given = flags.parse_args(arguments)
    try:
        options = options_from(given)
    except ValueError as error:
        flags.error(str(error))
    with report.working("looking at the server, the machine and the models"):
        sections = examine(options)
    if options.json:
        print(report.as_json(sections))
    else:
        report.show(sections)
    return 1 if report.count(sections, "fail") else 0


def examine(options: DoctorOptions) -> report.Sections:
    """Everything that the flags ask for."""
    try:
        server, missing = find_server(options), []
    except ConfigError as error:
        server, missing = None, [Check("fail", "Triton", str(error), "give --server-root, or install nvidia-pytriton")]
    models, unfound = _find_models(options, has_backend=server is None or server.has_backend)
    sections: report.Sections = [("server", missing), ("machine", _look_at_machine(options, models))]
    sections += [(f"model {model.name}", model.checks) for model in models]
    if server is not None:
        _ask_server(options, server, models, sections)
    if unfound:
        sections.append(("repository", unfound))
    if options.url is not None:
        sections.append(("running server", live.check_live(options.url)))
    return sections


def _find_models(options: DoctorOptions, *, has_backend: bool) -> tuple[list[FoundModel], list[Check]]:
    """The models, and why there are none in the repository."""
    models: list[FoundModel] = []
    unfound = []
    if options.repository is not None:
        try:
            models += find_models(options.repository.absolute(), has_backend=has_backend)
        except ConfigError as error:
            unfound.append(Check("fail", "models", str(error), "give --repository what --model-repository is to be"))
    if options.model is not None:
        models.append(lone_model(options.model, options.instances or (4 if _wants_gpu(options, models) else 1)))
    return models, unfound


def _look_at_machine(options: DoctorOptions, models: list[FoundModel]) -> list[Check]:
    configs = [version.config for model in models for version in model.versions] or [ModelJson()]
    clients = max(one.max_queued_requests + (one.max_rows or DEFAULT_ROWS) for one in configs)
    facts = machine.look(options.host, options.ports)
    fronts = _fronts(options, models)
    return machine.check_machine(facts, fronts=fronts, clients=clients, live=options.url is not None)


def _ask_server(options: DoctorOptions, server: Server, models: list[FoundModel], sections: report.Sections) -> None:
    """Adds what the server's interpreters know to the sections."""
    host = look_at(server)
    engines = Engines(server, [version for model in models for version in model.versions])
    of_server, of_machine, *of_models = (checks for _, checks in sections)
    of_server += check_server_parts(server, host)
    of_server += check_device(host, engines.facts(), wanted=_wants_gpu(options, models))
    of_server += engines.checks
    of_machine.insert(0, check_shared_memory(host, _fronts(options, models)))
    for model, of_model in zip(models, of_models, strict=True):
        of_model.extend(engines.checks_of(model))


def _fronts(options: DoctorOptions, models: list[FoundModel]) -> int:
    """Of all models; without any, of one that the install script would make."""
    return sum(model.instances for model in models) or (4 if _wants_gpu(options, models) else 1)


def _wants_gpu(options: DoctorOptions, models: list[FoundModel]) -> bool:
    if options.device != "auto":
        return options.device == "gpu"
    devices = [version.config.device for model in models for version in model.versions]
    return "cuda" in devices or (bool(gpus()) and (not devices or "auto" in devices))
