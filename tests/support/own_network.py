"""A loopback network of this process's own, for tests that start single servers and no whole lab.

Two workers, and two runs of the tests on one machine, must not meet.
"""

from __future__ import annotations

from lab.network import Network

_HELD = Network.take()
address = _HELD.address
