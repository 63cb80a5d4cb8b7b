"""Many runs: the study and its stages, the database that remembers them, and the engine that runs them."""
