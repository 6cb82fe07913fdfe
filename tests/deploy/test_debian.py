"""Packages of Debian, fetched for tests."""

from pathlib import Path

import pytest

from tests import debian


def test_a_package_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, and without the network from then on."""
    monkeypatch.setattr(debian, "CACHE", tmp_path)
    home = debian.unpacked("libnss-wrapper")
    assert list(home.rglob("libnss_wrapper.so"))
    monkeypatch.setenv("PATH", "")
    assert debian.unpacked("libnss-wrapper") == home
    assert list(tmp_path.iterdir()) == [home]


def test_where_it_cannot_be_fetched_it_is_said_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(debian.NoPackage, match=r"no apt-get here.*apt-get download prometheus"):
        debian.unpacked("prometheus")
    assert not list(tmp_path.iterdir())
