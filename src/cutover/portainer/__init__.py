"""Portainer, the compose file and the Git repository that it deploys from."""
