"""Meanwhile: what happens to vLLM and Portainer for a moment while the operator works, and what is made of it."""

from __future__ import annotations

from contextlib import closing

from pytest_bdd import given, parsers, then

from cutover import availability
from cutover.checks import registry
from cutover.checks.registry import Finding
from cutover.core.wait import Not, wait_until
from lab.lab import Lab
from lab.machines import Machine
from lab.operator import Operator
from steps.portainer import ask, number_of


# -- what happens -----------------------------------------------------------------------------------------------------
def _until_noticed(lab: Lab, who: str) -> None:
    """Wait until a wrong answer of ``who`` is in the record, as the next question will bring it."""
    run = lab.run()

    def noticed() -> bool | Not:
        answers = [a for a in availability.load(run) if a.who == who]
        return any(a.wrong for a in answers) or Not(f"{len(answers)} right answers")

    wait_until(noticed, deadline=20, what=f"That it is noticed what happened to {who}")


@given("vLLM is away for a moment while the operator works")
def _vllm_for_a_moment(lab: Lab, operator: Operator) -> None:
    machine = lab.machines[lab.site.guests.vllm.vmid]

    def happens() -> None:
        machine.stop()
        _until_noticed(lab, availability.VLLM)
        machine.start()

    operator.happens = happens


@given("the new server takes a moment to come back")
def _takes_a_moment(lab: Lab) -> None:
    """As long as it takes until somebody asked for Portainer in vain."""
    machine = lab.machines[lab.site.guests.new.vmid]
    usual = machine.on_start

    def late(started: Machine) -> None:
        _until_noticed(lab, availability.PORTAINER)
        if usual is not None:
            usual(started)

    machine.on_start = late


@given("another stack stops for a moment while the operator works")
def _stack_for_a_moment(lab: Lab, operator: Operator) -> None:
    def happens() -> None:
        number = number_of(lab, "monitoring")
        assert ask(lab, "POST", f"/stacks/{number}/stop?endpointId=1").ok
        _until_noticed(lab, availability.PORTAINER)
        assert ask(lab, "POST", f"/stacks/{number}/start?endpointId=1").ok

    operator.happens = happens


# -- what is made of it -----------------------------------------------------------------------------------------------
_CRITERIA = {"vLLM": "D3", "Portainer": "D2"}


@then(parsers.re("the (?:traffic moved|stack runs), and the operator is warned about (?P<who>.+)"))
def _warned(operator: Operator, who: str) -> None:
    assert operator.error is None, operator.error
    assert operator.result is not None and operator.result.outcome is not None
    assert operator.result.outcome.changed
    warnings = operator.result.outcome.warnings
    assert [w for w in warnings if w.startswith(f"{who} did not answer as before throughout")], warnings


def _found(operator: Operator, who: str) -> Finding:
    with closing(operator.run(execute=False)) as run:
        (check,) = (c for c in registry.registered() if c.criterion == _CRITERIA[who] and "all the time" in c.title)
        return registry.ask(check, run)


@then(parsers.parse('from then on it is not met that {who} answered all the time, because "{reason}"'))
def _not_met(operator: Operator, who: str, reason: str) -> None:
    found = _found(operator, who)
    assert found.ok is False, found.sentence
    assert reason in found.sentence, found.sentence


@then(parsers.re("it is met that (?P<who>vLLM|Portainer) answered all the time(?P<but>, but for the announced restart)?"))
def _met(operator: Operator, who: str, but: str | None) -> None:
    assert operator.error is None, operator.error
    found = _found(operator, who)
    assert found.ok, found.sentence
    assert ("announced restart" in found.sentence) == bool(but), found.sentence
