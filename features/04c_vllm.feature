Feature: vLLM is left in peace
  vLLM shares Nginx with Qdrant. Whoever uses it must not notice that anything moved, and if it is no longer what it was, the
  operator has to know.

  @D3
  Rule: vLLM is untouched and answers through Nginx all the time

    Scenario: vLLM answers a question through Nginx
      When the operator checks that vLLM is untouched
      Then the check is met

    @changes
    Scenario: Users of vLLM notice nothing while traffic moves there and back
      Given both servers hold the same data
      And users ask vLLM through Nginx all the time
      When the operator moves the traffic, goes back, and moves it again
      Then vLLM answered every question, always the same
      And vLLM is what it was

    @lab
    Scenario Outline: It is noticed when vLLM <event>
      Given the operator looked at vLLM before the move
      And meanwhile vLLM <event>
      When the operator checks that vLLM is untouched
      Then the check is not met because "<reason>"

      Examples:
        | event                | reason                          |
        | stopped              | does not say through Nginx      |
        | was restarted        | it was restarted                |
        | got another model    | it served lab/parrot-1b         |

    @changes @slow
    Scenario: The tool itself asks vLLM all the time while it works, and keeps the answers
      Given traffic moved to the new server
      When the operator checks that vLLM answered all the time
      Then the check is met

    @lab
    Scenario: It is noticed when vLLM is away for a moment while traffic moves
      Given both servers hold the same data
      And vLLM is away for a moment while the operator works
      When the operator moves the traffic
      Then the traffic moved, and the operator is warned about vLLM
      And from then on it is not met that vLLM answered all the time, because "502 Bad Gateway"
