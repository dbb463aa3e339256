"""What a room of a system needs of the command that works in it: its guard, its journal, and where progress is said.

:class:`cutover.context.Context` has all of it; rooms name what they need, so that they depend on nothing above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cutover.core.journal import Journal
    from cutover.core.ui import Ui
    from cutover.core.write_guard import WriteGuard


class Session(Protocol):
    """One command at work."""

    @property
    def journal(self) -> Journal: ...

    @property
    def guard(self) -> WriteGuard: ...

    @property
    def ui(self) -> Ui: ...
