Feature: The same answers
  What applications ask is answered as before, whichever server answers.

  @D1
  Rule: Qdrant answers through Nginx with the same results as before

    Scenario: Before the move Nginx passes on what the old server answers
      When the operator checks that Qdrant answers as before
      Then the check is met

    @changes
    Scenario: After the move every search and every record is the same
      Given both servers hold the same data
      When the operator moves the traffic
      Then the same searches give the same results as before

    @lab
    Scenario: Another answer through Nginx is noticed
      Given traffic moved to the new server
      And every payload on the new server was changed behind the tool's back
      When the operator checks that Qdrant answers as before
      Then the check is not met because "answers differently"
