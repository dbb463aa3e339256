"""Who mentions a guest in Proxmox' firewall, and what of it may go when the guest goes.

A guest's own rules live in a file that Proxmox deletes together with the guest. Everything else that names it stays: rules of
the datacenter, of nodes, of other guests and of VNets, security groups, aliases and IP sets, and names refer to names. All of it
is read (``reading``), names are followed to addresses (``names``), and every mention is sorted into three heaps (``removal``):

* **exclusive**: it speaks of departing guests only. It is removed, and written down so that it can be put back in its place.
* **shared**: it also speaks of somebody who stays (a subnet, a list, a set with other members). It is reported and left alone.
* **in the way**: a name that only means departing guests, but that somebody who stays uses. Proxmox deletes an alias that is in
  use without asking and then fails to compile the whole rule set, so this refuses the decommissioning instead.

What is here is what others call. Deciding is pure (``removal``, ``putting_back``); ``changing`` carries it out.
"""

from cutover.proxmox.firewall.changing import carry_out, restore
from cutover.proxmox.firewall.journaled import not_theirs, resolve
from cutover.proxmox.firewall.names import Going
from cutover.proxmox.firewall.putting_back import interrupted, put_back, undo_record
from cutover.proxmox.firewall.reading import read
from cutover.proxmox.firewall.removal import Removal, sentences
from cutover.proxmox.firewall.rules import Firewall

__all__ = [
    "Firewall",
    "Going",
    "Removal",
    "carry_out",
    "interrupted",
    "not_theirs",
    "put_back",
    "read",
    "resolve",
    "restore",
    "sentences",
    "undo_record",
]
