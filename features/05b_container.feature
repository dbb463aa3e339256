Feature: Taking the container away again
  The way back ends with a server as it was before. The data is the one thing that cannot be made again, so it stays until
  somebody names it.

  @E3
  Rule: The container is stopped and removed; its data stays until someone says otherwise

    @changes @containers
    Scenario: The container goes and its data stays
      Given the stack is deployed
      And it holds a collection
      When the operator takes the container away
      Then nothing of the stack runs any more
      And its data is still there
      And after deploying it again the collection is back

    @lab
    Scenario: Data that is named goes with the container
      Given the stack is deployed
      When the operator takes the container away and names its data
      Then nothing of the stack runs any more
      And its data is gone

    @lab
    Scenario: A misspelt name takes nothing away
      Given the stack is deployed
      When the operator takes the container away and misspells the name of its data
      Then it is refused because "is no volume of the stack"
      And Qdrant answers with its key and not without it

    @lab
    Scenario: A stack of the same name that somebody else made is not taken away
      Given somebody else made a stack of the same name
      When the operator takes the container away
      Then it is refused because "It is not this tool's"
      And the stack of somebody else is still there

    @lab
    Scenario: A container that serves users is not taken away
      Given the stack is deployed
      And users are served by it
      When the operator takes the container away
      Then it is refused because "Nginx sends its users to the new server"
      And Qdrant answers with its key and not without it
