"""Log lines: where they go, their two forms, and that no prompt is in them."""

from __future__ import annotations

import json

import pytest
from fake_triton import Logger

from flover_backend.front.logs import Log


def test_text_goes_to_tritons_logger() -> None:
    Logger.lines = []
    Log("flover_0_1", "text", Logger).warn("slow", seconds=3)
    assert Logger.lines == [("warn", "flover flover_0_1: slow seconds=3")]


def test_json_lines() -> None:
    Logger.lines = []
    Log("flover_0_1", "json", Logger).info("ready", rows=8)
    level, line = Logger.lines[0]
    record = json.loads(line)
    assert level == "info"
    assert record.pop("time") > 0
    assert record == {"level": "info", "front": "flover_0_1", "message": "ready", "rows": 8}


def test_standard_error_where_there_is_no_logger(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("f")
    log.error("gone")
    assert capsys.readouterr().err == "flover f: gone\n"


def test_a_client_cannot_forge_a_line() -> None:
    Logger.lines = []
    Log("f", "text", Logger).info("seed drawn", request_id="a\nflover f: ready")
    assert Logger.lines == [("info", 'flover f: seed drawn request_id="a\\nflover f: ready"')]
