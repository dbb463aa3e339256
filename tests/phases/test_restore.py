"""Restoring overwrites a server: never one that lives, also where only the operator cannot reach it."""

from __future__ import annotations

from pathlib import Path

from lab.lab import Lab, new_folder
from lab.operator import Operator


def test_a_server_that_serves_its_users_is_not_restored(lab_parent: Path) -> None:
    with Lab(new_folder(lab_parent), records=False) as lab:
        operator = Operator(lab, agrees_to={lab.site.guests.old.name})
        lab.change_site(qdrant={"old_url": lab.site.qdrant.old_url.replace(":6333", ":6399")})  # nobody is there, from here

        operator.tries("restore", execute=False)
        assert "runs and answers, so nothing has to be restored" in str(operator.was_refused())

        lab.machines[952].stop()
        operator.tries("restore", execute=False)
        assert "There is no backup of" in str(operator.was_refused())
