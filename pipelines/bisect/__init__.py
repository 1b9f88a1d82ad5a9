"""Say which stage of a version's lineage changed an answer."""
