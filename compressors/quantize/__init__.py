"""Fewer bits a weight: block-wise integers by several methods, in a graph's nodes, chosen by measured error."""
