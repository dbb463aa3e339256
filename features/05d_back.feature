Feature: Going back without loss
  From the switch on the old server is kept up to date. Going back is the same move in the other direction, and whoever
  wrote in between finds everything again.

  @E5
  Rule: Going back loses nothing that was written since the switch

    @changes @containers
    Scenario: What was written on the new server is there after going back
      Given traffic moved to the new server
      And an application reads and writes through Nginx
      When the operator goes back
      And the application has ended
      Then the old server serves
      And no request failed and no write was lost

    @changes
    Scenario: The status says how old the way back is
      Given traffic moved to the new server
      When applications write 3 records
      Then the status says that the old one is 3 writes behind
      And it says that nothing is behind once they were brought over

    @lab
    Scenario: A way back that was given up is refused
      Given traffic moved to the new server
      And the way back was given up
      When the operator goes back
      Then it is refused because "The way back was given up"
      And the new server serves

    @lab
    Scenario: Giving up the way back needs the name of the site
      Given traffic moved to the new server
      When the operator gives up the way back without typing the site's name
      Then it is refused because "nobody typed"
      And the status is watching
