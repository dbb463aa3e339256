Feature: Giving resources and servers back
  Cores and memory can be given back, a grown disk cannot, and a backup always loses what was written since. So each way back says
  what it costs before it is taken, and the costly ones have to be asked for by name.

  @E2
  Rule: The new server has its old cores and memory again; what happens to the disk is said and chosen

    @changes
    Scenario: Cores and memory are given back and the disk stays
      Given the plan's servers on a host of their own
      And the new server was resized
      When the operator undoes the resize
      Then the new server itself sees its old cores and memory
      And the operator is told that the disk stays grown

    @changes
    Scenario: What only waits for a restart is taken back without one
      Given the plan's servers on a host of their own
      And the new size waits for a restart
      When the operator undoes the resize
      Then nothing waits for a restart any more
      And the new server was not restarted

    @lab @slow
    Scenario: A new server that does not start with its new size starts again with its old one
      Given the plan's servers on a host of their own
      And the new server did not start again after its resize
      When the operator undoes the resize
      Then the new server itself sees its old cores and memory

    @lab
    Scenario: The disk is not taken back without the server's name
      Given the plan's servers on a host of their own
      And a snapshot of the new server from before its resize
      When the operator rolls the new server back
      Then it is refused because "Everything written to"
      And the disk is still grown

    @changes
    Scenario: The disk is taken back by a snapshot when its loss is agreed to
      Given the plan's servers on a host of their own
      And a snapshot of the new server from before its resize
      And the operator agrees to lose what is on the new server
      When the operator rolls the new server back
      Then the disk has its old size

    @lab
    Scenario: Without a snapshot from before there is no way to a smaller disk
      Given the plan's servers on a host of their own
      And the new server was resized
      When the operator rolls the new server back
      Then it is refused because "has no snapshot in which"

  @E4
  Rule: The old server can be restored from its backup, and is only restored when necessary

    @changes
    Scenario: A lost old server comes back with its records
      Given the plan's servers with data on a host of their own
      And a backup of the old server was made
      And the old server was deleted by accident
      When the operator restores the old server
      Then the old server answers with every record of the backup
      And the operator is told what a restore does not bring back

    @lab
    Scenario: An old server that answers is not restored
      Given the plan's servers with data on a host of their own
      And a backup of the old server was made
      When the operator restores the old server
      Then it is refused because "nothing has to be restored"
      And no restore was begun

    @changes
    Scenario: An old server that was only stopped is started
      Given the plan's servers with data on a host of their own
      And a backup of the old server was made
      And the old server was stopped
      When the operator restores the old server
      Then the old server answers with every record of the backup
      And no restore was begun

    @lab
    Scenario: An id that another server has now is not overwritten
      Given the plan's servers with data on a host of their own
      And a backup of the old server was made
      And the old server's id belongs to another server now
      When the operator restores the old server
      Then it is refused because "Nothing is overwritten"
      And no restore was begun
