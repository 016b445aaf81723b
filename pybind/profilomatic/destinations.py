"""Destinations: where messages about profiled actions go.

A path, a named regular file or a server is carried out by the aggregator, once, however many workers name it.
Any other callable is called in the process that added it, with one dict for each profiled action of that
process.
"""

from __future__ import annotations

import os
import stat
from typing import IO, TYPE_CHECKING, Any, Dict, Optional, Union

from ._tell import tell

if TYPE_CHECKING:
    import ssl

_FORMS = ('classic', 'eliot')


def _check_form(form: str) -> str:
    if form not in _FORMS:
        raise ValueError('form must be one of %s, not %r' % (', '.join(map(repr, _FORMS)), form))
    return form


class _Requested:
    """A destination that can be described to the aggregator; equal descriptions are the same destination."""

    _request: Optional[Dict[str, Any]]

    def profilomatic_request(self) -> Optional[Dict[str, Any]]:
        return self._request

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Requested) or self._request is None:
            return self is other
        return self._request == other._request

    def __hash__(self) -> int:
        from .requests import canonical

        return id(self) if self._request is None else hash(canonical(self._request))


class FileDestination(_Requested):
    """JSON lines to a file.

    `f` is a path, or a file object. A path, and a file object on a named regular file, is appended to by the
    aggregator; a file object without a name (a pipe, a StringIO) is written to by this process. `flush` asks
    for each message to be written as it comes; `profiles` adds merged profiles and status to the actions. `form` is
    'classic' (one object a message) or 'eliot' (each message a task of its own, which Eliot's parser reads).
    """

    def __init__(
        self,
        f: Union[str, os.PathLike[str], IO[Any]],
        flush: bool = True,
        form: str = 'classic',
        profiles: bool = False,
    ) -> None:
        self._flush = flush
        self._file: Any = None if isinstance(f, (str, bytes, os.PathLike)) else f
        path = os.fsdecode(f) if self._file is None else _regular_path(f)  # type: ignore[arg-type]
        self._request = None
        if path is None:
            if not callable(getattr(f, 'write', None)):
                raise TypeError('a path or a file object is needed, not %r' % (f,))
            if _check_form(form) == 'eliot':
                raise ValueError("form='eliot' is for paths, named regular files and servers, not for %r" % (f,))
        else:
            self._request = {
                'kind': 'file',
                'path': os.path.abspath(path),
                'form': _check_form(form),
                'flush': bool(flush),
                'profiles': bool(profiles),
            }

    def __call__(self, message: Dict[str, Any]) -> None:
        """Write one message from this process."""
        import json

        line = json.dumps(message) + '\n'
        if self._request is not None:
            if self._request['form'] != 'classic':
                raise ValueError("form='eliot' is written by the aggregator alone")
            with open(self._request['path'], 'a', encoding='utf-8') as file:
                file.write(line)
            return
        try:
            self._file.write(line)
        except TypeError:  # a binary file
            self._file.write(line.encode())
        if self._flush and hasattr(self._file, 'flush'):
            self._file.flush()

    def __repr__(self) -> str:
        return 'FileDestination(%r)' % (self._file if self._request is None else self._request['path'],)


def file_destination(f: Any, **options: Any) -> FileDestination:
    """A destination that appends JSON lines to `f` (a path or a file object) and flushes each."""
    return FileDestination(f, flush=True, **options)


def no_flush_destination(f: Any, **options: Any) -> FileDestination:
    """As `file_destination`, without the flush."""
    return FileDestination(f, flush=False, **options)


