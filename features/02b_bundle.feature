Feature: The file that is deployed
  What is merged is what runs. A file that would not start, would lose its data or would leave the database open has to
  be found before it is merged.

  @B4
  Rule: The compose file is valid, pinned, hardened, and passes the checks that a merge must pass

    @containers
    Scenario: The merged file passes every check
      When the operator checks that the merged file may run
      Then the check is met

    @lab
    Scenario Outline: A file that <fault> is found out
      Given a merge that <fault>
      When the operator checks that the merged file may run
      Then the check is not met because "<reason>"

      Examples:
        | fault                                               | reason                       |
        | is not readable                                     | is not valid YAML            |
        | names its image without a digest                    | is not pinned                |
        | publishes the database everywhere                   | published to every address   |
        | keeps the data in the container                     | would be lost                |
        | mounts the disk of the VM                           | is not on the list           |

      @slow
      Examples:
        | fault                                               | reason                       |
        | has a word that Compose does not know               | Compose does not accept      |
        | opens the database when Portainer forgets its key   | start without a key          |
        | has a key in it                                     | A key in Git is no secret    |
        | lets the container change its own programs          | writable                     |
        | cuts Qdrant off when it is stopped                  | before it has finished       |
        | asks for its health with a tool that is not there   | uses curl or wget            |
        | switches the filter of system calls off             | may only be no-new-privileges |
        | reads another file of the runner                    | is not on the list           |
        | wants a key of this tool                            | only the two keys            |
