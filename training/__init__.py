"""Training: settings, engine, loop, validation, what a run records. The network is in `model/`, what lies on disk in
`checkpoints/`; neither imports anything from here."""
