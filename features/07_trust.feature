Feature: Trust
  The operator gives this tool the keys to every server of the site. These criteria say why that is safe: what it does
  before it is told to (nothing), and what is true when it is interrupted.

  @G1
  Rule: Without the word to execute nothing changes anywhere

    @changes
    Scenario Outline: Looking at the <step> leaves every server as it was
      Given the site before the move
      When the operator looks at what the <step> would do
      Then every server is as it was
      And the journal is empty

      Examples:
        | step         |
        | backup       |
        | resize       |
        | deploy       |
        | gate         |
        | copy         |
        | switch       |
        | decommission |

    @lab
    Scenario: A faulty command is stopped before anything is sent
      Given the site before the move
      When a faulty command deletes a collection without the word to execute
      Then it is refused because "Not sent without --execute"
      And every server is as it was

  @G2
  Rule: Interrupted at any step, a run continues where it was or goes back; nothing is done twice

    @changes
    Scenario: The operator's computer dies during each step of the plan
      Given the site before the move
      When the operator's computer dies twice during each step of the plan, and each time the operator starts again
      Then the back is complete
      And nothing was done twice
      And applications still find every record

    @changes @slow
    Scenario: A server loses its power during each step of the plan
      Given the site before the move
      When a server that it needs loses its power during each step of the plan, and each time the operator starts again
      Then the back is complete
      And nothing was done twice
      And applications still find every record

    @changes @slow
    Scenario Outline: The operator's computer dies again and again during the <step>
      Given the site right before the <step>
      When the operator's computer dies at every point of the <step>, and each time the operator starts again
      Then the <step> is complete
      And nothing was done twice
      And applications still find every record

      Examples:
        | step   |
        | backup |
        | resize |
        | deploy |
        | gate   |
        | copy   |
        | switch |
        | back   |

    @changes @slow
    Scenario Outline: The <server> loses its power again and again during the <step>
      Given the site right before the <step>
      When the <server> loses its power at every point of the <step>, and each time the operator starts again
      Then the <step> is complete
      And nothing was done twice
      And applications still find every record

      Examples:
        | step   | server     |
        | backup | old server |
        | resize | new VM     |
        | deploy | new VM     |
        | gate   | Nginx host |
        | gate   | old server |
        | copy   | old server |
        | copy   | new VM     |
        | copy   | Nginx host |
        | switch | old server |
        | switch | new VM     |
        | switch | Nginx host |
        | back   | old server |
        | back   | new VM     |
        | back   | Nginx host |

    @changes
    Scenario: A second operator is told to wait
      Given an operator is at work on the site
      When a second operator starts the backup
      Then it is refused because "Another command is working on this site"

  @G3
  Rule: When a call's outcome is unknown the tool looks before it acts

    @lab
    Scenario: A backup whose answer was lost is not made twice
      Given the answer to the backup request gets lost on its way
      When the operator makes the backup until it succeeds
      Then there is exactly one backup of the old server

    @lab
    Scenario: An unknown outcome is called unknown
      Given the answer to the backup request gets lost on its way
      When the operator makes the backup
      Then the tool says what it found, or that the outcome is unknown

  @G4
  Rule: Every change is in the journal with what was there before

    @changes
    Scenario: The journal of the resize has the old sizes
      Given the site right before the resize
      When the operator carries out the resize
      Then every change in the journal has an outcome
      And the journal has the cores and the memory that were there before

    @changes
    Scenario: A damaged journal is refused
      Given a journal with a line that cannot be read
      When the operator carries out the backup
      Then it is refused because "this line of the journal is not readable"
      And every server is as it was

  @G5
  Rule: Every undo done twice, or again after a kill, is done once

    @lab @slow
    Scenario: An undo that is cut off again and again puts everything back once
      Given a finished move, with no time to live without the old servers
      And the old servers are gone
      When the operator's computer dies again and again while the decommission is undone
      Then every rule and name is back in its place, once

    @lab
    Scenario: What others changed after an undo is left to them
      Given a finished move, with no time to live without the old servers
      And the old servers are gone
      And their rules and names were put back, and somebody changed the firewall since
      When the operator undoes the decommission once more
      Then nothing more is changed on the host

    @lab
    Scenario: A resize that is undone twice restarts the new server once for it
      Given the plan's servers on a host of their own
      And the new server was resized
      And the resize was undone
      When the operator undoes the resize once more
      Then nothing more is changed on the host

  @G6
  Rule: What the tool says of a server was asked of that server, not assumed, sampled or hidden from its key

    @changes
    Scenario: What runs is asked of the server itself
      Given the stack is deployed
      When the operator checks that Portainer runs what was merged
      Then the check is met

    @lab
    Scenario: A stack that the key may not see is not called absent
      Given the stack is deployed
      And Portainer shows the operator's key only what everybody may see
      When the operator takes the container away
      Then it is refused because "nobody can say what is not there"
      And Qdrant answers with its key and not without it

    @lab
    Scenario: A check does not judge by what is hidden from its key
      Given the stack is deployed
      And Portainer shows the operator's key only what everybody may see
      When the operator checks that Portainer runs what was merged
      Then the check could not be evaluated because "hidden from it"
