"""Studies of many runs: their stages, the database that records them, and the engines that run them."""
