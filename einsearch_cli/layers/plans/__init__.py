"""Plans: what a layer computes, in which order and layout, and at what cost; no tensor is used here."""
