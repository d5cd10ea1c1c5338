"""What needs a GPU: checks and times of operations and networks, and what a run on a bare machine takes along."""
