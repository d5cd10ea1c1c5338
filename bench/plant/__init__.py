"""Many lines on one server: a simulation from measured service times, and what a server adds to an engine."""
