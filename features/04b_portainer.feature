Feature: Portainer after the move
  Other services live on the same server. They must not notice that Qdrant came, and Portainer must be able to deploy them.

  @D2
  Rule: Portainer works as before: same environments, stacks and containers, and it can still deploy

    @changes
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
