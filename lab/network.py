"""The lab's addresses: a loopback network of its own, so that a rehearsal can never touch a real one.

Each lab takes a free number N and uses 127.N.0.x with the same last parts as the site. Two labs at once get two numbers; the
number is held by a listening socket and is free again when the lab's process is gone, however it ended.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import random
import socket
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HELD_PORT = 47952


@dataclass
class Network:
    """127.N.0.0/24, held for this lab."""

    number: int
    _held: socket.socket

    @classmethod
    def take(cls) -> Network:
        """A number that no other lab on this machine has."""
        numbers = list(range(10, 250))
        random.shuffle(numbers)
        for number in numbers:
            held = socket.socket()
            try:
                held.bind((f"127.{number}.0.1", _HELD_PORT))
                held.listen(1)
            except OSError:
                held.close()
                continue
            return cls(number, held)
        raise RuntimeError("All 240 networks of the lab are taken; is something left behind?")

    def address(self, last: int) -> str:
        """The address whose last part is ``last``."""
        return f"127.{self.number}.0.{last}"

    def replace(self, text: str) -> str:
        """A text of the site with its addresses replaced by the lab's."""
        return text.replace("10.0.0.", f"127.{self.number}.0.")

    def give_back(self) -> None:
        """Let another lab have the number."""
        self._held.close()


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the lab, as a Proxmox cluster or a Portainer has."""

    file: Path
    _key: ec.EllipticCurvePrivateKey
    _certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new authority; its certificate is ``ca.pem`` in the folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lab authority")])
        certificate = (
            _builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "ca.pem"
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(file, key, certificate)

    def issue(self, name: str, address: str, *, expired: bool = False) -> tuple[Path, Path]:
        """Certificate and key for an address: (cert.pem, key.pem)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))])
        certificate = (
            _builder(subject, self._certificate.subject, key, days=-1 if expired else 30)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        cert_file, key_file = self.file.parent / f"{name}.crt", self.file.parent / f"{name}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return cert_file, key_file


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int = 30
) -> x509.CertificateBuilder:
    # Without a key usage extension, as the authorities of older Proxmox clusters are.
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now + dt.timedelta(days=days))
    )