class RestDestination(_Requested):
    """POSTs JSON lines to ``/api/data`` of a server.

    HTTPS with an `ssl_context` or on port 443, else HTTP, with one warning where the host is not loopback. Of
    the context this is taken over: whether and how the server is verified, and the CAs that were loaded into it
    (from files or data, not from a `capath` folder); what the aggregator cannot do likewise is refused by a
    ValueError. A client certificate cannot be read back from a context: name it by `certfile` and `keyfile`.
    `cafile` names certificates to trust beside the context's. `timeout` is in seconds.

    `token_file` names a file whose one line goes into the ``Authorization`` header, as ``Bearer`` where it has no
    scheme of its own; it is read for each request. `gzip` is True, False, or 'auto': once the server has said that it
    takes it. While the server is away messages wait on disk, at most `spool_bytes` and `spool_age` seconds
    (0 bytes: in memory only). Each message has an ``id`` by which a receiver can drop repeats, and each request
    an ``Idempotency-Key``.
    """

    def __init__(
        self,
        host: str,
        port: Optional[int] = None,
        timeout: float = 5,
        ssl_context: Optional[ssl.SSLContext] = None,
        form: str = 'classic',
        profiles: bool = False,
        certfile: Optional[str] = None,
        keyfile: Optional[str] = None,
        cafile: Optional[str] = None,
        token_file: Optional[str] = None,
        gzip: Union[bool, str] = 'auto',
        spool_bytes: int = 64 << 20,
        spool_age: float = 86400,
    ) -> None:
        if not isinstance(host, str) or not host or any(c in host for c in '/@?# \t\r\n'):
            raise ValueError('host must be a host name or an address, not %r' % (host,))
        if not timeout > 0:
            raise ValueError('timeout must be above 0 seconds, not %r' % (timeout,))
        if port is not None and not 0 < int(port) < 65536:
            raise ValueError('port must be between 1 and 65535, not %r' % (port,))
        if gzip not in (True, False, 'auto'):
            raise ValueError("gzip must be True, False or 'auto', not %r" % (gzip,))
        if not spool_bytes >= 0 or not spool_age > 0:
            raise ValueError('spool_bytes must be 0 or more and spool_age above 0 seconds')
        secure = ssl_context is not None or port == 443
        if not secure and (cafile or certfile or keyfile):
            raise ValueError('certificates are for HTTPS: give an ssl_context, or port 443')
        if not secure and not _is_loopback(host):
            if token_file:
                raise ValueError('a token is not sent to %s over plain HTTP; give an ssl_context for HTTPS' % host)
            tell('profiles will go to %s over plain HTTP; give an ssl_context for HTTPS' % host)
        address = '[%s]' % host if ':' in host and not host.startswith('[') else host
        self._request = {
            'kind': 'rest',
            'url': '%s://%s:%d/api/data' % ('https' if secure else 'http', address, port or (443 if secure else 80)),
            'timeout': timeout,
            'form': _check_form(form),
            'profiles': bool(profiles),
            'ca_pem': None,
            'verify': True,
            'check_hostname': True,
            'certfile': os.path.abspath(certfile) if certfile else None,
            'keyfile': os.path.abspath(keyfile) if keyfile else None,
            'token_file': os.path.abspath(token_file) if token_file else None,
            'gzip': gzip,
            'spool_bytes': int(spool_bytes),
            'spool_age': spool_age,
        }
        if ssl_context is not None:
            self._request.update(_verification(ssl_context))
        if cafile:
            with open(cafile, encoding='ascii', errors='ignore') as file:  # comments may be in any language
                self._request['ca_pem'] = (self._request['ca_pem'] or '') + file.read()

    def __repr__(self) -> str:
        assert self._request is not None
        return 'RestDestination(%s)' % self._request['url']


def _regular_path(f: Any) -> Optional[str]:
    """The path of a file object that is open on a regular file of that name, and writable; else None."""
    name = getattr(f, 'name', None)
    try:
        if not isinstance(name, (str, bytes)) or not f.writable():
            return None
        path = os.path.abspath(os.fsdecode(name))
        mine, named = os.fstat(f.fileno()), os.stat(path)
        if not stat.S_ISREG(mine.st_mode) or (mine.st_dev, mine.st_ino) != (named.st_dev, named.st_ino):
            return None
        f.flush()  # what the application wrote so far stands before what the aggregator appends
        return path
    except (AttributeError, OSError, ValueError):
        return None


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host == 'localhost' or host.endswith('.localhost')


def _refuse_what_cannot_be_taken_over(context: ssl.SSLContext) -> None:
    """ValueError for a context that verifies in a way that the aggregator could not."""
    import ssl

    if type(context).__module__.split('.')[0] not in ('ssl', 'gevent', 'eventlet'):
        raise ValueError('an SSL context of class %s has rules of its own that cannot be taken over' % type(context))
    if context.protocol == getattr(ssl, 'PROTOCOL_TLS_SERVER', None):
        raise ValueError('the ssl_context is one for servers; ssl.create_default_context() makes one for clients')
    if context.verify_flags & (ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_CRL_CHECK_CHAIN):
        raise ValueError('certificate revocation lists of an ssl_context cannot be taken over')
    highest = getattr(context, 'maximum_version', None)
    if highest is not None and highest not in (ssl.TLSVersion.MAXIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_3):
        raise ValueError('maximum_version of an ssl_context cannot be taken over: the newest TLS is used')


def _verification(context: ssl.SSLContext) -> Dict[str, Any]:
    """What of an SSL context the aggregator can do likewise."""
    import ssl

    _refuse_what_cannot_be_taken_over(context)
    found: Dict[str, Any] = {
        'verify': context.verify_mode != ssl.CERT_NONE,
        'check_hostname': bool(context.check_hostname),
    }
    if getattr(context, 'minimum_version', 0) == ssl.TLSVersion.TLSv1_3:
        found['tls'] = '1.3'
    loaded = context.get_ca_certs(binary_form=True)
    # A context with just the system's CAs means the system's CAs, which the aggregator finds by itself.
    if loaded and set(loaded) != set(ssl.create_default_context().get_ca_certs(binary_form=True)):
        found['ca_pem'] = ''.join(sorted(ssl.DER_cert_to_PEM_cert(der) for der in loaded))
    return found
