"""What a layer computes, in which order and layout, and what that costs; no tensor is touched here."""
