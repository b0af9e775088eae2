"""Learning-rate schedules, a file each."""
