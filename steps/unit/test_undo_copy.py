"""Undoing the copy removes data from the new server: only while Nginx itself says that the old one serves."""

from __future__ import annotations

import shutil
from pathlib import Path

from steps.lab.lab import Lab, new_folder
from steps.lab.world import differences, records
from steps.operator import Operator


def test_data_that_is_served_is_never_removed(lab_parent: Path) -> None:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        operator = Operator(lab, agrees_to={lab.site.name})
        operator.does("deploy")
        operator.does("copy", undo=True)  # nothing was copied, no gate is there: nothing to do, and no refusal
        for verb in ("gate", "copy", "switch"):
            operator.does(verb)
        before = records(lab, lab.site.qdrant.new_url)
        folder = Path(lab.site.nginx.gate_folder)

        operator.tries("copy", undo=True)
        assert "The new server serves" in str(operator.was_refused())

        # A folder that is not there looks like flags that are not set; the workers know better.
        gone = lab.change_site(nginx={"gate_folder": f"{folder}-of-somebody-else"})
        assert gone.nginx.gate_folder != str(folder)
        operator.tries("copy", undo=True)
        assert "Nginx asks the new server" in str(operator.was_refused())
        lab.change_site(nginx={"gate_folder": str(folder)})

        for verb in ("finish", "settle"):
            operator.does(verb)
        shutil.rmtree(folder)
        operator.tries("copy", undo=True)
        assert "The way back was given up" in str(operator.was_refused())
        assert differences(before, records(lab, lab.site.qdrant.new_url)) == []
