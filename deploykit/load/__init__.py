"""WHAT COMES IN: declared inputs, network sources and their weights, data sets."""
