"""FRONT DOOR: one file a command, loaded only when it is called; parse, call one function, print."""
