"""Planning and carrying out a phase without the neighbours being watched, for tests of the phase alone.

Each raises :class:`cutover.core.errors.Refused` where anything speaks against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cutover.context import Context
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence


def planned(phase: Phase, context: Context, *, undo: bool = False) -> Sequence[Sentence]:
    """What the step, or undoing it, would do."""
    return list(_plan(_operation(phase, undo), context).sentences)


def done(phase: Phase, context: Context, *, undo: bool = False) -> Outcome:
    """What the step did; it is planned and carried out."""
    operation = _operation(phase, undo)
    return operation.do(context, _plan(operation, context))


def undone(phase: Phase, context: Context) -> Outcome:
    """What undoing the step did."""
    return done(phase, context, undo=True)


def _operation(phase: Phase, undo: bool) -> Operation[Any]:
    operation = phase.undo if undo else phase.operation
    assert operation is not None
    return operation


def _plan(operation: Operation[Any], context: Context) -> Plan:
    plan: Plan = operation.plan(context)
    plan.need_no_refusal()
    return plan
