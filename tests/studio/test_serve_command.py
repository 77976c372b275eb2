"""`bottega feedback serve` as people start it: a process, plain on loopback, with a certificate, and behind a proxy.

Left out: the pages (test_pages.py).
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx2 as httpx
import pytest


@contextmanager
def serving(folder, *options, code=130):
    """(port, the token of the first lead, how it says it can be reached) of a server process; it is ended by Ctrl-C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["feedback", "serve", "--store", str(folder / "f.db"), "--port", str(port), *options]
    child = subprocess.Popen([sys.executable, "-m", "bottega.cli", *words], stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(60, child.kill)
    watchdog.start()
    try:
        link = child.stderr.readline()
        place = child.stderr.readline()
        assert "(Ctrl-C ends it)" in place, link + place
        yield port, re.search(r"token=(\S+)", link)[1], place
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.wait(20) in (0, code)
    finally:
        watchdog.cancel()
        child.kill()
        child.communicate()


def answered(url, *, verify=True, **more):
    """The first answer of a server that is just coming up."""
    transport = httpx.HTTPTransport(retries=8, verify=verify)
    with httpx.Client(transport=transport, timeout=20) as client:
        return client.request(more.pop("method", "GET"), url, **more)


def test_it_serves_the_pages_of_a_new_store_on_this_machine_and_lets_its_first_lead_in(tmp_path):
    with serving(tmp_path) as (port, token, place):
        base = f"http://127.0.0.1:{port}"
        assert base in place and answered(base + "/enter").status_code == 200
        refused = answered(base + "/enter", headers={"Host": "elsewhere.example"})
        assert refused.status_code in (400, 403, 421)
        with httpx.Client(base_url=base, follow_redirects=True) as client:
            entered = client.post("/enter", data={"token": token}, headers={"Origin": base})
            assert entered.status_code == 200 and client.cookies
    assert (tmp_path / "f.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_with_a_certificate_it_speaks_tls_only(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ("--certificate", str(certificate), "--certificate-key", str(key))
    with serving(tmp_path, *options) as (port, token, place):
        base = f"https://127.0.0.1:{port}"
        assert base in place
        trust = ssl.create_default_context(cafile=str(certificate))
        assert answered(base + "/enter", verify=trust).status_code == 200
        entered = answered(
            base + "/enter", verify=trust, method="POST", data={"token": token}, headers={"Origin": base}
        )
        assert "Secure" in entered.headers["set-cookie"] and "HttpOnly" in entered.headers["set-cookie"]
        for refused in (
            base,
            f"http://127.0.0.1:{port}",
        ):  # a client that does not know the certificate; one without TLS
            with pytest.raises(httpx.HTTPError):
                httpx.get(refused + "/enter", timeout=3)


def test_behind_a_proxy_the_scheme_that_the_proxy_names_counts(tmp_path):
    """A proxy with TLS on this machine forwards by http: cookies are for https nevertheless, and forms come from https."""
    with serving(tmp_path, "--behind-proxy", "--allow-host", "rate.example") as (port, token, _):
        base = f"http://127.0.0.1:{port}/enter"
        through = {"Host": "rate.example", "X-Forwarded-Proto": "https", "Origin": "https://rate.example"}
        entered = answered(base, method="POST", data={"token": token}, headers=through)
        assert entered.status_code < 400 and "Secure" in entered.headers["set-cookie"]


def test_a_certificate_that_is_not_there_is_one_line(tmp_path):
    words = ["feedback", "serve", "--store", str(tmp_path / "f.db"), "--certificate", "none.pem"]
    done = subprocess.run([sys.executable, "-m", "bottega.cli", *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "bottega: there is no file none.pem; check the path\n"
