"""From a command line to ranks that run, and from their ends to one exit code.

Read in this order.

    task        the first module of a task of a sweep
    world       who started this process, and as which rank
    entering    the door into Hydra, for one rank of many
    leading     what the ranks that do not enter are handed
    refusing    a bad command line, before a folder is made
    overrides   what is wrong with a command line
    quick       composing the jobs of a sweep once
    degrees     how many ranks, and how they are laid out
    targets     what is wrong with a `_target_`
    problems    what is wrong with the values of a configuration
    aside       work with real objects in another process
    building    what is wrong with what it builds
    places      where the jobs of a sweep write
    folder      where a run lives
    job         what every rank is given
    prepare     from a composed configuration to a job
    store       how ranks meet
    local       starting ranks on this machine
    rank        inside a rank
    requeue     going on in a new start of the same job
    outcomes    who failed first
"""
