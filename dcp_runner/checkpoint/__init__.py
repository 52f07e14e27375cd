"""The checkpoint core.

Read it in this order; an import points to the left or down, never up:

    sharing, topology, component, plan, manifest     pure: no torch, no I/O, the rank is an argument
    comm | storage | tree, tensorfile | digest | live     one outside thing each
    saving, loading -> coordinator                    where plan, ranks and files meet
"""
