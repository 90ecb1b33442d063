"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from flover_backend.config import ModelJson
from flover_backend.front.tensors import INPUTS, OUTPUTS
from flover_backend.metric_families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_is_made_from_the_schema(reference: ModuleType) -> None:
    text = (DOCS / "configuration.md").read_text()
    assert text == reference.configuration(), "run make docs"
    assert re.findall(r"^\| `(\w+)` \| `--", text, re.M) == list(ModelJson.__struct_fields__)


def test_metrics_are_made_from_the_table(reference: ModuleType) -> None:
    text = (DOCS / "metrics.md").read_text()
    assert text == reference.metrics(), "run make docs"
    assert all(f"`{family.name}`" in text for family in FAMILIES)


def test_interface_names_every_tensor() -> None:
    text = (DOCS / "interface.md").read_text()
    missing = [tensor.name for tensor in (*INPUTS, *OUTPUTS) if f"`{tensor.name}`" not in text]
    assert not missing


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), ROOT / "README.md"]), ids=lambda path: path.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:flover_backend|docs|training|scripts|tests|model_repository)/[\w./-]+)`", text)
    lost = [link for link in links if link and not (page.parent / link).exists()]
    lost += [name for name in named if not (ROOT / name).exists()]
    assert not lost
