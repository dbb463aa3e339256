Feature: Going back without loss
  From the switch on the old server is kept up to date. Going back is the same move in the other direction, and whoever
  wrote in between finds everything again.

  @E5
  Rule: Going back loses nothing that was written since the switch

    @changes
    Scenario: What was written on the new server is there after going back
      Given traffic moved to the new server
      And an application reads and writes through Nginx
      When the operator goes back
      And the application has ended
      Then the old server serves
      And no request failed and no write was lost

    @changes @slow
    Scenario: The status says how old the way back is
      Given traffic moved to the new server
      When applications write 3 records
      Then the status says that the old one is 3 writes behind
      And it says that nothing is behind once they were brought over

    @changes
    Scenario: A watch keeps the way back seconds old, and gives way to whoever goes back
      Given traffic moved to the new server
      And a watch keeps the old server up to date
      When applications write 3 records
      Then the watch says that nothing is behind and all is compared
      And the operator can go back, and the watch keeps the new server up to date from then on

    @lab
    Scenario: A watch says at once what is wrong, and when it is over
      Given traffic moved to the new server
      And a watch keeps the old server up to date
      When somebody changes a record of the old server without Nginx, and then it dies and comes back
      Then the watch has said "The old server counted writes that did not pass Nginx"
      And the watch has said "Both servers differ: 1 record differs in its payload"
      And the watch has said "Over: The old server does not answer"

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
      Then it is refused because "confirm by typing the name"
      And the status is watching

    @lab
    Scenario: The new server is lost after the move
      Given traffic moved to the new server
      And an application reads and writes through Nginx
      And the new server is lost for good
      When the operator goes back and types the site's name
      And the application has ended
      Then the old server serves
      And nothing that was acknowledged was lost

    @lab @slow
    Scenario: After going back without the new server a copy can begin anew
      Given traffic moved to the new server
      And the new server is lost for good
      When the operator goes back and types the site's name
      Then the status says that the new one is not followed
      And the copy can be undone and made again when the new server is back

    @lab
    Scenario: Going back without the new server needs the name of the site
      Given traffic moved to the new server
      And applications wrote 3 records
      And the new server is lost for good
      When the operator goes back
      Then it is refused because "3 recorded writes that the new server acknowledged"
      And it is refused because "Nothing can be compared with the new server"
      And the status is watching

    @lab @slow
    Scenario: Writes whose order nobody knows any more are named
      Given traffic moved to the new server
      And two applications wrote record 7 at the same time
      And the new server is lost for good
      When the operator goes back
      Then it is refused because "2 of them were in flight at the same time as another"
      And it is refused because "digits 7"

    @lab @slow
    Scenario: What cannot be done again from the records is named before anything is changed
      Given traffic moved to the new server
      And a collection was restored on the new server from a file there
      And the new server is lost for good
      When the operator goes back and types the site's name
      Then it is refused because "not everything that was recorded can be done again"
      And the status is watching

    @lab
    Scenario: A damaged record on the Nginx host closes the way back until everything was compared anew
      Given traffic moved to the new server
      And the record of what applications wrote is damaged
      When the operator has everything compared anew and types the site's name
      And the operator goes back
      Then the old server serves

    @lab
    Scenario: A damaged record is no reason to replace anything without the name of the site
      Given traffic moved to the new server
      And the record of what applications wrote is damaged
      When the operator brings the old server up to date
      Then it is refused because "The old server cannot be brought up to date by what is recorded"
      And the status is watching

    @lab @slow
    Scenario: A way back that is broken can be given up
      Given traffic moved to the new server
      And the record of what applications wrote is damaged
      When the operator gives up the way back without typing the site's name
      Then it is refused because "The old server is NOT up to date"
      And the status is watching

    @lab @slow
    Scenario: The operator's computer dies twice while going back without the new server
      Given traffic moved to the new server
      And an application wrote through Nginx for a while
      And the new server is lost for good
      When the operator's computer dies twice during the back, and each time the operator starts again
      Then the old server serves
      And nothing that was acknowledged was lost

    @lab @slow
    Scenario: The operator's computer dies while going back without the new server
      Given traffic moved to the new server
      And an application wrote through Nginx for a while
      And the new server is lost for good
      When the operator's computer dies at every point of the back, and each time the operator starts again
      Then the old server serves
      And nothing that was acknowledged was lost
