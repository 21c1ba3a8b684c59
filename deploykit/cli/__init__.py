"""FRONT DOOR: one file a command, loaded when it is called; parse, call a function, print."""
