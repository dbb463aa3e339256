Feature: Giving back the old servers
  Deleting is the one step that nobody can take back. So nothing is deleted while anybody may still need it, only what was
  approved by name is deleted, and everything else that knew the old servers is looked at first.

  @F1
  Rule: Nothing is deleted before the migration is validated and the way back was given up on purpose

    @lab
    Scenario: Nothing speaks against it once the way back was given up
      Given the move is finished
      When the operator looks at what the decommission would do
      Then nothing speaks against it

    @lab
    Scenario: Nothing is stopped while the way back is open
      Given traffic moved to the new server
      When the operator gives back the old servers
      Then it is refused because "the move was not finished"
      And all old servers run

    @lab
    Scenario: Nothing is stopped while another service is broken
      Given the move is finished
      And vLLM does not answer
      When the operator gives back the old servers
      Then it is refused because "vLLM"
      And all old servers run

  @F2
  Rule: The old servers are stopped, and the site lives without them for the agreed time

    @lab
    Scenario: They are stopped and missed for the agreed time before anything is deleted
      Given a finished move, and an hour to live without the old servers
      When the operator gives back the old servers
      Then all old servers are stopped, and none of them is deleted
      And the operator is told until when to wait
      And Qdrant answers as before without them
      And they can be started again as they were

    @lab
    Scenario: A server that is still needed is started again
      Given a finished move, and an hour to live without the old servers
      And vLLM needs one of the old servers
      When the operator gives back the old servers
      Then it fails because "It was started again"
      And that old server runs
      And none of the old servers is deleted

    @lab @slow
    Scenario: A server that somebody started again is not deleted
      Given a finished move, and an hour to live without the old servers
      And the old servers were stopped, and somebody started one again
      When the operator gives back the old servers
      Then it is refused because "somebody needs it"
      And that old server runs
      And none of the old servers is deleted

  @F3
  Rule: Each old server has a final backup that was proved restorable and cannot be pruned

    @lab
    Scenario: A backup of each is kept
      When the old servers are given back
      Then one protected backup of each old server is kept
      And each was restored on trial before its server was deleted

    @lab @slow
    Scenario: A server whose backup cannot be read is not deleted
      Given a finished move, with no time to live without the old servers
      And the backups of the old servers turn out unreadable
      When the operator gives back the old servers
      Then it fails because "cannot be read"
      And none of the old servers is deleted

  @F4
  Rule: Exactly the approved servers are deleted: same id, name and address; anything else is refused

    @lab
    Scenario: Exactly the approved servers are gone
      When the old servers are given back
      Then exactly the approved servers are gone
      And every other server, backup job and access rule is as it was, except for what was announced

    @lab @slow
    Scenario: A computer that dies twice on the way deletes nothing twice, and nothing else
      Given a finished move, with no time to live without the old servers
      And the operator types every name
      When the operator's computer dies twice during the decommission, and each time the operator starts again
      Then each old server was backed up once and deleted once
      And every rule and name that went can be put back in its place

    @lab @slow
    Scenario: A computer that dies on the way deletes nothing twice, and nothing else
      Given a finished move, with no time to live without the old servers
      And the operator types every name
      When the operator's computer dies at every point of the decommission, and each time the operator starts again
      Then each old server was backed up once and deleted once
      And every rule and name that went can be put back in its place

    @lab
    Scenario: Nothing is deleted that nobody named
      Given the move is finished
      And the operator types the names of only three old servers
      When the operator gives back the old servers
      Then it is refused because "confirm by typing the name"
      And all old servers run

    @lab
    Scenario: What is not as approved is never deleted
      Given the move is finished
      When the operator gives back the old servers while one of them
        | is                                        | reason                                   |
        | protected by somebody                     | somebody protected it                    |
        | locked by a backup                        | it is locked (backup)                    |
        | a template                                | it is a template                         |
        | the origin of a linked clone              | is a linked clone of it                  |
        | managed for high availability             | HA manages it                            |
        | another server under the same id          | its name is nas                          |
        | at another address                        | its address is                           |
        | holding data that no backup would hold    | is not marked for backup                 |
        | holding a folder of the host              | is a folder or device of the host        |
        | sharing its address with another server   | has its address                          |
        | gone already                              | this tool did not delete it              |
      Then each time it was refused for that reason, and nothing was changed

  @F6
  Rule: Nothing that was written after its final backup is deleted

    @lab @slow
    Scenario: What was written after the final backup is in the backup that is kept
      Given a finished move, with no time to live without the old servers
      And somebody uses an old server after its final backup
      When the operator gives back the old servers
      Then all old servers are gone, and the operator is told that one was used
      And what was written last is in the backup that is kept

    @lab
    Scenario: An old server that is used after each of its backups is not deleted
      Given a finished move, with no time to live without the old servers
      And somebody uses an old server after each of its final backups
      When the operator gives back the old servers
      Then it fails because "it was used again after each"
      And that old server is not deleted

  @F5
  Rule: Their DNS entries and firewall rules are gone, and everyone else's are as before

    Scenario: It is known beforehand which names are theirs
      When the operator checks that the names of the old servers are known
      Then the check is met

    @lab
    Scenario: Only their own rules and names are gone
      When the old servers are given back
      Then the firewall is as it was, except for what spoke of the old servers alone
      And the names are as they were, except for those of the old servers
      And everything that was removed is written down with its place

    @lab
    Scenario: A firewall name that others use is in the way
      Given the move is finished
      And somebody else uses the firewall name of an old server
      When the operator gives back the old servers
      Then it is refused because "uses it together with others"
      And all old servers run
