"""The environment of programs that this tool starts.

The keys are in this tool's own environment, and a child inherits everything unless it is told otherwise: ssh could send it on
(``SendEnv``), and every user with the same id can read it in ``/proc``. So a child gets what it needs to run and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

#: What programs need to find themselves, their user and a key agent.
_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TERM", "TMPDIR", "TZ", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
    "SSH_AUTH_SOCK", "SSH_AGENT_PID", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY",
    "KRB5CCNAME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
})  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: the names above and the locale, as far as they are set here, and ``more``."""
    return clean(os.environ) | more


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """What of an environment a child may have. Pure."""
    return {name: value for name, value in environ.items() if name in _NAMES or name.startswith("LC_")}
