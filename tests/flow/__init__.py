"""Real servers, bots, sockets and processes."""
