#!/bin/sh
# Git asks this for a user and a password; both are in the environment, where other users cannot read them.
case "$1" in
Username*) printf '%s\n' "$LAB_GIT_USERNAME" ;;
*) printf '%s\n' "$LAB_GIT_PASSWORD" ;;
esac
