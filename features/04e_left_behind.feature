Feature: The server that was left behind
  Once traffic moved, whoever still uses the old server by its own address reads old data without an error, until that server is
  deleted. So it is watched, and nothing is given up while somebody is there.

  @D5
  Rule: Nobody reads from or writes to the server that was left behind without anybody knowing

    @changes
    Scenario: After the move nobody but the tool is on the old server
      Given traffic moved to the new server
      When the operator checks that nobody uses the server that was left behind
      Then the check is met

    @lab
    Scenario Outline: Somebody who <does> the old server without Nginx is named
      Given traffic moved to the new server
      And somebody <does> the old server without Nginx
      When the operator checks that nobody uses the server that was left behind
      Then the check is not met because "<reason>"
      And the status names whoever is there

      Examples:
        | does                      | reason                                     |
        | keeps searching           | /points/search                             |

      @slow
      Examples:
        | does                      | reason                                     |
        | keeps reading records of  | GET /collections/{}/points/{}              |
        | uses gRPC to search       | gRPC qdrant.Points/Search                  |

    @lab
    Scenario: The way back is not given up while somebody reads the old server
      Given traffic moved to the new server
      And somebody keeps searching the old server without Nginx
      When the operator gives up the way back
      Then it is refused because "somebody used the old server without going through Nginx"
      And the status is watching

    @lab @slow
    Scenario: No old server is stopped while somebody reads it
      Given the move is finished
      And somebody keeps searching the old server without Nginx
      When the operator gives back the old servers
      Then it is refused because "somebody used the old server without going through Nginx"
      And all old servers run

    @lab @slow
    Scenario: What monitors the old server, or is turned away by it, is no reader
      Given traffic moved to the new server
      And somebody monitors the old server, and somebody without a key is turned away
      When the operator checks that nobody uses the server that was left behind
      Then the check is met

    @lab @slow
    Scenario: That gRPC was used long ago stands in nobody's way
      Given both servers run
      And applications wrote to the old server through gRPC a year ago
      When the operator makes the copy
      Then it is done
