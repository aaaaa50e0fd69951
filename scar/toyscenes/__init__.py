"""ToyScenes, the embedded world: an endless, exact data set of instructed image edits."""
