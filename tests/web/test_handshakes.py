"""A listening socket that begins no more connections loses none that it has begun."""

import socket

import pytest

from batchserve.web.handshakes import no_newcomers

PATIENCE_S = 0.2


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_who_is_connected_is_served_and_who_comes_later_has_to_wait(family, host):
    with socket.create_server((host, 0), family=family) as listener:
        address = listener.getsockname()[:2]
        with socket.create_connection(address) as before:
            with no_newcomers(listener.fileno()):
                with pytest.raises(TimeoutError):
                    socket.create_connection(address, PATIENCE_S)
                accepted, _ = listener.accept()
                with accepted:
                    before.sendall(b"?")
                    assert accepted.recv(1) == b"?"
            socket.create_connection(address, PATIENCE_S).close()


def test_a_unix_socket_stays_as_it_is(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with no_newcomers(listener.fileno()):
            client.connect(str(tmp_path / "s"))
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"?")
                assert accepted.recv(1) == b"?"
