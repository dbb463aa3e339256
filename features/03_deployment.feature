Feature: Putting the container in place
  Portainer says "deployed" before anything runs. What counts is what can be seen afterwards: the merged commit, the
  pinned image, and a Qdrant that is healthy and answers only to its key.

  @C1
  Rule: Portainer runs the stack from Git at the merged commit: the pinned image, healthy and answering

    @changes @containers
    Scenario: The merged stack runs, and deploying it again changes nothing
      When the operator deploys the stack
      Then Portainer runs the merged commit with the pinned image
      And Qdrant answers with its key and not without it
      And deploying again changes nothing

    @lab
    Scenario Outline: Portainer's word is not enough when <what is wrong>
      Given <what is wrong>
      When the operator deploys the stack
      Then it is refused because "<reason>"

      Examples:
        | what is wrong                                 | reason                              |
        | the container turns out unhealthy             | the container is unhealthy          |

      @slow
      Examples:
        | what is wrong                                 | reason                              |
        | the container ends again and again            | the container ends again and again  |
        | Portainer never finishes                      | the stack is deploying              |

    @lab @slow
    Scenario: A container of the old image is noticed
      Given the stack is deployed
      And a merge that changes nothing of importance
      When the operator checks that Portainer runs what was merged
      Then the check is not met because "not"

    @lab @slow
    Scenario: A container that somebody edited in Portainer is noticed, and deploying puts it right
      Given the stack is deployed
      And somebody lowered its memory in Portainer
      When the operator checks that Portainer runs what was merged
      Then the check is not met because "memory limit is 1024 MB, and 3072 MB in the file"
      And after deploying once more the container has what the file says

    @lab @slow
    Scenario: A key with characters that Compose reads in its own way arrives as it was meant
      Given applications have a key with a dollar, quotes and a hash in it
      When the operator deploys the stack
      Then Portainer runs the merged commit with the pinned image
      And Qdrant answers with that key and not with what others would read in it

    @lab
    Scenario: A key that cannot arrive as it was meant is not sent
      Given applications have a key of two lines
      When the operator deploys the stack
      Then it is refused because "a line break"
      And nothing answers on the new server

  @C2
  Rule: The container survives a restart of its server with its data

    @changes @containers
    Scenario Outline: The container is back after <event>
      Given the stack is deployed
      And it holds a collection
      When its server has <event>
      Then Qdrant is healthy again within 30 seconds
      And the collection is still there

      Examples:
        | event       |
        | a restart   |

      @slow
      Examples:
        | event       |
        | a power cut |

    @lab
    Scenario: A container that nothing would start again is refused
      Given a merge that forgets to restart the container
      When the operator deploys the stack
      Then it is refused because "Nothing starts the container after a reboot"
