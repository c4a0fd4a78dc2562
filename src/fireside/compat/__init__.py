"""The Python API of other projects on top of Fireside, so that code written for them runs with one changed import."""
