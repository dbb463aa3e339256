Feature: Nothing else changes for users
  While the move lasts, every request passes a gate inside Nginx. Whoever uses Qdrant gets the same answers, errors and headers as
  before it, and comes in by the same doors.

  @C6
  Rule: The gate changes nothing else for users: same answers, errors, headers, limits and doors as before it

    @changes
    Scenario: Users are answered as before the gate
      Given the answers that users get through Nginx
      When the operator puts the gate into Nginx
      Then users get the same answers through Nginx

    @changes
    Scenario: Users are answered as before when the traffic has moved
      Given the answers that users get through Nginx
      And both servers hold the same data
      When the operator moves the traffic
      Then users get the same answers through Nginx

    @lab
    Scenario: A gate that users would notice is taken out again
      Given an Nginx that shows its users whom it asks
      And Nginx as the operator wrote it
      When the operator puts the gate into Nginx
      Then it is refused because "users would be answered otherwise"
      And Nginx's configuration is byte for byte as the operator wrote it
