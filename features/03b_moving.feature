Feature: Moving the traffic
  Applications are served all the time. They are moved from one server to the other in a moment in which both are proved
  to hold the same data, and whatever fails before that moment changes nothing.

  @C3
  Rule: The new server holds the same data: every record bit by bit, indexes, settings and aliases

    @changes
    Scenario: A copy made while applications write is complete
      Given both servers run
      And an application reads and writes through Nginx
      When the operator makes the copy
      And the application has ended
      Then both servers hold the same records, settings, indexes and aliases
      And no request failed and no write was lost

    @changes @slow
    Scenario: Changes that name no records arrive as well
      Given both servers hold the same data
      When applications delete and change records by a filter, add an index and move an alias
      And the other server is brought up to date
      Then both servers hold the same records, settings, indexes and aliases

    @lab
    Scenario Outline: A copy with <damage> is found out
      Given both servers hold the same data
      And the new server has <damage>
      When the operator makes the copy
      Then it is refused because "<reason>"
      And the old server serves

      Examples:
        | damage             | reason                          |
        | an altered vector  | 1 record differs in its vector  |

      @slow
      Examples:
        | damage             | reason                          |
        | an extra record    | 1 record in excess              |

    @lab
    Scenario: A copy that fails for want of room is removed and made again
      Given both servers run
      And the new server cannot store anything
      When the operator makes the copy
      Then it is refused because "No space left on device"
      And the copy can be made once there is room

  @C4
  Rule: Traffic moves without one failed request and without one lost write; writes wait at most a second

    @changes @containers
    Scenario: There, back and there again under load
      Given both servers hold the same data
      And an application reads and writes through Nginx
      When the operator moves the traffic, goes back, and moves it again
      And the application has ended
      Then the new server serves
      And no request failed and no write was lost
      And no write waited longer than 1 second

    @changes
    Scenario: The operator's computer dies while writes wait
      Given both servers hold the same data
      And an application reads and writes through Nginx
      When the operator's computer dies while writes wait, and the operator starts again
      And the application has ended
      Then the new server serves
      And nothing that was acknowledged was lost

    @changes @slow
    Scenario: The operator's computer dies at every point of the move
      Given both servers hold the same data
      And an application reads and writes through Nginx
      When the operator's computer dies at every point of the move, and each time the operator starts again
      And the application has ended
      Then the new server serves
      And nothing that was acknowledged was lost

    @lab @slow
    Scenario: A new server that dies before the move leaves applications where they were
      Given both servers hold the same data
      And an application reads and writes through Nginx
      When the new server dies while the traffic is being moved
      And the application has ended
      Then it is refused because "The new server does not answer"
      And the old server serves
      And no request failed and no write was lost

    @lab
    Scenario: A new server that cannot write to its disk gets no traffic
      Given both servers hold the same data
      And the disk of the new server has become read-only
      When the operator moves the traffic
      Then it is refused because "The new server cannot write"
      And the old server serves

    @lab @slow
    Scenario: A hold that is too short for the proof ends where it began
      Given both servers hold the same data
      And writes may be held for less time than the proof needs
      When the operator moves the traffic
      Then it is refused because "The traffic was not moved"
      And the old server serves

  @C5
  Rule: Traffic moves only while the proof holds; a difference stops it and changes nothing

    @lab
    Scenario Outline: <damage> stops the move
      Given both servers hold the same data
      And the new server has <damage>
      When the operator moves the traffic
      Then it is refused because "<reason>"
      And the old server serves

      Examples:
        | damage             | reason                             |
        | an altered payload | 1 record differs in its payload    |

      @slow
      Examples:
        | damage             | reason                             |
        | a missing alias    | 1 alias missing or different       |
        | a missing record   | 1 record missing                   |
        | a missing index    | 1 index missing or different       |

    @changes
    Scenario: A comparison that is young and still counts is enough for a move
      Given both servers hold the same data
      And applications wrote 3 records
      When the operator moves the traffic
      Then the new server serves
      And only the 3 records written since the copy were compared

    @changes
    Scenario: A restart since the comparison brings the comparison of everything back
      Given both servers hold the same data
      And the new server was restarted
      When the operator moves the traffic
      Then the new server serves
      And everything was compared because "The new server was restarted"

    @changes @slow
    Scenario: Traffic moves once the copy was made again
      Given both servers hold the same data
      And the new server has a missing record
      When the operator undoes the copy, makes it again and moves the traffic
      Then the new server serves

    @lab
    Scenario: Without a copy there is nothing to move to
      Given both servers run
      When the operator moves the traffic
      Then it is refused because "Begin with `copy`"
      And the old server serves
