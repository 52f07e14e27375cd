"""One run, in every rank: build the objects, start fresh or resume, train."""
