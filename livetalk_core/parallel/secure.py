"""TLS between the controller and workers of other hosts, by a certificate that each listener makes for itself.

No authority vouches for it. Instead each side's proof that it knows the secret (`protocol.py`) covers the certificate:
one who stands between, with a certificate of his own, cannot make it, and can neither read nor change what he relays.
TLS 1.3 alone: what was recorded tells nothing of the secret, and cannot be sent again.
"""

import datetime
import hashlib
import socket
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError

PIECE = 2**18
"""Bytes that are encrypted at a time."""
DAYS = 3650


class SecureSocket:
    """A connected socket under TLS, with the methods that `protocol.Connection` calls. One reads, any may send.

    Not `ssl.SSLSocket`: that must not be read and written by two threads at once.
    """

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, is_listener: bool) -> None:
        self._socket, self._tls_lock, self._sending = connected, threading.Lock(), threading.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_listener)
        self._shake_hands()

    def __getattr__(self, name: str) -> Any:
        """All else is the socket's own."""
        return getattr(self._socket, name)

    def certificate(self) -> bytes:
        """The fingerprint of the listener's certificate, on the other side."""
        certificate = self._tls.getpeercert(binary_form=True)
        assert certificate is not None, "TLS 1.3 listeners have one"
        return hashlib.sha256(certificate).digest()

    def sendall(self, data: bytes) -> None:
        """Encrypt and send."""
        with self._sending:
            for start in range(0, len(data), PIECE):
                with self._tls_lock:
                    self._tls.write(data[start : start + PIECE])
                    encrypted = self._outgoing.read()
                self._socket.sendall(encrypted)

    def recv_into(self, view: memoryview) -> int:
        """Wait for bytes and decrypt them; 0 at the end."""
        while True:
            try:
                with self._tls_lock:
                    return self._tls.read(len(view), view)  # type: ignore[return-value]  # the number, with a buffer
            except ssl.SSLWantReadError:
                self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            else:
                self._flush()
                return

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())

    def _feed(self) -> None:
        data = self._socket.recv(PIECE)
        with self._tls_lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()


class Tls(NamedTuple):
    """What a listener speaks TLS by, and the fingerprint of its certificate."""

    context: ssl.SSLContext
    fingerprint: bytes


def listener_tls() -> Tls:
    """A listener's, with a certificate made for it."""
    key, certificate, fingerprint = _make_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nothing is resumed
    with tempfile.TemporaryDirectory(prefix="livetalk-") as folder:  # `ssl` reads files alone
        path = Path(folder) / "certificate.pem"
        path.touch(0o600)
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return Tls(context, fingerprint)


def worker_context() -> ssl.SSLContext:
    """What a worker speaks TLS by: any certificate does, until the proofs that cover it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _make_certificate() -> tuple[bytes, bytes, bytes]:
    """A new key, a certificate that it has signed itself, both as PEM, and the fingerprint."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise InputError("--listen needs `cryptography` for its certificate: pip install 'livetalk[hosts]'") from None
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "LiveTalk")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
        certificate.public_bytes(pem),
        hashlib.sha256(encoded).digest(),
    )
