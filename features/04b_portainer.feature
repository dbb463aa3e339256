Feature: Portainer after the move
  Other services live on the same server. They must not notice that Qdrant came, and Portainer must be able to deploy them.

  @D2
  Rule: Portainer works as before: same environments, stacks and containers, and it can still deploy

    @changes @containers
    Scenario: Nothing else on the server changed
      Given the stack is deployed
      When the operator checks that Portainer is as before
      Then the check is met

    @lab
    Scenario: A restart of the whole server is not taken for a change
      Given the stack is deployed
      And meanwhile somebody restarted the server
      When the operator checks that Portainer is as before
      Then the check is met

    @lab
    Scenario Outline: It is noticed when <event>
      Given the stack is deployed
      And meanwhile <event>
      When the operator checks that Portainer is as before
      Then the check is not met because "<reason>"

      Examples:
        | event                                  | reason                                          |
        | somebody stopped another stack         | The stack monitoring was active and is stopped  |
        | somebody removed another stack         | The stack monitoring is gone                    |
        | somebody upgraded Portainer            | Portainer was 2.23.0 and is 2.45.1              |

    @changes
    Scenario: The tool asks Portainer all the time while it works, and keeps the answers
      Given the stack is deployed
      When the operator checks that Portainer answered all the time
      Then the check is met

    @lab
    Scenario: It is noticed when another stack stops for a moment while ours is deployed
      Given another stack stops for a moment while the operator works
      When the operator deploys the stack
      Then the stack runs, and the operator is warned about Portainer
      And from then on it is not met that Portainer answered all the time, because "The stack monitoring was active and is stopped"

    @lab
    Scenario: The announced restart of its server is no failure of Portainer, and vLLM notices nothing of it
      Given the new server takes a moment to come back
      When the operator begins the resize
      Then it is met that Portainer answered all the time, but for the announced restart
      And it is met that vLLM answered all the time
