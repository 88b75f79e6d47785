"""Connections keep to their time through TLS and proxies as well."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from urllib3.util import Timeout

from mlflow_llm_plugins.metrics.judge.backends.connections import Connections
from mlflow_llm_plugins.metrics.judge.backends.stopping import Stopping

WITHIN_S = 5
TIMEOUT = Timeout(total=0.3, connect=WITHIN_S)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a certificate of 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    day = datetime.timedelta(days=1)
    builder = builder.not_valid_before(now - day).not_valid_after(now + day).add_extension(address, critical=False)
    made = builder.sign(key, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return str(path)


@contextmanager
def one_connection(play, certificate=None):
    """Gives the address of a server that plays `play(connection, left)` to one connection, with TLS or without."""
    left = threading.Event()

    def serve(listener):
        with suppress(OSError):
            connection = listener.accept()[0]
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate)
                connection = context.wrap_socket(connection, server_side=True)
            with connection:
                connection.recv(65536)
                play(connection, left)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            left.set()
            thread.join()


@contextmanager
def session_of(stopping=None, certificate=None, **proxies):
    with requests.Session() as session:
        session.trust_env = False
        session.verify = certificate
        session.proxies.update(proxies)
        session.mount("http://", connections := Connections(1, stopping or Stopping()))
        session.mount("https://", connections)
        yield session


def drip(connection, left):
    for _ in range(int(WITHIN_S / 0.02)):
        if left.wait(0.02):
            return
        connection.sendall(b"H")
    raise AssertionError("the client waits on and on")


def test_an_answer_that_drips_through_tls_keeps_to_its_time(certificate):
    with (
        one_connection(drip, certificate) as address,
        session_of(certificate=certificate) as session,
        pytest.raises(requests.ReadTimeout),
    ):
        session.get(f"https://{address}/", timeout=TIMEOUT)


def test_an_answer_that_drips_through_a_proxy_keeps_to_its_time():
    with (
        one_connection(drip) as address,
        session_of(http=f"http://{address}") as session,
        pytest.raises(requests.ReadTimeout),
    ):
        session.get("http://judge.invalid/", timeout=TIMEOUT)


def test_a_proxy_whose_consent_drips_keeps_to_the_time_of_connecting():
    with (
        one_connection(drip) as address,
        session_of(https=f"http://{address}") as session,
        pytest.raises(requests.ReadTimeout),
    ):
        session.get("https://judge.invalid/", timeout=Timeout(total=WITHIN_S, connect=0.3))


@pytest.mark.parametrize("is_secure", [False, True])
def test_an_answer_ends_with_its_call(is_secure, certificate):
    stopping, call = Stopping(), threading.Event()
    told = []
    begun = threading.Event()

    def silent(connection, left):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1")
        begun.set()
        left.wait(WITHIN_S)

    def ask(session, url):
        stopping.join(call)
        with suppress(requests.RequestException):
            session.get(url, timeout=Timeout(total=60))
            told.append("an answer")
        told.append("ended")

    secret = certificate if is_secure else None
    with one_connection(silent, secret) as address, session_of(stopping, certificate) as session:
        url = f"{'https' if is_secure else 'http'}://{address}/"
        thread = threading.Thread(target=ask, args=(session, url))
        thread.start()
        assert begun.wait(WITHIN_S)
        stopping.end(call)
        thread.join(WITHIN_S)
        assert told == ["ended"]


def test_a_call_that_is_over_waits_for_no_answer():
    stopping, call = Stopping(), threading.Event()
    stopping.join(call)
    stopping.end(call)
    with (
        one_connection(lambda _, left: left.wait(WITHIN_S)) as address,
        session_of(stopping) as session,
        pytest.raises(requests.ConnectionError),
    ):
        session.get(f"http://{address}/", timeout=Timeout(total=60))
