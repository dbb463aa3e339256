Feature: Making ready
  What cannot be brought back is saved first, and the saving is proved by bringing it back. Then the new server gets its size:
  one announced restart, after which the server itself says what it has and everything else on it is as before.

  @B1
  Rule: A snapshot of the old server's data exists and was proved restorable

    @changes
    Scenario: A backup is made, restored on trial, and kept
      When the operator makes the backup
      Then a backup of the old server is kept that nothing removes by itself
      And it was restored on trial, and the trial was removed again
      And a snapshot of every collection is kept with its checksum, and none is left on the old server
      And what a restore does not bring back is written down

    @lab
    Scenario: Without a backup the check says so
      Given the plan's servers on a host of their own
      When the operator checks that the old server is saved
      Then the check is not met because "There is no complete backup"

    @lab
    Scenario Outline: A backup that would lose something is refused when the old server has <trouble>
      Given the plan's servers on a host of their own
      And the old server's container has <trouble>
      When the operator begins the backup
      Then it is refused because "<reason>"
      And nothing was changed on the host

      Examples:
        | trouble                          | reason                          |
        | a disk that is not backed up     | is not marked for backup        |
        | a folder of the host in it       | is a folder or device           |
        | a lock by another task           | is locked (migrate)             |
        | rights that forbid a restore     | is privileged                   |

    @lab
    Scenario Outline: A backup that <trouble> is not called one
      Given the plan's servers with data on a host of their own
      And the next backup <trouble>
      When the operator begins the backup
      Then it fails because "<reason>"
      And no backup is called complete

      Examples:
        | trouble                 | reason                |
        | ends with warnings      | warnings              |
        | cannot be restored      | could not be restored |
        | makes nothing           | instead of a task     |

  @B2
  Rule: The new server itself sees its new cores, memory and a disk that its file system uses

    @changes
    Scenario Outline: The new server with <layout> gets its size
      Given the plan's servers on a host of their own
      And the new server's disk has <layout>
      When the operator begins the resize
      Then the new server itself sees its new cores and memory
      And its file system has grown by what the disk has grown
      And it was restarted once, and a second resize does nothing

      Examples:
        | layout                 |
        | a plain file system    |
        | an XFS file system     |
        | logical volumes        |
        | a btrfs file system    |
        | a ZFS pool             |

    @lab
    Scenario: Before the resize the check says what is missing
      Given the plan's servers on a host of their own
      When the operator checks that the new server has its size
      Then the check is not met because "it sees 4 cores instead of 6"

    @lab
    Scenario Outline: The resize is refused when the new server <trouble>
      Given the plan's servers on a host of their own
      And the new server <trouble>
      When the operator begins the resize
      Then it is refused because "<reason>"
      And nothing was changed on the host

      Examples:
        | trouble                               | reason                              |
        | has a change that waits already       | waits for the next start            |
        | is locked by a backup                 | is locked (backup)                  |
        | is managed by the cluster             | is managed by HA                    |
        | has two sockets                       | has 2 sockets                       |
        | has its memory divided by hand        | divide the memory by hand           |
        | gives memory back to the host         | pulled down                         |
        | starts with fewer processors          | vcpus                               |
        | has huge pages                        | hugepages                           |
        | has a snapshot in the way             | has the snapshot                    |
        | has a larger disk already             | a disk cannot shrink                |
        | is a template                         | is a template                       |
        | has no agent                          | no guest agent                      |
        | has another name                      | is not the guest that is meant      |

    @lab
    Scenario: A partition behind the file system is named, because the disk alone is not enough
      Given the plan's servers on a host of their own
      And the new server's disk has swap behind the file system
      When the operator begins the resize
      Then it is refused because "(swap) stands behind sda1"
      And nothing was changed on the host

    @lab
    Scenario Outline: A disk with <layout> does not grow, because its file system could not follow
      Given the plan's servers on a host of their own
      And the new server's disk has <layout>
      When the operator looks at what the resize would do
      Then it is refused because "<reason>"
      And nothing was changed on the host

      Examples:
        | layout                            | reason                              |
        | swap behind the file system       | (swap) stands behind sda1           |
        | an encrypted file system          | lies on an encrypted device         |
        | a file system of another kind     | this tool grows ext4, XFS, btrfs    |
        | no program that grows a partition | growpart is not installed           |

    @lab
    Scenario: A resize that was cut off while the new server restarted goes on
      Given the plan's servers on a host of their own
      And the operator's computer dies while the new server restarts
      When the operator begins the resize
      Then the new server itself sees its new cores and memory
      And it was restarted once, and a second resize does nothing

    @lab
    Scenario: Nobody is restarted without being asked
      Given the plan's servers on a host of their own
      And the operator does not agree to anything
      When the operator begins the resize
      Then it fails because "Reboot"
      And the new server was not restarted

  @B3
  Rule: The rest of the new server comes back after its reboot as it was

    @changes
    Scenario: Every container of the new server is back
      Given the containers of the new server run
      When the operator begins the resize
      Then the new server was restarted once
      And its containers and stacks are as they were

    @lab
    Scenario: A container that does not come back is named
      Given a container of the new server that does not survive a restart
      When the operator begins the resize
      Then it fails because "was running and is"
