# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit tests touch no machine: starting a process is an error unless a test asks for it."""

import subprocess

import pytest


@pytest.fixture(autouse=True)
def _no_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "allow_processes" not in request.keywords:

        def refuse(*args: object, **_: object) -> None:
            raise AssertionError(f"a unit test tried to run {args!r}")

        monkeypatch.setattr(subprocess, "run", refuse)
        monkeypatch.setattr(subprocess, "Popen", refuse)
