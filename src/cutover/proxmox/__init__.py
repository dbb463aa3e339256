"""Proxmox VE: guests, disks, backups, firewall and rights."""
