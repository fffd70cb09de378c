"""Schedule commands on bots chosen by their dimensions, and collect the results."""
