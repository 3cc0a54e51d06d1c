"""How good a bundle is on labelled faces: error, failures, confidence, and what pen marks do to them."""
