"""Plans a run on chips that are not here: compiles its programs and says whether they fit, and what bounds them."""
