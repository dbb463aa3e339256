"""What a server answered, as the rest of the tool has it (:mod:`cutover.http`)."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from cutover.http import Lacks, fields


@dataclass
class _Outcome:
    evidence: Any


def test_an_answer_can_be_part_of_what_is_printed() -> None:
    said = fields({"guests": [{"vmid": 952, "status": {"state": "running"}}]}, "Proxmox")
    for copied in (asdict(_Outcome([said]))["evidence"][0], copy.deepcopy(said), json.loads(json.dumps(said))):
        assert copied == said


def test_a_field_that_is_missing_is_missed_in_words() -> None:
    said = fields({"guests": [{"vmid": 952}]}, "Proxmox, asked GET /cluster/resources,")
    with pytest.raises(Lacks, match="Proxmox, asked GET /cluster/resources, did not say 'status'"):
        said["guests"][0]["status"]
