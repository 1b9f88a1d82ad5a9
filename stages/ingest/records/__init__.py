"""Records of a data set as they come from each kind of source, before their columns are read."""
