"""Tests of the tool, its lab and its tools, by the rooms of ``src/cutover``."""
