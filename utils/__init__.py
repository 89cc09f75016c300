"""What knows nothing of data or models: settings, flags, processes, seeding, logs. Imports only `groundscore`."""
