"""One run, in every rank: build the objects, begin or resume, train."""
