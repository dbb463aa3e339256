Feature: Giving Nginx back
  Users come in through Nginx, and a wrong file there takes everything down. The move puts a gate in beside the operator's own
  configuration: it can hold writes for a moment and send users to the other server. When it is taken out it leaves nothing behind.

  @E1
  Rule: Nginx's configuration is restored byte for byte and serves the old server

    @changes
    Scenario: Nginx is as the operator left it when the gate is taken out
      Given Nginx as the operator wrote it
      And the operator put the gate into Nginx
      When the operator takes the gate out of Nginx
      Then Nginx's configuration is byte for byte as the operator wrote it
      And Nginx passes requests to the old server

    @changes
    Scenario: Nginx can be given back after the traffic went there and back
      Given Nginx as the operator wrote it
      And traffic moved to the new server
      When the operator goes back, undoes the copy and takes the gate out of Nginx
      Then Nginx's configuration is byte for byte as the operator wrote it
      And Nginx passes requests to the old server

    @lab
    Scenario: The gate is not taken out while the new server serves
      Given traffic moved to the new server
      When the operator takes the gate out of Nginx
      Then it is refused because "The new server serves"
      And the new server serves

    @lab
    Scenario: A configuration that somebody changed since is not overwritten
      Given the operator put the gate into Nginx
      And somebody changed Nginx's server file since
      When the operator takes the gate out of Nginx
      Then that change is still there
      And Nginx passes requests to the old server

    @lab
    Scenario Outline: The gate is not put into an Nginx that <trouble>
      Given an Nginx that <trouble>
      And Nginx as the operator wrote it
      When the operator puts the gate into Nginx
      Then it is refused because "<reason>"
      And Nginx's configuration is byte for byte as the operator wrote it
      And Nginx passes requests to the old server

      Examples:
        | trouble                                     | reason                    |
        | cannot see the flags                        | cannot look into          |
        | passes gRPC on as well                      | also passes gRPC          |
        | sends clients to the old server itself      | sends clients to the old  |
        | asks a server that no file names            | no file sets that         |
        | would be broken by the file of the gate     | does not accept           |
