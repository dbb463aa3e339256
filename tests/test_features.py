"""Every feature, as tests. Step definitions are in the modules named by noun."""

from pytest_bdd import scenarios

scenarios(".")
