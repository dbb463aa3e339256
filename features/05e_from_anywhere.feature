Feature: A way back from anywhere
  Whatever fails, and in whichever step, the operator can return the site to where it began: the old server serves, the
  new one is as it was, and applications noticed nothing.

  @E6
  Rule: From a failure in any step there is a way back to where it began

    @changes
    Scenario: Everything up to the copy is taken back
      Given the site right before the switch
      When the operator takes back every step
      Then the site is as it began, except for the disk that cannot shrink and the backup that is kept
      And applications still find every record

    @lab
    Scenario: A deployment that fails leaves nothing behind
      Given the image of the stack cannot be had
      When the operator carries out the deploy
      Then it is refused because "image"
      And every server is as it was
