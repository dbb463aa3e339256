Feature: Before anything is changed on the host
  The plan names servers, sizes and keys. Each of them is looked at where it really is, because an id that was used again, an
  address that two machines have or a host without room turns a careful move into an accident.

  @A1
  Rule: The host can give the new server its resources without strain

    Scenario: The host has room
      When the operator checks that the host has room
      Then the check is met

    @lab
    Scenario Outline: A host with <shortage> is found out
      Given the plan's servers on a host of their own
      And the host has <shortage>
      When the operator checks that the host has room
      Then the check is not met because "<reason>"

      Examples:
        | shortage                               | reason                              |
        | hardly any free memory                 | MB of memory are available          |
        | promised its memory to others          | running guests would be promised    |
        | fewer processors than the plan wants   | would not start                     |
        | a full disk storage                    | GB free                             |
        | promised more disk than there is       | times its size                      |
        | full bookkeeping of its disk storage   | metadata                            |

    @lab
    Scenario: The resize is not begun on a host without room
      Given the plan's servers on a host of their own
      And the host has hardly any free memory
      When the operator begins the resize
      Then it is refused because "has no room for the larger"
      And nothing was changed on the host

  @A2
  Rule: Exactly one machine has the address that Nginx will be pointed to, and it is the new server

    Scenario: The new server alone has its address
      When the operator checks that the new address is one machine's
      Then the check is met

    @lab
    Scenario Outline: Traffic is not pointed to an address when <trouble>
      Given the plan's servers on a host of their own
      And it turns out that <trouble>
      When the operator checks that the new address is one machine's
      Then the check is not met because "<reason>"

      Examples:
        | trouble                                      | reason                        |
        | another server has the address as well       | (paperless) has               |
        | the Nginx server has the new server's address | (nginx) has                  |
        | the new server has another address           | (portainer) has               |
        | the host itself has the address              | the Proxmox host itself has   |

    @lab
    Scenario: A new server that cannot be asked is no proof
      Given the plan's servers on a host of their own
      And it turns out that the new server does not say its address
      When the operator checks that the new address is one machine's
      Then nobody can say whether it is met, because "does not say which address it has"

  @A3
  Rule: Every server is the one the plan names: id, kind, name and address

    Scenario: The servers are those of the plan
      When the operator checks that every server is the one the plan names
      Then the check is met

    @lab
    Scenario Outline: A plan for a site in which <trouble> is found out
      Given the plan's servers on a host of their own
      And it turns out that <trouble>
      When the operator checks that every server is the one the plan names
      Then the check is not met because "<reason>"

      Examples:
        | trouble                                  | reason                        |
        | an old server's id was given to another  | its name is new-owner         |
        | an old server is on another node         | is on node elsewhere          |
        | an old server does not exist             | does not exist                |
        | a virtual machine has an old server's id | is a VM                       |
        | an old server moved to another address   | its address is                |

    @lab
    Scenario: A site that nobody has written down is found out, down to the first check
      Given a site that nobody has written down
      When the operator answers the questions about it
      Then the site file says what the lab's own says, and who told it
      And every line of the first check is evaluated
      And every server is as it was

    @lab
    Scenario Outline: A site file that has come apart from the site, because <trouble>, is found out
      Given a site that nobody has written down
      And the operator answers the questions about it
      And after that <trouble>
      When the operator checks that the site file says what the servers say
      Then the check is not met because "<reason>"

      Examples:
        | trouble                             | reason                  |
        | the new server's machine has shrunk | resize.before is cores  |

  @A6
  Rule: The keys can do what the plan needs, and no more

    Scenario: The key is enough and no more
      When the operator checks that the key of the host is right
      Then the check is met

    @lab
    Scenario Outline: A key that <trouble> is found out
      Given the plan's servers on a host of their own
      And the operator has a key that <trouble>
      When the operator checks that the key of the host is right
      Then the check is not met because "<reason>"

      Examples:
        | trouble            | reason                                   |
        | cannot see servers | cannot even look at everything           |
        | may do everything  | may do more than any step of the plan    |

    @lab
    Scenario: Each step does with its own key what it needs
      Given the plan's servers on a host of their own
      And the operator has the key for the resize
      When the operator begins the resize
      Then the new server itself sees its new cores and memory

    @lab
    Scenario: A step with the key of another is refused before it begins
      Given the plan's servers on a host of their own
      And the operator has the key for the backup
      When the operator begins the resize
      Then it is refused because "lacks VM.Config.CPU"
      And nothing was changed on the host
