Feature: Before the data is moved
  A move is only as safe as what it rests on: every write can be seen, both servers are alike, and nothing that would
  be damaged on the way is touched. What stands in the way is named before anything starts.

  @A4
  Rule: Every write goes through Nginx

    @changes
    Scenario: Applications that write through Nginx are found to do so
      Given both servers hold the same data
      And an application reads and writes through Nginx
      When the operator checks that every write passes Nginx
      Then the check is met

    @lab
    Scenario: A writer that goes round Nginx is named and stops the move
      Given both servers hold the same data
      And somebody keeps writing to the old server without Nginx
      When the operator moves the traffic
      Then it is refused because "without going through Nginx: PUT"
      And the old server serves

    @lab
    Scenario: Writers that Nginx cannot record are named
      Given applications write to the old server through gRPC
      When the operator checks that no application uses gRPC
      Then the check is not met because "gRPC"

  @A5
  Rule: Both Qdrant servers are the same version and configured alike

    @changes
    Scenario: Two servers of the same release
      Given both servers run
      When the operator checks that both servers are alike
      Then the check is met

    @lab @slow
    Scenario: A new server that takes smaller requests than the old one is named
      Given both servers run, the new one with room for requests of 8 MB
      When the operator checks that both servers are alike
      Then the check is not met because "largest request"

    @lab @slow
    Scenario: A release that lacks what the move needs is refused
      Given both servers run an old release
      When the operator makes the copy
      Then it is refused because "cannot be moved by this tool"
      And the new server is empty

    @lab
    Scenario: A new server of another release is refused
      Given both servers run, the new one with release 1.17.0
      When the operator makes the copy
      Then it is refused because "runs 1.17.0"
      And the new server is empty

  @A7
  Rule: What cannot be moved safely is named before anything starts

    @changes
    Scenario: Data of every usual kind can be moved
      Given both servers run
      When the operator checks that nothing stands against the move
      Then the check is met

    @lab
    Scenario Outline: The copy is not begun with <obstacle>
      Given both servers run
      And the old server has <obstacle>
      When the operator makes the copy
      Then it is refused because "<reason>"
      And the new server is empty

      Examples:
        | obstacle                               | reason                       |
        | a collection with custom shards        | has custom shards            |
        | writers that use gRPC                  | write to the old server through gRPC |

    @lab
    Scenario: Data that somebody else put on the new server is not touched
      Given both servers run
      And the new server already has a collection of somebody else
      When the operator makes the copy
      Then it is refused because "already has data that this tool did not copy"
      And that collection is still there

    @lab @slow
    Scenario: A missing read-only key is named
      Given both servers run
      And there is no read-only key
      When the operator makes the copy
      Then it is refused because "there is no read-only key"
      And the new server is empty
