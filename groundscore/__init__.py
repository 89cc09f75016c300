"""The ground: data sets as they lie on disk, and scores. numpy only, never torch; imports nothing else of ours."""
