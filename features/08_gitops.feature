Feature: Merging is deploying
  Portainer deploys what is merged, and on many versions takes the service down when that fails. So a merge is looked at
  before Portainer sees it, proved afterwards, and taken back when the proof fails.

  @H1
  Rule: A merge deploys, and the deploy is proved or rolled back

    @changes
    Scenario: A merged change runs
      Given the stack is deployed
      When a change is merged that changes nothing of importance, and it is deployed
      Then Portainer runs the merged commit with the pinned image
      And Qdrant answers with its key and not without it

    @lab
    Scenario: Portainer fetches a merge by itself
      Given Portainer looks for merges every second
      And the stack is deployed
      When a change is merged that changes nothing of importance
      Then Portainer runs the merged commit within 30 seconds

    @lab
    Scenario: A merge does not put another key into place unasked
      Given the stack is deployed
      And the operator has another key than the one in use
      When a change is merged that changes nothing of importance, and it is deployed
      Then it is refused because "typing the name QDRANT_API_KEY"
      And the running container was not touched

    @lab
    Scenario Outline: A merge that makes Qdrant ill is taken back on Portainer <version>
      Given Portainer has version <version>
      And the stack is deployed from a tagged commit
      When a change is merged that makes Qdrant unhealthy, and it is deployed
      Then it is refused because "The stack went back to"
      And Qdrant answers with its key and not without it
      And the stack is at the tagged commit

      Examples:
        | version |
        | 2.45.1  |

      @containers @slow
      Examples:
        | version |
        | 2.23.0  |

      @slow
      Examples:
        | version |
        | 2.39.1  |

  @H2
  Rule: A merge that Portainer would turn into an outage never reaches it

    @changes
    Scenario: A merge that passes the checks reaches Portainer
      Given the stack is deployed
      When a change is merged that gives Qdrant more time to stop, and it is deployed
      Then Portainer runs the merged commit with the pinned image

    @lab
    Scenario Outline: A merge that <fault> is stopped
      Given the stack is deployed
      When a change is merged that <fault>, and it is deployed
      Then it is refused because "<reason>"
      And the running container was not touched

      Examples:
        | fault                                      | reason               |
        | names an image that does not exist         | cannot be pulled     |
        | needs a variable that nobody has set       | is not set           |
        | asks for more memory than there is         | MB, and the VM has   |

      @slow
      Examples:
        | fault                                      | reason               |
        | is not readable                            | is not valid YAML    |
        | has a word that Compose does not know      | Compose does not     |
        | asks for more cores than there are         | cores, the VM has    |

    @lab
    Scenario: A merge that could not be taken back does not reach a service that users are on
      Given the stack is deployed
      And users are served by it
      When a change is merged that changes nothing of importance, and it is deployed
      Then it is refused because "nothing would lead back to it"
      And the running container was not touched

    @lab
    Scenario: The same merge is an outage where nobody looks
      Given the stack is deployed
      When a change that names an image that does not exist is sent to Portainer without a look
      Then nothing answers on the new server
