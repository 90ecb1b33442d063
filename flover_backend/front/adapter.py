"""What Triton's Python backend calls: TritonPythonModel. Thin; everything else is service.py and its parts.

The only module that imports `triton_python_backend_utils`, which exists in a stub process alone.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import triton_python_backend_utils as pb_utils

from flover_backend.channel import EngineInfo
from flover_backend.config import ModelJson, load_model_json, to_json
from flover_backend.errors import FloverError, InvalidRequest
from flover_backend.front import tensors
from flover_backend.front.generation import Generation
from flover_backend.front.given_up import LoadWatch
from flover_backend.front.incoming import Incoming
from flover_backend.front.logs import Log
from flover_backend.front.metrics_export import MetricsWriter
from flover_backend.front.model_dir import model_dir_of_repository
from flover_backend.front.numpy_check import check_numpy
from flover_backend.front.out_of_service import OutOfService
from flover_backend.front.rendezvous import EngineSpec
from flover_backend.front.responses import Responder
from flover_backend.front.sender import SenderPool
from flover_backend.front.service import FrontService
from flover_backend.front.supervisor import EngineSupervisor
from flover_backend.front.tokenizer import load_tokenizer
from flover_backend.front.watch import ServerWatch, guard_this_stub, server_pid


class TritonPythonModel:
    """One front: a model instance that shares the model's engine with the other instances."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Declare the tensors, max_batch_size 0 and the decoupled policy."""
        guard_this_stub()
        return tensors.complete(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        """Load: check the configuration, attach to the engine (starting it if it is the first). Raises on failure."""
        guard = guard_this_stub()
        try:
            self._watch = ServerWatch(server_pid())
            self._watch.start()
            self._service = _load(args, server_pid())
            if guard is not None:  # from now on the engine sees to a front that cannot watch (engine/stuck_fronts.py)
                guard.kill()
                guard.wait()
        except FloverError as error:
            if "\n" in str(error):  # a config to paste; Triton's log escapes the ends of its lines
                print(error, file=sys.stderr, flush=True)
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> None:
        """Take the requests in and return at once; responses come later through their senders."""
        for request in requests:
            self._service.accept(Responder(pb_utils, request.get_response_sender()), partial(_copy_out, request))

    def is_ready(self) -> bool:
        """Asked for /v2/models/NAME/ready by servers that know it (26.03 and later): False once the engine is gone."""
        return self._service.is_ready()

    def finalize(self) -> None:
        """Called after the last response of an orderly end. Bounded."""
        self._service.close()
        self._watch.stop()


def _load(args: dict[str, str], server: int) -> FrontService:
    check_numpy(pb_utils)
    tensors.check_model_config(json.loads(args["model_config"]))
    version_dir = Path(args["model_repository"]) / args["model_version"]
    config = load_model_json(version_dir / "model.json")
    # NOTE: instances of several versions have the same names.
    front_name = f"{args['model_instance_name']} v{args['model_version']}"
    log = Log(front_name, config.log_format, getattr(pb_utils, "Logger", None))
    with LoadWatch.of_this_stub(Log(front_name, config.log_format)) as load_watch:
        service = _attach(args, config, version_dir, log, server)
        load_watch.settle()
    log.info("ready")
    return service


def _attach(args: dict[str, str], config: ModelJson, version_dir: Path, log: Log, server: int) -> FrontService:
    model_dir = model_dir_of_repository(config.model, version_dir)
    spec = EngineSpec(config, model_dir, args["model_name"], args["model_version"], server)
    client = EngineSupervisor(spec, args["model_instance_name"], log.info)
    tokenizer = load_tokenizer(Path(client.info.model_dir))
    metrics = MetricsWriter(
        pb_utils, client.info, client.metrics_written, args["model_name"], args["model_version"], log
    )
    service = FrontService(
        client,
        tokenizer,
        metrics,
        log,
        SenderPool(config.sender_threads),
        header_prefix=config.header_prefix,
    )
    generation = Generation(client, args["model_name"], args["model_version"], server)
    service.on_dead = end = OutOfService(pb_utils, args["model_name"], server, log, service.close, generation)
    if end.may_unload:
        service.make_way(generation)
    client.start(service)
    if args["model_instance_name"].endswith("_0"):
        _log_effective(log, config, client.info, tokenizer is not None)
    return service


def _log_effective(log: Log, config: ModelJson, info: EngineInfo, has_tokenizer: bool) -> None:
    """The configuration as it came out, once a model: by its first instance."""
    resolved = {name: value for name, value in msgspec.to_builtins(info).items() if name != "front_number"}
    effective = to_json(config) | resolved | {"has_tokenizer": has_tokenizer}
    log.info("effective configuration", **{name: value for name, value in effective.items() if value is not None})


def _copy_out(request: Any) -> Incoming:
    """Everything needed of a request: its tensors are invalid once `execute` has returned."""
    try:
        return Incoming(
            arrays={tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()},
            request_parameters=request.parameters(),
            wants_text="text_output" in request.requested_output_names(),
            request_id=request.request_id(),
            timeout_us=request.timeout() if hasattr(request, "timeout") else 0,
        )
    except UnicodeDecodeError:  # gRPC's string fields: Triton's server only warns of what is no UTF-8
        raise InvalidRequest("the request's id, or a request parameter, is not UTF-8; UTF-8 is expected") from None
