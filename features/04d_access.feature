Feature: Who is let in
  An application that is turned away has an outage, however healthy everything looks. So the servers are asked with every key,
  without one, and with one that nobody has.

  @D4
  Rule: Applications are let in as before: the same keys open, and what was closed stays closed, also after a merge

    @changes
    Scenario: Both servers let in the same applications
      Given both servers run
      When the operator checks that applications are let in as before
      Then the check is met

    @lab
    Scenario Outline: An old server that <lets in> is not moved to one that demands its keys
      Given the old server <lets in>
      And both servers run
      When the operator makes the copy
      Then it is refused because "<reason>"
      And the new server is empty

      Examples:
        | lets in                        | reason                                                           |
        | needs no key                   | a caller without a key may read and write on the old server      |

      @slow
      Examples:
        | lets in                        | reason                                                           |
        | lacks a read-only key          | the old server does not know the read-only key                   |
        | lets in signed tokens          | a caller with a token (JWT) signed with QDRANT_API_KEY may only read on the old server |

    @lab
    Scenario Outline: Traffic does not move to a server that meanwhile <lets in>
      Given both servers hold the same data
      And meanwhile the new server <lets in>
      When the operator moves the traffic
      Then it is refused because "<reason>"
      And the old server serves

      Examples:
        | lets in                | reason                                                                    |
        | has another key        | a caller with QDRANT_API_KEY may read and write on the old server         |

      @slow
      Examples:
        | lets in                | reason                                                                    |
        | needs no key           | a caller without a key is not let in on the old server                    |
        | lacks a read-only key  | a caller with QDRANT_READ_ONLY_API_KEY may only read on the old server    |

    @lab @slow
    Scenario: Traffic does not move back to a server that has another key by now
      Given traffic moved to the new server
      And meanwhile the old server has another key
      When the operator goes back
      Then it is refused because "a caller with QDRANT_API_KEY may read and write on the new server"
      And the new server serves

    @lab
    Scenario: After the move it is noticed when the key that applications use is not accepted any more
      Given traffic moved to the new server
      And meanwhile the new server has another key
      When the operator checks that applications are let in as before
      Then the check is not met because "QDRANT_API_KEY"

    @lab @slow
    Scenario: A site without keys is moved where somebody wrote that it is meant
      Given neither server needs a key, and the site says so
      When the operator makes the copy
      Then both servers let in everybody, and the check of it says so
