"""The ground: data sets as they lie on disk, and scores. On numpy, never torch; imports nothing else of ours."""
