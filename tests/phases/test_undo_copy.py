"""Undoing the copy removes data from the new server: only while Nginx itself says that the old one serves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lab.faults.lab import WiredLab
from lab.faults.proxy import Broken, Call
from lab.lab import Lab, new_folder
from lab.operator import Operator
from lab.state_snapshot import differences, records


def test_a_new_server_that_is_gone_does_not_keep_the_recording_on(lab_parent: Path) -> None:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        operator = Operator(lab, agrees_to={lab.site.name})
        for verb in ("deploy", "gate", "copy"):
            operator.does(verb)
        operator.does("back")  # it never left: nothing to do, and no refusal that speaks of a way back given up
        operator.agrees_to = set()  # a name that is no volume's would be a mistake of who typed it
        operator.does("deploy", undo=True)
        operator.agrees_to = {lab.site.name}

        operator.tries("copy", undo=True)
        assert operator.error is not None
        assert operator.error.exit_code == 3
        assert "Nothing is recorded any more" in str(operator.error)
        assert not lab.run().gate.state().recording
        operator.does("gate", undo=True)

        operator.does("deploy")  # with the volumes of before
        operator.does("copy", undo=True)  # without a gate, Nginx's configuration says whom it asks
        assert records(lab, lab.site.qdrant.new_url) == {"aliases": []}


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
        assert "sends its users to the new server" in str(operator.was_refused())

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


@pytest.mark.slow
def test_a_list_that_names_other_collections_does_not_keep_the_copy_there(lab_parent: Path) -> None:
    """The journal knows what was copied."""
    with WiredLab(new_folder(lab_parent), seed=lab_parent / "seed-of-few") as lab:
        operator = Operator(lab)
        for verb in ("deploy", "gate", "copy"):
            operator.does(verb)
        lab.wires.arm(Broken(Call("the new server", "GET", "/collections", reads=True), "escapes"))
        said = operator.does("copy", undo=True).outcome
        lab.wires.mend()
        assert records(lab, lab.site.qdrant.new_url) == {"aliases": []}
        assert said is not None and "It did not list digits, mixed before" in " ".join(said.sentences)
