"""What a RestDestination takes over, and what it refuses before anything is sent."""

import ssl

import profilomatic
import pytest
from authority import make_authority


def request(*args, **kwargs):
    return profilomatic.RestDestination(*args, **kwargs).profilomatic_request()


def test_certificates_to_trust_are_those_of_the_context_and_of_the_file(tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    for folder in (one, two):
        folder.mkdir()
        make_authority(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(one / 'ca.pem')
    known = request('collector.example', ssl_context=context, cafile=str(two / 'ca.pem'))['ca_pem']
    assert known.count('BEGIN CERTIFICATE') == 2 and (two / 'ca.pem').read_text() in known
    assert request('collector.example', 443, cafile=str(two / 'ca.pem'))['ca_pem'] == (two / 'ca.pem').read_text()
    with pytest.raises(OSError):
        request('collector.example', 443, cafile=str(tmp_path / 'none.pem'))


def test_the_lowest_version_of_a_context_is_taken_over():
    context = ssl.create_default_context()
    assert 'tls' not in request('collector.example', ssl_context=context)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    assert request('collector.example', ssl_context=context)['tls'] == '1.3'


def changed(**attributes):
    context = ssl.create_default_context()
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


class OwnRules(ssl.SSLContext):
    pass


@pytest.mark.parametrize(
    'context, words',
    [
        (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), 'for servers'),
        (OwnRules(ssl.PROTOCOL_TLS_CLIENT), 'rules of its own'),
        (changed(verify_flags=ssl.VERIFY_CRL_CHECK_LEAF), 'revocation'),
        (changed(maximum_version=ssl.TLSVersion.TLSv1_2), 'maximum_version'),
    ],
)
def test_a_context_that_cannot_be_taken_over_is_refused_by_name(context, words):
    with pytest.raises(ValueError, match=words):
        request('collector.example', ssl_context=context)


@pytest.mark.parametrize(
    'options, words',
    [
        ({'cafile': 'ca.pem'}, 'HTTPS'),
        ({'certfile': 'me.pem'}, 'HTTPS'),
        ({'token_file': 'token'}, 'plain HTTP'),
        ({'gzip': 'zstd'}, 'gzip'),
        ({'spool_bytes': -1}, 'spool_bytes'),
        ({'spool_age': 0}, 'spool_age'),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        request('collector.example', **options)


def test_a_token_may_go_to_this_very_machine_without_tls(tmp_path):
    assert request('localhost', token_file=str(tmp_path / 'token'))['token_file'] == str(tmp_path / 'token')
