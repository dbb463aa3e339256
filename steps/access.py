"""Steps about who is let in: servers with other keys than the site means, and a site without any."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from pytest_bdd import given, parsers, then

from cutover.checks import registry as checks
from lab.lab import Lab
from lab.operator import Operator
from lab.processes import Process

#: What a server's settings become, as a sentence of a feature names it.
SETTINGS: dict[str, dict[str, str]] = {
    "needs no key": {"API_KEY": "", "READ_ONLY_API_KEY": ""},
    "lacks a read-only key": {"READ_ONLY_API_KEY": ""},
    "has another key": {"API_KEY": "a key that applications do not have"},
    "lets in signed tokens": {"JWT_RBAC": "true"},
}


def _settings(what: str) -> dict[str, str]:
    return {f"QDRANT__SERVICE__{name}": value for name, value in SETTINGS[what].items()}


def _start_old_with(lab: Lab, what: str) -> None:
    machine = lab.machines[lab.site.guests.old.vmid]
    server: Any = machine.services[0]
    machine.stop()
    server.env.update(_settings(what))
    machine.start()


@given(parsers.re(f"(?:meanwhile )?the old server (?P<what>{'|'.join(SETTINGS)})"))
def _old_server(lab: Lab, what: str) -> None:
    _start_old_with(lab, what)


@given(parsers.re(f"meanwhile the new server (?P<what>{'|'.join(SETTINGS)})"))
def _new_server(new_server: Process, what: str) -> None:
    new_server.stop()
    new_server.env.update(_settings(what))
    new_server.start()


@given("neither server needs a key, and the site says so")
def _open_site(lab: Lab, operator: Operator, new_server: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.change_site(qdrant={"access": "open"})
    env = {key: value for key, value in lab.env.items() if not key.startswith("QDRANT_")}
    monkeypatch.setattr(type(lab), "env", property(lambda _self: env))
    _start_old_with(lab, "needs no key")
    new_server.env.update(_settings("needs no key"))
    new_server.start()
    operator.does("gate")


@then("both servers let in everybody, and the check of it says so")
def _everybody(lab: Lab, operator: Operator) -> None:
    del lab
    (check,) = [one for one in checks.registered() if one.criterion == "D4"]
    with closing(operator.run(execute=False)) as run:
        found = checks.ask(check, run)
    assert found.ok, found.sentence
    assert "let in everybody, without keys, as site.yaml says" in found.sentence
